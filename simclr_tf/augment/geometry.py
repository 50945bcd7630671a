"""Crop, flip and rotation: draws of their parameters, and their application to batches.

Crop, antialiased resize and flip are linear and separable: one small matrix for the rows and one
    for
the columns of each image does all three, so a batch costs two batched matrix products.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

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
    flip = tf.random.stateless_uniform([count], flip_seed, alg="philox") < flip_prob
    flip = tf.cast(flip, tf.float32)
    if not crop:
        zero, one = tf.zeros([count]), tf.ones([count])
        return Boxes(zero, zero, one, one, flip)

    draws = tf.random.stateless_uniform([count, CROP_TRIES, 2], shape_seed, alg="philox")
    area = area_min + (1.0 - area_min) * draws[..., 0]  # [N, tries]
    low, high = math.log(ASPECT_RANGE[0]), math.log(ASPECT_RANGE[1])
    ratio = tf.exp(low + (high - low) * draws[..., 1])
    aspect = tf.broadcast_to(tf.cast(aspect, tf.float32), [count])  # [N]
    relative = ratio / aspect[:, tf.newaxis]  # ratio of the shares of the sides
    height = tf.sqrt(area / relative)
    width = tf.sqrt(area * relative)
    fits = (height <= 1.0) & (width <= 1.0)

    clipped = tf.clip_by_value(aspect, *ASPECT_RANGE) / aspect
    whole_height = tf.minimum(1.0, 1.0 / clipped)
    whole_width = tf.minimum(1.0, clipped)
    first = tf.argmax(fits, axis=1)  # the first that fits; 0 where none does
    any_fits = tf.reduce_any(fits, axis=1)
    height = tf.where(any_fits, tf.gather(height, first, batch_dims=1), whole_height)
    width = tf.where(any_fits, tf.gather(width, first, batch_dims=1), whole_width)

    place = tf.random.stateless_uniform([count, 2], place_seed, alg="philox")
    place = tf.where(any_fits[:, tf.newaxis], place, 0.5)
    top = (1.0 - height) * place[:, 0]
    left = (1.0 - width) * place[:, 1]
    return Boxes(top, left, height, width, flip)


def sampling_matrix(
    start: tf.Tensor, extent: tf.Tensor, flip: tf.Tensor, *, source: int, target: int
) -> tf.Tensor:
    """Returns the rows that resample one axis: [N, target, source], each row summing to 1.

    Bilinear where the window is enlarged; where it shrinks, the triangle is widened by the scale,
    so that nothing aliases. Pixel centres lie at half-integers, and a kernel that reaches beyond
    the image is cut and renormalised.

    Args:
        start, extent: The window's corner and length in shares of the axis, float32 [N].
        flip: 1 where the axis is mirrored within the window, float32 [N].
        source: Pixels of the axis before.
        target: Pixels of the axis after.
    """
    steps = (tf.range(target, dtype=tf.float32) + 0.5) / target  # [t] in 0..1 of the window
    flip = flip[:, tf.newaxis]
    steps = steps * (1.0 - flip) + (1.0 - steps) * flip  # [N, t]
    centres = (start[:, tf.newaxis] + extent[:, tf.newaxis] * steps) * source  # in source pixels
    scale = tf.maximum(extent * (source / target), 1.0)[:, tf.newaxis, tf.newaxis]
    pixels = tf.range(source, dtype=tf.float32) + 0.5  # [s]
    # Written with relu and abs only: the whole matrix is one element-wise pass.
    weights = tf.nn.relu(1.0 - tf.abs(pixels - centres[..., tf.newaxis]) / scale)  # [N, t, s]
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def crop_resize(images: tf.Tensor, boxes: Boxes, size: tuple[int, int]) -> tf.Tensor:
    """Cuts each image's window out, resizes it to `size` and mirrors it where drawn.

    Args:
        images: uint8 or float [N, H, W, C], of one size; H and W static.
        boxes: One window per image.
        size: (h, w) of the result in pixels.

    Returns:
        [N, h, w, C] in the images' value range; float32, and bfloat16 for bfloat16 images.
    """
    source_height, source_width = images.shape[1], images.shape[2]
    dtype = tf.bfloat16 if images.dtype == tf.bfloat16 else tf.float32
    zero = tf.zeros_like(boxes.flip)
    rows = sampling_matrix(
        boxes.top, boxes.height, zero, source=source_height, target=size[0]
    )  # [N, h, H]
    columns = sampling_matrix(
        boxes.left, boxes.width, boxes.flip, source=source_width, target=size[1]
    )  # [N, w, W]
    planes = tf.transpose(tf.cast(images, dtype), [0, 3, 1, 2])  # [N, C, H, W]
    half = tf.matmul(tf.cast(rows, dtype)[:, tf.newaxis], planes)  # [N, C, h, W]
    full = tf.matmul(half, tf.cast(columns, dtype)[:, tf.newaxis], transpose_b=True)
    return tf.transpose(full, [0, 2, 3, 1])  # [N, h, w, C]


def crop_resize_one(image: tf.Tensor, boxes: Boxes, size: tuple[int, int]) -> tf.Tensor:
    """`crop_resize` of V windows of a single image of any size, for images that differ in size.

    Args:
        image: uint8 [H, W, C], H and W may be unknown.
        boxes: V windows.
        size: (h, w) of the results.

    Returns:
        float32 [V, h, w, C], equal to `crop_resize` of the image repeated V times.
    """
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    target = tf.constant(size, tf.float32)

    def cut(window: Boxes) -> tf.Tensor:
        extent = tf.stack([window.height, window.width])
        scale = target / (extent * shape)
        translation = -tf.stack([window.top, window.left]) * shape * scale
        view = tf.raw_ops.ScaleAndTranslate(
            images=image[tf.newaxis],
            size=size,
            scale=scale,
            translation=translation,
            kernel_type="triangle",
            antialias=True,
        )[0]
        return tf.where(window.flip > 0.5, tf.reverse(view, [1]), view)

    views = boxes.top.shape[0]
    return tf.stack([cut(Boxes(*(field[v] for field in boxes))) for v in range(views)])


def draw_angles(
    count: int | tf.Tensor, seed: tf.Tensor, *, max_degrees: float, prob: float
) -> tf.Tensor:
    """Draws one angle per image, in degrees, uniform to either side; 0 where not drawn. [N]"""
    draws = tf.random.stateless_uniform([count, 2], seed, alg="philox")
    angle = (2.0 * draws[:, 0] - 1.0) * max_degrees
    return tf.where(draws[:, 1] < prob, angle, 0.0)


def rotate(images: tf.Tensor, degrees: tf.Tensor, *, nearest: bool = False) -> tf.Tensor:
    """Turns each image counter-clockwise about its centre; beyond the edge the image is mirrored.

    Args:
        images: [N, H, W, C], any dtype, H and W static.
        degrees: float32 [N].
        nearest: Take the nearest pixel (masks) instead of interpolating between four.

    Returns:
        The shape and dtype of `images`.
    """
    height, width = images.shape[1], images.shape[2]
    angle = degrees * (math.pi / 180.0)
    cos, sin = (f(angle)[:, tf.newaxis, tf.newaxis] for f in (tf.cos, tf.sin))  # [N, 1, 1]
    y = (tf.range(height, dtype=tf.float32) - (height - 1) / 2)[:, tf.newaxis]  # [H, 1]
    x = (tf.range(width, dtype=tf.float32) - (width - 1) / 2)[tf.newaxis, :]  # [1, W]
    source_y = sin * x + cos * y + (height - 1) / 2  # [N, H, W]
    source_x = cos * x - sin * y + (width - 1) / 2

    flat = tf.reshape(images, [-1, height * width, images.shape[3]])  # [N, HW, C]

    def take(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        index = _mirror(rows, height) * width + _mirror(columns, width)
        return tf.gather(flat, index, batch_dims=1)  # [N, H, W, C]

    if nearest:
        return take(tf.cast(tf.round(source_y), tf.int32), tf.cast(tf.round(source_x), tf.int32))
    top, left = tf.floor(source_y), tf.floor(source_x)
    down = tf.cast(source_y - top, images.dtype)[..., tf.newaxis]  # weight of the lower row
    right = tf.cast(source_x - left, images.dtype)[..., tf.newaxis]
    row, column = tf.cast(top, tf.int32), tf.cast(left, tf.int32)
    upper = take(row, column) * (1 - right) + take(row, column + 1) * right
    lower = take(row + 1, column) * (1 - right) + take(row + 1, column + 1) * right
    return upper * (1 - down) + lower * down


def _mirror(index: tf.Tensor, size: int) -> tf.Tensor:
    """Reflects integer positions into 0..size-1 with the edge pixel repeated: -1 -> 0."""
    index = tf.math.floormod(index, 2 * size)
    return tf.minimum(index, 2 * size - 1 - index)
