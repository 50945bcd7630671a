"""The page of several evaluations side by side: rows are measures, columns are runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from simclr_tf.report.content import (
    Picture,
    Report,
    facts_of,
    notes_of,
    picture_of,
    setup_of,
    spread_of,
    title_of,
)
from simclr_tf.report.measures import Measure, mapping_of, measures_of

# Settings that say where a run is written, which no result depends on.
PLACES = {"finetune_save_path", "overwrite", "resume", "compare"}
DATA = ("dataset", "train_file_path", "val_file_path", "label_pattern", "val_fraction")
UNRANKED = ("Health", "Time")  # groups in which more, or less, is not better by itself
SECTIONS = {
    "settings": "What differs",
    "measures": "Measures",
    "spread": "Spread of each dimension",
    "pictures": "Pictures",
    "setup": "How they were measured",
}


def page_of(runs: Sequence[Report]) -> dict[str, Any]:
    """Returns what the template "comparison.html" shows of at least two runs."""
    runs = _with_own_names(runs)
    results = [run.results for run in runs]
    columns = [facts_of(each) for each in results]
    groups, nowhere = _groups(results)
    return {
        "title": f"Comparison of {len(runs)} runs",
        "sections": SECTIONS,
        "runs": [
            {
                "name": run.name,
                "remarks": notes_of(run.results),
                "spread": spread_of(run.results),
                "setup": setup_of(run.results),
            }
            for run in runs
        ],
        "about": [
            (name, [column[row][1] for column in columns])
            for row, (name, _) in enumerate(columns[0])
        ],
        "other_data": _other_data(results),
        "differing": _differing(results),
        "groups": groups,
        "nowhere": nowhere,
        "pictures": _pictures(runs),
    }


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
    settings = {name: value for name, value in config.items() if name not in PLACES}
    settings |= {f"pretrain: {name}": v for name, v in before.items() if name not in PLACES}
    settings["device"] = results.get("device")
    return settings | {
        f"version of {name}": v for name, v in mapping_of(results.get("versions")).items()
    }


def _with_own_names(runs: Sequence[Report]) -> list[Report]:
    """Numbers the runs that share a name."""
    often, seen = Counter(run.name for run in runs), Counter[str]()
    named = []
    for run in runs:
        seen[run.name] += 1
        name = f"{run.name} ({seen[run.name]})" if often[run.name] > 1 else run.name
        named.append(run._replace(name=name))
    return named


def _other_data(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns in what the data of the runs differ: then accuracies cannot be compared."""
    names = [name for name in DATA if name in differing_settings(results)]
    counted = ("num_train", "num_test", "class_names")
    return names + [
        key for key in counted if any(each.get(key) != results[0].get(key) for each in results)
    ]


def _differing(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]] | None:
    """Returns the settings that differ, as text; None where no run has recorded any."""
    if not any(mapping_of(each.get("config")) for each in results):
        return None
    return [
        (name, ["not set" if value in (None, "") else str(value) for value in values])
        for name, values in differing_settings(results).items()
    ]


def _groups(results: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the groups of measures, and the names of those that no run has."""
    measures = [measures_of(each) for each in results]
    groups: dict[str, list[dict[str, Any]]] = {}
    nowhere = []
    for group, label in dict.fromkeys(key for each in measures for key in each):
        row = [each.get((group, label), Measure()) for each in measures]
        if any(measure.known for measure in row):
            best = set() if group in UNRANKED else best_of(row)
            groups.setdefault(group, []).append({"name": label, "measures": row, "best": best})
        else:
            nowhere.append(f"{label} ({group})")
    return [
        {"name": group, "ranked": group not in UNRANKED, "rows": rows}
        for group, rows in groups.items()
    ], nowhere


def _pictures(runs: Sequence[Report]) -> list[tuple[str, list[tuple[str, Picture | None]]]]:
    """Returns, of each picture, its title and (run, the run's own or None)."""
    names = dict.fromkeys(name for run in runs for name in run.pictures)
    return [
        (
            title_of(name),
            [(run.name, picture_of(run, name) if name in run.pictures else None) for run in runs],
        )
        for name in names
    ]
