"""From a `Source` to batches: a seeded order, decoding, views, prefetch.

What a training batch holds is a function of (seed, step) alone, so a run may start at any step.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from simclr_tf.augment.geometry import Boxes, rotate
from simclr_tf.augment.recipe import Recipe
from simclr_tf.augment.resampling import crop_resize
from simclr_tf.augment.views import Draw, apply_masks, draw_views, make_views, map_draw
from simclr_tf.data.decode import read_header, resize_to_fill
from simclr_tf.data.masks import crop_masks, resize_mask_to_fill
from simclr_tf.data.sources import Source, from_arrays
from simclr_tf.errors import UserError
from simclr_tf.seeds import stream_seed

Size = tuple[int, int]

# Pixels of a view (or image, if larger) times images that are augmented together. A whole batch of
# large views would go through the main memory at every stage; this many, the best of what was
# measured, do not, and are enough to hide what a TensorFlow operation costs to start.
PART_PIXELS = 2**18

# Parts that are made at a time. Not left to tf.data, which goes down to one where batches lie ready
# and takes a second to come up again.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Shard(NamedTuple):
    """The rows of every joint batch that one of several workers makes: those of its replicas.

    The data set of a shard gives, for each step, one batch for each of the worker's replicas in
    turn. Of N images, replica r has rows r N / R to (r + 1) N / R, so that on any number of
    replicas a step sees the same images with the same draws.

    Attributes:
        first: The worker's first replica, counted over all workers.
        own: Number of the worker's replicas.
        of: R, the replicas of all workers.
    """

    first: int = 0
    own: int = 1
    of: int = 1

    def rows(self, batch_size: int) -> int:
        """Returns the images of a joint batch that each replica has.

        Raises:
            UserError: The replicas do not divide the batch.
        """
        if batch_size % self.of:
            fitting = max(batch_size // self.of, 1) * self.of
            raise UserError(
                f"Expected a batch that {self.of} replicas divide, got --batch_size={batch_size}. "
                f"Pass --batch_size={fitting}, for instance."
            )
        return batch_size // self.of


WHOLE = Shard()


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Returns the whole batches in one pass; the rest of a pass is left out by the epoch's order.

    Raises:
        UserError: The batch is larger than the data.
    """
    if batch_size > len(source):
        remedy = f"Pass --batch_size={len(source)} or less."
        raise UserError(
            f"Expected at most {len(source)} images in a batch, the size of {source.name}, got "
            f"--batch_size={batch_size}. {remedy if len(source) > 1 else 'Add images.'}"
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
    step_stride: int = 1,
    dtype: tf.DType | str = tf.float32,
    shard: Shard = WHOLE,
) -> tf.data.Dataset:
    """Makes the batches of contrastive training: two independently drawn views of each image.

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
    draws = _Draws(source, 2, batch_size, recipe, seed, size, shard)

    def make(steps: tf.data.Dataset) -> tf.data.Dataset:
        return _views(source, draws, steps, tf.as_dtype(dtype)).map(lambda views, index: views)

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

    Returns:
        Batches (`dtype` [N, h, w, 3] in [0, 1], int32 [N]) for the steps asked for, joint or
        of the shard's replicas.
    """
    steps_per_epoch(source, batch_size)
    labels = tf.constant(source.labels, tf.int32)
    draws = _Draws(source, 1, batch_size, recipe, seed, size, shard)
    steps = tf.data.Dataset.range(first_step, last_step)
    batches = _views(source, draws, steps, tf.as_dtype(dtype))
    return batches.map(lambda views, index: (views[0], tf.gather(labels, index))).prefetch(2)


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
) -> tf.data.Dataset:
    """Makes the batches of segmentation: one drawn view of each image, its mask turned with it.

    The mask has the view's window, mirroring and rotation, with the nearest pixel; all else that
    the recipe does is done to the image only.

    Returns:
        Batches (`dtype` [N, h, w, 3] in [0, 1], uint8 [N, h, w]) for the steps asked for.
    """
    steps_per_epoch(source, batch_size)
    draws = _Draws(source, 1, batch_size, recipe, seed, size, WHOLE)
    steps = tf.data.Dataset.range(first_step, last_step)
    batches = _views(source, draws, steps, tf.as_dtype(dtype), masked=True)
    return batches.map(lambda made, index: made).prefetch(2)


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
        image, mask = tf.numpy_function(read, [index], [tf.uint8, tf.uint8])
        image = tf.ensure_shape(image, [None, None, source.channels])
        mask = tf.ensure_shape(mask, [None, None])
        return tf.cast(image, tf.float32) / 255.0, mask

    together = 1 if size is None and source.image_size is None else batch_size
    pairs = tf.data.Dataset.range(len(source)).map(pair, CORES)
    return pairs.batch(together).prefetch(2)


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

    `augment.make_views(images, draw, size)` makes of them what `two_views` gives.

    Returns:
        Batches (uint8 [N, H, W, 3], `Draw` of 2N views, the two of an image one after the other),
        joint or of the shard's replicas.

    Raises:
        UserError: The images are not in memory.
    """
    steps_per_epoch(source, batch_size)
    check_held(source)
    held = _held(source.images)
    draws = _Draws(source, 2, batch_size, recipe, seed, size, shard, in_parts=False)
    batches = draws(tf.data.Dataset.range(first_step, last_step), tf.data.AUTOTUNE)
    return batches.map(lambda index, draw: (tf.gather(held, index), draw)).prefetch(2)


def check_held(source: Source) -> None:
    """Raises UserError where views cannot be made on the device, as the images are files."""
    if source.images is None:
        raise UserError(
            f"Expected images in memory for --augment_on=device, got the files of {source.name}. "
            "Pass --cache=true with an --input_size, or --augment_on=host."
        )


def feature_batches(
    features: np.ndarray, labels: np.ndarray, *, batch_size: int, seed: int
) -> Callable[..., tf.data.Dataset]:
    """Makes the batches of a head that is trained on features computed before.

    Args:
        features: float32 [M, F].
        labels: int [M].
        batch_size: N.
        seed: The order is a function of it and of the step.

    Returns:
        (first step, last step, shard=WHOLE) -> batches (float32 [N, F], int32 [N]) of those steps,
        joint or of the shard's replicas.
    """
    held, held_labels = _held(features), tf.constant(labels, tf.int32)

    def gather(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(held, index), tf.gather(held_labels, index)

    def batches(first: int, last: int, shard: Shard = WHOLE) -> tf.data.Dataset:
        def by_replica(step: tf.Tensor) -> tf.Tensor:
            index = _batch_order(step, len(features), batch_size, seed)
            index = tf.reshape(index, [shard.of, shard.rows(batch_size)])
            return index[shard.first : shard.first + shard.own]

        steps = tf.data.Dataset.range(first, last)
        return steps.map(by_replica).unbatch().map(gather).prefetch(2)

    return batches


def plain_batches(source: Source, *, batch_size: int, size: Size | None = None) -> tf.data.Dataset:
    """Makes the batches of evaluation: every image once, in the source's order, not augmented.

    An image of another size is cut to the target's aspect about its centre and resized with
    antialiasing. Returns batches float32 [<= N, h, w, 3] in [0, 1]; the last may be shorter.
    """
    size = size or own_size(source)
    if source.images is None:
        aspects = _aspects_of_files(source)

        def one(index: tf.Tensor) -> tf.Tensor:
            window = centre_boxes(1, tf.gather(aspects, index), size)
            return _read_windows(source, index[tf.newaxis], window, size)[0]

        files = tf.data.Dataset.range(len(source)).map(one, tf.data.AUTOTUNE).batch(batch_size)
        return files.map(lambda images: tf.cast(images, tf.float32) / 255.0).prefetch(2)

    images = _held(source.images)

    def batch(index: tf.Tensor) -> tf.Tensor:
        chosen = tf.gather(images, index)
        if source.image_size != size:
            boxes = centre_boxes(tf.shape(index)[0], images.shape[2] / images.shape[1], size)
            chosen = crop_resize(chosen, boxes, size)
        return tf.cast(chosen, tf.float32) / 255.0

    indices = tf.data.Dataset.range(len(source)).batch(batch_size)
    return indices.map(batch, tf.data.AUTOTUNE).prefetch(2)


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
    held = None if source.images is None else _held(source.images)
    if source.images is None:
        aspects = _aspects_of_files(source)
    else:
        aspects = tf.fill([len(source)], source.images.shape[2] / source.images.shape[1])

    def make(index: tf.Tensor) -> tf.Tensor:
        draw = draw_views(
            recipe,
            tf.shape(index)[0],
            seed=seed,
            step=index[0],
            size=size,
            aspect=tf.gather(aspects, index),
            stream=f"view{view}",
        )
        if held is not None:
            return make_views(tf.gather(held, index), draw, size, views=1)[0]
        windows = _read_windows(source, index, draw.boxes, size)
        return make_views(windows, draw, size, views=1, cropped=True)[0]

    return tf.data.Dataset.range(len(source)).batch(batch_size).map(make, CORES).prefetch(2)


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


def _aspects_of_files(source: Source) -> tf.Tensor:
    """Returns width over height of every image: float32 [M]."""
    sizes = source.file_sizes
    if sizes is None:
        sizes = np.array([read_header(path) for path in source.paths])
    return _held((sizes[:, 1] / sizes[:, 0]).astype(np.float32))


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


class _Draws:
    """What is drawn for a step: a function of (seed, step), cut into parts of a batch.

    A part is (indices int64 [n], `Draw` of views * n views, those of an image one after the other).
    Of a batch that is no multiple of n, the last part is filled up with the first images; `_views`
    cuts them off. With a shard, the parts are of the batch of one replica, then of the next one's.
    """

    def __init__(
        self,
        source: Source,
        views: int,
        batch_size: int,
        recipe: Recipe,
        seed: int,
        size: Size,
        shard: Shard,
        *,
        in_parts: bool = True,
    ) -> None:
        self.source, self.count = source, len(source)
        self.aspects = None if source.images is not None else _aspects_of_files(source)
        self.views, self.batch_size, self.recipe = views, batch_size, recipe
        self.seed, self.size = seed, size
        self.shard, self.rows = shard, shard.rows(batch_size)
        sides = [size] if source.images is None else [size, source.images.shape[1:3]]
        most = PART_PIXELS // max(height * width for height, width in sides)
        self.parts = -(-self.rows // _part_size(self.rows, most)) if in_parts else 1
        self.part_size = -(-self.rows // self.parts)

    def of_step(self, step: tf.Tensor) -> tuple[tf.Tensor, Draw]:
        index = _batch_order(step, self.count, self.batch_size, self.seed)
        draw = draw_views(
            self.recipe,
            self.views * self.batch_size,
            seed=self.seed,
            step=step,
            size=self.size,
            aspect=self._aspects(index),
        )
        return index, draw

    def _aspects(self, index: tf.Tensor) -> tf.Tensor | float:
        if self.source.images is not None:
            return self.source.images.shape[2] / self.source.images.shape[1]
        return tf.repeat(tf.gather(self.aspects, index), self.views)

    def __call__(self, steps: tf.data.Dataset, parallel: int | None = None) -> tf.data.Dataset:
        if self.parts == self.shard.of == 1:
            return steps.map(self.of_step, parallel)
        return steps.map(lambda step: self._cut(*self.of_step(step)), parallel).unbatch()

    def _cut(self, index: tf.Tensor, draw: Draw) -> tuple[tf.Tensor, Draw]:
        parts = self.shard.own * self.parts
        replicas = self.shard.first + tf.range(self.shard.own)[:, tf.newaxis]
        within = tf.range(self.parts * self.part_size) % self.rows
        rows = tf.reshape(replicas * self.rows + within, [-1])

        def cut(field: tf.Tensor) -> tf.Tensor:
            rest = field.shape[1:]
            of_image = tf.gather(tf.reshape(field, [self.batch_size, -1, *rest]), rows)
            return tf.reshape(of_image, [parts, self.views * self.part_size, *rest])

        return tf.reshape(tf.gather(index, rows), [parts, self.part_size]), map_draw(cut, draw)


def _part_size(batch_size: int, most: int) -> int:
    """Returns how many images of a batch are augmented together, a divisor of it where one fits."""
    most = max(1, min(batch_size, most))
    divisors = [n for n in range(most, most // 2, -1) if batch_size % n == 0]
    return divisors[0] if divisors else most


def _views(
    source: Source,
    draws: _Draws,
    steps: tf.data.Dataset,
    dtype: tf.DType,
    *,
    masked: bool = False,
) -> tf.data.Dataset:
    """Makes batches ((view [N, h, w, 3], ...), index [N]) of the steps; masked: (view, mask)."""
    held = None if source.images is None else _held(source.images)
    masks = _masks_reader(source, draws.size) if masked else None

    def make(index: tf.Tensor, draw: Draw) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        if held is not None:
            images = tf.gather(held, index)
        else:  # files differ in size: they are cropped one by one, and finished together
            images = _read_windows(source, index, draw.boxes, draws.size)
        made = make_views(images, draw, draws.size, dtype, views=draws.views, cropped=held is None)
        return made if masks is None else (*made, masks(index, draw)), index

    parts = draws(steps).map(make, CORES)
    if draws.parts == 1:
        return parts

    def join(part: tf.Tensor) -> tf.Tensor:
        return tf.reshape(part, [-1, *part.shape[2:]])[: draws.rows]

    batches = parts.batch(draws.parts, drop_remainder=True, num_parallel_calls=CORES)
    return batches.map(lambda *batch: tf.nest.map_structure(join, batch))


def _read_windows(source: Source, index: tf.Tensor, boxes: Boxes, size: Size) -> tf.Tensor:
    """Reads windows [n * V] of the files at the indices [n]: uint8 [n * V, h, w, 3]."""

    def read(index: np.ndarray, windows: np.ndarray) -> np.ndarray:
        pairs = zip(index, windows.reshape(len(index), -1, 5), strict=True)
        return np.concatenate([source.read_windows(int(i), w, size) for i, w in pairs])

    crops = tf.numpy_function(read, [index, tf.stack(boxes, axis=1)], tf.uint8)
    return tf.ensure_shape(crops, [boxes.top.shape[0], *size, 3])


def _masks_reader(source: Source, size: Size) -> Callable[[tf.Tensor, Draw], tf.Tensor]:
    """Returns (index [n], draw of n views) -> masks uint8 [n, h, w] with the views' geometry."""
    if source.masks is not None:
        held = _held(source.masks)

        def gather(index: tf.Tensor, draw: Draw) -> tf.Tensor:
            return apply_masks(tf.gather(held, index)[..., tf.newaxis], draw, size)[..., 0]

        return gather

    def crop(index: np.ndarray, windows: np.ndarray) -> np.ndarray:
        pairs = zip(index, windows, strict=True)
        return np.concatenate(
            [crop_masks(source.read_mask(int(i)), w[None], size) for i, w in pairs]
        )

    def read(index: tf.Tensor, draw: Draw) -> tf.Tensor:
        masks = tf.numpy_function(crop, [index, tf.stack(draw.boxes, axis=1)], tf.uint8)
        masks = tf.ensure_shape(masks, [draw.boxes.top.shape[0], *size])[..., tf.newaxis]
        masks = masks if draw.degrees is None else rotate(masks, draw.degrees, nearest=True)
        return masks[..., 0]

    return read


def _epochs(
    make: Callable[[tf.data.Dataset], tf.data.Dataset], epoch_steps: int, replicas: int
) -> tf.data.Dataset:
    """One epoch per iteration, counted by a variable, so that each has its own order and draws."""
    with tf.device("/CPU:0"):
        counter = tf.Variable(-1, dtype=tf.int64, trainable=False)

    def steps_of_epoch(_: Any) -> tf.data.Dataset:
        first = counter.assign_add(1) * epoch_steps
        return tf.data.Dataset.range(first, first + epoch_steps)

    steps = tf.data.Dataset.from_tensors(0).flat_map(steps_of_epoch)
    cardinality = tf.data.experimental.assert_cardinality(epoch_steps * replicas)
    counted = make(steps).apply(cardinality)
    return counted.prefetch(2)
