"""Views by a whole recipe: all parameters of a batch are drawn, then applied.

Drawing and applying are separate, so that a test can hand in exact parameters, the host can draw
what the device applies, and a mask can get the geometry of its image.

The linear operations come first, then the colours, then what is left:

    to_planes  uint8 [N, H, W, C] to [N, W, C, H], once for all views of an image
    resample   crop, resize, flip and blur, to [n, h, C, w], n views, each of one of the images
    rotated    to [n, h, w, C], where a view has drawn an angle
    finish     colours, clip, noise, cutout, to views [n, h, w, C]

Each step is a few computations of XLA, on the host as well as within a training step that is
compiled whole. What only some views have drawn, and takes long, is left out of parts of a batch in
which none has drawn it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from simclr_tf.augment.blur import BLUR_RADIUS, draw_sigma, gaussian_blur
from simclr_tf.augment.colour import ColourDraw, draw_colour, mix_colours
from simclr_tf.augment.colour_sequence import apply_colour_in_order
from simclr_tf.augment.compilation import compilation, compiled
from simclr_tf.augment.crop import Boxes, crop_nearest, draw_boxes
from simclr_tf.augment.cut_out import Squares, cutout, draw_squares
from simclr_tf.augment.noise import NoiseDraw, draw_noise, noise_of
from simclr_tf.augment.recipe import Recipe
from simclr_tf.augment.resampling import Size, blur_planes, locate, resample, to_planes, turn
from simclr_tf.augment.rotation import draw_angles, rotate
from simclr_tf.augment.rounding import round_to
from simclr_tf.seeds import stream_seed


class Draw(NamedTuple):
    """Every random parameter of N views; None where the recipe has the operation switched off.

    Example:
        >>> draw = draw_views(Recipe(), 64, seed=0, step=0, size=(32, 32))
        >>> share = draw.boxes.height * draw.boxes.width  # [64], of the image that a crop covers
    """

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

    Example:
        >>> draw = draw_views(Recipe(), 2 * len(images), seed=0, step=0, size=(32, 32))

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


def pack_draw(draw: Draw) -> dict[str, tf.Tensor]:
    """Names the tensors of a draw, such as "boxes/top", and leaves out what is switched off.

    Example:
        >>> top = pack_draw(draw)["boxes/top"]  # [N]

    A batch that is copied to a device consists of tensors alone.
    """
    packed: dict[str, tf.Tensor] = {}
    for name, part in draw._asdict().items():
        fields = part._asdict() if hasattr(part, "_asdict") else {"": part}
        packed |= {f"{name}/{key}": tensor for key, tensor in fields.items() if tensor is not None}
    return packed


def unpack_draw(packed: Mapping[str, tf.Tensor]) -> Draw:
    """Undoes `pack_draw`.

    Example:
        >>> draw = unpack_draw(pack_draw(draw))
    """
    kinds = {"boxes": Boxes, "colour": ColourDraw, "noise": NoiseDraw, "squares": Squares}
    parts: dict[str, Any] = {}
    for name in Draw._fields:
        fields = {k.removeprefix(f"{name}/"): t for k, t in packed.items() if k.startswith(name)}
        whole = kinds.get(name, lambda **field: field[""])
        parts[name] = whole(**fields) if fields else None
    return Draw(**parts)


def apply_views(
    images: tf.Tensor, draw: Draw, size: Size, dtype: tf.DType | str = tf.float32
) -> tf.Tensor:
    """Makes one view of each image from drawn parameters: `make_views` with a single view.

    Example:
        >>> draw = draw_views(Recipe(), len(images), seed=0, step=0, size=(32, 32))
        >>> views = apply_views(images, draw, (32, 32))

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
    compiles: bool = True,
) -> tuple[tf.Tensor, ...]:
    """Makes several views of each image from drawn parameters.

    Example:
        >>> draw = draw_views(Recipe(), 2 * len(images), seed=0, step=0, size=(32, 32))
        >>> first, second = make_views(images, draw, (32, 32))

    Where colours are jittered in the reference's order, blur comes after them as it does there;
    where they are fused, it comes before them, with the crop, and the clip is the only difference.

    Args:
        images: uint8 [N, H, W, C], of one size; most colour operations change only 3 channels.
        draw: Parameters of V * N views, those of an image one after the other.
        size: (h, w) of the views in pixels.
        dtype: Number format of the result and of what is kept in between: float32 or bfloat16,
            which is half as large and within two 8-bit steps.
        views: V.
        cropped: The images, V * N of them, are cropped, mirrored and resized by `draw.boxes`
            already.
        compiles: Have XLA compile each stage; off for a device that it cannot compile for.

    Returns:
        V batches of views, [N, h, w, C] of `dtype` in [0, 1].
    """
    images = tf.convert_to_tensor(images)
    with compilation(compiles):
        planes = to_planes(images)  # [N, W, C, H]
        of = None if cropped else tf.repeat(tf.range(tf.shape(images)[0]), views)  # [V N]
        (made,) = views_of(planes, of, draw, size, dtype)  # [V N, h, w, C]
    return tuple(made[view::views] for view in range(views))


def views_of(
    planes: tf.Tensor,
    of: tf.Tensor | None,
    draw: Draw,
    size: Size,
    dtype: tf.DType | str,
    *,
    parts: int = 1,
    sparing: bool = False,
) -> list[tf.Tensor]:
    """Makes views, each of any of the images: what `make_views` does, as pipelines want it.

    Args:
        planes: [N, W, C, H], the images as `resampling.to_planes` lays them out.
        of: int32 [n], the image that each view is of. None: `planes` are the n views' own, cropped,
            mirrored and resized already.
        draw: Parameters of n views.
        size, dtype: As of `make_views`.
        parts: K, a divisor of n. The views are made in so many parts, one after the other, so that
            each stays in a cache.
        sparing: Leave out what no view of a part has drawn: blur, rotation, noise. The views are
            the same; see `effort`. Not within what XLA compiles whole.

    Returns:
        K parts of the views, [n / K, h, w, C] of `dtype` in [0, 1].
    """
    dtype = tf.as_dtype(dtype)
    middle = None
    if of is not None:
        beyond = 0 if _sigma_of_crop(draw) is None else BLUR_RADIUS
        middle = locate(draw.boxes, (planes.shape[3], planes.shape[1]), size, beyond)  # [n, places]
    needs = _needs(draw, parts) if sparing else [None] * parts
    made: list[tf.Tensor] = []
    whole = (planes if of is None else of, middle, draw)
    for (own, place, drawn), need in zip(_split(whole, parts), needs, strict=True):
        with tf.control_dependencies(made[-1:]):  # after the last part
            own = tf.identity(own)
        made.append(_make(planes, own, place, drawn, need, size, dtype))
    return made


class _Need(NamedTuple):
    """What some view has drawn, bool; None where the recipe has it switched off."""

    blur: tf.Tensor | None
    noise: tf.Tensor | None
    turn: tf.Tensor | None


def _drawn(draw: Draw) -> _Need:
    """Tells what each of n views has drawn, of what takes long: bool [n] each."""
    sigma = _sigma_of_crop(draw)
    return _Need(
        None if sigma is None else sigma > 0.0,
        None if draw.noise is None else draw.noise.stddev > 0.0,
        None if draw.degrees is None else draw.degrees != 0.0,
    )


def _needs(draw: Draw, parts: int) -> list[_Need]:
    def any_of(field: tf.Tensor | None) -> list[tf.Tensor] | list[None]:
        if field is None:
            return [None] * parts
        return tf.unstack(tf.reduce_any(tf.reshape(field, [parts, -1]), axis=1))

    return [_Need(*of_part) for of_part in zip(*map(any_of, _drawn(draw)), strict=True)]


def _split(fields: Any, parts: int) -> list[Any]:
    """Cuts every tensor of a structure into parts along its first axis."""
    if parts == 1:  # as it is; on a GPU there is no kernel that splits whole numbers
        return [fields]
    flat = [
        [None] * parts if field is None else tf.split(field, parts)
        for field in tf.nest.flatten(fields)
    ]
    return [tf.nest.pack_sequence_as(fields, of_part) for of_part in zip(*flat, strict=True)]


def _make(
    planes: tf.Tensor,
    own: tf.Tensor,
    middle: tf.Tensor | None,
    draw: Draw,
    need: _Need | None,
    size: Size,
    dtype: tf.DType,
) -> tf.Tensor:
    """Makes one part. `own` are its views' planes, or their images among `planes`."""

    def resampled(sigma: tf.Tensor | None) -> tf.Tensor:
        if middle is not None:
            return resample(planes, own, draw.boxes, middle, size, sigma=sigma, dtype=dtype)
        pixels = turn(own, dtype)  # [n, h, C, w]
        return pixels if sigma is None else blur_planes(pixels, sigma, dtype)

    sigma = _sigma_of_crop(draw)
    if sigma is None:
        pixels = resampled(None)
    else:
        pixels = _if(need and need.blur, lambda: resampled(sigma), lambda: resampled(None))

    def finished(pixels: tf.Tensor, axis: int) -> tf.Tensor:
        fused = draw.colour is not None and not _in_order(draw)
        sums = _sums(pixels) if fused else None  # [n, C, w] or [n, w, C]

        def finish(noise: NoiseDraw | None) -> tf.Tensor:
            added = None
            if noise is not None:
                # Apart, or XLA would mix its look-ups into the last pass; and not before its turn.
                with tf.control_dependencies([pixels]):
                    drawn = NoiseDraw(noise.stddev, tf.identity(noise.key))
                added = _noise(drawn, (*size, pixels.shape[axis]))
            return _finish(pixels, axis, sums, added, draw.colour, draw.sigma, draw.squares, dtype)

        if draw.noise is None:
            return finish(None)
        return _if(need and need.noise, lambda: finish(draw.noise), lambda: finish(None))

    if draw.degrees is None:
        return finished(pixels, axis=2)
    return _if(
        need and need.turn,
        lambda: finished(_rotated(pixels, draw.degrees), axis=3),
        lambda: finished(pixels, axis=2),
    )


def _if(
    needed: tf.Tensor | None, act: Callable[[], tf.Tensor], rest: Callable[[], tf.Tensor]
) -> tf.Tensor:
    """Acts where there is need, and where there is no telling."""
    return act() if needed is None else tf.cond(needed, act, rest)


def effort(draw: Draw) -> tf.Tensor | None:
    """Tells what views take to make beyond what all take: int32 [n], or None where all are alike.

    Where views are made in parts with `views_of(sparing=True)`, those of one effort belong into one
    part: there, what only some views of a part have drawn is done to all of it.
    """
    efforts = [
        2**place * tf.cast(drawn, tf.int32)
        for place, drawn in enumerate(_drawn(draw))
        if drawn is not None
    ]
    return tf.add_n(efforts) if efforts else None


def _sigma_of_crop(draw: Draw) -> tf.Tensor | None:
    """Returns the blur that comes with the crop, if any; the reference's follows the colours."""
    return None if _in_order(draw) else draw.sigma


def _in_order(draw: Draw) -> bool:
    return draw.colour is not None and draw.colour.order is not None


def apply_masks(masks: tf.Tensor, draw: Draw, size: Size) -> tf.Tensor:
    """Gives masks the geometry of their images' views: the same windows, flips and angles.

    Example:
        >>> draw = draw_views(Recipe(), len(images), seed=0, step=0, size=(32, 32))
        >>> views, turned = apply_views(images, draw, (32, 32)), apply_masks(masks, draw, (32, 32))

    Args:
        masks: Labels [N, H, W, 1] of any integer dtype, of the images' size.
        draw: The parameters that the images' views are made with; only their geometry counts.
        size: (h, w) of the views in pixels.

    Returns:
        [N, h, w, 1] of the masks' dtype; every value is one of the mask's own.
    """
    masks = crop_nearest(masks, draw.boxes, size)  # [N, h, w, 1]
    return masks if draw.degrees is None else rotate(masks, draw.degrees, nearest=True)


@compiled
def _rotated(planes: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Turns [n, h, C, w] of any number format: float32 [n, h, w, C]."""
    return rotate(tf.transpose(tf.cast(planes, tf.float32), [0, 1, 3, 2]), degrees)


def _sums(pixels: tf.Tensor) -> tf.Tensor:
    """Sums [n, h, ...] over the rows, a step towards the mean colour: [n, ...] of its dtype.

    A product with ones, outside of XLA, which sums one number at a time on a CPU.
    """
    height, *rest = pixels.shape[1:]
    flat = tf.reshape(pixels, [-1, height, rest[0] * rest[1]])  # [n, h, w C]
    sums = tf.matmul(tf.ones([1, 1, height], pixels.dtype), flat)  # [n, 1, w * C]
    return tf.reshape(sums, [-1, *rest])


@compiled
def _finish(
    pixels: tf.Tensor,
    axis: int,
    sums: tf.Tensor | None,
    noise: tf.Tensor | None,
    colour: ColourDraw | None,
    sigma: tf.Tensor | None,
    squares: Squares | None,
    dtype: tf.DType,
) -> tf.Tensor:
    """From 0..255, with the channels along `axis`, 2 or 3, to views; `sums` are those of rows."""
    height, width = pixels.shape[1], pixels.shape[5 - axis]
    pixels = tf.cast(pixels, tf.float32) * (1.0 / 255.0)
    if colour is not None and colour.order is not None:
        pixels = pixels if axis == 3 else tf.transpose(pixels, [0, 1, 3, 2])
        views = _distort_in_order(pixels, colour, sigma)
    else:
        channels = tf.unstack(pixels, axis=axis)  # C x [n, h, w]
        if colour is not None and sums is not None:
            mean = tf.reduce_sum(tf.cast(sums, tf.float32), axis=4 - axis)  # [n, C]
            channels = mix_colours(channels, colour, mean / (255.0 * height * width))
        # Put together side by side, then turned: along the last axis XLA would work on single
        # numbers.
        views = tf.transpose(tf.stack(channels, axis=2), [0, 1, 3, 2])  # [n, h, w, C]
    # The weights of a resampled or blurred pixel sum to 1 but for rounding: white may come out
    # above 1 without any colour operation.
    views = tf.clip_by_value(views, 0, 1)
    if noise is not None:
        views = tf.clip_by_value(views + noise, 0, 1)
    return round_to(views if squares is None else cutout(views, squares), dtype)


def _distort_in_order(pixels: tf.Tensor, colour: ColourDraw, sigma: tf.Tensor | None) -> tf.Tensor:
    pixels = apply_colour_in_order(tf.clip_by_value(pixels, 0, 1), colour)
    return pixels if sigma is None else gaussian_blur(pixels, sigma)


@compiled
def _noise(draw: NoiseDraw, shape: tuple[int, ...]) -> tf.Tensor:
    return noise_of(draw, shape)
