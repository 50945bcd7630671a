"""The page of one evaluation, as plain values for its template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from simclr_tf.plots.confusion_matrix import MAX_CELLS_WRITTEN
from simclr_tf.report.content import (
    KINDS,
    Report,
    facts_of,
    kind_of,
    notes_of,
    pictures_of,
    setup_of,
    spread_of,
)
from simclr_tf.report.measures import (
    FRACTION_OF,
    HEALTH,
    Measure,
    baselines_of,
    fractions_of,
    list_of,
    mapping_of,
    measure_of,
    number_of,
    projections_of,
    protocol_name,
    protocols_of,
    share_name,
)

MAX_CONFUSIONS = 10  # pairs of classes listed as confused most often
SPLIT_KEYS = ("chosen_on", "split", "on")  # of a protocol's settings: what chose them
EXPECTED = ("fractions", "tsne", "confusion_matrix", "neighbours", "loss", "accuracy")
PLACED = ("fractions", "tsne", "confusion_matrix", "per_dimension_spread")  # not among "pictures"
SECTIONS = {
    "accuracy": "Accuracy",
    "labels": "Fine-tuned against supervised",
    "health": "Health of the representation",
    "projection": "h against z",
    "errors": "What is confused with what",
    "pictures": "Pictures",
    "setup": "How it was measured",
}
# What images without labels cannot have: sections and pictures.
SECTIONS_OF_LABELS = ("accuracy", "labels", "errors")
PICTURES_OF_LABELS = {"fractions", "confusion_matrix"}


def page_of(run: Report) -> dict[str, Any]:
    """Returns what the template "single.html" shows of an evaluation."""
    results = run.results
    labelled = results.get("labelled") is not False  # results that do not say so may have labels
    hidden = () if labelled else SECTIONS_OF_LABELS
    return {
        "title": f"Evaluation of {run.name}",
        "sections": {key: text for key, text in SECTIONS.items() if key not in hidden},
        "labelled": labelled,
        "tiles": _tiles(results),
        "about": facts_of(results),
        "remarks": notes_of(results),
        "protocols": _protocols(results),
        "baselines": baselines_of(results).items(),
        "shares": _shares(results),
        "health": _health(results),
        "spread": spread_of(results),
        "projections": _projections(results),
        "confusions": _confusions(results),
        "pictures": pictures_of(run),
        "placed": PLACED,
        "not_drawn": _not_drawn(run.pictures, labelled=labelled),
        "setup": setup_of(results),
    }


def _tiles(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the few numbers that are looked for first."""
    protocols = protocols_of(results)
    shown = {
        f"{protocol_name(name)} on frozen features": measure_of(protocols[name])
        for name in ("knn", "logistic_regression", "linear_probe")
    }
    for kind, text in (("finetune", "fine-tuned"), ("supervised", "supervised from scratch")):
        by_share = fractions_of(results, kind)
        if by_share:
            share, measure = max(by_share.items())
            shown[f"{text}, {share_name(share)} of the labels"] = measure
    return [(name, f"{100 * each.mean:.1f} %") for name, each in shown.items() if each.known]


def _protocols(results: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Returns groups of protocols, each with its heading."""
    classes = len(list_of(results.get("class_names")))
    groups: dict[str, list[dict[str, Any]]] = {"On the frozen features h": []}
    for name, entry in protocols_of(results).items():
        tuned = FRACTION_OF.fullmatch(name)
        heading = "The whole network trained" if tuned else "On the frozen features h"
        groups.setdefault(heading, []).append(_protocol(name, entry, classes))
    return list(groups.items())


def _protocol(name: str, entry: Mapping[str, Any], classes: int) -> dict[str, Any]:
    accuracy = measure_of(entry)
    top5 = measure_of(entry.get("top5"))
    few = not top5.known and "top5" in entry and entry["top5"] is None and 0 < classes <= 5
    seeds = f" ({accuracy.seeds} seeds)" if accuracy.known and accuracy.seeds > 1 else ""
    return {
        "name": protocol_name(name) + seeds,
        "accuracy": accuracy,
        "top5": top5,
        "few_classes": classes if few else 0,
        "f1": measure_of(entry.get("f1_macro")),
        "seconds": measure_of(entry.get("seconds")),
        "chosen": _format_chosen(entry.get("settings")),
    }


def _format_chosen(settings: object) -> str | None:
    """Writes what a protocol chose, and on which images."""
    if isinstance(settings, str):
        return settings
    given = mapping_of(settings)
    split = next((given[key] for key in SPLIT_KEYS if given.get(key)), None)
    text = ", ".join(
        f"{name.replace('_', ' ')} {_format_short(value)}"
        for name, value in given.items()
        if name not in SPLIT_KEYS
    )
    return f"{text}; on {_format_short(split)}" if split and text else text or _format_short(split)


def _format_short(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(str(_format_short(each)) for each in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format_short(inner)}" for name, inner in value.items())
    return str(value)


def _shares(results: Mapping[str, Any]) -> list[tuple[str, Measure, Measure, str]]:
    """Returns, by share of the labels, the accuracies fine-tuned and supervised, and the gain."""
    finetune, supervised = (fractions_of(results, k) for k in ("finetune", "supervised"))
    rows = []
    for share in sorted({*finetune, *supervised}):
        tuned, scratch = (known.get(share, Measure()) for known in (finetune, supervised))
        rows.append((share_name(share), tuned, scratch, _format_gain(tuned, scratch)))
    return rows


def _format_gain(measure: Measure, other: Measure) -> str:
    if not (measure.known and other.known):
        return ""
    return f"{100 * (measure.mean - other.mean):+.1f}"


def _health(results: Mapping[str, Any]) -> list[tuple[str, Measure, float, str]]:
    """Returns, of each measure, name, value, what it is at most (0: nothing), how it is read."""
    health = mapping_of(results.get("health"))
    width = number_of(health.get("width"))
    most = {"effective_rank": width if width > 0 else 0.0}
    return [
        (label, measure_of(health.get(name)), most.get(name, 0.0), reading)
        for name, (label, reading) in HEALTH.items()
    ]


def _projections(results: Mapping[str, Any]) -> list[tuple[str, Measure, Measure, str]]:
    """Returns the accuracies on h and z by protocol; none where z was not measured."""
    on_h, on_z = protocols_of(results), projections_of(results)
    if not any(measure.known for measure in on_z.values()):
        return []
    rows = []
    for name, measure in on_z.items():
        features = measure_of(on_h.get(name))
        rows.append((protocol_name(name), features, measure, _format_gain(features, measure)))
    return rows


def _confusions(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns, of each protocol with a confusion matrix, what is taken for what."""
    names = [str(name) for name in list_of(results.get("class_names"))]
    confusions = []
    for protocol, entry in protocols_of(results).items():
        matrix = _matrix_of(entry.get("confusion_matrix"))
        if matrix:
            own = [*names, *map(str, range(len(names), len(matrix)))]
            confusions.append(
                {
                    "name": protocol_name(protocol),
                    "names": own,
                    "pairs": _confused_most(matrix, own),
                    "grid": _grid(matrix, own) if len(matrix) <= MAX_CELLS_WRITTEN else [],
                }
            )
    return confusions


def _matrix_of(value: object) -> list[list[int]]:
    """Returns counts [K, K]; [] for what are none."""
    rows = [[number_of(cell) for cell in list_of(row)] for row in list_of(value)]
    if any(len(row) != len(rows) or not all(cell >= 0 for cell in row) for row in rows):
        return []
    return [[int(cell) for cell in row] for row in rows]


def _confused_most(
    matrix: list[list[int]], names: Sequence[str]
) -> list[tuple[str, str, int, float]]:
    """Returns (truth, taken for, images, share of the class), the largest first."""
    pairs = [
        (names[truth], names[predicted], count, count / sum(row))
        for truth, row in enumerate(matrix)
        for predicted, count in enumerate(row)
        if count and truth != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:MAX_CONFUSIONS]


def _grid(matrix: list[list[int]], names: Sequence[str]) -> list[tuple[str, list[tuple[int, str]]]]:
    """Returns rows of (count, colour): the darker, the larger its share of the true class."""

    def colour(share: float) -> str:
        # From white to the darkest blue that black is readable on.
        return ",".join(f"{255 - share * drop:.0f}" for drop in (155, 85, 25))

    return [
        (name, [(count, colour(count / max(sum(row), 1))) for count in row])
        for name, row in zip(names, matrix, strict=False)
    ]


def _not_drawn(pictures: Iterable[str], *, labelled: bool) -> list[str]:
    """Returns the titles of the pictures that a whole evaluation has, and this one lacks."""
    drawn = {kind_of(name) for name in pictures} | (set() if labelled else PICTURES_OF_LABELS)
    return [KINDS[kind][0] for kind in KINDS if kind in EXPECTED and kind not in drawn]
