"""What TensorBoard is given: an epoch's numbers, histograms, pictures, a profile."""

from __future__ import annotations

import os
import pathlib

import keras
import tensorflow as tf

from simclr_tf.runs.folder import RunFolder
from simclr_tf.training.callbacks.steps import Logs, StepCallback

TAG = "epoch_"  # what the names of all numbers begin with
WEIGHTS = "weights/"  # and those of histograms
PROFILED = (10, 20)  # steps; the ones before compile and warm up


class TensorBoardLog(keras.callbacks.Callback):
    """Writes each epoch's metrics, named and numbered, from 0, as Keras' own callback does.

    They are on the disk before a checkpoint speaks of the epoch, where Keras keeps them in memory
    for two minutes. An epoch that a killed run takes again has its point twice, of one value.

    Args:
        folder: The run's folder.
        histogram_epochs: Epochs between two histograms of the weights; 0: none.
    """

    def __init__(self, folder: RunFolder, *, histogram_epochs: int = 0) -> None:
        super().__init__()
        self.path = folder.tensorboard
        self.histogram_epochs = histogram_epochs
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        rate = float(self.model.optimizer.learning_rate)
        for name, value in {**(logs or {}), "learning_rate": rate}.items():
            with self._writer("validation" if name.startswith("val_") else "train").as_default():
                tf.summary.scalar(f"{TAG}{name.removeprefix('val_')}", value, step=epoch)
        if self.histogram_epochs and (epoch + 1) % self.histogram_epochs == 0:
            with self._writer("train").as_default():
                for variable in self.model.trainable_variables:
                    tf.summary.histogram(f"{WEIGHTS}{variable.path}", variable.value, step=epoch)
        for writer in self._writers.values():
            writer.flush()

    def _writer(self, split: str) -> tf.summary.SummaryWriter:
        if split not in self._writers:
            self._writers[split] = tf.summary.create_file_writer(
                os.fsencode(self.path / split)  # text of no UTF-8 is refused
            )
        return self._writers[split]


class Profile(StepCallback):
    """Writes a profile of the steps 10 to 20 that this process trains; of fewer, where it ends.

    TensorBoard shows it with the plugin `tensorboard-plugin-profile` (or `xprof`). Where several
    steps run without coming back to Python, it begins and ends at the next return.
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.path = folder.tensorboard
        self._first: int | None = None  # step that the process began with
        self._state = "waits"

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        if self._first is None:
            self._first = self.step

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        super().on_train_batch_end(batch, logs)
        taken = self.step - (self._first or 0)
        if self._state == "runs" and taken >= PROFILED[1]:
            self._stop()
        elif self._state == "waits" and taken >= PROFILED[0]:
            self._start()

    def on_train_end(self, logs: Logs = None) -> None:
        self._stop()

    def _start(self) -> None:
        try:
            tf.profiler.experimental.start(str(self.path))
        except TypeError:  # of all that writes events, the profiler alone takes text
            print(f"no profile: {str(self.path)!a} is no UTF-8", flush=True)
            self._state = "done"
            return
        self._state = "runs"

    def _stop(self) -> None:
        if self._state == "runs":
            tf.profiler.experimental.stop()
            self._state = "done"
            print(f"profile in {self.path}", flush=True)


def show_picture(folder: RunFolder, path: pathlib.Path) -> None:
    """Hands a PNG file to TensorBoard, by its name."""
    writer = tf.summary.create_file_writer(os.fsencode(folder.tensorboard / "pictures"))
    with writer.as_default():
        picture = tf.io.decode_png(path.read_bytes(), channels=3)
        tf.summary.image(path.stem, picture[tf.newaxis], step=0)
    writer.close()
