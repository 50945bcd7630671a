"""The folder of one run: its settings, journal, checkpoints, plots and results."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import yaml

from simclr_tf.errors import UserError
from simclr_tf.training.checkpoints import Checkpoints

# All that a run writes. Whatever else lies in the folder is the user's and is never touched.
FOLDERS = ("checkpoints", "plots", "tensorboard")
FILES = ("config.yaml", "model.json", "metrics.csv", "results.json")
# What one task writes beside that; where another task's run lies, such files are the user's.
OF_TASK = {
    "evaluate": ("report.html", "fine_tuning"),
    "embed": ("features.npz", "features.parquet", "neighbours.csv"),
}

Row = dict[str, Any]


class RunFolder:
    """A run's folder on disk.

    Args:
        path: The folder; made where it does not exist.
        keep_checkpoints: Number of checkpoints kept.
    """

    def __init__(self, path: str | pathlib.Path, *, keep_checkpoints: int = 1) -> None:
        self.path = pathlib.Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints", keep=keep_checkpoints)
        self.plots = self.path / "plots"
        self.tensorboard = self.path / "tensorboard"
        self.rows: list[Row] = []

    def begin(self, *, resume: bool, overwrite: bool, flag: str, can_resume: bool = True) -> None:
        """Makes the folder, where the run that is asked for may be written there.

        Nothing is removed yet: a run that fails before its first step costs nobody the one before.

        Args:
            resume: Go on with the run that lies there.
            overwrite: Replace the run that lies there.
            flag: Name of the flag that chose the folder, for the message.
            can_resume: Whether the task can go on with a run, for the message.

        Raises:
            UserError: A run lies there and neither was asked for, or there is none to resume.
        """
        resumable = self.checkpoints.newest() is not None
        begun = resumable or self.checkpoints.best.exists()
        finished = (self.path / "results.json").exists()
        if resume and not resumable:
            raise UserError(
                f"Expected a run to resume in {self.path}, got no checkpoint there. Leave out "
                f"--resume to begin one, or pass the folder of the run with --{flag}."
            )
        if (begun or finished) and not (resume or overwrite):
            state = "a finished" if finished else "an unfinished"
            go_on = "--resume to go on with it, " if can_resume else ""
            raise UserError(
                f"Expected no run in {self.path}, got {state} one. Pass {go_on}--overwrite to "
                f"replace it, or another folder with --{flag}."
            )
        self.plots.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Removes what a run wrote here before, and nothing else."""
        if not (self.path / "config.yaml").exists():
            return
        own = OF_TASK.get(self.task() or "", ())
        for name in (*FOLDERS, *FILES, *own):
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name, ignore_errors=True)
            else:
                (self.path / name).unlink(missing_ok=True)
        self.plots.mkdir(exist_ok=True)

    def task(self) -> str | None:
        """Returns the task of the run that lies here; None where none does."""
        try:
            settings = yaml.safe_load((self.path / "config.yaml").read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None
        return settings.get("task") if isinstance(settings, dict) else None

    def resume_rows(self, step: int) -> None:
        """Reads the journal back up to a step; what a killed run wrote after it is dropped."""
        path = self.path / "metrics.csv"
        if path.exists():
            with open(path, newline="") as file:
                rows = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
            self.rows = [row for row in rows if int(row["step"]) <= step]

    def add_row(self, row: Row) -> None:
        """Adds one line to `metrics.csv`; a column that is new is empty in the rows before."""
        self.rows.append(row)
        columns = list(dict.fromkeys(name for r in self.rows for name in r))
        partial = self.path / "metrics.csv.partial"
        with open(partial, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(partial, self.path / "metrics.csv")

    def write_config(self, text: str) -> None:
        """Writes `config.yaml`."""
        (self.path / "config.yaml").write_text(text)

    def write_model(self, **facts: Any) -> None:
        """Writes `model.json`: what one must know of the model beyond the settings."""
        (self.path / "model.json").write_text(json.dumps(facts, indent=2) + "\n")

    def write_results(self, results: dict[str, Any]) -> None:
        """Writes `results.json`, whole or not at all."""
        text = json.dumps(results, indent=2) + "\n"
        write_whole(self.path / "results.json", lambda path: path.write_text(text))


def write_whole(path: pathlib.Path, save: Callable[[pathlib.Path], object]) -> None:
    """Calls `save` with a path and gives what it wrote its name once it is whole."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        save(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _number(text: str) -> float | int | str:
    if text == "":
        return ""
    value = float(text)
    return int(value) if value.is_integer() and "." not in text and "e" not in text else value
