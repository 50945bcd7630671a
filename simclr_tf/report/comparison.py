"""Several evaluations side by side: rows are measures, columns are runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from simclr_tf.report import markup
from simclr_tf.report.markup import Child, Html, Rows, element
from simclr_tf.report.measures import Measure, mapping_of, measures_of
from simclr_tf.report.parts import (
    NOT_MEASURED,
    Report,
    contents,
    facts_of,
    footer,
    missing,
    notes_of,
    picture,
    setup_of,
    spread_figure,
    title_of,
)

# Settings that say where a run is written, which no result depends on.
PLACES = {"finetune_save_path", "overwrite", "resume", "compare"}
DATA = ("dataset", "train_file_path", "val_file_path", "label_pattern", "val_fraction")
UNRANKED = ("Health", "Time")  # groups in which more, or less, is not better by itself


def comparison_of(runs: Sequence[Report]) -> Html:
    """Builds the body of a report on at least two runs."""
    runs = _with_own_names(runs)
    sections = [
        ("settings", "What differs", _differences(runs)),
        ("measures", "Measures", _measures(runs)),
        ("spread", "Spread of each dimension", _spreads(runs)),
        ("pictures", "Pictures", _pictures(runs)),
        ("setup", "How they were measured", _setups(runs)),
    ]
    return markup.join(
        element(
            "header",
            element("h1", f"Comparison of {len(runs)} runs"),
            _facts(runs),
            [notes_of(run.results, of=run.name) for run in runs],
        ),
        contents((key, title) for key, title, _ in sections),
        element(
            "main",
            [element("section", element("h2", t, id=key), built) for key, t, built in sections],
        ),
        footer(),
    )


def differing_settings(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Returns the settings that are not the same in all runs, with each run's value.

    Settings of the pre-training are named "pretrain: ..."; one that a run lacks is None there.
    """
    flat = [_settings(each) for each in results]
    names = dict.fromkeys(name for each in flat for name in each)
    rows = {name: [each.get(name) for each in flat] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def best_of(measures: Sequence[Measure]) -> set[int]:
    """Returns who has the highest accuracy as it is written, ties included; nobody if all tie."""
    written = {i: round(100 * m.mean, 1) for i, m in enumerate(measures) if m.known}
    if len(set(written.values())) < 2:
        return set()
    return {index for index, value in written.items() if value == max(written.values())}


def _settings(results: Mapping[str, Any]) -> dict[str, Any]:
    config = mapping_of(results.get("config"))
    before = mapping_of(results.get("pretrain_config"))
    found = {name: value for name, value in config.items() if name not in PLACES}
    found |= {f"pretrain: {name}": v for name, v in before.items() if name not in PLACES}
    found["device"] = results.get("device")
    found |= {f"version of {n}": v for n, v in mapping_of(results.get("versions")).items()}
    return found


def _with_own_names(runs: Sequence[Report]) -> list[Report]:
    """Numbers the runs that share a name."""
    often, seen = Counter(run.name for run in runs), Counter[str]()
    named = []
    for run in runs:
        seen[run.name] += 1
        name = f"{run.name} ({seen[run.name]})" if often[run.name] > 1 else run.name
        named.append(run._replace(name=name))
    return named


def _facts(runs: Sequence[Report]) -> Html:
    columns = [facts_of(run.results) for run in runs]
    rows: list[list[Child]] = [
        [name, *(column[row][1] for column in columns)] for row, (name, _) in enumerate(columns[0])
    ]
    return markup.table("The runs.", ["", *(run.name for run in runs)], Rows(rows))


def _differences(runs: Sequence[Report]) -> Child:
    results = [run.results for run in runs]
    differing = differing_settings(results)
    data = [name for name in DATA if name in differing]
    for key in ("num_train", "num_test", "class_names"):
        if any(each.get(key) != results[0].get(key) for each in results):
            data.append(key)
    warning = None
    if data:
        text = (
            f"These runs did not see the same data (not alike: {', '.join(data)}): their "
            "accuracies cannot be compared as they stand."
        )
        warning = element("p", text, class_="note")
    if not any(mapping_of(each.get("config")) for each in results):
        return [warning, missing("Settings: not recorded.")]
    if not differing:
        return [warning, element("p", "All settings are the same.")]
    rows: list[list[Child]] = [
        [name, *("not set" if v in (None, "") else str(v) for v in values)]
        for name, values in differing.items()
    ]
    caption = "Settings that differ between the runs; all others are the same."
    return [warning, markup.table(caption, ["setting", *(run.name for run in runs)], Rows(rows))]


def _measures(runs: Sequence[Report]) -> Child:
    found = [measures_of(run.results) for run in runs]
    groups: dict[str, dict[str, list[Measure]]] = {}
    for group, label in dict.fromkeys(key for each in found for key in each):
        row = [each.get((group, label), Measure()) for each in found]
        groups.setdefault(group, {})[label] = row
    parts, nowhere = [], []
    for group, rows in groups.items():
        measured = {label: row for label, row in rows.items() if any(m.known for m in row)}
        nowhere += [f"{label} ({group})" for label in rows if label not in measured]
        if measured:
            ranked = group not in UNRANKED
            lines = [[label, *_cells(row, ranked)] for label, row in measured.items()]
            parts.append(Rows(lines, group))
    absent = missing(f"Not measured in any run: {', '.join(nowhere)}.") if nowhere else None
    if not parts:
        return absent
    caption = (
        "Means and standard deviations over seeds. Bold: the best of its row, where not all are "
        "alike; of health and time nothing is best by itself."
    )
    columns = ["measure", *(run.name for run in runs)]
    numbers = range(1, len(columns))
    return [markup.table(caption, columns, *parts, numbers=numbers), absent]


def _cells(row: Sequence[Measure], ranked: bool) -> list[Child]:
    best = best_of(row) if ranked else set()
    cells: list[Child] = []
    for index, measure in enumerate(row):
        if not measure.known:
            cells.append(NOT_MEASURED)
        elif not ranked:
            cells.append(measure.plain)
        else:
            bold = index in best
            text = element("strong", measure.percent) if bold else measure.percent
            cells.append([text, markup.bar(measure.mean, baseline=not bold)])
    return cells


def _spreads(runs: Sequence[Report]) -> Html:
    parts = []
    for run in runs:
        spread = mapping_of(run.results.get("health")).get("per_dimension_spread")
        parts.append(element("div", element("h3", run.name), spread_figure(spread)))
    return element("div", parts, class_="beside")


def _pictures(runs: Sequence[Report]) -> Child:
    names = dict.fromkeys(name for run in runs for name in run.pictures)
    if not names:
        return missing("No pictures.")
    parts: list[Child] = []
    for name in names:
        figures = [
            picture(run, name, of=run.name)
            if name in run.pictures
            else missing(f"{run.name}: not drawn.")
            for run in runs
        ]
        parts.append([element("h3", title_of(name)), element("div", figures, class_="beside")])
    return parts


def _setups(runs: Sequence[Report]) -> Child:
    return [[element("h3", run.name), setup_of(run)] for run in runs]
