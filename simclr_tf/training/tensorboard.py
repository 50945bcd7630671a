"""What TensorBoard is given: an epoch's numbers, histograms, pictures, a profile."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import tensorflow as tf

from simclr_tf.training.run_folder import RunFolder

Logs = dict[str, Any] | None

PROFILED = (10, 20)  # steps; the ones before compile and warm up


class TensorBoardLog(keras.callbacks.TensorBoard):
    """Keras' TensorBoard log, without a copy of the graph.

    Args:
        folder: The run's folder.
        histogram_epochs: Epochs between two histograms of the weights; 0: none.
    """

    def __init__(self, folder: RunFolder, *, histogram_epochs: int = 0) -> None:
        super().__init__(
            str(folder.tensorboard),
            histogram_freq=histogram_epochs,
            write_graph=False,
            update_freq="epoch",
        )

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Does nothing; Keras' own prepares, at every step, summaries that it then drops."""


class Profile(keras.callbacks.Callback):
    """Writes a profile of the steps 10 to 20 that this process trains; of fewer, where it ends.

    TensorBoard shows it with the plugin `tensorboard-plugin-profile` (or `xprof`). Where several
    steps run without coming back to Python, it begins and ends at the next return.
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.path = folder.tensorboard
        self._first: int | None = None  # step that the process began with
        self._runs = False
        self._done = False

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        step = self.model.trained_steps
        if self._first is None:
            self._first = step - 1
        taken = step - self._first
        if self._runs and taken >= PROFILED[1]:
            self._stop()
        elif not self._runs and not self._done and taken >= PROFILED[0]:
            tf.profiler.experimental.start(str(self.path))
            self._runs = True

    def on_train_end(self, logs: Logs = None) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._runs:
            tf.profiler.experimental.stop()
            self._runs, self._done = False, True
            print(f"profile in {self.path}", flush=True)


def show_picture(folder: RunFolder, path: pathlib.Path) -> None:
    """Hands a PNG file to TensorBoard, by its name."""
    writer = tf.summary.create_file_writer(str(folder.tensorboard / "pictures"))
    with writer.as_default():
        picture = tf.io.decode_png(path.read_bytes(), channels=3)
        tf.summary.image(path.stem, picture[tf.newaxis], step=0)
    writer.close()
