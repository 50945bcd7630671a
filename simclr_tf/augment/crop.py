"""Crop and flip: draws of the windows, and masks cut by them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from simclr_tf.augment.compilation import compiled

ASPECT_RANGE = (3 / 4, 4 / 3)  # width over height of a crop, in pixels; arXiv 2002.05709, A
CROP_TRIES = 10  # draws of area and aspect before the whole image is taken


class Boxes(NamedTuple):
    """Crop windows in shares of the image's sides: float32 [N] each.

    `top` and `left` are the corner, `height` and `width` the extent, all within [0, 1]; `flip` is 1
    where the crop is mirrored left-right, else 0.
    """

    top: tf.Tensor
    left: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    flip: tf.Tensor


def draw_boxes(
    count: int | tf.Tensor,
    seed: tf.Tensor,
    *,
    area_min: float,
    flip_prob: float,
    aspect: tf.Tensor | float,
    crop: bool = True,
) -> Boxes:
    """Draws one crop window and one flip per image.

    Area is uniform in [area_min, 1] of the image, the aspect ratio of the window in pixels
    log-uniform in 3/4..4/3; the first of 10 draws that fits is placed uniformly. If none fits, the
    window is the largest centred one of admissible aspect.

    Args:
        count: N.
        seed: int32 [2].
        area_min: Smallest share of the image's area, in (0, 1].
        flip_prob: Share of images that are mirrored.
        aspect: Width over height of the images in pixels, a scalar or float32 [N].
        crop: False: every window is the whole image.
    """
    shape_seed, place_seed, flip_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 3, alg="philox")
    )
    flip = tf.random.stateless_uniform([count], flip_seed, alg="philox") < flip_prob  # [N]
    flip = tf.cast(flip, tf.float32)  # [N]
    if not crop:
        zero, one = tf.zeros([count]), tf.ones([count])
        return Boxes(zero, zero, one, one, flip)

    tries = tf.random.stateless_uniform([2, count, CROP_TRIES], shape_seed, alg="philox")
    place = tf.random.stateless_uniform([2, count], place_seed, alg="philox")  # [2, N]
    aspect = tf.broadcast_to(tf.cast(aspect, tf.float32), [count])  # [N]
    top, left, height, width = _place_windows(tries, place, aspect, area_min)
    return Boxes(top, left, height, width, flip)


@compiled
def _place_windows(
    tries: tf.Tensor, place: tf.Tensor, aspect: tf.Tensor, area_min: float
) -> tuple[tf.Tensor, ...]:
    """Turns uniform numbers into windows: (top, left, height, width), float32 [N] each.

    Args:
        tries: For area and aspect, [2, N, tries].
        place: For top and left, [2, N].
        aspect: Width over height of the images, [N].
        area_min: Smallest share of the area.
    """
    area = area_min + (1.0 - area_min) * tries[0]  # [N, tries]
    low, high = math.log(ASPECT_RANGE[0]), math.log(ASPECT_RANGE[1])
    ratio = tf.exp(low + (high - low) * tries[1])  # [N, tries]
    relative = ratio / aspect[:, tf.newaxis]  # [N, tries], ratio of the shares of the sides
    heights = tf.sqrt(area / relative)  # [N, tries]
    widths = tf.sqrt(area * relative)
    fits = (heights <= 1.0) & (widths <= 1.0)  # [N, tries]

    # Where none fits, the largest centred window.
    clipped = tf.clip_by_value(aspect, *ASPECT_RANGE) / aspect  # [N]
    height, width = tf.minimum(1.0, 1.0 / clipped), tf.minimum(1.0, clipped)
    share = tf.fill(tf.shape(place), 0.5)  # [2, N]
    for t in reversed(range(CROP_TRIES)):  # so that the first that fits is what stays
        height = tf.where(fits[:, t], heights[:, t], height)  # [N]
        width = tf.where(fits[:, t], widths[:, t], width)
        share = tf.where(fits[:, t], place, share)
    return (1.0 - height) * share[0], (1.0 - width) * share[1], height, width


def centres(
    start: tf.Tensor, extent: tf.Tensor, flip: tf.Tensor | float, shares: tf.Tensor, source: int
) -> tf.Tensor:
    """Returns where positions within windows lie along an axis of the source.

    Args:
        start, extent: The windows' corner and length in shares of the axis, float32 [N].
        flip: 1 where the axis is mirrored within the window, float32 [N], or 0 for none.
        shares: Positions, float32 of any shape, 0 to 1 from one end of the window to the other.
        source: Pixels of the axis.

    Returns:
        float32 [N, *shape of shares]; a pixel's centre lies at its index + 0.5.
    """

    ones = [1] * shares.shape.rank
    start, extent, flip = (
        tf.reshape(tf.broadcast_to(values, tf.shape(start)), [-1, *ones])
        for values in (start, extent, flip)
    )
    within = shares * (1.0 - flip) + (1.0 - shares) * flip  # [N, *shape of shares]
    return (start + extent * within) * source


def crop_nearest(masks: tf.Tensor, boxes: Boxes, size: tuple[int, int]) -> tf.Tensor:
    """`resampling.crop_resize` for masks: each pixel is that under its centre, a label stays one.

    Args:
        masks: [N, H, W, C] of any dtype; H and W static.
        boxes: One window per mask, those of its image.
        size: (h, w) of the result in pixels.

    Returns:
        [N, h, w, C] of the masks' dtype.
    """

    def under(start: tf.Tensor, extent: tf.Tensor, flip: Any, source: int, target: int) -> Any:
        shares = (tf.range(target, dtype=tf.float32) + 0.5) / target  # [target]
        index = tf.cast(tf.floor(centres(start, extent, flip, shares, source)), tf.int32)
        return tf.clip_by_value(index, 0, source - 1)

    height, width = masks.shape[1], masks.shape[2]
    rows = under(boxes.top, boxes.height, 0.0, height, size[0])  # [N, h]
    columns = under(boxes.left, boxes.width, boxes.flip, width, size[1])  # [N, w]
    tall = tf.gather(masks, rows, batch_dims=1)  # [N, h, W, C]
    tall = tf.transpose(tall, [0, 2, 1, 3])  # [N, W, h, C]
    return tf.transpose(tf.gather(tall, columns, batch_dims=1), [0, 2, 1, 3])
