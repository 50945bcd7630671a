"""From a `Source` to batches: a seeded order, decoding, views, prefetch.

What a training batch holds is a function of (seed, step) alone, so a run may start at any step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from simclr_tf.augment.geometry import Boxes, crop_resize, crop_resize_one, draw_boxes
from simclr_tf.augment.recipe import Recipe
from simclr_tf.augment.views import apply_views, draw_views, finish_views
from simclr_tf.data.sources import Source, from_arrays
from simclr_tf.errors import UserError
from simclr_tf.seeds import stream_seed

Size = tuple[int, int]


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Returns the whole batches in one pass; the rest of a pass is left out by the epoch's order.

    Raises:
        UserError: The batch is larger than the data.
    """
    if batch_size > len(source):
        raise UserError(
            f"Expected at most {len(source)} images in a batch, the size of {source.name}, got "
            f"--batch_size={batch_size}. Pass --batch_size={len(source)} or less."
        )
    return len(source) // batch_size


def two_views(
    images: np.ndarray | Source,
    *,
    batch_size: int,
    recipe: Recipe,
    seed: int,
    size: Size | None = None,
    first_step: int | None = None,
    last_step: int | None = None,
) -> tf.data.Dataset:
    """Makes the batches of contrastive training: two independently drawn views of each image.

    Args:
        images: uint8 [M, H, W, 3], or a `Source`.
        batch_size: N, images per batch.
        recipe: The augmentation.
        seed: Order and draws are functions of it and of the step.
        size: (h, w) of the views in pixels; None: that of the images.
        first_step, last_step: The steps to make, first included, last not, counted over all epochs.
            None: one epoch each time the data set is iterated, each epoch in its own order, which
            is what `model.fit(views, epochs=100)` wants.

    Returns:
        Batches (view 1, view 2), float32 [N, h, w, 3] in [0, 1] each; row i of both is one image.
    """
    source = images if isinstance(images, Source) else from_arrays(images)
    size = size or own_size(source)
    epoch_steps = steps_per_epoch(source, batch_size)
    if source.images is None:
        make = _views_of_files(source, batch_size, recipe, seed, size)
    else:
        make = _views_in_memory(source, batch_size, recipe, seed, size)
    if first_step is None or last_step is None:
        return _epochs(make, epoch_steps)
    return make(tf.data.Dataset.range(first_step, last_step)).prefetch(2)


def labelled_batches(
    source: Source,
    *,
    batch_size: int,
    recipe: Recipe,
    seed: int,
    size: Size,
    first_step: int,
    last_step: int,
) -> tf.data.Dataset:
    """Makes the batches of supervised training: one drawn view of each image with its label.

    Returns:
        Batches (float32 [N, h, w, 3] in [0, 1], int32 [N]) for the steps asked for.
    """
    steps_per_epoch(source, batch_size)
    labels = tf.constant(source.labels, tf.int32)
    steps = tf.data.Dataset.range(first_step, last_step)
    if source.images is None:
        batches = _crops_of_files(source, steps, 1, batch_size, recipe, seed, size)

        def rest(step: tf.Tensor, batch: tuple) -> tuple[tf.Tensor, tf.Tensor]:
            crops, index = batch
            draw = draw_views(recipe, batch_size, seed=seed, step=step, size=size)
            return finish_views(crops[:, 0], draw), tf.gather(labels, index)

        return batches.map(rest, tf.data.AUTOTUNE).prefetch(2)

    images = _held(source.images)

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        index = _batch_order(step, len(source), batch_size, seed)
        draw = draw_views(
            recipe, batch_size, seed=seed, step=step, size=size, aspect=_aspect(images)
        )
        return apply_views(tf.gather(images, index), draw, size), tf.gather(labels, index)

    return steps.map(batch, tf.data.AUTOTUNE).prefetch(2)


def feature_batches(
    features: np.ndarray, labels: np.ndarray, *, batch_size: int, seed: int
) -> Callable[[int, int], tf.data.Dataset]:
    """Makes the batches of a head that is trained on features computed before.

    Args:
        features: float32 [M, F].
        labels: int [M].
        batch_size: N.
        seed: The order is a function of it and of the step.

    Returns:
        (first step, last step) -> batches (float32 [N, F], int32 [N]) of those steps.
    """
    held, held_labels = _held(features), tf.constant(labels, tf.int32)

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        index = _batch_order(step, len(features), batch_size, seed)
        return tf.gather(held, index), tf.gather(held_labels, index)

    return lambda first, last: tf.data.Dataset.range(first, last).map(batch).prefetch(2)


def plain_batches(source: Source, *, batch_size: int, size: Size | None = None) -> tf.data.Dataset:
    """Makes the batches of evaluation: every image once, in the source's order, not augmented.

    An image of another size is cut to the target's aspect about its centre and resized with
    antialiasing. Returns batches float32 [<= N, h, w, 3] in [0, 1]; the last may be shorter.
    """
    size = size or own_size(source)
    if source.images is None:
        read = _reader(source)

        def one(index: tf.Tensor) -> tf.Tensor:
            image = read(index)
            shape = tf.cast(tf.shape(image), tf.float32)
            boxes = centre_boxes(1, shape[1] / shape[0], size)
            return crop_resize_one(image, boxes, size)[0] / 255.0

        return (
            tf.data.Dataset.range(len(source))
            .map(one, tf.data.AUTOTUNE)
            .batch(batch_size)
            .prefetch(2)
        )

    images = _held(source.images)

    def batch(index: tf.Tensor) -> tf.Tensor:
        chosen = tf.gather(images, index)
        if source.image_size != size:
            boxes = centre_boxes(tf.shape(index)[0], _aspect(images), size)
            chosen = crop_resize(chosen, boxes, size)
        return tf.cast(chosen, tf.float32) / 255.0

    indices = tf.data.Dataset.range(len(source)).batch(batch_size)
    return indices.map(batch, tf.data.AUTOTUNE).prefetch(2)


def centre_boxes(count: int | tf.Tensor, aspect: tf.Tensor | float, size: Size) -> Boxes:
    """Returns the largest centred windows with the aspect of `size`, as evaluation sees images.

    Args:
        count: N.
        aspect: Width over height of the images in pixels.
        size: (h, w) that the windows will be resized to.
    """
    relative = (size[1] / size[0]) / tf.cast(aspect, tf.float32)
    height = tf.fill([count], tf.minimum(1.0, 1.0 / relative))
    width = tf.fill([count], tf.minimum(1.0, relative))
    return Boxes((1.0 - height) / 2, (1.0 - width) / 2, height, width, tf.zeros([count]))


def own_size(source: Source) -> Size:
    """Returns (height, width) of a source's images; raises UserError where they differ."""
    if source.image_size is None:
        raise UserError(
            f"Expected images of one size in {source.name}, got several. "
            'Pass the size that they are brought to, such as --input_size="224 224".'
        )
    return source.image_size


def _held(array: Any) -> tf.Tensor:
    # An eager tensor is captured by reference: it never becomes a constant of the graph.
    with tf.device("/CPU:0"):
        return tf.constant(array)


def _aspect(images: tf.Tensor) -> float:
    return images.shape[2] / images.shape[1]


def _order(position: tf.Tensor, count: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns the index at a position of one epoch's permutation of 0..count-1."""
    key = stream_seed(seed, "order", epoch)  # [2]
    return tf.random.experimental.index_shuffle(position, seed=key, max_index=count - 1)


def _batch_order(step: tf.Tensor, count: int, batch_size: int, seed: int) -> tf.Tensor:
    """Returns the indices, int64 [batch_size], of the images of one step."""
    epoch_steps = count // batch_size
    epoch, within = step // epoch_steps, step % epoch_steps
    positions = within * batch_size + tf.range(batch_size, dtype=tf.int64)
    return _order(positions, count, seed, epoch)


def _views_in_memory(
    source: Source, batch_size: int, recipe: Recipe, seed: int, size: Size
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    images = _held(source.images)

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        chosen = tf.gather(images, _batch_order(step, len(source), batch_size, seed))
        draw = draw_views(
            recipe, 2 * batch_size, seed=seed, step=step, size=size, aspect=_aspect(images)
        )
        views = apply_views(tf.concat([chosen, chosen], axis=0), draw, size)  # [2N, h, w, 3]
        return views[:batch_size], views[batch_size:]

    return lambda steps: steps.map(batch, tf.data.AUTOTUNE)


def _views_of_files(
    source: Source, batch_size: int, recipe: Recipe, seed: int, size: Size
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    def rest(step: tf.Tensor, batch: tuple) -> tuple[tf.Tensor, tf.Tensor]:
        crops, _ = batch
        draw = draw_views(recipe, 2 * batch_size, seed=seed, step=step, size=size)
        views = finish_views(tf.concat([crops[:, 0], crops[:, 1]], axis=0), draw)
        return views[:batch_size], views[batch_size:]

    def make(steps: tf.data.Dataset) -> tf.data.Dataset:
        batches = _crops_of_files(source, steps, 2, batch_size, recipe, seed, size)
        return batches.map(rest, tf.data.AUTOTUNE)

    return make


def _crops_of_files(
    source: Source,
    steps: tf.data.Dataset,
    views: int,
    batch_size: int,
    recipe: Recipe,
    seed: int,
    size: Size,
) -> tf.data.Dataset:
    """Crops image by image, as sizes differ: (step, (crops [N, views, h, w, 3], index [N]))."""
    read = _reader(source)

    def one(position: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = read(index)
        boxes = _boxes_of(image, views, recipe, seed, position)
        return crop_resize_one(image, boxes, size) / 255.0, index

    crops = _positions(steps, len(source), batch_size, seed).map(one, tf.data.AUTOTUNE)
    return tf.data.Dataset.zip(steps, crops.batch(batch_size, drop_remainder=True))


def _positions(steps: tf.data.Dataset, count: int, batch_size: int, seed: int) -> tf.data.Dataset:
    """Turns steps into (position over all epochs, index of the image), one image each."""

    def of_step(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        return positions, _batch_order(step, count, batch_size, seed)

    return steps.map(of_step).unbatch()


def _boxes_of(
    image: tf.Tensor, views: int, recipe: Recipe, seed: int, position: tf.Tensor
) -> Boxes:
    shape = tf.cast(tf.shape(image), tf.float32)
    return draw_boxes(
        views,
        stream_seed(seed, "views/crop", position),
        area_min=recipe.crop_area_min,
        flip_prob=recipe.flip_prob if recipe.flip else 0.0,
        aspect=shape[1] / shape[0],
        crop=recipe.crop,
    )


def _reader(source: Source) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the graph function that reads one image, uint8 [H, W, 3], by its index."""

    def read(index: tf.Tensor) -> tf.Tensor:
        image = tf.numpy_function(lambda i: source.read(int(i)), [index], tf.uint8)
        image.set_shape([None, None, 3])
        return image

    return read


def _epochs(
    make: Callable[[tf.data.Dataset], tf.data.Dataset], epoch_steps: int
) -> tf.data.Dataset:
    """One epoch per iteration, counted by a variable, so that each has its own order and draws."""
    with tf.device("/CPU:0"):
        counter = tf.Variable(-1, dtype=tf.int64, trainable=False)

    def steps_of_epoch(_: Any) -> tf.data.Dataset:
        first = counter.assign_add(1) * epoch_steps
        return tf.data.Dataset.range(first, first + epoch_steps)

    steps = tf.data.Dataset.from_tensors(0).flat_map(steps_of_epoch)
    counted = make(steps).apply(tf.data.experimental.assert_cardinality(epoch_steps))
    return counted.prefetch(2)
