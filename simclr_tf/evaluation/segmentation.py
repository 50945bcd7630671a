"""A segmentation judged pixel by pixel: whole images, at the size they are read at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from simclr_tf import metrics
from simclr_tf.data.batches.evaluation import plain_masked_batches
from simclr_tf.data.masks import resize_mask_to_fill
from simclr_tf.data.source import Source
from simclr_tf.evaluation.tiled_inference import WHOLE_PIXELS, segment_image

Size = tuple[int, int]
Segment = Callable[[tf.Tensor], tf.Tensor]
ScaleOf = Callable[[Size], float]
Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class PixelCounts(NamedTuple):
    """What a network's classes were against the truth.

    Attributes:
        matrix: int64 [K, K] pixels; row: the truth, column: the prediction; ignored ones left out.
        loss: Mean loss over the images, at the scale that the network sees; nan where none was
            asked for.
    """

    matrix: np.ndarray
    loss: float

    @property
    def mean_iou(self) -> float:
        return metrics.mean_iou(self.matrix)

    @property
    def pixel_accuracy(self) -> float:
        return metrics.pixel_accuracy(self.matrix)


def make_segment(model: keras.Model, *, ignore_label: int | None = None) -> Segment:
    """Returns images float32 [n, h, w, C] -> logits float32 [n, h, w, K], for images of any size.

    It is traced once. The model runs in inference mode, with the weights it has at each call.

    Args:
        model: Images to logits.
        ignore_label: Where it is one of the classes, that class was never trained, and its logit
            is -inf.
    """
    never = tf.one_hot(-1 if ignore_label is None else ignore_label, model.output_shape[-1]) > 0

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, model.input_shape[-1]], tf.float32)]
    )
    def segment(images: tf.Tensor) -> tf.Tensor:
        return tf.where(never, -np.inf, tf.cast(model(images, training=False), tf.float32))

    return segment


def judged_scale(size: Size, view: Size, *, area_min: float) -> float:
    """Returns the scale at which a network sees whole images: 1, or the nearest it was trained at.

    Training resizes windows of a share a of the image, area_min to 1, to the size of the view:
    pixels of the view per pixel of the image are sqrt(view / (a image)).

    Args:
        size: (height, width) of the images in pixels.
        view: (h, w) of the views in training.
        area_min: Least share of the image that a window covers; 1 where none are cut.
    """
    least = math.sqrt(view[0] * view[1] / (size[0] * size[1]))
    return min(max(1.0, least), least / math.sqrt(area_min))


def scale_rule(view: Size, *, trained_on: Size | None, area_min: float) -> ScaleOf:
    """Returns the scale that images of a size are seen at, see `judged_scale`.

    Args:
        view: (h, w) of the views in training.
        trained_on: (height, width) of the training images: images of any size are then seen at the
            scale of these. None: they had several sizes, and each was brought to the view's.
        area_min: Least share of an image that a view covers.
    """
    if trained_on is not None:
        scale = judged_scale(trained_on, view, area_min=area_min)
        return lambda size: scale
    return lambda size: judged_scale(size, view, area_min=area_min)


def count_pixels(
    segment: Segment,
    source: Source,
    num_classes: int,
    *,
    ignore_label: int | None = None,
    size: Size | None = None,
    scale_of: ScaleOf = lambda size: 1.0,
    loss: Loss | None = None,
) -> PixelCounts:
    """Segments every image of a source and counts the classes of its pixels.

    Args:
        segment: Images to logits, see `make_segment`.
        source: Images with masks.
        num_classes: K.
        ignore_label: Value of the pixels that do not count.
        size: (h, w) that images and masks are cut and resized to before; None: left as they are.
        scale_of: (height, width) of an image -> the scale that the network sees it at.
        loss: (masks, logits) -> the mean loss of a batch.
    """
    matrix = np.zeros((num_classes, num_classes), np.int64)
    losses = [np.zeros(0)]
    batches = plain_masked_batches(source, batch_size=_together(source, size), size=size)
    for images, masks in batches:
        classes, value = _judge(segment, images, masks, scale_of, loss)
        matrix += metrics.confusion_matrix(
            masks.numpy(), classes, num_classes, ignore_label=ignore_label
        )
        losses.append(np.full(len(classes), value))
    known = np.concatenate(losses)
    known = known[~np.isnan(known)]
    return PixelCounts(matrix, float(known.mean()) if known.size else math.nan)


def _judge(
    segment: Segment, images: tf.Tensor, masks: tf.Tensor, scale_of: ScaleOf, loss: Loss | None
) -> tuple[np.ndarray, float]:
    """Returns the classes, int [n, H, W], of a batch and its mean loss."""
    height, width = images.shape[1:3]
    scale = scale_of((height, width))
    if scale == 1.0 and height * width <= WHOLE_PIXELS:
        logits = segment(images)
        value = math.nan if loss is None else float(loss(masks, logits))
        return tf.argmax(logits, axis=-1).numpy(), value
    classes, values = [], [np.nan]
    for image, mask in zip(images.numpy(), masks.numpy(), strict=True):
        windows, logits = 0, tf.zeros([0])

        def keep(pixels: np.ndarray) -> tf.Tensor:
            nonlocal windows, logits
            windows, logits = windows + 1, segment(pixels)
            return logits

        pixels = np.rint(255.0 * image).astype(np.uint8)
        classes.append(segment_image(keep, pixels, scale=scale))
        if loss is not None and windows == 1:  # of one that was cut up, no logits are left to judge
            small = resize_mask_to_fill(mask, tuple(logits.shape[1:3]))
            values.append(float(loss(small[np.newaxis], logits)))
    return np.stack(classes), float(np.mean(values[1:] or values))


def _together(source: Source, size: Size | None) -> int:
    height, width = size or source.image_size or (1, WHOLE_PIXELS)
    return max(1, WHOLE_PIXELS // (height * width))
