"""The report of an evaluation, and of several side by side."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from simclr_tf.atomic_write import write_whole
from simclr_tf.config.settings import Config
from simclr_tf.errors import UserError
from simclr_tf.report import build_report, read_report
from simclr_tf.workflow.resume import begin_or_resume
from simclr_tf.workflow.run import Run
from simclr_tf.workflow.start import start_run, task_of

REPORT = "report.html"


def write_report(folder: pathlib.Path, evaluated: Sequence[pathlib.Path]) -> None:
    """Writes the report of finished evaluations into a folder."""
    html = build_report([read_report(path) for path in evaluated])
    write_whole(folder / REPORT, lambda path: path.write_text(html, encoding="utf-8"))
    print(f"report in {folder / REPORT}", flush=True)


def compare(config: Config) -> dict[str, Any]:
    """Puts evaluations side by side in one report; returns what results.json holds."""
    folders = [pathlib.Path(word.strip()) for word in config.compare.split(",") if word.strip()]
    if len(folders) < 2:
        raise UserError(
            f"Expected at least two evaluated runs for --compare, got {config.compare!r}. Pass "
            "their folders with commas between."
        )
    for folder in folders:
        task_of(folder)  # refuses a folder of a version that is not read
        read_report(folder)  # before anything is written
    with start_run(config) as run:
        return _put_together(run, folders)


def _put_together(run: Run, folders: Sequence[pathlib.Path]) -> dict[str, Any]:
    if run.folder.path.resolve() in [folder.resolve() for folder in folders]:
        raise UserError(
            f"Expected another folder to write to than those compared, got {run.folder.path}. Pass "
            "another --finetune_save_path."
        )
    begin_or_resume(run, {})
    results = run.finish(
        compared=[str(folder) for folder in folders],
        report=REPORT,
        images_per_second=None,
    )
    write_report(run.folder.path, folders)
    return results
