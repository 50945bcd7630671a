"""Windows by taps against slow references; and views in parts, against the same views at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
import tensorflow as tf
from tables import pairs

from simclr_tf.augment import (
    Recipe,
    apply_views,
    crop_resize,
    draw_views,
    gaussian_blur,
    make_views,
)
from simclr_tf.augment.blur import blur_axis
from simclr_tf.augment.crop import Boxes
from simclr_tf.augment.resampling import locate, resample, to_planes
from simclr_tf.augment.rounding import round_to
from simclr_tf.augment.views import effort, map_draw, views_of

# top, left, height, width, flip: the whole, and windows as small as they are drawn
WINDOWS = np.float32(
    [
        (0.0, 0.0, 1.0, 1.0, 0.0),
        (0.0, 0.0, 1.0, 1.0, 1.0),
        (0.1, 0.2, 0.5, 0.45, 1.0),
        (0.72, 0.6, 0.28, 0.4, 0.0),
        (0.0, 0.331, 0.28, 0.471, 1.0),
        (0.3, 0.0, 0.7, 0.28, 0.0),
    ]
)
SIGMAS = np.float32([0.0, 2.0, 2.0, 1.3, 0.1, 0.7])
NOTHING = Recipe(crop=False, flip=False, jitter=False, colordrop=False)
EVERYTHING = Recipe(blur=True, noise=True, rotate=True, cutout=True)


def boxes():
    return Boxes(*(tf.constant(field) for field in WINDOWS.T))


# Enlarged, of one size, shrunk a little, by a whole number, and to a few pixels; not square.
SIZES = [
    ((24, 20), (32, 48)),
    ((24, 20), (24, 20)),
    ((24, 20), (20, 24)),
    ((100, 30), (48, 10)),
    ((64, 96), (16, 8)),
    ((11, 7), (1, 2)),
]


@pytest.mark.parametrize(("source", "size"), SIZES)
def test_windows_agree_with_the_reference(source, size):
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    ours = crop_resize(tf.constant(np.stack([image] * len(WINDOWS))), boxes(), size)
    assert ours.shape == (len(WINDOWS), *size, 3) and ours.dtype == tf.float32
    for view, window in zip(ours, WINDOWS, strict=True):
        expected = reference.crop_resize(image, *window, size)
        np.testing.assert_allclose(view, expected, atol=2e-3)  # of 255


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("source", "size"), SIZES)
def test_an_even_image_stays_even_up_to_its_edges(source, size, dtype):
    images = tf.fill([1, *source, 3], tf.constant(200, tf.uint8))
    of, middle = tf.zeros([len(WINDOWS)], tf.int32), locate(boxes(), source, size, 8)
    for sigma in (None, tf.constant(SIGMAS)):
        views = resample(
            to_planes(images), of, boxes(), middle, size, sigma=sigma, dtype=tf.as_dtype(dtype)
        )
        assert views.shape == (len(WINDOWS), size[0], 3, size[1]) and views.dtype == dtype
        np.testing.assert_allclose(tf.cast(views, tf.float32), 200.0, atol=1e-4)


@pytest.mark.parametrize("beyond", [8, 11])
@pytest.mark.parametrize(("source", "size"), SIZES)
def test_a_blurred_window_is_the_window_blurred(source, size, beyond):
    images = np.random.default_rng(0).integers(0, 256, (2, *source, 3), dtype=np.uint8)
    of = tf.constant([0, 1, 1, 0, 0, 1])
    middle = locate(boxes(), source, size, beyond)
    planes = to_planes(images)
    plain = resample(planes, of, boxes(), middle, size)
    blurred = resample(planes, of, boxes(), middle, size, sigma=tf.constant(SIGMAS))
    expected = gaussian_blur(tf.transpose(plain, [0, 1, 3, 2]), tf.constant(SIGMAS))
    np.testing.assert_allclose(tf.transpose(blurred, [0, 1, 3, 2]), expected, atol=2e-3)


def test_a_blurred_axis_agrees_with_a_matrix():
    length, values = 13, np.random.default_rng(0).random((len(SIGMAS), 13, 4), dtype=np.float32)
    distance = np.abs(np.arange(length)[:, None] - np.arange(length))
    for sigma, value, ours in zip(
        SIGMAS, values, blur_axis(tf.constant(values), SIGMAS), strict=True
    ):
        weights = np.where(distance <= 8, np.exp(-0.5 * (distance / max(sigma, 1e-2)) ** 2), 0.0)
        expected = weights @ value / weights.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.fixture(scope="module")
def drawn():
    """Five images, and draws of twelve views with every operation, each half of the time."""
    recipe = dataclasses.replace(EVERYTHING, noise_prob=0.5)
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 34, 3), dtype=np.uint8)
    of = np.random.default_rng(1).integers(0, 5, 12).astype(np.int32)
    draw = draw_views(recipe, 12, seed=3, step=1, size=(32, 36), aspect=34 / 40)
    return images, of, draw


@pairs(dtype=["float32", "bfloat16"], form=[lambda f: f, tf.function], parts=[1, 3, 12])
def test_views_in_parts_that_leave_out_what_is_not_drawn_are_the_same(drawn, parts, form, dtype):
    images, of, draw = drawn
    expected = apply_views(tf.gather(images, of), draw, (32, 36), dtype)

    @form
    def make(of, draw):
        return views_of(to_planes(images), of, draw, (32, 36), dtype, parts=parts, sparing=True)

    order = np.argsort(effort(draw), kind="stable")
    sorted_draw = map_draw(lambda field: tf.gather(field, order), draw)
    made = make(tf.gather(of, order), sorted_draw)
    assert len(made) == parts and all(view.dtype == dtype for view in made)
    ours = tf.cast(tf.concat(made, axis=0), tf.float32).numpy()
    # A bfloat16 number may fall to the other side: by half a level, which the colours raise.
    atol = 2e-5 if dtype == "float32" else 0.02
    np.testing.assert_allclose(ours, tf.cast(tf.gather(expected, order), tf.float32), atol=atol)


def test_what_is_left_out_is_not_computed(drawn, monkeypatch):
    images, of, draw = drawn

    def refuse(*_):
        raise AssertionError("computed")

    monkeypatch.setattr("simclr_tf.augment.views._rotated", refuse)
    monkeypatch.setattr("simclr_tf.augment.views._noise", refuse)
    none = tf.zeros([12])
    calm = draw._replace(degrees=none, noise=draw.noise._replace(stddev=none))
    views_of(to_planes(images), of, calm, (32, 36), "float32", parts=3, sparing=True)
    with pytest.raises(AssertionError, match="computed"):
        views_of(to_planes(images), of, calm, (32, 36), "float32", parts=3)


def test_effort_tells_apart_what_views_have_drawn(drawn):
    *_, draw = drawn
    told = np.stack([draw.sigma > 0, draw.noise.stddev > 0, draw.degrees != 0])
    assert len(np.unique(told, axis=1).T) > 3
    np.testing.assert_array_equal(effort(draw), [1, 2, 4] @ told)
    bare = draw._replace(sigma=None, noise=None, degrees=None)
    assert effort(bare) is None
    in_order = draw._replace(colour=draw.colour._replace(order=tf.zeros([12, 4], tf.int32)))
    np.testing.assert_array_equal(effort(in_order), [0, 2, 4] @ told)  # it blurs later


@pytest.mark.parametrize("size", [(16, 16), (128, 160)])
def test_crops_that_were_read_are_blurred_as_images_are(size):
    crops = np.random.default_rng(0).integers(0, 256, (5, *size, 3), dtype=np.uint8)
    sigma = tf.constant([0.0, 0.3, 1.0, 2.0, 1.6])
    draw = draw_views(NOTHING, 5, seed=0, step=0, size=size)._replace(sigma=sigma)
    (ours,) = make_views(crops, draw, size, views=1, cropped=True)
    np.testing.assert_allclose(
        ours, gaussian_blur(tf.constant(crops / np.float32(255)), sigma), atol=5e-6
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_crops_that_were_read_are_coloured_as_images_are(dtype):
    crops = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    draw = draw_views(Recipe(crop=False, flip=False), 4, seed=0, step=0, size=(16, 16))
    views = make_views(crops, draw, (16, 16), dtype, views=2, cropped=True)
    expected = apply_views(crops, draw, (16, 16))
    for v, view in enumerate(views):
        assert view.dtype == dtype
        np.testing.assert_allclose(tf.cast(view, tf.float32), expected[v::2], atol=0.01)


def test_a_blurred_view_is_the_crop_blurred():
    images = np.random.default_rng(0).integers(0, 256, (6, 13, 13, 3), dtype=np.uint8)
    recipe = dataclasses.replace(NOTHING, crop=True, flip=True, blur=True)
    draw = draw_views(recipe, 6, seed=0, step=0, size=(16, 16))._replace(sigma=tf.constant(SIGMAS))
    crops = crop_resize(tf.constant(images), draw.boxes, (16, 16)) / 255.0
    np.testing.assert_allclose(
        apply_views(images, draw, (16, 16)), gaussian_blur(crops, draw.sigma), atol=5e-6
    )


def test_rounding_to_bfloat16_is_tensorflows():
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    halves = np.float32([1 + 1 / 256, 1 + 3 / 256, -1 - 1 / 256, 0.0, -0.0, 1e-40, 3e38, np.inf])
    for numbers in (values, values * 1e-6, values * 255, halves):
        numbers = tf.constant(numbers)
        expected = tf.bitcast(tf.cast(numbers, tf.bfloat16), tf.uint16)
        np.testing.assert_array_equal(
            tf.bitcast(round_to(numbers, tf.bfloat16), tf.uint16), expected
        )
    assert round_to(tf.constant(values), tf.float32).dtype == tf.float32
