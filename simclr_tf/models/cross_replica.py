"""Batch normalisation over the replicas of a `tf.distribute` strategy, as if they were one batch.

Each replica holds n of the N = R x n rows (pixels of all its images). Per channel:

    forward    own mean, variance  -> those of all R replicas, one collective -> of the N rows
    backward   own sum of dy and of dy x^  -> their sums over all R replicas, one collective

so that output and gradients are those of one device that holds all N rows.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

from simclr_tf.models.fused_normalization import moments, normalize_by

_local = contextvars.ContextVar("_local", default=False)


@contextlib.contextmanager
def local_statistics() -> Iterator[None]:
    """Within the block a norm sees the rows of its own replica alone, and asks no other.

    For loops: a strategy's replicas cannot wait for each other within `tf.while_loop`.
    """
    token = _local.set(True)
    try:
        yield
    finally:
        _local.reset(token)


def joins_replicas() -> bool:
    """Tells whether a norm that is called here is one of several replicas' and is to join them."""
    context = tf.distribute.get_replica_context()
    return context is not None and context.num_replicas_in_sync > 1 and not _local.get()


def normalize_over_replicas(
    x: tf.Tensor, scale: tf.Variable, offset: tf.Variable | tf.Tensor, *, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises the last axis by the statistics of all replicas' rows, in float32.

    Called on every replica, with as many rows on each.

    Args:
        x: float [N, H, W, C], of this replica.
        scale, offset: float32 [C], the same on all replicas. Their gradients are this replica's
            share, as an optimiser adds up those of all replicas.
        epsilon: Added to the variance.

    Returns:
        y of the shape and dtype of `x`, and mean and unbiased variance of all rows, float32 [C],
        which have no gradient.
    """
    replicas = tf.distribute.get_replica_context()

    @tf.custom_gradient
    def normalize(
        x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], object]:
        own_mean, own_variance = moments(tf.cast(x, tf.float32))
        means, variances = tf.unstack(_gather(tf.stack([own_mean, own_variance])), axis=1)  # [R, C]
        mean = tf.reduce_mean(means, axis=0)
        variance = tf.reduce_mean(variances + tf.square(means - mean), axis=0)
        count = tf.cast(replicas.num_replicas_in_sync * (tf.size(x) // x.shape[-1]), tf.float32)
        y = normalize_by(x, scale, offset, mean, variance, epsilon=epsilon)
        deviation = tf.math.rsqrt(variance + epsilon)  # 1 over it

        def gradient(dy: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
            dy = tf.cast(dy, tf.float32)
            x_hat = (tf.cast(x, tf.float32) - mean) * deviation
            own = tf.stack([tf.reduce_sum(dy, [0, 1, 2]), tf.reduce_sum(dy * x_hat, [0, 1, 2])])
            sums = replicas.all_reduce(tf.distribute.ReduceOp.SUM, own)
            of_dy, of_dy_x_hat = tf.unstack(sums / count)  # means
            dx = scale * deviation * (dy - of_dy - x_hat * of_dy_x_hat)
            return tf.cast(dx, x.dtype), own[1], own[0]

        unbiased = variance * count / tf.maximum(count - 1.0, 1.0)
        return (y, mean, unbiased), gradient

    return normalize(x, tf.convert_to_tensor(scale), tf.convert_to_tensor(offset))


def _gather(own: tf.Tensor) -> tf.Tensor:
    """Returns what all replicas hold, [R, ...], by adding up rows that are 0 but for the owner's.

    Exact, and one collective of the kind that every strategy has.
    """
    context = tf.distribute.get_replica_context()
    is_own = tf.one_hot(
        context.replica_id_in_sync_group, context.num_replicas_in_sync, dtype=own.dtype
    )
    rows = tf.reshape(is_own, [-1] + [1] * own.shape.rank) * own
    return context.all_reduce(tf.distribute.ReduceOp.SUM, rows)
