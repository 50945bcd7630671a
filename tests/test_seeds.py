"""Seeds: one for each purpose and step, the same on every run."""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf

from simclr_tf.seeds import stream_seed


def test_a_seed_is_two_integers_that_never_change():
    # Numbers of a run that was stopped under an older version must come again under a newer one.
    key = stream_seed(7, "order", 3)
    assert (key.dtype, key.shape) == (tf.int32, (2,))
    np.testing.assert_array_equal(key, stream_seed(7, "order", 3))
    np.testing.assert_array_equal(key, [344758709, 3])


def test_every_seed_stream_and_step_has_its_own():
    seeds, streams, steps = (0, 1, 2**31 - 1), ("order", "views/crop", "views/blur"), (0, 1, 10**6)
    keys = {
        tuple(stream_seed(*choice).numpy()) for choice in itertools.product(seeds, streams, steps)
    }
    assert len(keys) == 27


def test_a_step_may_be_a_tensor_in_a_graph_or_under_xla():
    for options in ({}, {"jit_compile": True}):
        compiled = tf.function(lambda step: stream_seed(1, "order", step), **options)
        for step in (0, 12_345):
            key = compiled(tf.constant(step, tf.int64))
            np.testing.assert_array_equal(key, stream_seed(1, "order", step))


def test_streams_give_unrelated_numbers():
    draws = [
        tf.random.stateless_uniform([4_096], stream_seed(0, stream, step), alg="philox")
        for stream in ("a", "b")
        for step in (0, 1, 2)
    ]
    assert np.abs(np.corrcoef(draws) - np.eye(6)).max() < 4.5 / np.sqrt(4_096)
