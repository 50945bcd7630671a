"""The judgement that chooses the best weights of a segmentation."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Sequence

from simclr_tf.evaluation.segmentation import PixelCounts
from simclr_tf.runs.checkpoints import Variables
from simclr_tf.runs.folder import Row, RunFolder
from simclr_tf.training.callbacks.steps import Logs, StepCallback


class MeanIoUMonitor(StepCallback):
    """Judges a segmentation on validation images every few epochs and keeps the best weights.

    Adds `val_loss`, `val_mean_iou` and `val_pixel_accuracy` to the epoch's logs.

    Args:
        judge: Counts the pixels of the validation images with the weights of the moment.
        folder: The run's folder, or a path: its journal says what the best was so far, its
            checkpoints keep the best weights.
        variables: What is kept of the best.
        every_epochs: Epochs between two looks; 0: none but the one after the last.
        num_epochs: Epochs of the run.
        steps_per_epoch: Steps of a whole epoch. Part of one is not judged: a run that ends within
            an epoch and is resumed must choose as one that was not.
    """

    def __init__(
        self,
        judge: Callable[[], PixelCounts],
        folder: RunFolder | str | pathlib.Path,
        variables: Variables,
        *,
        every_epochs: int,
        num_epochs: int,
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self.judge = judge
        self.folder = RunFolder.at(folder)
        self.variables = variables
        self.every_epochs = every_epochs
        self.num_epochs = num_epochs
        self.steps_per_epoch = steps_per_epoch

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        step = self.step
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
