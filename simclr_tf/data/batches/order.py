"""Order of the data: which images a step trains on, by (seed, step) alone.

Each epoch has a permutation of its own, of which a step takes the next `batch_size` images. What
fills no batch at the end is left out. A set of 7 images in batches of 2, seed 0:

    epoch               0                          1
    images      [5 0] [6 1] [2 3] 4        [3 0] [1 4] [5 6] 2
    step          0     1     2              3     4     5
    replica      0 1   0 1   0 1            0 1   0 1   0 1

Of two replicas, the first has the first half of each batch, the other the second one (`Shard`).
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from simclr_tf.counting import spell_number
from simclr_tf.data.source import Source
from simclr_tf.errors import UserError
from simclr_tf.seeds import stream_seed


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
                f"Expected a batch that {self.of} replicas divide, got `batch_size={batch_size}`. "
                f"Pass `batch_size={fitting}`, for instance."
            )
        return batch_size // self.of


WHOLE = Shard()


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Returns the whole batches in one pass; the rest of a pass is left out by the epoch's order.

    Raises:
        UserError: The batch is larger than the data.
    """
    if batch_size > len(source):
        remedy = f"Pass `batch_size={len(source)}` or less."
        raise UserError(
            f"Expected at most {spell_number(len(source), 'image')} in a batch, the size of "
            f"{source.name}, got `batch_size={batch_size}`. "
            f"{remedy if len(source) > 1 else 'Add images.'}"
        )
    return len(source) // batch_size


def batch_order(step: tf.Tensor, count: int, batch_size: int, seed: int) -> tf.Tensor:
    """Returns the indices, int64 [batch_size], of the images of one step."""
    epoch_steps = count // batch_size
    epoch, within = step // epoch_steps, step % epoch_steps
    positions = within * batch_size + tf.range(batch_size, dtype=tf.int64)  # int64 [N]
    return _order(positions, count, seed, epoch)


def _order(position: tf.Tensor, count: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns the index at a position of one epoch's permutation of 0..count-1."""
    key = stream_seed(seed, "order", epoch)  # [2]
    return tf.random.experimental.index_shuffle(position, seed=key, max_index=count - 1)
