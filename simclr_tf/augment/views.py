"""A whole recipe: draw all parameters of a batch, then apply them.

Drawing and applying are separate, so that a test can hand in exact parameters, the host can draw
what the device applies, and a mask can get the geometry of its image.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from simclr_tf.augment.colour import ColourDraw, apply_colour, draw_colour
from simclr_tf.augment.filters import (
    NoiseDraw,
    Squares,
    add_noise,
    cutout,
    draw_noise,
    draw_sigma,
    draw_squares,
    gaussian_blur,
)
from simclr_tf.augment.geometry import Boxes, crop_resize, draw_angles, draw_boxes, rotate
from simclr_tf.augment.recipe import Recipe
from simclr_tf.seeds import stream_seed


class Draw(NamedTuple):
    """Every random parameter of N views; None where the recipe has the operation switched off."""

    boxes: Boxes
    degrees: tf.Tensor | None
    colour: ColourDraw | None
    sigma: tf.Tensor | None
    noise: NoiseDraw | None
    squares: Squares | None


def draw_views(
    recipe: Recipe,
    count: int | tf.Tensor,
    *,
    seed: int,
    step: tf.Tensor | int,
    size: tuple[int, int],
    aspect: tf.Tensor | float = 1.0,
    stream: str = "views",
) -> Draw:
    """Draws the parameters of `count` views.

    Args:
        recipe: The operations and their strengths.
        count: N, the number of views.
        seed, step, stream: The draws are a function of these alone.
        size: (h, w) of the views in pixels.
        aspect: Width over height of the source images, a scalar or float32 [N].
    """

    def stream_of(name: str) -> tf.Tensor:
        return stream_seed(seed, f"{stream}/{name}", step)

    boxes = draw_boxes(
        count,
        stream_of("crop"),
        area_min=recipe.crop_area_min,
        flip_prob=recipe.flip_prob if recipe.flip else 0.0,
        aspect=aspect,
        crop=recipe.crop,
    )
    degrees = colour = sigma = noise = squares = None
    if recipe.rotate:
        degrees = draw_angles(
            count, stream_of("rotate"), max_degrees=recipe.max_rotation, prob=recipe.rotate_prob
        )
    if recipe.jitter or recipe.colordrop:
        colour = draw_colour(
            count,
            stream_of("colour"),
            strength=recipe.strength,
            jitter_prob=recipe.jitter_prob if recipe.jitter else 0.0,
            gray_prob=recipe.color_prob if recipe.colordrop else 0.0,
        )
    if recipe.blurs(size):
        sigma = draw_sigma(count, stream_of("blur"), prob=recipe.blur_prob)
    if recipe.noise:
        noise = draw_noise(count, stream_of("noise"), prob=recipe.noise_prob)
    if recipe.cutout:
        squares = draw_squares(count, stream_of("cutout"), prob=recipe.cutout_prob, size=size)
    return Draw(boxes, degrees, colour, sigma, noise, squares)


def apply_views(images: tf.Tensor, draw: Draw, size: tuple[int, int]) -> tf.Tensor:
    """Makes one view of each image from drawn parameters.

    Args:
        images: uint8 [N, H, W, 3], of one size.
        draw: Parameters of N views.
        size: (h, w) of the views in pixels.

    Returns:
        float32 [N, h, w, 3] in [0, 1].
    """
    views = crop_resize(images, draw.boxes, size) * (1.0 / 255.0)
    return finish_views(views, draw)


def finish_views(views: tf.Tensor, draw: Draw) -> tf.Tensor:
    """Applies all that comes after the crop to views float [N, h, w, 3] in [0, 1]."""
    if draw.degrees is not None:
        views = rotate(views, draw.degrees)
    if draw.colour is not None:
        views = apply_colour(views, draw.colour)
    if draw.sigma is not None:
        views = gaussian_blur(views, draw.sigma)
    if draw.noise is not None:
        views = add_noise(views, draw.noise)
    if draw.squares is not None:
        views = cutout(views, draw.squares)
    # The weights of a resampled or blurred pixel sum to 1 but for rounding: white comes out above
    # 1.
    return tf.clip_by_value(views, 0, 1)
