"""Batches of evaluation: every image of a `Source` once, in its order."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from simclr_tf.augment.crop import Boxes
from simclr_tf.augment.recipe import Recipe
from simclr_tf.augment.resampling import Size, crop_resize
from simclr_tf.augment.views import draw_views, make_views
from simclr_tf.data.batches.tensors import (
    CORES,
    HeldTensor,
    aspects_of_files,
    images_in,
    map_beside,
    read_by_numpy,
    read_windows,
)
from simclr_tf.data.images import resize_to_fill
from simclr_tf.data.masks import resize_mask_to_fill
from simclr_tf.data.source import Source
from simclr_tf.errors import UserError

BATCH_PIXELS = 2**22  # that go through a network together where nothing is trained
MOST_TOGETHER = 256


def images_together(size: Size) -> int:
    """Returns how many images of a size (h, w) are embedded or classified at once."""
    return min(max(BATCH_PIXELS // (size[0] * size[1]), 1), MOST_TOGETHER)


def plain_batches(source: Source, *, batch_size: int, size: Size | None = None) -> tf.data.Dataset:
    """Makes the batches of evaluation: every image once, in the source's order, not augmented.

    Example:
        >>> batches = plain_batches(source, batch_size=256, size=(32, 32))

    An image of another size is cut to the target's aspect about its centre and resized with
    antialiasing. Returns batches float32 [<= N, h, w, 3] in [0, 1]; the last may be shorter.
    """
    size = size or own_size(source)
    if source.images is None:
        aspects = aspects_of_files(source)

        def one(index: tf.Tensor) -> tf.Tensor:
            window = centre_boxes(1, tf.gather(aspects, index), size)
            return read_windows(source, index[tf.newaxis], window, size)[0]

        files = tf.data.Dataset.range(len(source)).map(one, tf.data.AUTOTUNE).batch(batch_size)
        return files.map(lambda images: tf.cast(images, tf.float32) / 255.0).prefetch(2)

    images = HeldTensor(source.images, planes=True)
    aspect = source.images.shape[2] / source.images.shape[1]

    def batch(index: tf.Tensor, held: dict[str, tf.Tensor]) -> tf.Tensor:
        rows = images.rows(index)  # [n]
        if source.image_size == size:
            return images_in(held["images"], rows, tf.float32) / 255.0  # XLA's quotient is off
        boxes = centre_boxes(tf.shape(index)[0], aspect, size)
        chosen = crop_resize(images_in(held["images"], rows), boxes, size)  # [n, h, w, C]
        return tf.cast(chosen, tf.float32) / 255.0

    indices = tf.data.Dataset.range(len(source)).batch(batch_size)
    return map_beside(indices, {"images": images}, batch, tf.data.AUTOTUNE).prefetch(2)


def plain_masked_batches(
    source: Source, *, batch_size: int, size: Size | None = None
) -> tf.data.Dataset:
    """Makes the batches of judging a segmentation: every image once, whole, with its mask.

    Args:
        source: Images with masks.
        batch_size: Images together; of a set whose images differ in size each is a batch.
        size: (h, w) that images and masks are cut and resized to; None: they are left as they are.

    Returns:
        Batches (float32 [n, H, W, 3] in [0, 1], uint8 [n, H, W]) in the source's order.
    """

    def read(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image, mask = source.read(int(index)), source.read_mask(int(index))
        if size is None:
            return image, mask
        return resize_to_fill(image, size), resize_mask_to_fill(mask, size)

    def pair(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, mask = read_by_numpy(read, [index], [tf.uint8, tf.uint8])
        image = tf.ensure_shape(image, [None, None, source.channels])  # [H, W, C]
        mask = tf.ensure_shape(mask, [None, None])  # [H, W]
        return tf.cast(image, tf.float32) / 255.0, mask

    together = 1 if size is None and source.image_size is None else batch_size
    pairs = tf.data.Dataset.range(len(source)).map(pair, CORES)
    return pairs.batch(together).prefetch(2)


def view_batches(
    source: Source, *, batch_size: int, recipe: Recipe, seed: int, size: Size, view: int
) -> tf.data.Dataset:
    """Makes one drawn view of every image, in the source's order.

    Args:
        source: The images.
        batch_size: Views together; the last batch may be shorter.
        recipe: The augmentation.
        seed: The draws are a function of it, of `view` and of the image's place.
        size: (h, w) of the views in pixels.
        view: Number of the view: each has its own draws.

    Returns:
        Batches float32 [<= N, h, w, 3] in [0, 1].
    """
    images = None
    if source.images is None:
        aspects = aspects_of_files(source)
    else:
        images = HeldTensor(source.images, planes=True)
        aspects = tf.fill([len(source)], source.images.shape[2] / source.images.shape[1])  # [M]

    def make(index: tf.Tensor, held: dict[str, tf.Tensor]) -> tf.Tensor:
        draw = draw_views(
            recipe,
            tf.shape(index)[0],
            seed=seed,
            step=index[0],
            size=size,
            aspect=tf.gather(aspects, index),
            stream=f"view{view}",
        )
        if images is not None:
            chosen = images_in(held["images"], images.rows(index))  # [n, H, W, C]
            return make_views(chosen, draw, size, views=1)[0]
        windows = read_windows(source, index, draw.boxes, size)  # [n, h, w, 3]
        return make_views(windows, draw, size, views=1, cropped=True)[0]

    indices = tf.data.Dataset.range(len(source)).batch(batch_size)
    held = {} if images is None else {"images": images}
    return map_beside(indices, held, make, CORES).prefetch(2)


def centre_boxes(count: int | tf.Tensor, aspect: tf.Tensor | float, size: Size) -> Boxes:
    """Returns the largest centred windows with the aspect of `size`, as evaluation sees images.

    Args:
        count: N.
        aspect: Width over height of the images in pixels, a scalar.
        size: (h, w) that the windows will be resized to.
    """
    relative = (size[1] / size[0]) / tf.cast(aspect, tf.float32)  # []
    height = tf.fill([count], tf.minimum(1.0, 1.0 / relative))  # [N]
    width = tf.fill([count], tf.minimum(1.0, relative))  # [N]
    return Boxes((1.0 - height) / 2, (1.0 - width) / 2, height, width, tf.zeros([count]))


def own_size(source: Source) -> Size:
    """Returns (height, width) of a source's images; raises UserError where they differ."""
    if source.image_size is None:
        raise UserError(
            f"Expected images of one size in {source.name}, got several. "
            'Pass the size that they are brought to, such as `input_size="224 224"`.'
        )
    return source.image_size
