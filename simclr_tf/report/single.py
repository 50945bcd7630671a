"""The report of an evaluation: one HTML file that needs nothing beside it.

Nothing in it is loaded or run, so that it can be mailed, archived and printed. What an evaluation
did not measure is said to be so; results of any part of the protocols make a report.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simclr_tf.errors import UserError
from simclr_tf.plots.confusion_matrix import MAX_CELLS_WRITTEN
from simclr_tf.report import markup
from simclr_tf.report.comparison import comparison_of
from simclr_tf.report.markup import Child, Html, Rows, element
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
from simclr_tf.report.parts import (
    KINDS,
    NOT_MEASURED,
    Report,
    contents,
    facts_of,
    footer,
    kind_of,
    missing,
    notes_of,
    percent,
    percent_with_bar,
    picture,
    pictures_of,
    recorded,
    setup_of,
    spread_figure,
)

MAX_CONFUSIONS = 10  # pairs of classes listed as confused most often
SPLIT_KEYS = ("chosen_on", "split", "on")  # of a protocol's settings: what chose them
EXPECTED = ("fractions", "tsne", "confusion_matrix", "neighbours", "loss", "accuracy")
# What images without labels cannot have: sections and pictures.
SECTIONS_OF_LABELS = ("accuracy", "labels", "errors")
PICTURES_OF_LABELS = {"fractions", "confusion_matrix"}


def build_report(runs: Sequence[Report]) -> str:
    """Writes the report of an evaluation, or of several side by side.

    Args:
        runs: At least one.

    Returns:
        An HTML document with its pictures inside, ready to be encoded as UTF-8.

    Raises:
        ValueError: There is no run.
    """
    if not runs:
        raise ValueError("Expected at least one evaluation to report, got none.")
    if len(runs) > 1:
        title, body = f"Comparison of {len(runs)} runs", comparison_of(runs)
    else:
        title, body = f"Evaluation of {runs[0].name}", _body(runs[0])
    style = importlib.resources.files("simclr_tf.report").joinpath("report.css").read_text()
    return str(markup.page(title, style, body))


def read_report(folder: str | Path) -> Report:
    """Reads an evaluation back from its run folder.

    Raises:
        UserError: There is none.
    """
    folder = Path(folder)
    try:
        results = json.loads((folder / "results.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"Expected the results.json of an evaluation in {folder}, got none that can be read "
            f"({error}). Pass the folder of a finished `task=evaluate`."
        ) from error
    if not isinstance(results, dict) or results.get("task") not in (None, "evaluate"):
        task = results.get("task") if isinstance(results, dict) else None
        raise UserError(
            f"Expected an evaluation in {folder / 'results.json'}, got a run of `task={task}`. "
            "Pass the folder of a finished `task=evaluate`."
        )
    plots = folder / "plots"
    names = [name for name in list_of(results.get("pictures")) if isinstance(name, str)]
    inside = [name for name in names if plots.resolve() in (plots / name).resolve().parents]
    return Report(folder.resolve().name, results, {name: plots / name for name in inside})


def _body(run: Report) -> Html:
    sections: Sequence[tuple[str, str, Callable[[Report], Child]]] = (
        ("accuracy", "Accuracy", _accuracy),
        ("labels", "Fine-tuned against supervised", _fractions),
        ("health", "Health of the representation", _health),
        ("projection", "h against z", _projection),
        ("errors", "What is confused with what", _confusion),
        ("pictures", "Pictures", _pictures),
        ("setup", "How it was measured", setup_of),
    )
    if not _is_labelled(run):
        sections = [section for section in sections if section[0] not in SECTIONS_OF_LABELS]
    return markup.join(
        element(
            "header",
            element("h1", f"Evaluation of {run.name}"),
            _tiles(run.results),
            markup.facts(facts_of(run.results)),
            notes_of(run.results),
        ),
        contents((key, title) for key, title, _ in sections),
        element(
            "main",
            [
                element("section", element("h2", title, id=key), build(run), class_=key)
                for key, title, build in sections
            ],
        ),
        footer(),
    )


def _is_labelled(run: Report) -> bool:
    """Tells whether there may be labels: results that do not say so are taken to have some."""
    return run.results.get("labelled") is not False


def _tiles(results: Mapping[str, Any]) -> Html | None:
    """Shows the few numbers that are looked for first."""
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
    tiles = [
        element("div", element("dt", name), element("dd", f"{100 * measure.mean:.1f} %"))
        for name, measure in shown.items()
        if measure.known
    ]
    return element("dl", tiles, class_="tiles") if tiles else None


def _accuracy(run: Report) -> Child:
    protocols = {n: e for n, e in protocols_of(run.results).items() if not FRACTION_OF.fullmatch(n)}
    tuned = {n: e for n, e in protocols_of(run.results).items() if FRACTION_OF.fullmatch(n)}
    classes = len(list_of(run.results.get("class_names")))
    groups = [Rows([_row(n, e, classes) for n, e in protocols.items()], "On the frozen features h")]
    if tuned:
        rows = [_row(name, entry, classes) for name, entry in tuned.items()]
        groups.append(Rows(rows, "The whole network trained"))
    baselines = baselines_of(run.results)
    rows = [
        [label, percent_with_bar(measure, baseline=True), "", "", "", ""]
        for label, measure in baselines.items()
    ]
    groups.append(Rows(rows, "Baselines: no pre-training"))
    columns = ["protocol", "accuracy", "top-5", "macro F1", "seconds", "chosen, and on what"]
    caption = (
        "Accuracy on the test images, mean and standard deviation over seeds. The bars go from 0 "
        "to 100 %."
    )
    return markup.table(caption, columns, *groups, numbers=(1, 2, 3, 4))


def _row(name: str, entry: Mapping[str, Any], classes: int) -> list[Child]:
    measure = measure_of(entry)
    if not measure.known:
        return [protocol_name(name), NOT_MEASURED, "", "", "", ""]
    few = "top5" in entry and entry["top5"] is None and 0 < classes <= 5
    top5, f1 = measure_of(entry.get("top5")), measure_of(entry.get("f1_macro"))
    seconds = measure_of(entry.get("seconds"))
    seeds = f" ({measure.seeds} seeds)" if measure.seeds > 1 else ""
    return [
        protocol_name(name) + seeds,
        percent_with_bar(measure),
        percent(top5) if top5.known or not few else f"only {classes} classes",
        percent(f1),
        f"{seconds.mean:,.1f}" if seconds.known else NOT_MEASURED,
        element("div", _chosen(entry.get("settings")), class_="wide"),
    ]


def _chosen(settings: object) -> Child:
    """Writes what a protocol chose, and on which images."""
    if isinstance(settings, str) and settings:
        return settings
    given = mapping_of(settings)
    if not given:
        return recorded(None)
    split = next((given[key] for key in SPLIT_KEYS if given.get(key)), None)
    values = [
        f"{name.replace('_', ' ')} {_short(value)}"
        for name, value in given.items()
        if name not in SPLIT_KEYS
    ]
    text = ", ".join(values)
    return f"{text}; on {_short(split)}" if split and text else text or _short(split)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items())
    return str(value)


def _fractions(run: Report) -> Child:
    finetune, supervised = (fractions_of(run.results, k) for k in ("finetune", "supervised"))
    shares = sorted({*finetune, *supervised})
    if not shares:
        return missing("Not measured: neither fine-tuning nor its supervised twin was run.")
    rows: list[list[Child]] = []
    for share in shares:
        tuned, scratch = (found.get(share, Measure()) for found in (finetune, supervised))
        rows.append([share_name(share), percent(tuned), percent(scratch), _gain(tuned, scratch)])
    columns = ["labels", "fine-tuned", "supervised", "gain"]
    caption = (
        "The whole network trained on a share of the labels, from the pre-trained and from random "
        "weights. Gain: in percentage points."
    )
    grid = markup.table(caption, columns, Rows(rows), numbers=(1, 2, 3))
    return element("div", element("div", grid), pictures_of(run, "fractions"), class_="beside")


def _gain(measure: Measure, other: Measure) -> Child:
    if not (measure.known and other.known):
        return ""
    return f"{100 * (measure.mean - other.mean):+.1f}"


def _health(run: Report) -> Child:
    health = mapping_of(run.results.get("health"))
    width = number_of(health.get("width"))
    rows: list[list[Child]] = []
    for name, (label, reading) in HEALTH.items():
        measure = measure_of(health.get(name))
        value: Child = measure.plain if measure.known else NOT_MEASURED
        if name == "effective_rank" and measure.known and width > 0:
            value = f"{measure.plain} of {width:.0f}"
        rows.append([label, value, element("div", reading, class_="wide")])
    columns = ["measure", "value", "how to read it"]
    grid = markup.table("Measures that need no labels.", columns, Rows(rows), numbers=(1,))
    return [
        grid,
        spread_figure(health.get("per_dimension_spread")),
        pictures_of(run, "per_dimension_spread"),
    ]


def _projection(run: Report) -> Child:
    on_h = protocols_of(run.results)
    on_z = projections_of(run.results)
    maps = pictures_of(run, "tsne")
    if not _is_labelled(run):
        return maps
    if not any(measure.known for measure in on_z.values()):
        return [missing("Accuracy on the projections z: not measured."), maps]
    rows: list[list[Child]] = []
    for name, measure in on_z.items():
        features = measure_of(on_h.get(name))
        cells = percent(features), percent(measure), _gain(features, measure)
        rows.append([protocol_name(name), *cells])
    caption = (
        "The features h that later tasks use, and the projections z that pre-training compares. "
        "h is usually ahead: z drops what the augmentations change."
    )
    columns = ["protocol", "h", "z", "h ahead by"]
    return [markup.table(caption, columns, Rows(rows), numbers=(1, 2, 3)), maps]


def _confusion(run: Report) -> Child:
    pictures = pictures_of(run, "confusion_matrix")
    names = [str(name) for name in list_of(run.results.get("class_names"))]
    tables: list[Child] = []
    for name, entry in protocols_of(run.results).items():
        matrix = _matrix_of(entry.get("confusion_matrix"))
        if matrix:
            own = [*names, *map(str, range(len(names), len(matrix)))]
            tables.append(_confusion_details(protocol_name(name), matrix, own))
    if not tables:
        tables.append(missing("Confusion matrices: not measured."))
    return [element("div", pictures, class_="beside"), tables]


def _matrix_of(value: object) -> list[list[int]]:
    """Returns counts [K, K]; [] for what are none."""
    rows = [[number_of(cell) for cell in list_of(row)] for row in list_of(value)]
    if any(len(row) != len(rows) or not all(cell >= 0 for cell in row) for row in rows):
        return []
    return [[int(cell) for cell in row] for row in rows]


def _confusion_details(name: str, matrix: list[list[int]], names: Sequence[str]) -> Html:
    pairs = [
        (count, truth, predicted)
        for truth, row in enumerate(matrix)
        for predicted, count in enumerate(row)
        if count and truth != predicted
    ]
    pairs.sort(key=lambda pair: -pair[0])
    rows = [
        [names[truth], names[predicted], f"{count:,}", f"{100 * count / sum(matrix[truth]):.1f} %"]
        for count, truth, predicted in pairs[:MAX_CONFUSIONS]
    ]
    columns = ["true class", "taken for", "images", "of the class"]
    content: Child = missing("No image was taken for another class.")
    if rows:
        caption = f"Confused most often by {name}"
        content = markup.table(caption, columns, Rows(rows), numbers=(2, 3))
    return element(
        "details",
        element("summary", f"{name}: confusions in numbers"),
        content,
        _grid(name, matrix, names) if len(matrix) <= MAX_CELLS_WRITTEN else None,
    )


def _grid(name: str, matrix: list[list[int]], names: Sequence[str]) -> Html:
    """Draws a confusion matrix as a table: the darker, the larger its share of the true class."""
    head = element("tr", element("th", "true", scope="col"), [
        element("th", each, scope="col", title=each) for each in names
    ])  # fmt: skip
    lines = []
    for label, row in zip(names, matrix, strict=False):
        cells = []
        for count in row:
            share = count / max(sum(row), 1)
            # From white to the darkest blue that black is readable on.
            colour = ",".join(f"{255 - share * drop:.0f}" for drop in (155, 85, 25))
            cells.append(element("td", count, style=f"background:rgb({colour})"))
        lines.append(element("tr", element("th", label, scope="row"), cells))
    caption = f"Confusion matrix of {name}: rows are the truth, columns the prediction"
    inner = element(
        "table", element("caption", element("span", caption)), element("thead", head),
        element("tbody", lines), class_="matrix",
    )  # fmt: skip
    return markup.scrolling(inner, caption)


def _pictures(run: Report) -> Child:
    placed = ("fractions", "tsne", "confusion_matrix", "per_dimension_spread")
    kinds = {name: kind_of(name) for name in run.pictures}
    others = [name for name, kind in kinds.items() if kind is None or kind.start not in placed]
    figures = [picture(run, name) for name in others]
    drawn = {kind.start for kind in kinds.values() if kind}
    if not _is_labelled(run):
        drawn |= PICTURES_OF_LABELS
    absent = [kind.title for kind in KINDS if kind.start in EXPECTED and kind.start not in drawn]
    return [
        element("div", figures, class_="beside"),
        missing(f"Not drawn: {', '.join(absent)}.") if absent else None,
    ]
