"""Named streams of stateless randomness.

Every random number of a run is a function of (seed, stream, step), never of a hidden generator, so
that a run that was stopped and resumed draws the same numbers as one that was not.
"""

from __future__ import annotations

import zlib

import tensorflow as tf


def stream_seed(seed: int, stream: str, step: tf.Tensor | int = 0) -> tf.Tensor:
    """Returns the seed of one stream at one step, for the `tf.random.stateless_*` functions.

    Args:
        seed: The run's seed, 0 to 2**31 - 1.
        stream: Name of the purpose, such as "order" or "crop"; streams are independent.
        step: Integer scalar: the step, epoch or index that is drawn for.

    Returns:
        int32 tensor of shape [2].
    """
    root = tf.constant([seed, zlib.crc32(stream.encode()) & 0x7FFFFFFF], tf.int32)  # [2]
    return tf.random.experimental.stateless_fold_in(root, tf.cast(step, tf.int32), alg="philox")
