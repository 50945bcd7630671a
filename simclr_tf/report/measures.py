"""Reads the numbers of an evaluation out of its results.json, whatever part of them is there.

What is absent, null, not a number or of another form is a measure that is nan: nothing here raises.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Results = Mapping[str, Any]

PROTOCOLS = {  # what an evaluation measures on h when nothing else is asked for
    "knn": "nearest neighbours",
    "logistic_regression": "logistic regression",
    "linear_probe": "linear probe",
    "mlp": "probe with a hidden layer",
}
BASELINES = {
    "raw_pixels": "raw pixels",
    "pca": "PCA of the pixels",
    "random_encoder": "random encoder",
}
HEALTH = {  # with a sentence on how each is read
    "alignment": (
        "alignment",
        "Mean squared distance of two views of an image. 0: they coincide; 2: they are unrelated. "
        "Lower is better, as long as uniformity is low too.",
    ),
    "uniformity": (
        "uniformity",
        "Log of the mean Gaussian potential of all pairs. 0: all features coincide; near -4: "
        "spread evenly over the sphere.",
    ),
    "effective_rank": (
        "effective rank",
        "Dimensions that the features use, at most their width. A small share of the width means "
        "that they have collapsed onto a few directions.",
    ),
    "feature_spread": (
        "feature spread",
        "1: spread alike in all directions; 0: all images share one feature, the encoder has "
        "collapsed.",
    ),
}
Z_PROTOCOLS = ("knn", "logistic_regression")

FRACTION_OF = re.compile(r"(finetune|supervised)[^0-9]+([0-9.eE+-]+)")
NAN = math.nan


class Measure(NamedTuple):
    """A number measured with one or several seeds.

    Attributes:
        mean: Over the seeds; nan where nothing was measured.
        spread: Standard deviation over the seeds; nan with fewer than two.
        seeds: Number of them.
    """

    mean: float = NAN
    spread: float = NAN
    seeds: int = 1

    @property
    def known(self) -> bool:
        return not math.isnan(self.mean)

    @property
    def percent(self) -> str:
        """The measure as "81.2 ± 0.4 %"; a spread of one seed is none."""
        if not self.known:
            return "not measured"
        if math.isnan(self.spread):
            return f"{100 * self.mean:.1f} %"
        return f"{100 * self.mean:.1f} ± {100 * self.spread:.1f} %"

    @property
    def plain(self) -> str:
        """The measure with three digits, or all before the point."""
        if not self.known:
            return "not measured"
        return f"{self.mean:,.0f}" if abs(self.mean) >= 1000 else f"{self.mean:.3g}"


def number_of(value: object) -> float:
    """Returns a finite number as it is, anything else as nan."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NAN
    try:
        return float(value) if math.isfinite(value) else NAN
    except OverflowError:
        return NAN


def mapping_of(value: object) -> Mapping[str, Any]:
    """Returns a mapping as it is, anything else as an empty one."""
    return value if isinstance(value, Mapping) else {}


def list_of(value: object) -> Sequence[Any]:
    """Returns a list as it is, anything else as an empty one."""
    return value if isinstance(value, list | tuple) else ()


def measure_of(value: object) -> Measure:
    """Reads a number, a list of one a seed, or a mapping with "accuracy", "mean" and "std"."""
    if isinstance(value, Mapping):
        several = measure_of(value.get("accuracy"))
        mean, spread = number_of(value.get("mean")), number_of(value.get("std"))
        if math.isnan(mean):
            mean = several.mean
        # The spread of a single seed is 0, and says nothing.
        if "accuracy" in value and several.seeds < 2:
            spread = NAN
        elif math.isnan(spread):
            spread = several.spread
        return Measure(mean, spread, several.seeds)
    numbers = [number for number in map(number_of, list_of(value)) if not math.isnan(number)]
    if len(numbers) > 1:
        return Measure(statistics.fmean(numbers), statistics.pstdev(numbers), len(numbers))
    return Measure(numbers[0] if numbers else number_of(value))


def protocols_of(results: Results) -> dict[str, Mapping[str, Any]]:
    """Returns what is known of each protocol: the usual ones first, empty where not measured."""
    detailed = mapping_of(results.get("protocols"))
    found = {}
    for name in (*PROTOCOLS, *detailed):
        entry = detailed.get(name, results.get(name))
        found[name] = entry if isinstance(entry, Mapping) else {"accuracy": entry}
    return found


def protocol_name(name: str) -> str:
    """Returns a protocol's name as text: "finetune_0.1" is "fine-tuned, 10 % of the labels"."""
    match = FRACTION_OF.fullmatch(name)
    if match and 0.0 < _share(match[2]) <= 1.0:
        kind = "fine-tuned" if match[1] == "finetune" else "supervised"
        return f"{kind}, {share_name(_share(match[2]))} of the labels"
    return PROTOCOLS.get(name, BASELINES.get(name, name.replace("_", " ")))


def share_name(share: float) -> str:
    """Returns a share of the labels as text."""
    return f"{100 * share:.4g} %"


def fractions_of(results: Results, kind: str) -> dict[float, Measure]:
    """Returns the accuracies of "finetune" or "supervised" by share of the labels, rising.

    Where the results give one number a share, `protocols` may know its spread, as "finetune_0.1".
    """
    found = {}
    for name, entry in mapping_of(results.get("protocols")).items():
        match = FRACTION_OF.fullmatch(name)
        if match and match[1] == kind:
            found[_share(match[2])] = measure_of(entry)
    given = results.get(kind)
    if not isinstance(given, Mapping):
        given = {"1.0": given}
    for name, value in given.items():
        measure = measure_of(value)
        if measure.seeds > 1 or not found.get(_share(name), Measure()).known:
            found[_share(name)] = measure
    return {share: found[share] for share in sorted(found) if share > 0.0 and found[share].known}


def baselines_of(results: Results) -> dict[str, Measure]:
    """Returns the accuracies without pre-training by name; those that were not measured are nan."""
    given = mapping_of(results.get("baselines"))
    found = {}
    for name in dict.fromkeys((*BASELINES, *given)):
        label, value = BASELINES.get(name, name.replace("_", " ")), given.get(name)
        if isinstance(value, Mapping) and not {"mean", "accuracy"} & set(value):
            for protocol, inner in value.items():  # a baseline judged by several protocols
                found[f"{label}, {protocol_name(protocol)}"] = measure_of(inner)
        else:
            found[label] = measure_of(value)
    return found


def projections_of(results: Results) -> dict[str, Measure]:
    """Returns the accuracies on the projections z by protocol."""
    given = mapping_of(results.get("z"))
    given = mapping_of(given.get("protocols")) or given
    names = dict.fromkeys((*Z_PROTOCOLS, *(name for name in given if name in PROTOCOLS)))
    return {name: measure_of(given.get(name)) for name in names}


def measures_of(results: Results) -> dict[tuple[str, str], Measure]:
    """Returns all measures of an evaluation by (group, name), the groups in order of reading."""
    found: dict[tuple[str, str], Measure] = {}
    entries = {
        protocol_name(name): entry
        for name, entry in protocols_of(results).items()
        if not FRACTION_OF.fullmatch(name)
    }

    def add(group: str, measures: Mapping[str, Measure]) -> None:
        found.update({(group, label): measure for label, measure in measures.items()})

    add("Accuracy on h", {label: measure_of(entry) for label, entry in entries.items()})
    add("Baselines", baselines_of(results))
    for kind, group in (("finetune", "Fine-tuned"), ("supervised", "Supervised from scratch")):
        by_share = fractions_of(results, kind).items()
        add(group, {f"{share_name(share)} of the labels": measure for share, measure in by_share})
    on_z = projections_of(results).items()
    add("Accuracy on z", {protocol_name(name): measure for name, measure in on_z})
    for key, group in (("f1_macro", "Macro F1 on h"), ("top5", "Top-5 accuracy on h")):
        add(group, {label: measure_of(entry.get(key)) for label, entry in entries.items()})
    health = mapping_of(results.get("health"))
    add("Health", {label: measure_of(health.get(name)) for name, (label, _) in HEALTH.items()})
    add("Time", {"seconds of the evaluation": measure_of(results.get("seconds"))})
    return found


def _share(text: object) -> float:
    """Returns the share that a key names; nan where it names none."""
    try:
        share = float(str(text))
    except ValueError:
        return NAN
    return share if math.isfinite(share) else NAN
