"""Crop, antialiased resize, flip and blur of whole batches as matrix products.

All four are linear and separable: one matrix for the rows and one for the columns of each image
does them at once. Of a large image, a pixel of the view needs few rows and columns, so that most of
such a matrix is zero: it is cut into blocks of some 32 pixels of the view, each of which is the
product of a band of the image. Small images take their matrices whole, as a single block.

What is element-wise is compiled by XLA, one result at a time (of two results together XLA makes no
vector instructions on a CPU); the products are TensorFlow's own kernels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from simclr_tf.augment.filters import blur_blocks, blur_reach
from simclr_tf.augment.geometry import Boxes, centres
from simclr_tf.augment.rounding import round_to

Size = tuple[int, int]
Cut = tuple[int, int, int, int, int]  # source, target, block, band, reach: see `cut_axis`

# Measured: gathering and packing a row of a band costs as much as 48 rows of its product, and bands
# of more than half of the image do not pay.
BLOCKS = range(16, 65)  # pixels of the view in a block
GATHER = 48
MOST = 0.5


class Bands(NamedTuple):
    """The sampling matrices of one axis of N views, from `source` to B * b pixels.

    Attributes:
        weights: [N, B, b, K], the rows of each block over the K source pixels of its band. Each
            row sums to 1.
        first: int32 [N, B], the first source pixel of each band.
    """

    weights: tf.Tensor
    first: tf.Tensor


def cut_axis(source: int, target: int, reach: int = 0) -> tuple[int, int]:
    """Returns how an axis is cut: pixels of a block b and of a band K; (target, source) for whole.

    Args:
        source, target: Pixels of the axis before and after.
        reach: To how many of the target's pixels on either side the blur goes.
    """
    scale = source / target  # of the largest window

    def band_of(block: int) -> int:
        band = (block - 1 + 2 * reach) * scale + 2 * max(scale, 1.0) + 2  # 2: wherever it begins
        return 8 * math.ceil(band / 8)

    def cost(block: int) -> float:
        return target // block * band_of(block) * (block + GATHER)

    block = min((b for b in BLOCKS if target % b == 0), key=cost, default=target)
    return (block, band_of(block)) if band_of(block) <= MOST * source else (target, source)


def sample_axis(
    start: tf.Tensor,
    extent: tf.Tensor,
    flip: tf.Tensor | float,
    *,
    source: int,
    target: int,
    sigma: tf.Tensor | None = None,
    dtype: tf.DType = tf.float32,
) -> Bands:
    """Returns what resamples one axis, and blurs the result.

    Bilinear where the window is enlarged; where it shrinks, the triangle is widened by the scale,
    so that nothing aliases. Pixel centres lie at half-integers, and a kernel that reaches beyond
    the image is cut and renormalised.

    Args:
        start, extent: The window's corner and length in shares of the axis, float32 [N].
        flip: 1 where the axis is mirrored within the window, float32 [N], or 0 for none.
        source: Pixels of the axis before.
        target: Pixels of the axis after.
        sigma: Width of the blur in pixels of the result, float32 [N]; None for no blur.
        dtype: Of the weights.
    """
    reach = 0 if sigma is None else blur_reach(target)
    block, band = cut_axis(source, target, reach)
    cut = (source, target, block, band, reach)
    if band == source:  # whole
        first = tf.zeros([tf.size(start), 1], tf.int32)
    else:
        first = _first(start, extent, flip, cut)
    if sigma is None:
        return Bands(_weights(start, extent, flip, first, cut, dtype), first)
    # Apart, or XLA would make every weight once for each tap of the blur.
    weights = _weights(start, extent, flip, first, cut, tf.float32)
    return Bands(_blurred(weights, sigma, target, dtype), first)


@tf.function(jit_compile=True)
def _first(start: tf.Tensor, extent: tf.Tensor, flip: tf.Tensor | float, cut: Cut) -> tf.Tensor:
    source, target, block, band, reach = cut
    begins = tf.range(target // block, dtype=tf.float32) * block  # [B]
    ends = tf.stack([begins - reach, begins + (block - 1 + reach)])
    ends = (tf.clip_by_value(ends, 0, target - 1) + 0.5) / target  # [2, B] in 0..1
    least = tf.reduce_min(centres(start, extent, flip, ends, source), axis=1) - 0.5  # [N, B]
    first = tf.cast(tf.floor(least - _scale(extent, source, target)[:, tf.newaxis]), tf.int32)
    return tf.clip_by_value(first, 0, source - band)


@tf.function(jit_compile=True)
def _weights(
    start: tf.Tensor,
    extent: tf.Tensor,
    flip: tf.Tensor | float,
    first: tf.Tensor,
    cut: Cut,
    dtype: tf.DType,
) -> tf.Tensor:
    """Returns [N, B, b + 2 reach, K]: with what the blur reaches, 0 beyond the target's edges."""
    source, target, block, band, reach = cut
    begins = tf.range(target // block, dtype=tf.float32)[:, tf.newaxis] * block
    rows = begins + tf.range(-reach, block + reach, dtype=tf.float32)  # [B, b + 2 reach]
    middle = centres(start, extent, flip, (rows + 0.5) / target, source) - 0.5  # as pixel indices
    scale = _scale(extent, source, target)[:, tf.newaxis, tf.newaxis]
    gain = 1.0 / _triangle_sum(middle, scale, source)  # [N, B, b + 2 reach]
    if reach:
        gain = tf.where((rows >= 0) & (rows < target), gain, 0.0)
    # relu(gain - |slope * pixel - offset|): one element-wise pass, and no second one to normalise.
    slope = gain / scale
    offset = (middle - tf.cast(first, tf.float32)[..., tf.newaxis]) * slope
    pixels = tf.range(band, dtype=tf.float32)  # [K]
    distance = tf.abs(slope[..., tf.newaxis] * pixels - offset[..., tf.newaxis])
    return round_to(tf.nn.relu(gain[..., tf.newaxis] - distance), dtype)


@tf.function(jit_compile=True)
def _blurred(weights: tf.Tensor, sigma: tf.Tensor, target: int, dtype: tf.DType) -> tf.Tensor:
    return round_to(blur_blocks(weights, sigma, target), dtype)


def _scale(extent: tf.Tensor, source: int, target: int) -> tf.Tensor:
    return tf.maximum(extent * (source / target), 1.0)


def _triangle_sum(middle: tf.Tensor, scale: tf.Tensor, size: int) -> tf.Tensor:
    """Sums max(0, 1 - |pixel - middle| / scale) over the pixels 0..size-1, as two series."""
    left = tf.floor(middle)  # the pixel at or left of the middle; -1 is possible
    away = middle - left  # in [0, 1)

    def side(nearest: tf.Tensor, available: tf.Tensor) -> tf.Tensor:
        # Pixels at distances nearest, nearest + 1, ...; one at distance `scale` itself weighs 0.
        count = tf.clip_by_value(tf.floor(scale - nearest) + 1.0, 0.0, available)
        return count - count * (nearest + (count - 1.0) / 2.0) / scale

    return side(away, left + 1.0) + side(1.0 - away, size - 1.0 - left)


def resample(
    images: tf.Tensor, rows: Bands, columns: Bands, *, views: int = 1, dtype: tf.DType = tf.float32
) -> tf.Tensor:
    """Multiplies images by their matrices.

    Args:
        images: [N, H, W, C].
        rows: From H to h, of V * N views, the V of an image one after the other.
        columns: From W to w, likewise.
        views: V.
        dtype: Number format of the matrices and of the result.

    Returns:
        [V * N, h, C, w] in the images' value range: in this layout colours are mixed at full speed.
    """
    if rows.weights.shape[1] == columns.weights.shape[1] == 1:
        planes = _along(to_planes(images, dtype), rows, views)  # [VN, h, C, W]
        height, channels, width = planes.shape[1:]
        flat = tf.reshape(planes, [-1, height * channels, width])
        product = tf.matmul(flat, columns.weights[:, 0], transpose_b=True)  # [VN, h * C, w]
        return tf.reshape(product, [-1, height, channels, product.shape[2]])
    planes = _along(to_planes(images, dtype, turned=True), columns, views)  # [VN, w, C, H]
    return _along(_turned(planes), rows, 1)


def _along(planes: tf.Tensor, bands: Bands, views: int) -> tf.Tensor:
    """Resamples the first axis of each image: [N, L, C, M] -> [V * N, B * b, C, M]."""
    length, channels, other = planes.shape[1:]
    blocks, block, band = bands.weights.shape[1:]
    flat = tf.reshape(planes, [-1, length, channels * other])
    if blocks == 1:  # all views of an image are one product: it is read once
        weights = tf.reshape(bands.weights, [-1, views * block, band])
    else:
        index = bands.first[..., tf.newaxis] + tf.range(band)  # [VN, B, K]
        flat = tf.gather(flat, tf.reshape(index, [-1, views * blocks * band]), batch_dims=1)
        flat = tf.reshape(flat, [-1, band, channels * other])
        weights = tf.reshape(bands.weights, [-1, block, band])
    return tf.reshape(tf.matmul(weights, flat), [-1, blocks * block, channels, other])


@tf.function(jit_compile=True)
def to_planes(images: tf.Tensor, dtype: tf.DType, *, turned: bool = False) -> tf.Tensor:
    """Lays the channels side by side: [N, H, W, C] -> [N, H, C, W] of `dtype`, or [N, W, C, H]."""
    return tf.cast(tf.transpose(images, [0, 2, 3, 1] if turned else [0, 1, 3, 2]), dtype)


@tf.function(jit_compile=True)
def _turned(planes: tf.Tensor) -> tf.Tensor:
    return tf.transpose(planes, [0, 3, 2, 1])


def crop_resize(images: tf.Tensor, boxes: Boxes, size: Size) -> tf.Tensor:
    """Cuts each image's window out, resizes it to `size` and mirrors it where drawn.

    Args:
        images: uint8 or float [N, H, W, C], of one size; H and W static.
        boxes: One window per image.
        size: (h, w) of the result in pixels.

    Returns:
        [N, h, w, C] in the images' value range; float32, and bfloat16 for bfloat16 images.
    """
    dtype = tf.bfloat16 if images.dtype == tf.bfloat16 else tf.float32
    rows, columns = sample_windows(boxes, tuple(images.shape[1:3]), size, dtype=dtype)
    return tf.transpose(resample(images, rows, columns, dtype=dtype), [0, 1, 3, 2])


def sample_windows(
    boxes: Boxes,
    source: Size,
    size: Size,
    *,
    sigma: tf.Tensor | None = None,
    dtype: tf.DType = tf.float32,
) -> tuple[Bands, Bands]:
    """Returns the rows and columns of crop, resize, flip and blur, for `resample`."""
    rows = sample_axis(
        boxes.top, boxes.height, 0.0, source=source[0], target=size[0], sigma=sigma, dtype=dtype
    )
    columns = sample_axis(
        boxes.left,
        boxes.width,
        boxes.flip,
        source=source[1],
        target=size[1],
        sigma=sigma,
        dtype=dtype,
    )
    return rows, columns
