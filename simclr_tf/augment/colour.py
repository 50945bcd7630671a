"""Brightness, contrast, saturation, hue and gray drop as one 3x3 matrix and an offset per image.

Saturation and hue (a rotation in the YIQ plane) leave an image's luma alone, so contrast about the
mean
luma commutes with them: the five operations are affine in the colours of a pixel, and only the
    clip to
[0, 1], done once at the end, tells their order apart from the reference's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601, as tf.image.rgb_to_grayscale
_RGB_TO_YIQ = np.array(
    [LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]], np.float64
)
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)
# A rotation by angle a in the IQ plane is Y + cos(a) C + sin(a) S in RGB.
_HUE_KEEP = np.float32(_YIQ_TO_RGB @ np.diag([1.0, 0.0, 0.0]) @ _RGB_TO_YIQ)
_HUE_COS = np.float32(_YIQ_TO_RGB @ np.diag([0.0, 1.0, 1.0]) @ _RGB_TO_YIQ)
_HUE_SIN = np.float32(
    _YIQ_TO_RGB @ np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]], np.float64) @ _RGB_TO_YIQ
)


class ColourDraw(NamedTuple):
    """Colour parameters, float32 [N] each; the identity is 1, 1, 1, 0, 0.

    `brightness`, `contrast` and `saturation` are factors, `hue` is a share of the full turn in
    [-0.5, 0.5], `gray` is 1 where the colours are dropped, else 0.
    """

    brightness: tf.Tensor
    contrast: tf.Tensor
    saturation: tf.Tensor
    hue: tf.Tensor
    gray: tf.Tensor


def draw_colour(
    count: int | tf.Tensor,
    seed: tf.Tensor,
    *,
    strength: float,
    jitter_prob: float,
    gray_prob: float,
) -> ColourDraw:
    """Draws the colour distortion of each image (arXiv 2002.05709, appendix A).

    Factors are uniform in [max(0, 1 - 0.8 s), 1 + 0.8 s] and hue in [-0.2 s, 0.2 s] for strength
    s, in the images that drew the jitter; gray is drawn independently.
    """
    draws = tf.unstack(tf.random.stateless_uniform([6, count], seed, alg="philox"))
    jittered = draws[0] < jitter_prob  # [N]
    low, high = max(0.0, 1.0 - 0.8 * strength), 1.0 + 0.8 * strength

    def factor(draw: tf.Tensor) -> tf.Tensor:
        return tf.where(jittered, low + (high - low) * draw, 1.0)

    hue = tf.where(jittered, 0.2 * strength * (2.0 * draws[4] - 1.0), 0.0)
    gray = tf.cast(draws[5] < gray_prob, tf.float32)
    return ColourDraw(factor(draws[1]), factor(draws[2]), factor(draws[3]), hue, gray)


def colour_matrix(draw: ColourDraw) -> tf.Tensor:
    """Returns the matrices [N, 3, 3] that act on RGB columns, contrast's offset left out."""
    angle = draw.hue * (2.0 * math.pi)
    cos, sin = (f(angle)[:, tf.newaxis, tf.newaxis] for f in (tf.cos, tf.sin))
    hue = _HUE_KEEP + cos * _HUE_COS + sin * _HUE_SIN  # [N, 3, 3]
    # Gray is saturation 0. Each row of `luma` is the luma of the pixel.
    saturation = (draw.saturation * (1.0 - draw.gray))[:, tf.newaxis, tf.newaxis]
    luma = np.tile(LUMA, (3, 1))
    saturate = saturation * np.eye(3, dtype=np.float32) + (1.0 - saturation) * luma
    gain = (draw.brightness * draw.contrast)[:, tf.newaxis, tf.newaxis]
    return gain * tf.matmul(saturate, hue)


def apply_colour(images: tf.Tensor, draw: ColourDraw) -> tf.Tensor:
    """Distorts the colours of each image: float [N, H, W, 3] in [0, 1], the same out, clipped."""
    matrix = colour_matrix(draw)  # [N, 3, 3]
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    pixels = tf.reshape(images, [count, height * width, 3])
    mean_luma = tf.reduce_mean(
        tf.tensordot(tf.cast(tf.reduce_mean(pixels, axis=1), tf.float32), LUMA, 1)[:, tf.newaxis],
        axis=1,
    )  # [N]
    offset = (1.0 - draw.contrast) * draw.brightness * mean_luma
    out = tf.matmul(pixels, tf.cast(matrix, images.dtype), transpose_b=True)  # [N, HW, 3]
    out += tf.cast(offset, images.dtype)[:, tf.newaxis, tf.newaxis]
    return tf.reshape(tf.clip_by_value(out, 0, 1), [count, height, width, 3])
