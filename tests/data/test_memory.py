"""Parts of a set in memory: they share its memory and are read as arrays are."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf

from simclr_tf.data.memory import Rows, hold_images, take_rows, whole_of


@pytest.fixture
def part(rng):
    """Rows 4 and 1 of a set, and the same as an array."""
    whole = hold_images(rng.integers(0, 256, (6, 4, 5, 3), np.uint8))
    return take_rows(whole, np.array([4, 1])), np.asarray(whole)[[4, 1]]


def test_a_part_of_a_part_shares_the_memory_of_the_set(part):
    rows, array = part
    again = take_rows(rows, np.array([1]))
    assert isinstance(again, Rows) and whole_of(again) is whole_of(rows)
    np.testing.assert_array_equal(again, array[[1]])


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x / 255.0,
        lambda x: 1 - x,
        lambda x: x.astype(np.float32).mean(axis=(0, 1)),
        lambda x: np.stack([x, x]),
        lambda x: x == x[:1],
        lambda x: x.max(),
        lambda x: x.reshape(2, -1),
        lambda x: x[0],
        lambda x: x[:, :2, ::-1],
        lambda x: np.array([len(x), x.ndim, x.nbytes, x.size, *x.shape]),
        lambda x: np.stack(list(x)),
        lambda x: tf.constant(x).numpy(),
        lambda x: np.asarray(pickle.loads(pickle.dumps(x))),
        lambda x: np.asarray(copy.deepcopy(x)),
    ],
)
def test_a_part_is_read_as_an_array_is(part, read):
    rows, array = part
    np.testing.assert_array_equal(read(rows), read(array))


def test_a_part_cannot_be_had_as_an_array_without_a_copy(part):
    with pytest.raises(ValueError, match="copy=False"):
        part[0].__array__(copy=False)
