"""What a step trains on: which images, and what is drawn for them, by (seed, step) alone.

So a run may start at any step, and any number of replicas or workers sees the same batches.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from simclr_tf.augment.recipe import Recipe
from simclr_tf.augment.resampling import Size
from simclr_tf.augment.views import Draw, draw_views, map_draw
from simclr_tf.data.sources import Source
from simclr_tf.data.tensors import aspects_of_files
from simclr_tf.errors import UserError
from simclr_tf.seeds import stream_seed

# Pixels of a view (or image, if larger) times images that are augmented together. A whole batch of
# large views would go through the main memory at every stage; this many, the best of what was
# measured, do not, and are enough to hide what a TensorFlow operation costs to start.
PART_PIXELS = 2**18


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


def batch_order(step: tf.Tensor, count: int, batch_size: int, seed: int) -> tf.Tensor:
    """Returns the indices, int64 [batch_size], of the images of one step."""
    epoch_steps = count // batch_size
    epoch, within = step // epoch_steps, step % epoch_steps
    positions = within * batch_size + tf.range(batch_size, dtype=tf.int64)
    return _order(positions, count, seed, epoch)


def _order(position: tf.Tensor, count: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns the index at a position of one epoch's permutation of 0..count-1."""
    key = stream_seed(seed, "order", epoch)  # [2]
    return tf.random.experimental.index_shuffle(position, seed=key, max_index=count - 1)


class Draws:
    """What is drawn for a step: a function of (seed, step), cut into parts of a batch.

    A part is (indices int64 [n], `Draw` of views * n views, those of an image one after the other).
    Of a batch that is no multiple of n, the last part is filled up with the first images, which
    `pipeline` cuts off. With a shard, the parts are of the batch of one replica, then of the next
    one's.
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
        self.aspects = None if source.images is not None else aspects_of_files(source)
        self.views, self.batch_size, self.recipe = views, batch_size, recipe
        self.seed, self.size = seed, size
        self.shard, self.rows = shard, shard.rows(batch_size)
        sides = [size] if source.images is None else [size, source.images.shape[1:3]]
        most = PART_PIXELS // max(height * width for height, width in sides)
        self.parts = -(-self.rows // _part_size(self.rows, most)) if in_parts else 1
        self.part_size = -(-self.rows // self.parts)

    def of_step(self, step: tf.Tensor) -> tuple[tf.Tensor, Draw]:
        index = batch_order(step, self.count, self.batch_size, self.seed)
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
