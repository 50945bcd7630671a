"""Classification: a row of the table for each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from simclr_tf import plots
from simclr_tf.data.batches.evaluation import images_together, own_size, plain_batches
from simclr_tf.tasks.predict.output import Row, sheet_title, shown_images, shrunk
from simclr_tf.tasks.predict.work import Work
from simclr_tf.workflow.pace import Pace

TOP = 5


class Classifier:
    """Writes the class of every image into the table."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.size = _view_size(work)
        self.images = Counter[int]()
        self._captions: dict[int, str] = {}

    def predict_all(self, pace: Pace) -> None:
        columns = ["path", "class", "probability", f"top{TOP}"]
        rows: list[Row] = []
        self.work.folder.write_table(columns, rows)

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, *self.size, self.work.model.input_shape[-1]], tf.float32)
            ]
        )
        def classify(images: tf.Tensor) -> tf.Tensor:
            return tf.nn.softmax(tf.cast(self.work.model(images, training=False), tf.float32))

        try:
            first = 0
            for images in self._batches():
                for index, odds in enumerate(classify(images).numpy(), first):
                    if index not in self.work.source.bad:
                        rows.append(self._row(index, odds))
                first += len(images)
                pace.add(len(images))
        finally:
            self.work.folder.write_table(columns, rows)

    def report(self) -> dict[str, Any]:
        """Draws the contact sheet and returns the results of the task."""
        good = self.work.source.good()
        shown = [good[place] for place in shown_images(len(good))]
        images = [shrunk(self.work.source.read(index)) for index in shown]
        captions = [self._captions[index] for index in shown]
        title = sheet_title(shown, self.work.source)
        self.work.folder.write(
            "contact_sheet.png",
            lambda path: plots.plot_captioned(images, captions, path, title=title),
        )
        count = len(self.work.trained.class_names)
        return {"images_per_class": [self.images[number] for number in range(count)]}

    def _batches(self) -> Iterator[tf.Tensor]:
        together = images_together(self.size)
        yield from plain_batches(self.work.source, batch_size=together, size=self.size)

    def _row(self, index: int, odds: np.ndarray) -> Row:
        names = self.work.trained.class_names
        first = np.argsort(-odds, kind="stable")[:TOP]
        best = int(first[0])
        self.images[best] += 1
        self._captions[index] = f"{names[best]} {odds[best]:.2f}"
        top = "; ".join(f"{names[number]}={odds[number]:.4f}" for number in first)
        return [self.work.path_of(index), names[best], f"{odds[best]:.4f}", top]


def _view_size(work: Work) -> tuple[int, int]:
    """Returns (height, width) that images are classified at: the run's, else the flags', else own.

    Raises:
        UserError: None of them is known.
    """
    if work.trained.view_size is not None:
        return work.trained.view_size
    for settings in (work.trained.config, work.config):
        for size in (settings.crop_size, settings.input_size):
            if size != (0, 0):
                return size
    return own_size(work.source)
