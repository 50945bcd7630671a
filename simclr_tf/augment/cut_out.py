"""Cutout: a square of each image set to gray (arXiv 1708.04552)."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

CUTOUT_SIDE = (0.1, 0.5)  # side of the square in shares of the shorter side of the view
CUTOUT_VALUE = 0.5


class Squares(NamedTuple):
    """Squares in pixels, float32 [N] each: first row and column, and side; side 0 is none."""

    top: tf.Tensor
    left: tf.Tensor
    side: tf.Tensor


def draw_squares(
    count: int | tf.Tensor, seed: tf.Tensor, *, prob: float, size: tuple[int, int]
) -> Squares:
    """Draws one square per image, whole within the view, side 0.1 to 0.5 of the shorter side."""
    draws = tf.random.stateless_uniform([count, 4], seed, alg="philox")  # [N, 4]
    low, high = (share * min(size) for share in CUTOUT_SIDE)
    side = tf.round(low + (high - low) * draws[:, 0])  # [N]
    top = tf.floor(draws[:, 1] * (size[0] - side + 1))
    left = tf.floor(draws[:, 2] * (size[1] - side + 1))
    return Squares(top, left, tf.where(draws[:, 3] < prob, side, 0.0))


def cutout(images: tf.Tensor, squares: Squares) -> tf.Tensor:
    """Sets the square of each image to mid-gray, 0.5 (arXiv 1708.04552).

    Example:
        >>> draw = draw_views(Recipe(cutout=True), len(images), seed=0, step=0, size=(32, 32))
        >>> holed = cutout(images, draw.squares)
    """

    def inside(start: tf.Tensor, length: int) -> tf.Tensor:
        position = tf.range(length, dtype=tf.float32)[tf.newaxis, :]  # [1, L]
        start = start[:, tf.newaxis]  # [N, 1]
        return (position >= start) & (position < start + squares.side[:, tf.newaxis])

    rows = inside(squares.top, images.shape[1])  # [N, H]
    columns = inside(squares.left, images.shape[2])  # [N, W]
    hole = rows[:, :, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis, :, tf.newaxis]
    return tf.where(hole, tf.cast(CUTOUT_VALUE, images.dtype), images)
