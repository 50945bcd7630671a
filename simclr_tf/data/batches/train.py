"""Batches of training: from a `Source` through a seeded order, decoding and views to prefetch.

What a batch holds is a function of (seed, step) alone (`steps`), so a run may start at any step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from simclr_tf.augment.recipe import Recipe
from simclr_tf.augment.resampling import Size, to_planes
from simclr_tf.augment.rotation import rotate
from simclr_tf.augment.views import Draw, apply_masks, pack_draw, views_of
from simclr_tf.data.batches.evaluation import own_size
from simclr_tf.data.batches.order import WHOLE, Shard, batch_order, steps_per_epoch
from simclr_tf.data.batches.parts import Draws, Group
from simclr_tf.data.batches.tensors import (
    CORES,
    HeldTensor,
    held_on_host,
    images_in,
    map_beside,
    read_by_numpy,
    read_windows,
)
from simclr_tf.data.masks import crop_masks
from simclr_tf.data.memory import Held
from simclr_tf.data.source import Source, from_arrays
from simclr_tf.errors import UserError


def two_views(
    images: np.ndarray | Source,
    *,
    batch_size: int,
    recipe: Recipe,
    seed: int,
    size: Size | None = None,
    first_step: int | None = None,
    last_step: int | None = None,
    step_stride: int = 1,
    dtype: tf.DType | str = tf.float32,
    shard: Shard = WHOLE,
) -> tf.data.Dataset:
    """Makes the batches of contrastive training: two independently drawn views of each image.

    Example:
        >>> views = two_views(images, batch_size=256, recipe=Recipe(), seed=0)
        >>> model.fit(views, epochs=100)

    Args:
        images: uint8 [M, H, W, 3], or a `Source`.
        batch_size: N, images per batch.
        recipe: The augmentation.
        seed: Order and draws are functions of it and of the step.
        size: (h, w) of the views in pixels; None: that of the images.
        first_step: The first step to make, counted over all epochs. None: one epoch each time the
            data set is iterated, each epoch in its own order, which is what
            `model.fit(views, epochs=100)` wants.
        last_step: The step before which to end; None beside a `first_step` of None.
        step_stride: Distance between the steps that are made; not used without `first_step`.
        dtype: float32, or bfloat16 where the model computes in it (see `augment.apply_views`).
        shard: The replicas whose rows are made, a batch of N / R for each in turn.

    Returns:
        Batches (view 1, view 2), `dtype` [N, h, w, 3] in [0, 1] each; row i of both is one image.
    """
    source = images if isinstance(images, Source) else from_arrays(images)
    size = size or own_size(source)
    epoch_steps = steps_per_epoch(source, batch_size)
    draws = Draws(source, 2, batch_size, recipe, seed, size, shard)

    def make(steps: tf.data.Dataset) -> tf.data.Dataset:
        return _views(source, draws, steps, tf.as_dtype(dtype), lambda views, index: views)

    if first_step is None or last_step is None:
        return _epochs(make, epoch_steps, shard.own)
    return make(tf.data.Dataset.range(first_step, last_step, step_stride)).prefetch(2)


def labelled_batches(
    source: Source,
    *,
    batch_size: int,
    recipe: Recipe,
    seed: int,
    size: Size,
    first_step: int,
    last_step: int,
    dtype: tf.DType | str = tf.float32,
    shard: Shard = WHOLE,
) -> tf.data.Dataset:
    """Makes the batches of supervised training: one drawn view of each image with its label.

    Example:
        >>> settings = dict(batch_size=256, recipe=Recipe(), seed=0, size=(32, 32))
        >>> batches = labelled_batches(source, **settings, first_step=0, last_step=100)

    Returns:
        Batches (`dtype` [N, h, w, 3] in [0, 1], int32 [N]) for the steps asked for, joint or
        of the shard's replicas.
    """
    steps_per_epoch(source, batch_size)
    labels = tf.constant(source.labels, tf.int32)  # int32 [M]
    draws = Draws(source, 1, batch_size, recipe, seed, size, shard)
    steps = tf.data.Dataset.range(first_step, last_step)

    def with_label(views: tuple[tf.Tensor, ...], index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return views[0], tf.gather(labels, index)

    return _views(source, draws, steps, tf.as_dtype(dtype), with_label).prefetch(2)


def masked_batches(
    source: Source,
    *,
    batch_size: int,
    recipe: Recipe,
    seed: int,
    size: Size,
    first_step: int,
    last_step: int,
    dtype: tf.DType | str = tf.float32,
    shard: Shard = WHOLE,
) -> tf.data.Dataset:
    """Makes the batches of segmentation: one drawn view of each image, its mask turned with it.

    The mask has the view's window, mirroring and rotation, with the nearest pixel; all else that
    the recipe does is done to the image only.

    Returns:
        Batches (`dtype` [N, h, w, 3] in [0, 1], uint8 [N, h, w]) for the steps asked for,
        joint or of the shard's replicas.
    """
    steps_per_epoch(source, batch_size)
    draws = Draws(source, 1, batch_size, recipe, seed, size, shard)
    steps = tf.data.Dataset.range(first_step, last_step)
    batches = _views(source, draws, steps, tf.as_dtype(dtype), lambda made, _: made, masked=True)
    return batches.prefetch(2)


def drawn_batches(
    source: Source,
    *,
    batch_size: int,
    recipe: Recipe,
    seed: int,
    size: Size,
    first_step: int,
    last_step: int,
    shard: Shard = WHOLE,
) -> tf.data.Dataset:
    """Makes batches of images with what is drawn for them, for views that are made on the device.

    Example:
        >>> settings = dict(batch_size=256, recipe=Recipe(), seed=0, size=(32, 32))
        >>> for images, packed in drawn_batches(source, **settings, first_step=0, last_step=100):
        ...     first, second = make_views(images, unpack_draw(packed), (32, 32))

    `augment.make_views(images, augment.unpack_draw(packed), size)` makes of them what `two_views`
    gives.

    Returns:
        Batches (uint8 [N, H, W, 3], `pack_draw` of the `Draw` of 2N views, the two of an image one
        after the other), joint or of the shard's replicas.

    Raises:
        UserError: The images are not in memory.
    """
    steps_per_epoch(source, batch_size)
    images = HeldTensor(check_held(source), planes=True)
    draws = Draws(source, 2, batch_size, recipe, seed, size, shard, in_parts=False)

    def of_group(group: Group, held: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict]:
        index = images.rows(group.index[:: draws.views])  # [N / R], of one part
        return images_in(held["images"], index), pack_draw(group.draw)

    groups = draws(tf.data.Dataset.range(first_step, last_step), tf.data.AUTOTUNE)
    return map_beside(groups, {"images": images}, of_group, CORES).prefetch(2)


def check_held(source: Source) -> Held:
    """Returns the images; raises UserError where they are files: the device cannot make views."""
    if source.images is None:
        raise UserError(
            f"Expected images in memory for `augment_on=device`, got the files of {source.name}. "
            "Pass `cache=true` with an `input_size`, or `augment_on=host`."
        )
    return source.images


def feature_batches(
    features: np.ndarray | tf.Tensor,
    labels: np.ndarray | tf.Tensor,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    shard: Shard = WHOLE,
) -> tf.data.Dataset:
    """Makes the batches of a head that is trained on features computed before.

    Args:
        features: float32 [M, F]; a tensor that is held on the host is taken as it is.
        labels: int [M].
        batch_size: N.
        seed: The order is a function of it and of the step.
        first_step, last_step: First included, last not.
        shard: The replicas whose rows are made.

    Returns:
        Batches (float32 [N, F], int32 [N]) of those steps, joint or of the shard's replicas.
    """
    held, held_labels = held_on_host(features), tf.constant(labels, tf.int32)

    def by_replica(step: tf.Tensor) -> tf.Tensor:
        index = batch_order(step, held.shape[0], batch_size, seed)  # [N]
        index = tf.reshape(index, [shard.of, shard.rows(batch_size)])  # [R, N / R]
        return index[shard.first : shard.first + shard.own]  # [own, N / R]

    def gather(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(held, index), tf.gather(held_labels, index)

    steps = tf.data.Dataset.range(first_step, last_step)
    return steps.map(by_replica).unbatch().map(gather).prefetch(2)


def _views(
    source: Source,
    draws: Draws,
    steps: tf.data.Dataset,
    dtype: tf.DType,
    arrange: Callable[[tuple[tf.Tensor, ...], tf.Tensor], Any],
    *,
    masked: bool = False,
) -> tf.data.Dataset:
    """Makes the batches of the steps.

    `arrange` makes them of (view [N, h, w, 3], ...), or if masked of (view, mask), and of the
    images' index [N].
    """
    held = {}
    if source.images is not None:
        held["images"] = HeldTensor(source.images, planes=True)
    if masked and source.masks is not None:
        held["masks"] = HeldTensor(source.masks, planes=False)

    def make(group: Group, wholes: dict[str, tf.Tensor]) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        index, draw, _ = group
        if "images" in held:
            planes = wholes["images"]  # [B, W, C, H]
            of = tf.cast(held["images"].rows(index), tf.int32)  # [n]
        else:  # files differ in size: they are cropped one by one, and finished together
            windows = read_windows(source, index[:: draws.views], draw.boxes, draws.size)
            planes, of = to_planes(windows), None
        made = views_of(planes, of, draw, draws.size, dtype, parts=draws.parts, sparing=True)
        views = draws.in_place(group, made)
        if "masks" in held:
            chosen = tf.gather(wholes["masks"], held["masks"].rows(index))[..., tf.newaxis]
            masks = apply_masks(chosen, draw, draws.size)[..., 0]  # [n, h, w]
            views += draws.in_place(group, [masks])
        elif masked:
            views += draws.in_place(group, [_read_masks(source, index, draw, draws.size)])
        return tuple(views), draws.in_place(group, [index])[0]

    if draws.groups == 1:
        return map_beside(draws(steps, CORES), held, lambda *group: arrange(*make(*group)), CORES)

    def join(views: tuple[tf.Tensor, ...], index: tf.Tensor) -> Any:
        def joined(made: tf.Tensor) -> tf.Tensor:
            return tf.reshape(made, [-1, *made.shape[2:]])[: draws.rows]  # [N / R, ...]

        return arrange(tuple(map(joined, views)), joined(index))

    groups = map_beside(draws(steps, CORES), held, make, CORES)
    batches = groups.batch(draws.groups, drop_remainder=True, num_parallel_calls=CORES)
    return batches.map(join)


def _read_masks(source: Source, index: tf.Tensor, draw: Draw, size: Size) -> tf.Tensor:
    """Reads masks of the files at the indices [n], drawn as the views: uint8 [n, h, w]."""

    def crop(index: np.ndarray, windows: np.ndarray) -> np.ndarray:
        pairs = zip(index, windows, strict=True)
        return np.concatenate(
            [crop_masks(source.read_mask(int(i)), w[None], size) for i, w in pairs]
        )

    masks = read_by_numpy(crop, [index, tf.stack(draw.boxes, axis=1)], tf.uint8)  # [n, h, w]
    masks = tf.ensure_shape(masks, [draw.boxes.top.shape[0], *size])[..., tf.newaxis]
    masks = masks if draw.degrees is None else rotate(masks, draw.degrees, nearest=True)
    return masks[..., 0]


def _epochs(
    make: Callable[[tf.data.Dataset], tf.data.Dataset], epoch_steps: int, replicas: int
) -> tf.data.Dataset:
    """One epoch per iteration, counted, so that each has its own order and draws."""
    epochs = itertools.count()

    def steps_of_epoch(once: tf.Tensor) -> tf.data.Dataset:
        # Not by a variable: where operations are to be deterministic, what has a state keeps all of
        # a data set from threads. So none is owned up to; the input keeps it from being folded.
        epoch = tf.numpy_function(lambda _: next(epochs), [once], tf.int64, stateful=False)
        first = tf.ensure_shape(epoch, []) * epoch_steps
        return tf.data.Dataset.range(first, first + epoch_steps)

    steps = tf.data.Dataset.from_tensors(0).flat_map(steps_of_epoch)
    cardinality = tf.data.experimental.assert_cardinality(epoch_steps * replicas)
    counted = make(steps).apply(cardinality)
    return counted.prefetch(2)
