"""Parts that the reports of one evaluation and of several have in common."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from simclr_tf.plots import COLOURS
from simclr_tf.report import markup
from simclr_tf.report.markup import Child, Html, element
from simclr_tf.report.measures import Measure, list_of, mapping_of, number_of, protocol_name

NOT_MEASURED = element("span", "not measured", class_="missing")


class Report(NamedTuple):
    """An evaluation that is reported.

    Attributes:
        name: Of the run.
        results: What its results.json holds.
        pictures: Files of pictures by their name below plots/, such as "tsne.png".
    """

    name: str
    results: Mapping[str, Any]
    pictures: Mapping[str, Path] = {}


class Kind(NamedTuple):
    """A kind of picture: known by how its name begins.

    Attributes:
        start: Of the name.
        title: Its name in the report.
        reading: How it is read.
    """

    start: str
    title: str
    reading: str


KINDS = (
    Kind("fractions", "Accuracy by share of the labels",
         "Above the supervised curve, pre-training has saved labels. Bars: standard deviation."),
    Kind("tsne", "t-SNE of h and z",
         "Classes that lie apart can be told apart from the features. Distances between clusters "
         "mean little."),
    Kind("confusion_matrix", "Confusion matrix", "Rows: the truth; columns: the prediction."),
    Kind("neighbours", "Nearest neighbours",
         "The images that the encoder takes for most alike to each query."),
    Kind("per_dimension_spread", "Spread of each dimension",
         "Dimensions with a spread near 0 carry nothing."),
    Kind("loss", "Loss", "Over the epochs of training."),
    Kind("accuracy", "Accuracy", "Over the epochs of training."),
)  # fmt: skip


def contents(sections: Iterable[tuple[str, str]]) -> Html:
    """Builds the links to sections, given as (id, title)."""
    links = [element("li", element("a", title, href=f"#{key}")) for key, title in sections]
    return element("nav", element("ul", links), aria_label="Contents")


def footer() -> Html:
    """Builds the end of a report."""
    return element(
        "footer",
        "Accuracies are shares of the test images, which chose nothing. A spread is the standard "
        "deviation over seeds: differences that are not clearly larger say little.",
    )


def missing(text: str) -> Html:
    """Says what is not there."""
    return element("p", text, class_="missing")


def notes_of(results: Mapping[str, Any], *, of: str = "") -> list[Html]:
    """Writes what has to be known before the numbers are read, headed by whose it is if asked."""
    heading = [element("strong", of), ". "] if of else []
    notes = list_of(results.get("notes"))
    return [element("p", heading, str(note), class_="note") for note in notes]


def facts_of(results: Mapping[str, Any]) -> list[tuple[str, Child]]:
    """Returns (name, value) of what was evaluated, on what, and when."""
    config = mapping_of(results.get("config"))
    data = config.get("train_file_path") or config.get("dataset")
    if config.get("train_file_path") and config.get("val_file_path"):
        data = f"{data}, judged on {config['val_file_path']}"
    counts = [
        f"{int(number_of(results[key])):,} {text}"
        for key, text in (("num_train", "to train on"), ("num_test", "to test on"))
        if number_of(results.get(key)) >= 0
    ]
    seconds = number_of(results.get("seconds"))
    return [
        ("Date", recorded(results.get("date"))),
        ("Data", recorded(data)),
        ("Images", ", ".join(counts) or recorded(None)),
        ("Classes", _classes(list_of(results.get("class_names")), results.get("labelled"))),
        ("Encoder", recorded(results.get("checkpoint") or config.get("pretrain_save_path"))),
        ("Device", recorded(results.get("device"))),
        ("Took", f"{seconds / 60:.1f} minutes" if seconds >= 0 else recorded(None)),
    ]


def _classes(names: Sequence[Any], labelled: object) -> Child:
    if labelled is False:
        return "none: images without labels"
    shown = ", ".join(map(str, names[:10])) + (", ..." if len(names) > 10 else "")
    return f"{len(names)}: {shown}" if names else recorded(None)


def recorded(value: object) -> Child:
    """Writes a setting or fact; says where there is none."""
    if value in (None, "", [], {}):
        return element("span", "not recorded", class_="missing")
    if isinstance(value, Mapping | list | tuple | bool):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)


def percent(measure: Measure) -> Child:
    """Writes an accuracy."""
    return measure.percent if measure.known else NOT_MEASURED


def percent_with_bar(measure: Measure, *, baseline: bool = False) -> Child:
    """Writes an accuracy, with a bar below it."""
    if not measure.known:
        return NOT_MEASURED
    return [measure.percent, markup.bar(measure.mean, baseline=baseline)]


def spread_figure(values: object) -> Html:
    """Draws the spread of each dimension, largest first; a note where it was not measured."""
    known = [number_of(value) for value in list_of(values)]
    spread = sorted((value for value in known if value >= 0.0), reverse=True)
    if not spread:
        return missing("Spread of each dimension: not measured.")
    width, height, top = 640, 120, spread[0] or 1.0
    step = width / len(spread)
    bars = [
        element(
            "rect",
            x=f"{index * step:.2f}",
            y=f"{height - height * value / top:.2f}",
            width=f"{0.85 * step:.2f}",
            height=f"{height * value / top:.2f}",
        )
        for index, value in enumerate(spread)
    ]
    dead = sum(value < 0.01 * spread[0] for value in spread)
    text = (
        f"Spread of the dimensions of h, largest first: from {spread[0]:.3g} to {spread[-1]:.3g}. "
        "Dimensions near 0 carry nothing"
        + (f": {dead} of the {len(spread)} drawn lie below a hundredth of the largest." if dead
           else ".")
    )  # fmt: skip
    drawing = element(
        "svg", bars, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img",
        aria_label=text, fill=COLOURS[0],
    )  # fmt: skip
    return element("figure", drawing, element("figcaption", text))


def pictures_of(run: Report, start: str) -> list[Html]:
    """Returns the figures of one kind."""
    kinds = {name: kind_of(name) for name in run.pictures}
    return [picture(run, name) for name, kind in kinds.items() if kind and kind.start == start]


def picture(run: Report, name: str, *, of: str = "") -> Html:
    """Returns a picture of a run with its caption, headed by whose it is where that is asked."""
    kind = kind_of(name)
    title = title_of(name)
    alt = f"{title}, {of or run.name}"
    heading = [element("strong", of), ". "] if of else []
    reading = f" {kind.reading}" if kind and not of else ""
    return markup.figure(Path(run.pictures[name]), [heading, f"{title}.{reading}"], alt=alt)


def title_of(name: str) -> str:
    """Returns a picture's title: "confusion_matrix_knn.png" is "Confusion matrix, ..."."""
    kind, stem = kind_of(name), _stem(name)
    if kind is None:
        return stem.replace("_", " ").strip().capitalize() or "Picture"
    rest = stem[len(kind.start) :].strip("_-. ")
    return f"{kind.title}, {protocol_name(rest)}" if rest else kind.title


def kind_of(name: str) -> Kind | None:
    """Returns the kind of a picture by its name below plots/; None for one that is not known."""
    stem = _stem(name)
    return next((kind for kind in KINDS if stem.startswith(kind.start)), None)


def _stem(name: str) -> str:
    return Path(name).stem.lower().replace("-", "").replace(" ", "_")


def setup_of(run: Report) -> Child:
    """Tells what repeats the evaluation: command, versions, device and settings."""
    results = run.results
    command = results.get("command")
    if isinstance(command, list | tuple):
        command = shlex.join(map(str, command))
    config, versions = mapping_of(results.get("config")), mapping_of(results.get("versions"))
    machine = [
        ("Device", recorded(results.get("device"))),
        ("Number format", recorded(results.get("precision"))),
        *((name, recorded(value)) for name, value in versions.items()),
    ]
    settings = [
        (name, "not set" if value in (None, "") else recorded(value))
        for name, value in config.items()
    ]
    return [
        element("p", "Command:"),
        element("pre", element("code", recorded(command))),
        element("details", element("summary", "Versions and device"), markup.facts(machine)),
        element(
            "details",
            element("summary", f"All {len(settings)} settings"),
            markup.facts(settings) if settings else missing("Not recorded."),
        ),
    ]
