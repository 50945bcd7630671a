"""What happens while a model trains: progress, health, journal, checkpoints, stopping."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from simclr_tf.data.pipeline import plain_batches
from simclr_tf.data.sources import Source
from simclr_tf.evaluation.features import embed
from simclr_tf.evaluation.knn import knn_accuracy
from simclr_tf.evaluation.segmentation import PixelCounts
from simclr_tf.losses import NTXent
from simclr_tf.metrics import effective_rank, feature_spread
from simclr_tf.training.checkpoints import (
    Variables,
    numbered_variables,
    read_arrays,
    restore,
)
from simclr_tf.training.distribution import spans_workers
from simclr_tf.training.run_folder import Row, RunFolder

Logs = dict[str, Any] | None
Arrays = dict[str, np.ndarray]

KNN_NEIGHBOURS = 20
KNN_TEMPERATURE = 0.1
EMBED_BATCH_SIZE = 256
RANK_ROWS = 2048  # images whose features' rank is taken


class Progress(keras.callbacks.Callback):
    """One live line: epoch, step, loss, images per second, time left.

    On a terminal the line is rewritten in place; elsewhere a new one is printed, more rarely. The
    loss is read, which waits for the device, only where the line is due.

    Adds `images_per_second` to the epoch's logs and, with loss scaling, `skipped_steps`: those of
    the run so far whose gradients overflowed, so that they changed no weight.

    Args:
        last_step: Steps of the whole run, for the time left.
        batch_size: Images per step.
        every_steps: Steps between two updates, rounded up to whole executions.
    """

    LINE_SECONDS = 15.0  # at least between two lines that are not rewritten

    def __init__(self, *, last_step: int, batch_size: int, every_steps: int) -> None:
        super().__init__()
        self.last_step = last_step
        self.batch_size = batch_size
        self.every_steps = every_steps
        self.images_per_second = 0.0
        self._live = sys.stdout.isatty()
        self._epoch = 0
        self._mark = (0, 0.0)  # step and time of the last update
        self._printed = 0.0
        self._rates: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch = epoch + 1
        self._mark = (self.model.trained_steps, time.monotonic())

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        step = self.model.trained_steps
        if step // self.every_steps == self._mark[0] // self.every_steps:
            return
        self._keep_pace(step)
        if self._live or time.monotonic() - self._printed > self.LINE_SECONDS:
            self._printed = time.monotonic()
            self._print(step, float((logs or {}).get("loss", math.nan)))

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if not self._rates:  # a short run; else the time of a validation would count as training's
            self._keep_pace(self.model.trained_steps)
        if logs is not None:
            logs["images_per_second"] = round(self.images_per_second, 1)
            if isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer):
                taken = int(self.model.optimizer.iterations.numpy())  # a strategy has no int()
                logs["skipped_steps"] = self.model.trained_steps - taken
        if self._live:
            print("\r\033[K", end="", flush=True)

    def _keep_pace(self, step: int) -> None:
        now = time.monotonic()
        images = (step - self._mark[0]) * self.batch_size
        self._rates.append(images / max(now - self._mark[1], 1e-9))
        # The median tells the pace; the first window holds the compilation.
        self.images_per_second = float(np.median(self._rates))
        self._mark = (step, now)

    def _print(self, step: int, loss: float) -> None:
        left = (self.last_step - step) * self.batch_size / max(self.images_per_second, 1e-9)
        line = (
            f"epoch {self._epoch}  step {step}/{self.last_step}  loss {loss:.4f}  "
            f"{self.images_per_second:,.0f} images/s  {_clock(left)} left"
        )
        print(f"\r\033[K{line}" if self._live else line, end="" if self._live else "\n", flush=True)


class KNNMonitor(keras.callbacks.Callback):
    """Weighted kNN accuracy and spread of the features, every few epochs, without training
    anything.

    Adds `knn_accuracy`, `feature_spread` and `feature_rank` (the effective rank of the centred
    features, 1 where they lie on a line) to the epoch's logs.

    Args:
        train: Images with labels that vote.
        test: Images with labels that are classified.
        every_epochs: Epochs between two looks; 0: none but those asked for by `measure`.
        size: (h, w) that images are brought to; None: their own.
        k: Neighbours that vote (arXiv 1805.01978).
        temperature: That of the vote.
        limit: Most images taken of either set, spread evenly over it: a look stays cheap.
    """

    def __init__(
        self,
        train: Source,
        test: Source,
        *,
        every_epochs: int = 1,
        size: tuple[int, int] | None = None,
        k: int = KNN_NEIGHBOURS,
        temperature: float = KNN_TEMPERATURE,
        limit: int = 10_000,
    ) -> None:
        super().__init__()
        self.train = train
        self.test = test
        self.limit = limit
        self.every_epochs = every_epochs
        self.size = size
        self.k = k
        self.temperature = temperature

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None and self.every_epochs and (epoch + 1) % self.every_epochs == 0:
            logs.update(self.measure(self.model.encoder))

    def measure(self, encoder: keras.Model, *, limit: int = 0) -> dict[str, float]:
        """Returns the metrics of an encoder: images float [N, H, W, 3] -> features [N, F].

        Args:
            encoder: Run in inference mode.
            limit: Most images taken of either set; 0: as during training.
        """
        if not limit or self.train.labels is None:  # the spread alone takes no more images
            limit = self.limit
        test = _thin(self.test, limit)
        queries = self._embed(encoder, test)
        some = queries[:: -(-len(queries) // RANK_ROWS)]
        about_mean = some - some.mean(axis=0)
        metrics = {
            "feature_spread": feature_spread(queries),
            "feature_rank": effective_rank(about_mean) if about_mean.any() else 1.0,
        }
        if self.train.labels is not None and test.labels is not None:
            metrics["knn_accuracy"] = self._accuracy(encoder, test, queries, limit)
        return metrics

    def measure_accuracy(self, encoder: keras.Model, *, limit: int) -> float:
        """Returns `knn_accuracy` alone: the rank of wide features takes far longer than the vote.

        The arguments are those of `measure`.

        Raises:
            ValueError: A set has no labels.
        """
        test = _thin(self.test, limit)
        return self._accuracy(encoder, test, self._embed(encoder, test), limit)

    def _accuracy(
        self, encoder: keras.Model, test: Source, queries: np.ndarray, limit: int
    ) -> float:
        """Returns the kNN accuracy of the features [M, F] of the test images."""
        train = _thin(self.train, limit)
        if train.labels is None or test.labels is None:
            raise ValueError("Expected labels of both sets to vote with and to judge by, got none.")
        return knn_accuracy(
            self._embed(encoder, train),
            np.asarray(train.labels),
            queries,
            np.asarray(test.labels),
            k=self.k,
            temperature=self.temperature,
            num_classes=train.num_classes,
        )

    def _embed(self, encoder: keras.Model, source: Source) -> np.ndarray:
        batches = plain_batches(source, batch_size=EMBED_BATCH_SIZE, size=self.size)
        return embed(encoder, batches)


class MeanIoUMonitor(keras.callbacks.Callback):
    """Judges a segmentation on validation images every few epochs and keeps the best weights.

    Adds `val_loss`, `val_mean_iou` and `val_pixel_accuracy` to the epoch's logs.

    Args:
        judge: Counts the pixels of the validation images with the weights of the moment.
        folder: The run's folder: its journal says what the best was so far, its checkpoints keep
            the best weights.
        variables: What is kept of the best.
        every_epochs: Epochs between two looks; 0: none but the one after the last.
        num_epochs: Epochs of the run.
        steps_per_epoch: Steps of a whole epoch. Part of one is not judged: a run that ends within
            an epoch and is resumed must choose as one that was not.
    """

    def __init__(
        self,
        judge: Callable[[], PixelCounts],
        folder: RunFolder,
        variables: Variables,
        *,
        every_epochs: int,
        num_epochs: int,
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self.judge = judge
        self.folder = folder
        self.variables = variables
        self.every_epochs = every_epochs
        self.num_epochs = num_epochs
        self.steps_per_epoch = steps_per_epoch

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        step = self.model.trained_steps
        due = self.every_epochs and (epoch + 1) % self.every_epochs == 0
        whole = step % self.steps_per_epoch == 0
        if logs is None or not whole or not (due or epoch + 1 == self.num_epochs):
            return
        counts = self.judge()
        logs["val_loss"] = counts.loss
        logs["val_mean_iou"] = counts.mean_iou
        logs["val_pixel_accuracy"] = counts.pixel_accuracy
        best = best_row(self.folder.rows, "val_mean_iou")
        if best is None or counts.mean_iou > best["val_mean_iou"]:
            self.folder.checkpoints.save_best(self.variables, step=step)


def best_row(rows: Sequence[Row], column: str) -> Row | None:
    """Returns the first of the rows with the largest number in a column; None where none has."""
    judged = [row for row in rows if isinstance(row.get(column), int | float)]
    judged = [row for row in judged if not math.isnan(row[column])]
    return max(judged, key=lambda row: row[column], default=None)


class HealthLine(keras.callbacks.Callback):
    """Prints after each epoch how the pre-training does, in one line and in plain words.

    Warns, once as it begins, where the representation has collapsed, and says when it no longer is:
    all features nearly the same, or on one line, or a loss that is that of projections which are
    all the same.

    Args:
        loss: That of the run: it knows its start and its floor.
        batch_size: Images per step.
        monitor: Looks at the features; as a callback of its own, before this one.
    """

    SAME = 0.01  # feature spread below it; an untrained encoder has about 0.04
    LINE = 1.1  # effective rank of the centred features below it; 1: they lie on a line
    STUCK_STEPS = 500  # from then on the loss must not be that of equal projections
    STUCK_SHARE = 0.02  # within so much of the way from start to floor it is

    CAUSES = (
        "Likely causes: --learning_rate too large or --warmup_epochs too few; augmentation so "
        "strong that two views share nothing (--task=check --preview shows them); images that are "
        "all alike"
    )

    def __init__(self, *, loss: NTXent, batch_size: int, monitor: KNNMonitor) -> None:
        super().__init__()
        self.monitor = monitor
        self.start = loss.start(batch_size)
        self.floor = loss.floor(batch_size) if loss.similarity == "cosine" else None
        self._warned: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs or {}
        floor = "" if self.floor is None else f", floor {self.floor:.2f}"
        parts = [
            f"epoch {epoch + 1:>3}",
            f"loss {logs['loss']:.3f} (start {self.start:.2f}{floor})",
            f"contrastive accuracy {logs['contrastive_accuracy']:.3f}",
        ]
        if "val_loss" in logs:
            parts.append(f"validation loss {logs['val_loss']:.3f}")
        if "feature_spread" in logs:
            parts.append(f"feature spread {logs['feature_spread']:.2f}")
        if "knn_accuracy" in logs:
            knn = f"kNN accuracy {logs['knn_accuracy']:.3f}"
            parts.append(f"{knn} (k {self.monitor.k}, temperature {self.monitor.temperature})")
        if logs.get("skipped_steps"):
            parts.append(f"{logs['skipped_steps']} steps skipped (float16 overflow)")
        print("  ".join(parts), flush=True)
        for what, is_so in self._judge(logs).items():
            if is_so and what not in self._warned:
                print(f"warning: collapse: {what}. {self.CAUSES}.", flush=True)
                self._warned.add(what)
            elif not is_so and what in self._warned:
                print(f"over: {what}", flush=True)
                self._warned.remove(what)

    def _judge(self, logs: dict[str, Any]) -> dict[str, bool]:
        """Returns what could be told from this epoch, and whether it is so."""
        told = {}
        if "feature_spread" in logs:
            told["the features of all images are nearly the same"] = (
                logs["feature_spread"] < self.SAME
            )
        if "feature_rank" in logs:
            told["the features of all images lie nearly on a line"] = (
                logs["feature_rank"] < self.LINE
            )
        steps = int(self.model.optimizer.iterations.numpy())  # a strategy has no int()
        if steps >= self.STUCK_STEPS:
            way = self.start - (self.floor or 0.0)
            told[f"the loss is {self.start:.2f}, as where nothing is told apart"] = (
                abs(logs["loss"] - self.start) < self.STUCK_SHARE * way
            )
        return told


class Journal(keras.callbacks.Callback):
    """Writes each epoch's metrics to the run folder's `metrics.csv`."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        step = self.model.trained_steps
        values = {name: float(value) for name, value in (logs or {}).items()}
        rate = float(self.model.optimizer.learning_rate)
        self.folder.add_row({"epoch": epoch + 1, "step": step, "learning_rate": rate, **values})


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves after every few epochs, at the end, and at once when the process is told to stop.

    On SIGINT (Ctrl-C) or SIGTERM the step in hand is finished and saved, then KeyboardInterrupt is
    raised: the run can be resumed from exactly there. At the end of an epoch its evaluation is
    finished first, so that its line of the journal is not lost. A second signal raises at once.

    A checkpoint within an epoch holds the epoch's means so far, too: a run that is taken up there
    goes on with them. It must come last, after the journal.

    Args:
        folder: The run's folder.
        variables: What is saved.
        every_epochs: Epochs between two checkpoints.
        steps_per_epoch: Steps of a whole epoch.
        check: Raises where the variables are not to be saved.
    """

    def __init__(
        self,
        folder: RunFolder,
        variables: Variables,
        *,
        every_epochs: int,
        steps_per_epoch: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.variables = variables
        self.every_epochs = every_epochs
        self.steps_per_epoch = steps_per_epoch
        self.check = check
        self._told_to_stop = False
        self._handlers: dict[int, Any] = {}
        self._saved = -1
        self._so_far: tuple[int, Arrays] = (-1, {})  # a step within an epoch, and its means

    def on_train_begin(self, logs: Logs = None) -> None:
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
        """Goes on with the means of an epoch that is taken up where another run left it."""
        step = self.model.trained_steps
        # Not the newest, which may be a damaged one that was passed by.
        path = self.folder.checkpoints.path_of(step)
        spread = spans_workers(self.model.distribute_strategy)  # the leader alone has the file
        if step % self.steps_per_epoch and path.exists() and not spread:
            arrays, metrics = read_arrays(path), self._epoch_metrics()
            if metrics.keys() == {name for name in arrays if name.startswith("epoch/")}:
                restore(metrics, arrays, str(path))

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self._told_to_stop and batch + 1 < self.params["steps"]:
            self._stop()

    def on_test_begin(self, logs: Logs = None) -> None:
        self._keep_so_far()  # validation counts in the same metrics, from 0

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._told_to_stop:
            self._stop()
        if self.model.trained_steps % (self.every_epochs * self.steps_per_epoch) == 0:
            self.save()

    def on_train_end(self, logs: Logs = None) -> None:
        self.save()
        self.restore_handlers()
        if self._told_to_stop:  # while it was saved
            self._stop()

    def save(self) -> None:
        """Writes a checkpoint, unless the newest is of this very step."""
        step = self.model.trained_steps
        if step != self._saved:
            self.check()
            self._keep_so_far()
            so_far = self._so_far[1] if step % self.steps_per_epoch and self.variables else {}
            self.folder.checkpoints.save({**self.variables, **so_far}, step=step)
            self._saved = step

    def restore_handlers(self) -> None:
        """Hands the signals back; Keras tells no callback of a training that ends with an error."""
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _stop(self) -> None:
        self.save()
        self.restore_handlers()
        raise KeyboardInterrupt(f"step {self._saved} is saved")

    def _keep_so_far(self) -> None:
        if spans_workers(self.model.distribute_strategy):
            return  # to read a metric, all workers would have to meet: one told to stop is alone
        step = self.model.trained_steps
        if step % self.steps_per_epoch and step != self._so_far[0]:
            metrics = self._epoch_metrics().items()
            self._so_far = step, {name: np.asarray(metric) for name, metric in metrics}

    def _epoch_metrics(self) -> Variables:
        metrics = [variable for metric in self.model.metrics for variable in metric.variables]
        return numbered_variables("epoch", metrics)


def _thin(source: Source, limit: int) -> Source:
    """Takes at most `limit` images, evenly spaced."""
    if len(source) <= limit:
        return source
    return source.take(np.linspace(0, len(source) - 1, limit).round().astype(np.int64))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
