"""A segmentation judged pixel by pixel: whole images, at the size they are read at."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from simclr_tf import metrics
from simclr_tf.data.pipeline import plain_masked_batches
from simclr_tf.data.sources import Source

Segment = Callable[[tf.Tensor], tf.Tensor]

# Pixels of the images that are judged together: their logits take 4 bytes a class each.
BATCH_PIXELS = 2**20


class PixelCounts(NamedTuple):
    """What a network's classes were against the truth.

    Attributes:
        matrix: int64 [K, K] pixels; row: the truth, column: the prediction; ignored ones left out.
        loss: Mean loss over the images; nan where none was asked for.
    """

    matrix: np.ndarray
    loss: float

    @property
    def mean_iou(self) -> float:
        return metrics.mean_iou(self.matrix)

    @property
    def pixel_accuracy(self) -> float:
        return metrics.pixel_accuracy(self.matrix)


def make_segment(model: keras.Model) -> Segment:
    """Returns images float32 [n, h, w, 3] -> logits float32 [n, h, w, K], for images of any size.

    It is traced once. The model runs in inference mode, with the weights it has at each call.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    def segment(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(model(images, training=False), tf.float32)

    return segment


def count_pixels(
    segment: Segment,
    source: Source,
    num_classes: int,
    *,
    ignore_label: int | None = None,
    size: tuple[int, int] | None = None,
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> PixelCounts:
    """Segments every image of a source and counts the classes of its pixels.

    Args:
        segment: Images to logits, see `make_segment`.
        source: Images with masks.
        num_classes: K.
        ignore_label: Value of the pixels that do not count.
        size: (h, w) that images and masks are cut and resized to before; None: left as they are.
        loss: (masks, logits) -> the mean loss of a batch.
    """
    matrix = np.zeros((num_classes, num_classes), np.int64)
    total = 0.0
    for images, masks in plain_masked_batches(
        source, batch_size=_together(source, size), size=size
    ):
        logits = segment(images)
        classes = tf.argmax(logits, axis=-1).numpy()
        matrix += metrics.confusion_matrix(
            masks.numpy(), classes, num_classes, ignore_label=ignore_label
        )
        if loss is not None:
            total += float(loss(masks, logits)) * len(classes)
    return PixelCounts(matrix, total / len(source) if loss is not None else float("nan"))


def _together(source: Source, size: tuple[int, int] | None) -> int:
    height, width = size or source.image_size or (1, BATCH_PIXELS)
    return max(1, BATCH_PIXELS // (height * width))
