"""A run in the experiment tracker that people have: Weights & Biases or MLflow.

Each is a package of its own, installed by who wants it, and fed by its own Keras callback. Where it
sends to is its own business: WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME and the rest of its settings hold.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import numbers
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import keras

from simclr_tf.atomic_write import write_whole
from simclr_tf.errors import UserError

PROJECT = "simclr_tf"  # where the tracker's own settings name none
NAME_THERE = "tracker.json"  # in the run folder: what a resumed run is known by
OTHERS = re.compile(r"[^A-Za-z0-9_\-. /]")  # characters that MLflow takes in no name


class Tracker(Protocol):
    """One tracker's run."""

    def begin(self, path: pathlib.Path, known: str | None, settings: Mapping[str, Any]) -> str:
        """Opens the run of the folder `path`, again where it is `known`; returns its name there."""

    def callback(self, first_step: int) -> keras.callbacks.Callback:
        """Returns what writes down an epoch's metrics."""

    def report(self, results: Mapping[str, float]) -> None:
        """Writes down the numbers that the run ends with."""

    def end(self, *, finished: bool) -> None:
        """Closes the run."""


class WeightsAndBiases:
    """`wandb`."""

    def __init__(self) -> None:
        self._wandb = importlib.import_module("wandb")
        self._keras = importlib.import_module("wandb.integration.keras")
        self._run: Any = None

    def begin(self, path: pathlib.Path, known: str | None, settings: Mapping[str, Any]) -> str:
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=path.name,
            config=dict(settings),
            id=known,
            resume="allow",
        )
        return self._run.id

    def callback(self, first_step: int) -> keras.callbacks.Callback:
        return self._keras.WandbMetricsLogger(initial_global_step=first_step)

    def report(self, results: Mapping[str, float]) -> None:
        self._run.summary.update(dict(results))

    def end(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """`mlflow`, whose runs go where its own settings say."""

    def __init__(self) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._keras = importlib.import_module("mlflow.keras")

    def begin(self, path: pathlib.Path, known: str | None, settings: Mapping[str, Any]) -> str:
        if "MLFLOW_EXPERIMENT_NAME" not in os.environ and "MLFLOW_EXPERIMENT_ID" not in os.environ:
            self._mlflow.set_experiment(PROJECT)
        run = self._mlflow.start_run(run_id=known, run_name=None if known else path.name)
        if known is None:  # a parameter is written once
            self._mlflow.log_params({f"flag.{name}": value for name, value in settings.items()})
        return run.info.run_id

    def callback(self, first_step: int) -> keras.callbacks.Callback:
        return self._keras.MlflowCallback()

    def report(self, results: Mapping[str, float]) -> None:
        names = {name: OTHERS.sub("_", f"final.{name}") for name in results}
        self._mlflow.log_metrics({names[name]: value for name, value in results.items()})

    def end(self, *, finished: bool) -> None:
        self._mlflow.end_run("FINISHED" if finished else "KILLED")


TRACKERS: dict[str, type[Tracker]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}


class Tracking:
    """A run's tracker.

    What it refuses it refuses in `begin`, before anything is done; what goes wrong later is said,
    and costs the run nothing.

    Args:
        name: One of `TRACKERS`.
        path: The run's folder.

    Raises:
        UserError: The tracker's package is not installed.
    """

    def __init__(self, name: str, path: pathlib.Path) -> None:
        self.name = name
        self.path = path
        self._tracker = _make_tracker(name)
        self._known_as: str | None = None

    def begin(self, settings: Mapping[str, Any], *, resumed: bool) -> None:
        """Opens the tracker's run; that of the run folder again, where this one is resumed.

        Raises:
            UserError: The tracker does not take the run.
        """
        try:
            known = self._read_name() if resumed else None
            self._known_as = self._tracker.begin(self.path, known, settings)
        except Exception as error:  # what a tracker raises is its own
            raise UserError(
                f"Expected `tracker={self.name}` to take the run, got: {error}. Log in to it, "
                "choose another place by its own settings (WANDB_MODE=offline, "
                "MLFLOW_TRACKING_URI), or leave the flag out."
            ) from error

    def keep_name(self) -> None:
        """Writes to the run folder what the tracker calls the run."""
        text = json.dumps({self.name: self._known_as})
        write_whole(self.path / NAME_THERE, lambda path: path.write_text(text))

    def callback(self, first_step: int) -> keras.callbacks.Callback:
        """Returns what writes down each epoch of a run that goes on at `first_step`."""
        return self._tracker.callback(first_step)

    def report(self, results: Mapping[str, Any]) -> None:
        """Writes down the numbers among a run's results, as results.json has them."""
        metrics = {name: found for name, found in results.items() if name != "config"}
        with self._naming_what_fails():
            self._tracker.report(dict(_numbers_in(metrics)))

    @contextlib.contextmanager
    def until_the_end(self) -> Iterator[None]:
        """The block at whose end what was opened is closed, as broken off where it raises."""
        finished = False
        try:
            yield
            finished = True
        finally:
            if self._known_as is not None:
                with self._naming_what_fails():
                    self._tracker.end(finished=finished)

    @contextlib.contextmanager
    def _naming_what_fails(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a server that is gone, a name that it does not take
            print(f"warning: `tracker={self.name}` failed: {error}", flush=True)

    def _read_name(self) -> str | None:
        """Returns what the tracker calls this run; None where another kept it, or none."""
        try:
            name = json.loads((self.path / NAME_THERE).read_text())[self.name]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return name if isinstance(name, str) else None


def _numbers_in(results: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields each number with its name, within others `supervised.0.1.mean`."""
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from _numbers_in(value, f"{prefix}{name}.")
        elif isinstance(value, numbers.Real) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def _make_tracker(name: str) -> Tracker:
    try:
        return TRACKERS[name]()
    except ImportError:
        raise UserError(
            f"Expected the package {name} for `tracker={name}`, got none. Install it (pip install "
            f"{name}, or this package with its extra: pip install '.[{name}]'), or leave the flag "
            "out."
        ) from None
