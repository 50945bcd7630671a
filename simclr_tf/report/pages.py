"""The report of an evaluation: one HTML file that needs nothing beside it.

Nothing in it is loaded or run, so that it can be mailed, archived and printed. What an evaluation
did not measure is said to be so; results of any part of the protocols make a report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from simclr_tf.errors import UserError
from simclr_tf.report import comparison, single
from simclr_tf.report.content import Report
from simclr_tf.report.measures import list_of

# Characters that HTML may not hold, escaped or not.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


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
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("simclr_tf.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_writable,
    )
    templates.filters["spelled"] = _spelled
    if len(runs) > 1:
        return templates.get_template("comparison.html").render(comparison.page_of(runs))
    return templates.get_template("single.html").render(single.page_of(runs[0]))


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


def _spelled(value: object) -> str | None:
    """Writes a setting or fact; None where there is none."""
    if value in (None, "", [], {}):
        return None
    if isinstance(value, Mapping | list | tuple | bool):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)


def _writable(value: Any) -> Any:
    """Returns text without what no HTML file can hold, anything else as it is."""
    if not isinstance(value, str) or isinstance(value, markupsafe.Markup):
        return value
    # Half a surrogate pair, as in a file name of another encoding, cannot be written as UTF-8.
    return FORBIDDEN.sub("�", value.encode("utf-8", "replace").decode())
