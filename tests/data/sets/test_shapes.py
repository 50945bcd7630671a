"""The drawn data set: a pure function of (seed, index), with exact labels and masks."""

from __future__ import annotations

import numpy as np
import pytest

from simclr_tf.data.sets import shapes
from simclr_tf.data.sets.shapes import CLASS_NAMES, make_shapes
from simclr_tf.errors import UserError

LUMA = np.array([0.299, 0.587, 0.114])


def test_types_and_balance():
    images, labels, masks = make_shapes(70, size=(24, 32), seed=0)
    assert images.shape == (70, 24, 32, 3) and images.dtype == np.uint8
    assert masks.shape == (70, 24, 32) and masks.dtype == np.uint8
    assert labels.dtype == np.int32
    assert np.bincount(labels).tolist() == [7] * 10
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 10


@pytest.mark.parametrize("count", [1, 249, 250, 251, 270])
def test_an_image_does_not_depend_on_the_count(count):
    for few, many in zip(
        make_shapes(count, size=(16, 16), seed=3),
        make_shapes(600, size=(16, 16), seed=3),
        strict=True,
    ):
        np.testing.assert_array_equal(few, many[:count])


def test_an_image_does_not_depend_on_the_chunk(monkeypatch):
    whole = make_shapes(30, size=(20, 20), seed=1)
    monkeypatch.setattr(shapes, "_CHUNK_PIXELS", 7 * 400)
    for a, b in zip(whole, make_shapes(30, size=(20, 20), seed=1), strict=True):
        np.testing.assert_array_equal(a, b)


def test_seeds_differ():
    one, two = (make_shapes(20, size=(16, 16), seed=seed) for seed in (0, 1))
    assert (one[0] != two[0]).any(axis=(1, 2, 3)).all()
    assert (one[1] != two[1]).any()


def test_the_same_scene_at_any_size():
    _, small_labels, small = make_shapes(100, size=(32, 32), seed=0)
    _, large_labels, large = make_shapes(100, size=(96, 96), seed=0)
    np.testing.assert_array_equal(small_labels, large_labels)
    assert ((small > 0) == (large[:, 1::3, 1::3] > 0)).mean() > 0.99


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (17, 40), (64, 24), (512, 512)])
def test_masks_hold_the_label_and_something_of_the_shape(size):
    count = 20 if size == (512, 512) else 250
    images, labels, masks = make_shapes(count, size=size, seed=5)
    for mask, label in zip(masks, labels, strict=True):
        assert set(np.unique(mask)) == {0, label + 1}
    share = (masks > 0).mean(axis=(1, 2))
    assert 0.01 < share.min() and share.max() < 0.8
    assert images.std(axis=(1, 2, 3)).min() > 1.0


def test_shapes_stand_out_from_their_background():
    images, _, masks = make_shapes(250, size=(64, 64), seed=2)
    luma = images @ LUMA / 255.0
    cover = masks > 0
    # Away from the anti-aliased edge: pixels whose neighbours are all on the same side. Two pixels
    # far, as sharp tips cover parts of pixels that are not in the mask.
    shifts = [(i, j) for i in range(-2, 3) for j in range(-2, 3)]
    near = np.stack([np.roll(cover, shift, axis=(1, 2)) for shift in shifts])
    for value, inside, around in zip(luma, near.all(axis=0), near.any(axis=0), strict=True):
        if inside.any():
            ours, theirs = value[inside], value[~around]
            gap = max(ours.min() - theirs.max(), theirs.min() - ours.max())
            assert gap > shapes.CONTRAST[0] - 0.01


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_every_class_fills_the_unit_circle(name):
    axis = np.linspace(-1.3, 1.3, 261)
    x, y = np.meshgrid(axis, axis)
    inside = shapes._DISTANCES[name](x[None], y[None])[0] < 0.0
    reach = np.hypot(x, y)[inside].max()
    assert 0.8 < reach < 1.2


def test_small_sizes_are_refused():
    with pytest.raises(UserError, match="16 pixels or more, got 8x32"):
        make_shapes(10, size=(8, 32), seed=0)
