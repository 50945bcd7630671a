"""A run under way: its settings, where they take effect, its folder, its results."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import resource
import sys
import time
from typing import Any

import keras

import simclr_tf
from simclr_tf.config.settings import WITHOUT_CHECKPOINTS, Config
from simclr_tf.counting import spell_number
from simclr_tf.runs.folder import RunFolder
from simclr_tf.training import distribution
from simclr_tf.training.callbacks.tracking import Tracking
from simclr_tf.training.execution import (
    Execution,
)

PACKAGES = ("tensorflow", "keras", "numpy")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run under way: its settings, where they take effect, and its folder.

    With several workers each has a run; the leader's alone is printed and written.
    """

    config: Config
    execution: Execution
    folder: RunFolder
    started: float
    strategy: distribution.Strategy | None = None
    tracking: Tracking | None = None

    @property
    def leads(self) -> bool:
        """Whether this process prints, reads and writes."""
        return distribution.is_leader(self.strategy)

    def within(self, config: Config) -> Run:
        """Returns a run of other settings that is a part of this one, in a folder of its own."""
        keras.utils.set_random_seed(config.seed)
        folder = RunFolder(config.save_path, keep_checkpoints=config.keep_checkpoints)
        folder.path.mkdir(parents=True, exist_ok=True)
        return Run(config, self.execution, folder, time.monotonic(), self.strategy)

    def finish(self, **metrics: Any) -> dict[str, Any]:
        """Writes and returns the results: the task's metrics and what every task reports."""
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        skipped = self.folder.last_numbers().get("skipped_steps")
        results = {
            "task": self.config.task,
            "config": self.config.to_dict(),
            "versions": {"simclr_tf": simclr_tf.__version__, **versions},
            "device": self.execution.device,
            "replicas": distribution.count_replicas(self.strategy),
            "precision": self.execution.precision,
            "seconds": round(time.monotonic() - self.started, 2),
            **self._time_of_checkpoints(),
            **({} if skipped is None else {"skipped_steps": int(skipped)}),
            **metrics,
        }
        self.folder.write_results(results)
        if self.tracking is not None:
            self.tracking.report(results)
        if skipped:
            print(f"{spell_number(int(skipped), 'step')} skipped (float16 overflow)")
        print(f"results in {self.folder.path / 'results.json'}", flush=True)
        return results

    def _time_of_checkpoints(self) -> dict[str, float | None]:
        if self.config.task in WITHOUT_CHECKPOINTS:
            return {}
        seconds = self.folder.checkpoints.seconds
        # A finished run that is resumed saves none.
        taken = round(seconds, 2) if seconds else self.folder.known("checkpoint_seconds")
        return {"checkpoint_seconds": taken}


def peak_memory_bytes() -> int:
    """Returns the largest resident size the process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def rounded(value: float, digits: int = 4) -> float | None:
    """Returns a number as it is reported; None, which JSON can hold, for nan."""
    return None if math.isnan(value) else round(float(value), digits)
