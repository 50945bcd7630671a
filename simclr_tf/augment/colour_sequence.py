"""Colour distortion as the reference implementation does it: one operation after the other.

Brightness, contrast, saturation and hue in an order drawn per image, clipped to [0, 1] after each,
saturation and hue in HSV, contrast about each channel's own mean; then the gray drop (arXiv
2002.05709, appendix A, and its published code). `colour` is the fused, fast form of it.
"""

from __future__ import annotations

import tensorflow as tf

from simclr_tf.augment.colour import LUMA, ColourDraw


def apply_colour_in_order(images: tf.Tensor, draw: ColourDraw) -> tf.Tensor:
    """Distorts the colours of each image in its own order.

    Example:
        >>> recipe = Recipe(jitter_mode="reference")
        >>> draw = draw_views(recipe, len(images), seed=0, step=0, size=(32, 32))
        >>> coloured = apply_colour_in_order(images, draw.colour)

    Args:
        images: float [N, H, W, C] in [0, 1]. Where C is not 3, saturation, hue and gray are none.
        draw: Parameters of N images, with `order`: 0 brightness, 1 contrast, 2 saturation, 3 hue.

    Returns:
        The shape and dtype of `images`, in [0, 1].
    """
    if draw.order is None:
        raise ValueError("Expected a draw with an order. Draw it with jitter_mode='reference'.")
    brightness, contrast, saturation, hue, gray = (
        field[:, tf.newaxis, tf.newaxis, tf.newaxis] for field in draw[:5]
    )
    pixels = tf.cast(images, tf.float32)  # [N, H, W, C]
    coloured = pixels.shape[-1] == len(LUMA)
    for place in range(4):
        operation = draw.order[:, place, tf.newaxis, tf.newaxis, tf.newaxis]  # [N, 1, 1, 1]
        mean = tf.reduce_mean(pixels, axis=[1, 2], keepdims=True)  # [N, 1, 1, C]
        # All four of every image, one of them kept: images differ in order, a batch has one graph.
        lightened = pixels * tf.where(operation == 0, brightness, 1.0)  # [N, H, W, C]
        contrasted = (pixels - mean) * contrast + mean  # [N, H, W, C]
        shifted = pixels
        if coloured:
            own_hue, own_saturation, value = rgb_to_hsv(pixels)  # [N, H, W, 1] each
            scaled = tf.where(operation == 2, saturation, 1.0) * own_saturation  # [N, H, W, 1]
            turned = tf.math.floormod(own_hue + tf.where(operation == 3, hue, 0.0), 1.0)
            shifted = tf.image.hsv_to_rgb(
                tf.concat([turned, tf.clip_by_value(scaled, 0, 1), value], axis=-1)
            )
        changed = tf.where(operation == 1, contrasted, tf.where(operation > 1, shifted, lightened))
        # The identity stays bit for bit: what was not drawn does not go through HSV and back.
        pixels = tf.where(_drawn(draw), tf.clip_by_value(changed, 0, 1), pixels)
    if not coloured:
        return tf.cast(pixels, images.dtype)
    luma = tf.reduce_sum(pixels * LUMA, axis=-1, keepdims=True)  # [N, H, W, 1]
    return tf.cast(pixels + gray * (luma - pixels), images.dtype)


def rgb_to_hsv(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns hue, saturation and value, float32 [..., 1] each in [0, 1], of RGB [..., 3].

    As `tf.image.rgb_to_hsv`, which asks which channel equals the largest. XLA may compute a channel
    twice, with other roundings: then none does, and yellow becomes magenta. Order is safe where
    equality is not, as both sides of a tie give the same hue.
    """
    red, green, blue = (pixels[..., c : c + 1] for c in range(3))  # [..., 1] each
    value = tf.reduce_max(pixels, axis=-1, keepdims=True)  # [..., 1]
    spread = value - tf.reduce_min(pixels, axis=-1, keepdims=True)  # [..., 1]
    per_spread = tf.math.divide_no_nan(1.0, 6.0 * spread)
    hue = tf.where(
        (red >= green) & (red >= blue),
        (green - blue) * per_spread,
        tf.where(
            green >= blue,
            (blue - red) * per_spread + 1.0 / 3.0,
            (red - green) * per_spread + 2.0 / 3.0,
        ),
    )
    return tf.math.floormod(hue, 1.0), tf.math.divide_no_nan(spread, value), value


def _drawn(draw: ColourDraw) -> tf.Tensor:
    """Tells which images drew a jitter, bool [N, 1, 1, 1]."""
    still = (draw.brightness == 1) & (draw.contrast == 1) & (draw.saturation == 1) & (draw.hue == 0)
    return tf.logical_not(still)[:, tf.newaxis, tf.newaxis, tf.newaxis]
