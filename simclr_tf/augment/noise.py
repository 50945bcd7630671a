"""Gaussian noise, of a strength of its own for each image."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

NOISE_MAX = 0.1  # largest standard deviation, in shares of the value range


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
    draws = tf.random.stateless_uniform([count, 2], level_seed, alg="philox")  # [N, 2]
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
    position = tf.range((count + 1) // 2, dtype=tf.int32)  # [count / 2], rounded up
    position = tf.bitcast(position, tf.uint32)[tf.newaxis]  # [1, count / 2]
    # An odd factor and an offset per image: a Weyl sequence of its own, made random by the
    # finaliser of MurmurHash3.
    h = position * (key[:, :1] | tf.constant(1, tf.uint32)) + key[:, 1:]  # [N, count / 2]
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ tf.bitwise.right_shift(h, tf.constant(shift, tf.uint32))) * tf.constant(
            factor, tf.uint32
        )
    h ^= tf.bitwise.right_shift(h, tf.constant(16, tf.uint32))
    low = tf.cast(h & tf.constant(0xFFFF, tf.uint32), tf.int32)  # [N, count / 2]
    high = tf.cast(tf.bitwise.right_shift(h, tf.constant(16, tf.uint32)), tf.int32)
    halves = tf.concat([low, high], axis=1)[:, :count]  # [N, count]
    return tf.reshape(tf.gather(_normal_quantiles(), halves), [-1, *shape])


@functools.cache
def _normal_quantiles() -> np.ndarray:
    """The normal distribution at (i + 0.5) / 65536, float32 [65536]."""
    with tf.init_scope():
        shares = (np.arange(65536, dtype=np.float64) + 0.5) / 65536
        return tf.math.ndtri(shares).numpy().astype(np.float32)


def noise_of(draw: NoiseDraw, shape: tuple[int, ...]) -> tf.Tensor:
    """Makes the noise that `add_noise` adds, float32 [N, *shape]."""
    stddev = tf.reshape(draw.stddev, [-1] + [1] * len(shape))  # [N, 1, ...]
    return stddev * standard_normal(draw.key, shape)


def add_noise(images: tf.Tensor, draw: NoiseDraw) -> tf.Tensor:
    """Adds Gaussian noise to float [N, H, W, C], independent per pixel and channel, and clips it.

    Example:
        >>> draw = draw_views(Recipe(noise=True), len(images), seed=0, step=0, size=(32, 32))
        >>> noisy = add_noise(images, draw.noise)

    Returns the shape and dtype of `images`, in [0, 1].
    """
    noise = noise_of(draw, tuple(images.shape[1:]))  # [N, H, W, C]
    return tf.clip_by_value(images + tf.cast(noise, images.dtype), 0, 1)
