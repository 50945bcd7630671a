"""Gaussian blur, of a width of its own for each image."""

from __future__ import annotations

import tensorflow as tf

SIGMA_RANGE = (0.1, 2.0)  # pixels of the view; arXiv 2002.05709, appendix A
BLUR_RADIUS = 8  # pixels: four times the largest sigma, beyond which lies 1/16,000 of the weight


def draw_sigma(count: int | tf.Tensor, seed: tf.Tensor, *, prob: float) -> tf.Tensor:
    """Draws one blur width per image, pixels, uniform in 0.1..2.0; 0 where not drawn. [N]"""
    draws = tf.random.stateless_uniform([count, 2], seed, alg="philox")  # [N, 2]
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
    width = tf.maximum(sigma, 1e-2)[:, tf.newaxis]  # [N, 1]
    position = tf.range(length)  # [L]
    total = padded[:, BLUR_RADIUS : BLUR_RADIUS + length]  # [N, L, K]
    weight = tf.ones([1, length])  # [1, L], then [N, L]
    for distance in range(1, BLUR_RADIUS + 1):  # what lies on either side weighs the same
        tap = tf.exp(-0.5 * tf.square(distance / width))  # [N, 1]
        before, after = BLUR_RADIUS - distance, BLUR_RADIUS + distance
        pair = padded[:, before : before + length] + padded[:, after : after + length]  # [N, L, K]
        total += tap[..., tf.newaxis] * pair  # [N, L, K]
        weight += tap * tf.cast(position >= distance, tf.float32)  # [N, L]
        weight += tap * tf.cast(position < length - distance, tf.float32)
    return total * (1.0 / weight)[..., tf.newaxis]


def gaussian_blur(images: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """Blurs each image with its own width.

    Example:
        >>> blurred = gaussian_blur(images, sigma=tf.fill([len(images)], 1.5))

    Args:
        images: float [N, H, W, C], H, W and C static.
        sigma: Standard deviation in pixels, float32 [N]; 0 leaves the image as it is.

    Returns:
        The shape and dtype of `images`.
    """
    height, width, channels = images.shape[1:]
    rows = tf.reshape(tf.cast(images, tf.float32), [-1, height, width * channels])  # [N, H, WC]
    rows = tf.reshape(blur_axis(rows, sigma), [-1, height, width, channels])  # [N, H, W, C]
    columns = tf.reshape(tf.transpose(rows, [0, 2, 1, 3]), [-1, width, height * channels])
    columns = tf.reshape(blur_axis(columns, sigma), [-1, width, height, channels])  # [N, W, H, C]
    return tf.cast(tf.transpose(columns, [0, 2, 1, 3]), images.dtype)
