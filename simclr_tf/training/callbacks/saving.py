"""What a training writes to its run folder: the journal and checkpoints."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from simclr_tf.runs.checkpoints import (
    Variables,
    named_variables,
    numbered_variables,
    read_arrays,
    restore,
)
from simclr_tf.runs.folder import RunFolder
from simclr_tf.training.callbacks.steps import Logs, StepCallback
from simclr_tf.training.distribution import spans_workers

Arrays = dict[str, np.ndarray]


class Journal(StepCallback):
    """Writes each epoch's metrics to `metrics.csv` in a folder.

    Args:
        folder: A run's folder, or a path: a journal that lies there is gone on with.
    """

    def __init__(self, folder: RunFolder | str | pathlib.Path) -> None:
        super().__init__()
        self.folder = RunFolder.at(folder)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        step = self.step
        values = {name: float(value) for name, value in (logs or {}).items()}
        rate = float(self.model.optimizer.learning_rate)
        self.folder.add_row({"epoch": epoch + 1, "step": step, "learning_rate": rate, **values})


class SaveCheckpoints(StepCallback):
    """Saves after every few epochs, at the end, and at once when the process is told to stop.

    Where an epoch takes longer than `LONGEST_MINUTES` it saves within it, too.

    On SIGINT (Ctrl-C) or SIGTERM the step in hand is finished and saved, then KeyboardInterrupt is
    raised: the run can be resumed from exactly there. At the end of an epoch its evaluation is
    finished first, so that its line of the journal is not lost. A second signal raises at once.

    A checkpoint within an epoch holds the epoch's means so far, too: a run that is taken up there
    goes on with them. It must come last, after the journal.

    Args:
        folder: A run's folder, or a path.
        variables: What is saved; None: the weights of the model and of its optimiser.
        every_epochs: Epochs between two checkpoints.
        every_minutes: Least minutes between two: an epoch that ends sooner is passed over.
        steps_per_epoch: Steps of a whole epoch; None: those that Keras counts.
        check: Raises where the variables are not to be saved.
    """

    LONGEST_MINUTES = 30.0  # that a crash may cost

    def __init__(
        self,
        folder: RunFolder | str | pathlib.Path,
        variables: Variables | None = None,
        *,
        every_epochs: int = 1,
        steps_per_epoch: int | None = None,
        every_minutes: float = 0.0,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.folder = RunFolder.at(folder)
        self._variables = variables
        self.every_epochs = every_epochs
        self.every_minutes = every_minutes
        self._steps_per_epoch = steps_per_epoch
        self.check = check
        self._told_to_stop = False
        self._handlers: dict[int, Any] = {}
        self._saved = -1
        self._last_time = time.monotonic()
        self._so_far: tuple[int, Arrays] = (-1, {})  # a step within an epoch, and its means

    @property
    def variables(self) -> Variables:
        """What is saved, by name."""
        if self._variables is None:
            weights = named_variables("model", self.model.variables)
            return weights | numbered_variables("optimizer", self.model.optimizer.variables)
        return self._variables

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch."""
        return self._steps_per_epoch or self.params["steps"]

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._handlers[number] = signal.signal(number, self._on_signal)
            except ValueError:  # not in the main thread: the caller handles signals
                return

    def _on_signal(self, number: int, frame: object) -> None:
        if self._told_to_stop:
            raise KeyboardInterrupt
        self._told_to_stop = True
        # Not by print, which may be what was interrupted.
        os.write(2, b"\nstops after this step, or this evaluation; once more stops at once\n")

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Goes on with the means of an epoch that is taken up where another run left it.

        Of several workers the leader alone has the file.
        """
        super().on_epoch_begin(epoch, logs)
        step = self.step
        # Not the newest, which may be a damaged one that was passed by.
        path = self.folder.checkpoints.path_of(step)
        if step % self.steps_per_epoch and path.exists() and not self._spans_workers():
            arrays, metrics = read_arrays(path), self._epoch_metrics()
            if metrics.keys() == {name for name in arrays if name.startswith("epoch/")}:
                restore(metrics, arrays, str(path))

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        super().on_train_batch_end(batch, logs)
        if batch + 1 >= self.params["steps"]:
            return  # what is saved at an epoch's end has its evaluation and its line in the journal
        if self._told_to_stop:
            self._stop()
        if self._minutes() > self.LONGEST_MINUTES and not self._spans_workers():
            self.save()

    def on_test_begin(self, logs: Logs = None) -> None:
        self._keep_so_far()  # validation counts in the same metrics, from 0

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._told_to_stop:
            self._stop()
        due = self.step % (self.every_epochs * self.steps_per_epoch) == 0
        if due and self._minutes() >= self.every_minutes:
            self.save()

    def on_train_end(self, logs: Logs = None) -> None:
        self.save()
        self.restore_handlers()
        if self._told_to_stop:  # while it was saved
            self._stop()

    def save(self) -> None:
        """Writes a checkpoint, unless the newest is of this very step."""
        step = self.step
        if step != self._saved:
            self.check()
            self._keep_so_far()
            so_far = self._so_far[1] if step % self.steps_per_epoch and self.variables else {}
            self.folder.checkpoints.save({**self.variables, **so_far}, step=step)
            self._saved = step
            self._last_time = time.monotonic()

    def restore_handlers(self) -> None:
        """Hands the signals back; Keras tells no callback of a training that ends with an error."""
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _stop(self) -> None:
        self.save()
        self.restore_handlers()
        raise KeyboardInterrupt(f"step {self._saved} is saved")

    def _keep_so_far(self) -> None:
        if self._spans_workers():
            return  # to read a metric, all workers would have to meet: one told to stop is alone
        step = self.step
        if step % self.steps_per_epoch and step != self._so_far[0]:
            metrics = self._epoch_metrics().items()
            self._so_far = step, {name: np.asarray(metric) for name, metric in metrics}

    def _minutes(self) -> float:
        """Returns the minutes since the last checkpoint, or the beginning."""
        return (time.monotonic() - self._last_time) / 60

    def _spans_workers(self) -> bool:
        return spans_workers(self.model.distribute_strategy)

    def _epoch_metrics(self) -> Variables:
        metrics = [variable for metric in self.model.metrics for variable in metric.variables]
        return numbered_variables("epoch", metrics)
