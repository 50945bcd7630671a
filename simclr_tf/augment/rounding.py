"""Rounding from float32 to the number format of the views."""

from __future__ import annotations

import tensorflow as tf


def round_to(values: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns finite float32 `values` as `dtype`, rounded to the nearest, halves to even.

    What `tf.cast` does; for bfloat16 by integer arithmetic, of which XLA makes vector instructions
    on a CPU, as it does not of its own conversion.
    """
    if dtype != tf.bfloat16:
        return tf.cast(values, dtype)
    bits = tf.bitcast(values, tf.uint32)
    places, one, half = (tf.constant(n, tf.uint32) for n in (16, 1, 0x7FFF))
    odd = tf.bitwise.right_shift(bits, places) & one
    upper = tf.bitwise.right_shift(bits + half + odd, places)
    return tf.bitcast(tf.cast(upper, tf.uint16), dtype)
