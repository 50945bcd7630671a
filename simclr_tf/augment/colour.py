"""Brightness, contrast, saturation, hue and gray drop as one 3x3 matrix and an offset per image.

Saturation and hue (a rotation in the YIQ plane) leave an image's luma alone, so contrast about the
mean luma commutes with them: the five operations are affine in the colours of a pixel, and only
the clip to [0, 1], done once at the end, tells their order apart from the reference's, which is in
`colour_sequence`.

Images of other than three channels have no saturation, hue or gray: of theirs, brightness and
contrast change.
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
    [-0.5, 0.5], from red towards yellow, `gray` is 1 where the colours are dropped, else 0.
    `order`, int32 [N, 4], says in which order `colour_sequence` applies the first four; None: they
    are fused.
    """

    brightness: tf.Tensor
    contrast: tf.Tensor
    saturation: tf.Tensor
    hue: tf.Tensor
    gray: tf.Tensor
    order: tf.Tensor | None = None


def draw_colour(
    count: int | tf.Tensor,
    seed: tf.Tensor,
    *,
    strength: float,
    jitter_prob: float,
    gray_prob: float,
    in_order: bool = False,
) -> ColourDraw:
    """Draws the colour distortion of each image (arXiv 2002.05709, appendix A).

    Factors are uniform in [max(0, 1 - 0.8 s), 1 + 0.8 s] and hue in [-0.2 s, 0.2 s] for strength
    s, in the images that drew the jitter; gray is drawn independently, and so is the order of the
    four operations where `in_order` asks for it.
    """
    draws = tf.unstack(tf.random.stateless_uniform([6, count], seed, alg="philox"))  # 6 x [N]
    jittered = draws[0] < jitter_prob  # [N]
    low, high = max(0.0, 1.0 - 0.8 * strength), 1.0 + 0.8 * strength

    def factor(draw: tf.Tensor) -> tf.Tensor:
        return tf.where(jittered, low + (high - low) * draw, 1.0)

    hue = tf.where(jittered, 0.2 * strength * (2.0 * draws[4] - 1.0), 0.0)  # [N]
    gray = tf.cast(draws[5] < gray_prob, tf.float32)  # [N]
    order = None
    if in_order:
        order_seed = tf.random.experimental.stateless_fold_in(seed, 1, alg="philox")
        keys = tf.random.stateless_uniform([count, 4], order_seed, alg="philox")  # [N, 4]
        order = tf.argsort(keys, axis=1)  # int32 [N, 4], a permutation of 0..3 per image
    return ColourDraw(factor(draws[1]), factor(draws[2]), factor(draws[3]), hue, gray, order)


def colour_matrix(draw: ColourDraw) -> tf.Tensor:
    """Returns the matrices [N, 3, 3] that act on RGB columns, contrast's offset left out."""
    angle = draw.hue * (-2.0 * math.pi)  # in the IQ plane, from red to yellow is clockwise
    cos, sin = (f(angle)[:, tf.newaxis, tf.newaxis] for f in (tf.cos, tf.sin))  # [N, 1, 1]
    hue = _HUE_KEEP + cos * _HUE_COS + sin * _HUE_SIN  # [N, 3, 3]
    # Gray is saturation 0. Each row of `luma` is the luma of the pixel.
    saturation = (draw.saturation * (1.0 - draw.gray))[:, tf.newaxis, tf.newaxis]  # [N, 1, 1]
    luma = np.tile(LUMA, (3, 1))  # [3, 3]
    saturate = saturation * np.eye(3, dtype=np.float32) + (1.0 - saturation) * luma  # [N, 3, 3]
    gain = (draw.brightness * draw.contrast)[:, tf.newaxis, tf.newaxis]  # [N, 1, 1]
    return gain * tf.matmul(saturate, hue)


def mix_colours(channels: list[tf.Tensor], draw: ColourDraw, mean: tf.Tensor) -> list[tf.Tensor]:
    """Distorts the colours of images whose channels are apart, without the clip.

    Args:
        channels: Red, green and blue, or C others, float32 [N, H, W] each.
        draw: Parameters of N images.
        mean: Mean of each channel of each image, float32 [N, C].

    Returns:
        As many channels.
    """
    if len(channels) != len(LUMA):
        gain = (draw.brightness * draw.contrast)[:, tf.newaxis, tf.newaxis]  # [N, 1, 1]
        offset = (1.0 - draw.contrast) * draw.brightness * tf.reduce_mean(mean, axis=1)  # [N]
        offset = offset[:, tf.newaxis, tf.newaxis]
        return [gain * channel + offset for channel in channels]
    matrix = colour_matrix(draw)[..., tf.newaxis, tf.newaxis]  # [N, 3, 3, 1, 1]
    offset = (1.0 - draw.contrast) * draw.brightness * tf.reduce_sum(mean * LUMA, axis=1)  # [N]
    offset = offset[:, tf.newaxis, tf.newaxis]
    red, green, blue = channels  # [N, H, W] each
    return [
        matrix[:, c, 0] * red + matrix[:, c, 1] * green + matrix[:, c, 2] * blue + offset
        for c in range(3)
    ]


def apply_colour(images: tf.Tensor, draw: ColourDraw) -> tf.Tensor:
    """Distorts the colours of each image: float [N, H, W, C] in [0, 1], the same out, clipped.

    Example:
        >>> draw = draw_views(Recipe(), len(images), seed=0, step=0, size=(32, 32))
        >>> coloured = apply_colour(images, draw.colour)
    """
    pixels = tf.cast(images, tf.float32)  # [N, H, W, C]
    mean = tf.reduce_mean(pixels, axis=[1, 2])  # [N, C]
    mixed = tf.stack(mix_colours(tf.unstack(pixels, axis=-1), draw, mean), axis=-1)  # [N, H, W, C]
    return tf.cast(tf.clip_by_value(mixed, 0, 1), images.dtype)
