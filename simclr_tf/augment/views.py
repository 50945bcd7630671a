"""A whole recipe: draw all parameters of a batch, then apply them.

Drawing and applying are separate, so that a test can hand in exact parameters, the host can draw
what the device applies, and a mask can get the geometry of its image.

The linear operations come first, then the colours, then what is left:

    images    uint8 [N, H, W, C]
    resample  crop, resize, flip and blur, to planes [V * N, h, C, w]
    finish    rotation, colours, clip, noise, cutout, to V batches of views [N, h, w, C]

What is element-wise is compiled by XLA into a few passes, on the host as well as within a training
step that is compiled whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from simclr_tf.augment.colour import ColourDraw, draw_colour, mix_colours
from simclr_tf.augment.colour_sequence import apply_colour_in_order
from simclr_tf.augment.filters import (
    NoiseDraw,
    Squares,
    cutout,
    draw_noise,
    draw_sigma,
    draw_squares,
    gaussian_blur,
    noise_of,
)
from simclr_tf.augment.geometry import (
    Boxes,
    crop_nearest,
    draw_angles,
    draw_boxes,
    rotate,
)
from simclr_tf.augment.recipe import Recipe
from simclr_tf.augment.resampling import Size, resample, sample_windows, to_planes
from simclr_tf.augment.rounding import round_to
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
    size: Size,
    aspect: tf.Tensor | float = 1.0,
    stream: str = "views",
) -> Draw:
    """Draws the parameters of `count` views.

    Args:
        recipe: The operations and their strengths.
        count: N, the number of views.
        seed: The draws are a function of it, of the step and of the stream alone.
        step: As the seed.
        stream: As the seed.
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
            in_order=recipe.jitter_mode == "reference",
        )
    if recipe.blurs(size):
        sigma = draw_sigma(count, stream_of("blur"), prob=recipe.blur_prob)
    if recipe.noise:
        noise = draw_noise(count, stream_of("noise"), prob=recipe.noise_prob)
    if recipe.cutout:
        squares = draw_squares(count, stream_of("cutout"), prob=recipe.cutout_prob, size=size)
    return Draw(boxes, degrees, colour, sigma, noise, squares)


def map_draw(function: Callable[[tf.Tensor], tf.Tensor], draw: Draw) -> Draw:
    """Returns the draw with `function` applied to each of its tensors."""
    return tf.nest.map_structure(lambda field: None if field is None else function(field), draw)


def apply_views(
    images: tf.Tensor, draw: Draw, size: Size, dtype: tf.DType | str = tf.float32
) -> tf.Tensor:
    """Makes one view of each image from drawn parameters: `make_views` with a single view.

    Returns:
        [N, h, w, C] of `dtype` in [0, 1].
    """
    return make_views(images, draw, size, dtype, views=1)[0]


def make_views(
    images: tf.Tensor,
    draw: Draw,
    size: Size,
    dtype: tf.DType | str = tf.float32,
    *,
    views: int = 2,
    cropped: bool = False,
) -> tuple[tf.Tensor, ...]:
    """Makes several views of each image from drawn parameters.

    Where colours are jittered in the reference's order, blur comes after them as it does there;
    where they are fused, it comes before them, with the crop, and the clip is the only difference.

    Args:
        images: uint8 [N, H, W, C], of one size; most colour operations change only 3 channels.
        draw: Parameters of V * N views, those of an image one after the other.
        size: (h, w) of the views in pixels.
        dtype: Number format of the products and of the result: float32 or bfloat16, which is
            faster where the machine has instructions for it and within two 8-bit steps.
        views: V.
        cropped: The images, V * N of them, are cropped, mirrored and resized by `draw.boxes`
            already.

    Returns:
        V batches of views, [N, h, w, C] of `dtype` in [0, 1].
    """
    dtype = tf.as_dtype(dtype)
    sigma = None if _in_order(draw) else draw.sigma
    images = tf.convert_to_tensor(images)
    if cropped and sigma is None:
        planes = to_planes(images, dtype)
    else:
        boxes = _whole(draw.boxes) if cropped else draw.boxes
        rows, columns = sample_windows(
            boxes, tuple(images.shape[1:3]), size, sigma=sigma, dtype=dtype
        )
        planes = resample(images, rows, columns, views=1 if cropped else views, dtype=dtype)
    noise = None
    if draw.noise is not None:  # apart, or XLA would mix its look-ups into the passes below
        noise = _noise(draw.noise, (*size, images.shape[3]))
    pixels, axis = planes, 2
    if draw.degrees is not None or _in_order(draw):
        pixels, axis = _to_views(planes, draw.degrees), 3
    fused = draw.colour is not None and not _in_order(draw)
    mean = _mean_colour(pixels, axis) if fused else None
    return tuple(_finish(pixels, mean, noise, axis, draw, dtype, v, views) for v in range(views))


def _in_order(draw: Draw) -> bool:
    return draw.colour is not None and draw.colour.order is not None


def _whole(boxes: Boxes) -> Boxes:
    # Zeros and ones that are computed: what follows from constants TensorFlow tries to fold, and
    # warns that it cannot.
    zero, one = tf.minimum(boxes.top, 0.0), tf.maximum(boxes.height, 1.0)
    return Boxes(zero, zero, one, one, flip=zero)


def apply_masks(masks: tf.Tensor, draw: Draw, size: Size) -> tf.Tensor:
    """Gives masks the geometry of their images' views: the same windows, flips and angles.

    Args:
        masks: Labels [N, H, W, 1] of any integer dtype, of the images' size.
        draw: The parameters that the images' views are made with; only their geometry counts.
        size: (h, w) of the views in pixels.

    Returns:
        [N, h, w, 1] of the masks' dtype; every value is one of the mask's own.
    """
    masks = crop_nearest(masks, draw.boxes, size)
    return masks if draw.degrees is None else rotate(masks, draw.degrees, nearest=True)


@tf.function(jit_compile=True)
def _to_views(planes: tf.Tensor, degrees: tf.Tensor | None) -> tf.Tensor:
    views = tf.transpose(tf.cast(planes, tf.float32), [0, 1, 3, 2])
    return views if degrees is None else rotate(views, degrees)


def _mean_colour(pixels: tf.Tensor, axis: int) -> tf.Tensor:
    """Averages pixels [N, h, ...] with the channels along `axis`, 2 or 3: float32 [N, C].

    A product with ones, outside of XLA, which sums one number at a time on a CPU.
    """
    height, *rest = pixels.shape[1:]
    flat = tf.reshape(pixels, [-1, height, rest[0] * rest[1]])
    sums = tf.matmul(tf.ones([1, 1, height], pixels.dtype), flat)  # [N, 1, w * C]
    sums = tf.reshape(tf.cast(sums, tf.float32), [-1, *rest])
    return tf.reduce_mean(sums, axis=4 - axis) / height


def _of_view(draw: Draw, view: int, views: int) -> Draw:
    return map_draw(lambda field: field[view::views], draw)


# One view of each image is an XLA computation of its own: of several results together XLA makes no
# vector instructions. What is read is taken apart, not what was made: a copy less.
@tf.function(jit_compile=True)
def _finish(
    pixels: tf.Tensor,
    mean: tf.Tensor | None,
    noise: tf.Tensor | None,
    axis: int,
    draw: Draw,
    dtype: tf.DType,
    view: int,
    views: int,
) -> tf.Tensor:
    """From 0..255, with the channels along `axis`, to views; `mean` is float32 [V * N, C]."""
    draw = _of_view(draw, view, views)
    pixels = tf.cast(pixels[view::views], tf.float32) * (1.0 / 255.0)
    if draw.colour is not None and _in_order(draw):
        made = _distort_in_order(pixels, draw.colour, draw.sigma)
    else:
        mean = None if mean is None else mean[view::views] * (1.0 / 255.0)
        made = _distort(tf.unstack(pixels, axis=axis), draw, mean)
    return round_to(_filter(made, None if noise is None else noise[view::views], draw), dtype)


def _distort(channels: list[tf.Tensor], draw: Draw, mean: tf.Tensor | None) -> tf.Tensor:
    if draw.colour is not None and mean is not None:
        channels = mix_colours(channels, draw.colour, mean)
    # Put together side by side, then turned: along the last axis XLA would work on single numbers.
    return tf.transpose(tf.stack(channels, axis=2), [0, 1, 3, 2])


def _distort_in_order(pixels: tf.Tensor, colour: ColourDraw, sigma: tf.Tensor | None) -> tf.Tensor:
    pixels = apply_colour_in_order(tf.clip_by_value(pixels, 0, 1), colour)
    return pixels if sigma is None else gaussian_blur(pixels, sigma)


def _filter(views: tf.Tensor, noise: tf.Tensor | None, draw: Draw) -> tf.Tensor:
    # The weights of a resampled or blurred pixel sum to 1 but for rounding: white may come out
    # above 1 without any colour operation.
    views = tf.clip_by_value(views, 0, 1)
    if noise is not None:
        views = tf.clip_by_value(views + noise, 0, 1)
    return views if draw.squares is None else cutout(views, draw.squares)


@tf.function(jit_compile=True)
def _noise(draw: NoiseDraw, shape: tuple[int, ...]) -> tf.Tensor:
    return noise_of(draw, shape)
