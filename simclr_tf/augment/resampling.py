"""Crop, antialiased resize, flip and blur of whole batches, one axis after the other.

Along an axis, a pixel of the view is a weighted sum of a few neighbouring pixels of its window: two
where the window is enlarged, more where it shrinks. With that axis first and the other one with the
colours behind it, such a sum is one of whole rows of memory, of which XLA makes vector
instructions, look-up included; in between the image is turned:

    to_planes   [N, H, W, C] -> [N, W, C, H]   once for all views of an image
    columns                     [n, w, C, H]   n views, each of one of the N images
    turned                      [n, H, C, w]
    rows                        [n, h, C, w]

An axis of 8 pixels becomes one of 4: the shares of the rows that are summed, each row with all that
lies behind it, [K]. The kernel is as wide as two steps of the view; cut at an edge, it is
renormalised. Each tap takes one source row for every row of all views, which is one look-up:

    source rows      0    1    2    3    4    5    6    7
    view, row 0     3/7  3/7  1/7
          row 1          1/8  3/8  3/8  1/8
          row 2                    1/8  3/8  3/8  1/8
          row 3                              1/7  3/7  3/7

The blur of an axis follows when the axis is resampled, while it comes first. Each step is an XLA
computation with one result: of several together XLA makes no vector instructions on a CPU, and what
is turned within a sum is read number by number.
"""

from __future__ import annotations

import math

import tensorflow as tf

from simclr_tf.augment.blur import BLUR_RADIUS, blur_rows
from simclr_tf.augment.compilation import compiled
from simclr_tf.augment.crop import Boxes, centres
from simclr_tf.augment.rounding import round_to

Size = tuple[int, int]


@compiled
def locate(boxes: Boxes, source: Size, size: Size, beyond: int = 0) -> tf.Tensor:
    """Returns where the pixels of views lie among those of their images.

    Args:
        boxes: n windows.
        source: (H, W) of the images.
        size: (h, w) of the views.
        beyond: Pixels beyond the view's edges, on all sides, that are located too.

    Returns:
        float32 [n, w + h + 4 beyond], columns first; the centre of an image's first pixel is 0.
    """

    down, across = (
        (tf.range(-beyond, length + beyond, dtype=tf.float32) + 0.5) / length for length in size
    )
    columns = centres(boxes.left, boxes.width, boxes.flip, across, source[1])  # [n, w + 2 beyond]
    rows = centres(boxes.top, boxes.height, 0.0, down, source[0])  # [n, h + 2 beyond]
    return tf.concat([columns, rows], axis=1) - 0.5


def resample(
    planes: tf.Tensor,
    of: tf.Tensor,
    boxes: Boxes,
    middle: tf.Tensor,
    size: Size,
    *,
    sigma: tf.Tensor | None = None,
    dtype: tf.DType = tf.float32,
) -> tf.Tensor:
    """Cuts windows out, resizes them, mirrors them where drawn, and blurs the result.

    Bilinear where a window is enlarged; where it shrinks, the triangle is widened by the scale, so
    that nothing aliases. Pixel centres lie at half-integers, and a kernel that reaches beyond the
    image is cut and renormalised.

    Args:
        planes: [N, W, C, H] of any number format, see `to_planes`; all but N static.
        of: int32 [n], the image that each view is of.
        boxes: n windows.
        middle: Where their pixels are, see `locate`; for a blur also those `BLUR_RADIUS` beyond.
        size: (h, w) of the views in pixels.
        sigma: Widths of the blur in pixels of the view, float32 [n]; None for no blur.
        dtype: Number format of the result, and of what is turned in between.

    Returns:
        [n, h, C, w] in the images' value range.
    """
    _, width, channels, height = planes.shape
    located = (middle.shape[1] - sum(size)) // 4  # beyond each edge
    beyond = 0 if sigma is None else BLUR_RADIUS

    def axis(rows: tf.Tensor, of: tf.Tensor, extent: tf.Tensor, *place: int) -> tf.Tensor:
        made = _along(rows, of, middle, extent, *place, beyond, dtype)
        return made if sigma is None else _blurred(made, sigma, dtype)

    # The colours and the other axis are one: shorter loops would be slower.
    rows = tf.reshape(planes, [-1, channels * height])  # [N W, C H]
    columns = axis(rows, of, boxes.width, located - beyond, width, size[1])  # [n, w, C H]
    turned = turn(tf.reshape(columns, [-1, size[1], channels, height]))  # [n, H, C, w]
    rows, own = tf.reshape(turned, [-1, channels * size[1]]), tf.range(tf.size(of))  # [n H, C w]
    first = size[1] + 3 * located - beyond
    made = axis(rows, own, boxes.height, first, height, size[0])  # [n, h, C w]
    return tf.reshape(made, [-1, size[0], channels, size[1]])


@compiled
def _along(
    rows: tf.Tensor,
    of: tf.Tensor,
    middle: tf.Tensor,
    extent: tf.Tensor,
    first: int,
    source: int,
    target: int,
    beyond: int,
    dtype: tf.DType,
) -> tf.Tensor:
    """Resamples the first axis: [N * L, K], L the `source` -> [n, b, K], b = target + 2 beyond.

    `middle` has the positions of this axis from `first` on. `beyond` adds rows of zeros at both
    ends, which the blur wants, and float32.
    """
    positions = tf.range(-beyond, target + beyond)  # [b]
    inside = tf.cast((positions >= 0) & (positions < target), tf.float32)  # [b]
    middle = middle[:, first : first + target + 2 * beyond]  # [n, b]
    begin = of[:, tf.newaxis] * source  # [n, 1], the row at which an image begins

    def take(pixel: tf.Tensor) -> tf.Tensor:  # float32 [n, b, K]; beyond the edge, its pixel
        index = tf.clip_by_value(tf.cast(pixel, tf.int32), 0, source - 1)  # [n, b]
        return tf.cast(tf.gather(rows, begin + index), tf.float32)

    if source <= target:  # no window shrinks
        left = tf.floor(middle)  # [n, b]
        near, far = take(left), take(left + 1.0)  # [n, b, K]
        made = near + (far - near) * (middle - left)[..., tf.newaxis]  # [n, b, K]
    else:
        scale = tf.maximum(extent * (source / target), 1.0)[:, tf.newaxis]  # [n, 1]
        per_pixel = 1.0 / scale  # [n, 1]
        begins = tf.floor(middle - scale) + 1.0  # [n, b]; the triangle spans middle -+ scale
        made, weight = 0.0, 0.0
        for tap in range(math.ceil(2 * source / target)):
            pixel = begins + tap  # [n, b]
            share = tf.maximum(1.0 - tf.abs(pixel - middle) * per_pixel, 0.0)  # [n, b]
            share = tf.where((pixel >= 0) & (pixel < source), share, 0.0)
            made += share[..., tf.newaxis] * take(pixel)  # [n, b, K]
            weight += share  # [n, b]
        made *= (1.0 / tf.where(inside > 0.0, weight, 1.0))[..., tf.newaxis]
    return made * inside[:, tf.newaxis] if beyond else round_to(made, dtype)


@compiled
def _blurred(padded: tf.Tensor, sigma: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return round_to(blur_rows(padded, sigma), dtype)


def blur_planes(planes: tf.Tensor, sigma: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Blurs both axes of [n, h, C, w]; the arguments are those of `resample`."""
    for _ in range(2):  # each axis while it comes first
        _, length, channels, other = planes.shape
        rows = tf.reshape(tf.cast(planes, tf.float32), [-1, length, channels * other])
        rows = _blurred(tf.pad(rows, [[0, 0], [BLUR_RADIUS] * 2, [0, 0]]), sigma, dtype)
        planes = turn(tf.reshape(rows, [-1, length, channels, other]))
    return planes


@compiled
def from_planes(planes: tf.Tensor, dtype: tf.DType = tf.uint8) -> tf.Tensor:
    """Turns what `to_planes` has laid out back: [N, W, C, H] -> [N, H, W, C] of `dtype`."""
    return tf.transpose(tf.cast(planes, dtype), [0, 3, 1, 2])


@compiled
def to_planes(images: tf.Tensor) -> tf.Tensor:
    """Lays images out for `resample`: [N, H, W, C] -> [N, W, C, H] of the same number format."""
    return tf.transpose(images, [0, 2, 3, 1])


@compiled
def turn(planes: tf.Tensor, dtype: tf.DType | None = None) -> tf.Tensor:
    """Exchanges the two axes of the image: [n, L, C, M] -> [n, M, C, L], of `dtype` if given."""
    return tf.cast(tf.transpose(planes, [0, 3, 2, 1]), dtype or planes.dtype)


def crop_resize(images: tf.Tensor, boxes: Boxes, size: Size) -> tf.Tensor:
    """Cuts each image's window out, resizes it to `size` and mirrors it where drawn.

    Example:
        >>> draw = draw_views(Recipe(), len(images), seed=0, step=0, size=(32, 32))
        >>> crops = crop_resize(images, draw.boxes, (32, 32))

    Args:
        images: uint8 or float [N, H, W, C], of one size; H and W static.
        boxes: One window per image.
        size: (h, w) of the result in pixels.

    Returns:
        [N, h, w, C] in the images' value range; float32, and bfloat16 for bfloat16 images.
    """
    images = tf.convert_to_tensor(images)
    dtype = tf.bfloat16 if images.dtype == tf.bfloat16 else tf.float32
    of, middle = tf.range(tf.size(boxes.top)), locate(boxes, tuple(images.shape[1:3]), size)
    made = resample(to_planes(images), of, boxes, middle, size, dtype=dtype)  # [N, h, C, w]
    return tf.transpose(made, [0, 1, 3, 2])
