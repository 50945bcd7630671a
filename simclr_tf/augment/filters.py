"""Blur, noise and cutout."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

SIGMA_RANGE = (0.1, 2.0)  # pixels of the view; arXiv 2002.05709, appendix A
BLUR_RADIUS = 8  # pixels: four times the largest sigma, beyond which lies 1/16,000 of the weight
NOISE_MAX = 0.1  # largest standard deviation, in shares of the value range
CUTOUT_SIDE = (0.1, 0.5)  # side of the square in shares of the shorter side of the view
CUTOUT_VALUE = 0.5


def draw_sigma(count: int | tf.Tensor, seed: tf.Tensor, *, prob: float) -> tf.Tensor:
    """Draws one blur width per image, pixels, uniform in 0.1..2.0; 0 where not drawn. [N]"""
    draws = tf.random.stateless_uniform([count, 2], seed, alg="philox")
    low, high = SIGMA_RANGE
    return tf.where(draws[:, 1] < prob, low + (high - low) * draws[:, 0], 0.0)


def blur_axis(values: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """Blurs axis 1 of each example with a Gaussian of its own width.

    The kernel ends `BLUR_RADIUS` pixels from its centre. Where it reaches beyond the edge it is
    cut and renormalised, so that edges do not darken.

    Args:
        values: float32 [N, L, K], L static.
        sigma: Standard deviation in steps along the axis, float32 [N]; 0 changes nothing.

    Returns:
        The shape and dtype of `values`.
    """
    return blur_rows(tf.pad(values, [[0, 0], [BLUR_RADIUS] * 2, [0, 0]]), sigma)


def blur_rows(padded: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """`blur_axis` of what has zeros beyond its edges already.

    Written as one sum of shifted copies, which XLA makes one pass.

    Args:
        padded: float32 [N, L + 2 r, K], r = `BLUR_RADIUS`.
        sigma: As of `blur_axis`.

    Returns:
        float32 [N, L, K].
    """
    length = padded.shape[1] - 2 * BLUR_RADIUS
    # At a sigma this small, a neighbour's weight exp(-0.5 / sigma^2) is 0 in float32.
    width = tf.maximum(sigma, 1e-2)[:, tf.newaxis]
    position = tf.range(length)
    total = padded[:, BLUR_RADIUS : BLUR_RADIUS + length]
    weight = tf.ones([1, length])
    for distance in range(1, BLUR_RADIUS + 1):  # what lies on either side weighs the same
        tap = tf.exp(-0.5 * tf.square(distance / width))  # [N, 1]
        before, after = BLUR_RADIUS - distance, BLUR_RADIUS + distance
        pair = padded[:, before : before + length] + padded[:, after : after + length]
        total += tap[..., tf.newaxis] * pair
        weight += tap * tf.cast(position >= distance, tf.float32)
        weight += tap * tf.cast(position < length - distance, tf.float32)
    return total * (1.0 / weight)[..., tf.newaxis]


def gaussian_blur(images: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """Blurs each image with its own width.

    Args:
        images: float [N, H, W, C], H, W and C static.
        sigma: Standard deviation in pixels, float32 [N]; 0 leaves the image as it is.

    Returns:
        The shape and dtype of `images`.
    """
    height, width, channels = images.shape[1:]
    rows = tf.reshape(tf.cast(images, tf.float32), [-1, height, width * channels])
    rows = tf.reshape(blur_axis(rows, sigma), [-1, height, width, channels])
    columns = tf.reshape(tf.transpose(rows, [0, 2, 1, 3]), [-1, width, height * channels])
    columns = tf.reshape(blur_axis(columns, sigma), [-1, width, height, channels])
    return tf.cast(tf.transpose(columns, [0, 2, 1, 3]), images.dtype)


class NoiseDraw(NamedTuple):
    """`stddev` float32 [N], 0 where not drawn; `key` uint32 [N, 2], from which the noise follows.

    A key of its own for each image makes its noise independent of its neighbours and of where the
    batch is cut.
    """

    stddev: tf.Tensor
    key: tf.Tensor


def draw_noise(count: int | tf.Tensor, seed: tf.Tensor, *, prob: float) -> NoiseDraw:
    """Draws one noise level per image, uniform in 0..0.1 of the value range."""
    level_seed, key_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2, alg="philox"))
    draws = tf.random.stateless_uniform([count, 2], level_seed, alg="philox")
    key = tf.random.stateless_uniform([count, 2], key_seed, None, None, tf.uint32, alg="philox")
    return NoiseDraw(tf.where(draws[:, 1] < prob, NOISE_MAX * draws[:, 0], 0.0), key)


def standard_normal(key: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Makes normal numbers of keys, the same ones eager, in a graph, under XLA and on any device.

    A hash of (key, position) gives two 16-bit numbers, each of them a quantile of the normal
    distribution: integers up to the last look-up, and a tenth of the time of TensorFlow's
    generator, whose numbers differ under XLA. The largest of them is 4.2.

    Args:
        key: uint32 [N, 2].
        shape: Static shape of one example.

    Returns:
        float32 [N, *shape].
    """
    count = math.prod(shape)
    position = tf.range((count + 1) // 2, dtype=tf.int32)
    position = tf.bitcast(position, tf.uint32)[tf.newaxis]
    # An odd factor and an offset per image: a Weyl sequence of its own, made random by the
    # finaliser of MurmurHash3.
    h = position * (key[:, :1] | tf.constant(1, tf.uint32)) + key[:, 1:]  # [N, count / 2]
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ tf.bitwise.right_shift(h, tf.constant(shift, tf.uint32))) * tf.constant(
            factor, tf.uint32
        )
    h ^= tf.bitwise.right_shift(h, tf.constant(16, tf.uint32))
    low = tf.cast(h & tf.constant(0xFFFF, tf.uint32), tf.int32)
    high = tf.cast(tf.bitwise.right_shift(h, tf.constant(16, tf.uint32)), tf.int32)
    halves = tf.concat([low, high], axis=1)[:, :count]
    return tf.reshape(tf.gather(_normal_quantiles(), halves), [-1, *shape])


@functools.cache
def _normal_quantiles() -> np.ndarray:
    """The normal distribution at (i + 0.5) / 65536, float32 [65536]."""
    with tf.init_scope():
        shares = (np.arange(65536, dtype=np.float64) + 0.5) / 65536
        return tf.math.ndtri(shares).numpy().astype(np.float32)


def noise_of(draw: NoiseDraw, shape: tuple[int, ...]) -> tf.Tensor:
    """Makes the noise that `add_noise` adds, float32 [N, *shape]."""
    stddev = tf.reshape(draw.stddev, [-1] + [1] * len(shape))
    return stddev * standard_normal(draw.key, shape)


def add_noise(images: tf.Tensor, draw: NoiseDraw) -> tf.Tensor:
    """Adds Gaussian noise to float [N, H, W, C], independent per pixel and channel, and clips it.

    Returns the shape and dtype of `images`, in [0, 1].
    """
    noise = noise_of(draw, tuple(images.shape[1:]))
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
