"""Rotation about the centre, by an angle of its own for each image."""

from __future__ import annotations

import math

import tensorflow as tf


def draw_angles(
    count: int | tf.Tensor, seed: tf.Tensor, *, max_degrees: float, prob: float
) -> tf.Tensor:
    """Draws one angle per image, in degrees, uniform to either side; 0 where not drawn. [N]"""
    draws = tf.random.stateless_uniform([count, 2], seed, alg="philox")  # [N, 2]
    angle = (2.0 * draws[:, 0] - 1.0) * max_degrees  # [N]
    return tf.where(draws[:, 1] < prob, angle, 0.0)


def rotate(
    images: tf.Tensor, degrees: tf.Tensor, *, fill: float | None = None, nearest: bool = False
) -> tf.Tensor:
    """Turns each image counter-clockwise about its centre.

    Example:
        >>> turned = rotate(images, tf.fill([len(images)], 15.0))

    Args:
        images: [N, H, W, C], any dtype, H and W static.
        degrees: float32 [N].
        fill: Value of what comes from beyond the edge; None: the image is mirrored there.
        nearest: Take the nearest pixel (masks) instead of interpolating between four.

    Returns:
        The shape and dtype of `images`.
    """
    height, width = images.shape[1], images.shape[2]
    angle = degrees * (math.pi / 180.0)  # [N], radians
    cos, sin = (f(angle)[:, tf.newaxis, tf.newaxis] for f in (tf.cos, tf.sin))  # [N, 1, 1]
    y = (tf.range(height, dtype=tf.float32) - (height - 1) / 2)[:, tf.newaxis]  # [H, 1]
    x = (tf.range(width, dtype=tf.float32) - (width - 1) / 2)[tf.newaxis, :]  # [1, W]
    source_y = sin * x + cos * y + (height - 1) / 2  # [N, H, W]
    source_x = cos * x - sin * y + (width - 1) / 2  # [N, H, W]
    flat = tf.reshape(images, [-1, height * width, images.shape[3]])  # [N, HW, C]

    def take(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        index = _mirror(rows, height) * width + _mirror(columns, width)  # [N, H, W]
        pixels = tf.gather(flat, index, batch_dims=1)  # [N, H, W, C]
        if fill is None:
            return pixels
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)  # [N, H, W]
        return tf.where(inside[..., tf.newaxis], pixels, tf.cast(fill, images.dtype))

    if nearest:
        # Halves go up: to even, a quarter turn would drop and repeat every other line of a mask.
        return take(*(tf.cast(tf.floor(s + 0.5), tf.int32) for s in (source_y, source_x)))
    top, left = tf.floor(source_y), tf.floor(source_x)  # [N, H, W]
    down = tf.cast(source_y - top, images.dtype)[..., tf.newaxis]  # [N, H, W, 1], of the lower row
    right = tf.cast(source_x - left, images.dtype)[..., tf.newaxis]  # [N, H, W, 1]
    row, column = tf.cast(top, tf.int32), tf.cast(left, tf.int32)  # int32 [N, H, W]
    upper = take(row, column) * (1 - right) + take(row, column + 1) * right  # [N, H, W, C]
    lower = take(row + 1, column) * (1 - right) + take(row + 1, column + 1) * right
    return upper * (1 - down) + lower * down


def _mirror(index: tf.Tensor, size: int) -> tf.Tensor:
    """Reflects integer positions into 0..size-1 with the edge pixel repeated: -1 -> 0."""
    index = tf.math.floormod(index, 2 * size)
    return tf.minimum(index, 2 * size - 1 - index)
