"""The folder of one run: its settings, journal, checkpoints, plots and results."""

from __future__ import annotations

import csv
import io
import json
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from simclr_tf.atomic_write import write_whole
from simclr_tf.errors import UserError
from simclr_tf.runs.checkpoints import Checkpoints, step_of
from simclr_tf.runs.format import UnreadableFormat, data_of, state_format, take_settings
from simclr_tf.strict_yaml import load_yaml

# All that a run writes. Whatever else lies in the folder is the user's and is never touched.
FOLDERS = ("checkpoints", "plots", "tensorboard")
FILES = ("config.yaml", "model.json", "metrics.csv", "results.json", "tracker.json")
# What one task writes beside that.
OF_TASK = {
    "check": ("problems.csv",),
    "evaluate": ("report.html", "fine_tuning"),
    "embed": ("features.npz", "features.parquet", "neighbours.csv"),
    "predict": ("predictions.csv", "contact_sheet.png", "bad_files.csv", "masks", "overlays"),
}

SIZE_FACTS = ("view_size", "trained_on")  # of model.json
MOST_SIDE = 100_000  # pixels

Row = dict[str, Any]


def written_by(task: str) -> tuple[str, ...]:
    """Returns the names of all files and folders that a run of a task writes."""
    return (*FOLDERS, *FILES, *OF_TASK.get(task, ()))


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

    @classmethod
    def at(cls, path: RunFolder | str | pathlib.Path) -> RunFolder:
        """Returns a run's folder as it is; one of a path, made, with the journal that lies there.

        Raises:
            UserError: The journal cannot be read.
        """
        if isinstance(path, RunFolder):
            return path
        folder = cls(path)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.read_rows()
        return folder

    def begin(
        self, task: str, *, resume: bool, overwrite: bool, flag: str, can_resume: bool = True
    ) -> None:
        """Makes the folder, where the run that is asked for may be written there.

        A folder is a run's if it holds the run's `config.yaml`; what the task would write and no
        run has written is the user's. Nothing is removed yet: a run that fails before its first
        step costs nobody the one before. Hold the folder (`lock_folder`) from before this on.

        Args:
            task: The task of the run.
            resume: Go on with the run that lies there.
            overwrite: Replace the run that lies there.
            flag: Name of the flag that chose the folder, for the message.
            can_resume: Whether the task can go on with a run, for the message.

        Raises:
            UserError: A run lies there and neither was asked for, or there is none to resume, or
                files of other origin would be overwritten.
        """
        there = self.task()
        ours = () if there is None else written_by(there)
        others = [n for n in written_by(task) if n not in ours and (self.path / n).exists()]
        if others:
            raise UserError(
                f"Expected nothing in {self.path} but the files of a run with its config.yaml, got "
                f"{', '.join(others)} of other origin. Move them, restore the config.yaml of their "
                f"run, or pass another folder with `{flag}`."
            )
        resumable = self.checkpoints.newest() is not None
        begun = resumable or self.checkpoints.best.exists() or self._holds_predictions()
        finished = (self.path / "results.json").exists()
        if resume and not resumable:
            raise UserError(
                f"Expected a run to resume in {self.path}, got no checkpoint there. Leave out "
                f"`resume` to begin one, or pass the folder of the run with `{flag}`."
            )
        if (begun or finished) and not (resume or overwrite):
            state = "a finished" if finished else "an unfinished"
            go_on = "`resume` to go on with it, " if can_resume else ""
            raise UserError(
                f"Expected no run in {self.path}, got {state} one. Pass {go_on}`overwrite` to "
                f"replace it, or another folder with `{flag}`."
            )
        self.path.mkdir(parents=True, exist_ok=True)

    def _holds_predictions(self) -> bool:
        """Tells whether a prediction was interrupted; one that bad files ended is begun again."""
        table, bad = (self.path / name for name in ("predictions.csv", "bad_files.csv"))
        if bad.exists():
            print(f"replaces the predictions in {self.path}, which bad files were left out of")
        return table.exists() and not bad.exists()

    def clear(self) -> None:
        """Removes what a run wrote here before, and nothing else."""
        there = self.task()
        if there is None:
            return
        self.checkpoints.clear()
        for name in written_by(there):
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name, ignore_errors=True)
            else:
                (self.path / name).unlink(missing_ok=True)

    def task(self) -> str | None:
        """Returns the task of the run that lies here; None where none does.

        Raises:
            UnreadableFormat: The folder is of a version that this library does not read.
        """
        try:
            task = (self.settings() or {}).get("task")
        except UnreadableFormat:
            raise
        except UserError:  # a broken file is no run's
            return None
        return task if isinstance(task, str) else None

    def settings(self) -> dict[str, Any] | None:
        """Returns what `config.yaml` says, by name, unchecked; None where there is none.

        Raises:
            UnreadableFormat: The folder is of a version that this library does not read.
            UserError: The file cannot be read.
        """
        content, path = self._config(), self.path / "config.yaml"
        return None if content is None else take_settings(content, path)

    def _config(self) -> dict[Any, Any] | None:
        path = self.path / "config.yaml"
        return load_yaml(path, f"the settings of a run in {path}") if path.exists() else None

    def data(self) -> Mapping[str, Any] | None:
        """Returns what `write_config` was told of the training images; None where it was nothing.

        Raises:
            UserError: `config.yaml` cannot be read.
        """
        content = self._config()
        return None if content is None else data_of(content)

    def facts(self) -> dict[str, Any]:
        """Reads `model.json`; a run from before it was written, or of another task, has none.

        Raises:
            UserError: It cannot be read.
        """
        path = self.path / "model.json"
        facts = _read_json(path)
        names = facts.get("class_names", [])
        right = {"class_names": isinstance(names, list) and all(map(_is_text, names))}
        right |= {key: _is_size(facts.get(key)) for key in SIZE_FACTS}
        for key in (key for key, is_right in right.items() if not is_right):
            wanted = "height and width, or null," if key in SIZE_FACTS else "a list of names"
            raise UserError(
                f"Expected {wanted} for {key} in {path}, got {str(facts[key])[:80]}. Correct or "
                "remove the file."
            )
        return facts

    def known(self, name: str) -> float | None:
        """Returns a number that an earlier process of the run wrote: of `results.json`, else of the
        journal's last line, else None.
        """
        try:
            results = self.results()
        except UserError:  # it will be written anew
            results = {}
        value = results.get(name)
        return value if _is_number(value) else self.last_numbers().get(name)

    def last_numbers(self) -> dict[str, float]:
        """Returns what the journal's last line has numbers for: a cell may be empty, or nan."""
        row = self.rows[-1] if self.rows else {}
        return {name: value for name, value in row.items() if _is_number(value)}

    def journal_columns(self) -> list[str]:
        """Returns the columns of `metrics.csv`; none where there is no such file."""
        path = self.path / "metrics.csv"
        if not path.exists():
            return []
        with open(path, newline="", errors="replace") as file:
            return next(csv.reader(file), [])

    def results(self) -> dict[str, Any]:
        """Reads `results.json`; a run that is not finished has none.

        Raises:
            UserError: It cannot be read.
        """
        return _read_json(self.path / "results.json")

    def cut_back(self, step: int) -> None:
        """Drops what a run wrote after a step, from which it will go on, and reads the journal."""
        newest = self.checkpoints.newest()
        self.resume_rows(step)
        if newest is not None and step_of(newest) > step:  # damaged: what it ended with is no more
            (self.path / "results.json").unlink(missing_ok=True)
        self.checkpoints.remove_partial()

    def resume_rows(self, step: int) -> None:
        """Reads the journal back up to a step; what a run wrote after it is dropped.

        Raises:
            UserError: It cannot be read.
        """
        self.read_rows()
        kept = [row for row in self.rows if row["step"] <= step]
        if len(kept) < len(self.rows):
            self.rows = kept
            self._write_rows()

    def read_rows(self) -> None:
        """Reads the journal that lies in the folder, if any.

        Raises:
            UserError: It cannot be read.
        """
        path = self.path / "metrics.csv"
        if not path.exists():
            return
        try:
            with open(path, newline="") as file:
                rows = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
            for row in rows:
                _check_row(row)
        except (OSError, ValueError, TypeError, LookupError, OverflowError, csv.Error) as error:
            raise UserError(
                f"Expected the journal of the run, lines of numbers, in {path}, got: {error}. "
                "Mend or remove the file."
            ) from None
        self.rows = rows

    def add_row(self, row: Row) -> None:
        """Adds one line to `metrics.csv`; a column that is new is empty in the rows before.

        The line of an epoch replaces that of its first part, where a run ended within it.
        """
        self.rows = [r for r in self.rows if r["epoch"] != row["epoch"]]
        self.rows.append(row)
        self._write_rows()

    def _write_rows(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self.rows)
        self._write("metrics.csv", text.getvalue())

    def write_config(self, text: str, *, data: Mapping[str, Any] | None = None) -> None:
        """Writes `config.yaml`: the version of the folder's format, what tells the training images
        from others where that is given, and the settings.
        """
        self._write("config.yaml", state_format(data) + text)

    def write_model(self, **facts: Any) -> None:
        """Writes `model.json`: what one must know of the model beyond the settings."""
        self._write("model.json", json.dumps(facts, indent=2) + "\n")

    def write_results(self, results: dict[str, Any]) -> None:
        """Writes `results.json`."""
        self._write("results.json", json.dumps(results, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        content = text.encode()
        write_whole(self.path / name, lambda path: path.write_bytes(content), sync=True)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns what a file says by name, nothing where there is none."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"Expected JSON in {path}, got: {error}. Correct or remove the file."
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"Expected names and values in {path}, got none. Correct or remove it.")
    return content


def _check_row(row: Row) -> None:
    """Raises ValueError for a line of the journal whose step or epoch is none."""
    for name in ("epoch", "step"):
        if type(row.get(name)) is not int or row[name] < 0:
            raise ValueError(f"{name} {row.get(name, 'missing')}")


def _is_text(value: object) -> bool:
    """Tells whether a value of JSON is text that can be written to a file."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_number(value: object) -> bool:
    # Not by isfinite, which fails for a whole number that is too large for a float.
    return isinstance(value, int | float) and abs(value) < math.inf


def _is_size(value: object) -> bool:
    """Tells whether a value of JSON is [height, width] in pixels, or null."""
    sides = value if isinstance(value, list) else []
    whole = all(type(side) is int and 0 < side < MOST_SIDE for side in sides)
    return value is None or (len(sides) == 2 and whole)


def _number(text: str) -> float | int | str:
    if text == "":
        return ""
    value = float(text)
    return int(value) if value.is_integer() and "." not in text and "e" not in text else value
