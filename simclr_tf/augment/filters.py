"""Blur, noise and cutout."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

SIGMA_RANGE = (0.1, 2.0)  # pixels of the view; arXiv 2002.05709, appendix A
NOISE_MAX = 0.1  # largest standard deviation, in shares of the value range
CUTOUT_SIDE = (0.1, 0.5)  # side of the square in shares of the shorter side of the view
CUTOUT_VALUE = 0.5


def draw_sigma(count: int | tf.Tensor, seed: tf.Tensor, *, prob: float) -> tf.Tensor:
    """Draws one blur width per image, pixels, uniform in 0.1..2.0; 0 where not drawn. [N]"""
    draws = tf.random.stateless_uniform([count, 2], seed, alg="philox")
    low, high = SIGMA_RANGE
    return tf.where(draws[:, 1] < prob, low + (high - low) * draws[:, 0], 0.0)


def blur_matrix(sigma: tf.Tensor, size: int) -> tf.Tensor:
    """Returns one axis of a Gaussian blur, [N, size, size]; rows sum to 1, sigma 0 is the identity.

    A kernel that reaches beyond the edge is cut and renormalised, so that edges do not darken.
    """
    positions = tf.range(size, dtype=tf.float32)
    square = tf.square(positions[:, tf.newaxis] - positions[tf.newaxis, :])  # [size, size]
    # At a sigma this small, a neighbour's weight exp(-0.5 / sigma^2) is 0 in float32.
    width = tf.maximum(sigma, 1e-2)[:, tf.newaxis, tf.newaxis]
    weights = tf.exp(-0.5 * square / tf.square(width))
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def gaussian_blur(images: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """Blurs each image with its own width.

    Args:
        images: float [N, H, W, C], H and W static.
        sigma: Standard deviation in pixels, float32 [N]; 0 leaves the image as it is.

    Returns:
        The shape and dtype of `images`. Only the images with a sigma above 0 are computed.
    """
    drawn = tf.where(sigma > 0.0)  # [K, 1]
    chosen = tf.gather(images, drawn[:, 0])  # [K, H, W, C]
    width = tf.cast(tf.gather(sigma, drawn[:, 0]), tf.float32)
    rows = tf.cast(blur_matrix(width, images.shape[1]), images.dtype)
    columns = tf.cast(blur_matrix(width, images.shape[2]), images.dtype)
    planes = tf.transpose(chosen, [0, 3, 1, 2])  # [K, C, H, W]
    planes = tf.matmul(
        tf.matmul(rows[:, tf.newaxis], planes), columns[:, tf.newaxis], transpose_b=True
    )
    return tf.tensor_scatter_nd_update(images, drawn, tf.transpose(planes, [0, 2, 3, 1]))


class NoiseDraw(NamedTuple):
    """`stddev` float32 [N], 0 where not drawn; `seed` int32 [2] of the batch's noise."""

    stddev: tf.Tensor
    seed: tf.Tensor


def draw_noise(count: int | tf.Tensor, seed: tf.Tensor, *, prob: float) -> NoiseDraw:
    """Draws one noise level per image, uniform in 0..0.1 of the value range."""
    level_seed, noise_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2, alg="philox")
    )
    draws = tf.random.stateless_uniform([count, 2], level_seed, alg="philox")
    return NoiseDraw(tf.where(draws[:, 1] < prob, NOISE_MAX * draws[:, 0], 0.0), noise_seed)


def add_noise(images: tf.Tensor, draw: NoiseDraw) -> tf.Tensor:
    """Adds Gaussian noise, independent per pixel and channel, and clips to [0, 1]."""
    noise = tf.random.stateless_normal(tf.shape(images), draw.seed, alg="philox")
    noise *= draw.stddev[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.clip_by_value(images + tf.cast(noise, images.dtype), 0, 1)


class Squares(NamedTuple):
    """Squares in pixels, float32 [N] each: first row and column, and side; side 0 is none."""

    top: tf.Tensor
    left: tf.Tensor
    side: tf.Tensor


def draw_squares(
    count: int | tf.Tensor, seed: tf.Tensor, *, prob: float, size: tuple[int, int]
) -> Squares:
    """Draws one square per image, whole within the view, side 0.1 to 0.5 of the shorter side."""
    draws = tf.random.stateless_uniform([count, 4], seed, alg="philox")
    low, high = (share * min(size) for share in CUTOUT_SIDE)
    side = tf.round(low + (high - low) * draws[:, 0])
    top = tf.floor(draws[:, 1] * (size[0] - side + 1))
    left = tf.floor(draws[:, 2] * (size[1] - side + 1))
    return Squares(top, left, tf.where(draws[:, 3] < prob, side, 0.0))


def cutout(images: tf.Tensor, squares: Squares) -> tf.Tensor:
    """Sets the square of each image to mid-gray, 0.5 (arXiv 1708.04552)."""

    def inside(start: tf.Tensor, length: int) -> tf.Tensor:
        position = tf.range(length, dtype=tf.float32)[tf.newaxis, :]
        start = start[:, tf.newaxis]
        return (position >= start) & (position < start + squares.side[:, tf.newaxis])

    rows = inside(squares.top, images.shape[1])  # [N, H]
    columns = inside(squares.left, images.shape[2])  # [N, W]
    hole = rows[:, :, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis, :, tf.newaxis]
    return tf.where(hole, tf.cast(CUTOUT_VALUE, images.dtype), images)
