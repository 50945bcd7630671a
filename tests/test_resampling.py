"""Sampling matrices in bands against whole ones, and both against slow references."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
import tensorflow as tf

from simclr_tf.augment import (
    Recipe,
    apply_views,
    crop_resize,
    draw_views,
    gaussian_blur,
    make_views,
    resampling,
)
from simclr_tf.augment.filters import blur_axis
from simclr_tf.augment.geometry import Boxes
from simclr_tf.augment.resampling import cut_axis, sample_axis
from simclr_tf.augment.rounding import round_to
from simclr_tf.augment.views import map_draw

# top or left, extent, flip: the whole, its ends, and windows as small as they are drawn
WINDOWS = np.float32(
    [(0, 1, 0), (0, 1, 1), (0, 0.28, 0), (0.72, 0.28, 0), (0.72, 0.28, 1), (0.331, 0.471, 1)]
)
SIGMAS = np.float32([0.0, 2.0, 2.0, 1.3, 0.1, 0.7])
NOTHING = Recipe(crop=False, flip=False, jitter=False, colordrop=False)
BANDED = [(128, 128), (224, 224), (300, 96), (96, 192), (1000, 64)]


@pytest.fixture
def whole(monkeypatch):
    """Calls a function with every axis in one block."""

    def call(function, *args, **kwargs):
        with monkeypatch.context() as patched:
            patched.setattr(resampling, "MOST", 0.0)
            return function(*args, **kwargs)

    return call


def axis(source, target, *, sigma=None):
    start, extent, flip = (tf.constant(field) for field in WINDOWS.T)
    return sample_axis(start, extent, flip, source=source, target=target, sigma=sigma)


def placed(bands, source):
    """Bands as matrices [N, target, source]."""
    weights, first = (np.asarray(part) for part in bands)
    views, blocks, block, band = weights.shape
    matrix = np.zeros((views, blocks * block, source), np.float32)
    for view, b in np.ndindex(views, blocks):
        begin = first[view, b]
        assert 0 <= begin <= source - band
        matrix[view, b * block : (b + 1) * block, begin : begin + band] = weights[view, b]
    return matrix


@pytest.mark.parametrize(
    ("source", "target", "reach"),
    [*((*sides, 0) for sides in BANDED), (128, 128, 8), (224, 224, 8), (2048, 224, 8)],
)
def test_large_axes_are_cut(source, target, reach):
    block, band = cut_axis(source, target, reach)
    assert target % block == 0 and block < target and band <= source / 2


@pytest.mark.parametrize(("source", "target"), [(32, 32), (40, 96), (97, 101), (500, 211)])
def test_small_and_prime_axes_are_whole(source, target):
    assert cut_axis(source, target, 8) == (target, source)


@pytest.mark.parametrize("blurred", [False, True])
@pytest.mark.parametrize(("source", "target"), [*BANDED, (7, 20), (20, 7), (11, 11), (97, 101)])
def test_bands_are_the_whole_matrix_and_rows_sum_to_one(source, target, blurred, whole):
    sigma = tf.constant(SIGMAS) if blurred else None
    matrix = placed(axis(source, target, sigma=sigma), source)
    np.testing.assert_allclose(matrix.sum(axis=-1), 1.0, atol=3e-5)
    assert matrix.min() >= 0.0
    expected = whole(axis, source, target, sigma=sigma)
    assert expected.weights.shape[1:] == (1, target, source)
    np.testing.assert_allclose(matrix, placed(expected, source), atol=3e-5)


@pytest.mark.parametrize(("source", "target"), [(224, 224), (300, 96), (13, 16)])
def test_a_blurred_matrix_blurs_what_it_samples(source, target):
    signal = np.random.default_rng(0).random((len(WINDOWS), source, 1), dtype=np.float32)
    plain = placed(axis(source, target), source) @ signal
    folded = placed(axis(source, target, sigma=tf.constant(SIGMAS)), source) @ signal
    np.testing.assert_allclose(folded, blur_axis(tf.constant(plain), SIGMAS), atol=3e-5)


@pytest.mark.parametrize(("source", "size"), [((100, 30), (48, 10)), ((30, 70), (8, 64))])
def test_crops_of_large_images_agree_with_the_reference(source, size):
    assert any(cut_axis(*axis) != axis[::-1] for axis in zip(source, size, strict=True))
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    windows = [(0.1, 0.2, 0.5, 0.45, 1.0), (0.0, 0.0, 1.0, 1.0, 0.0), (0.7, 0.6, 0.3, 0.4, 0.0)]
    boxes = Boxes(*(tf.constant(field) for field in zip(*windows, strict=True)))
    ours = crop_resize(tf.constant(np.stack([image] * len(windows))), boxes, size)
    for view, window in zip(ours, windows, strict=True):
        expected = reference.crop_resize(image, *window, size)
        np.testing.assert_allclose(view, expected, atol=2e-3)  # of 255


@pytest.fixture(scope="module")
def large():
    """Four images, and draws of two views of each with every operation but noise."""
    recipe = Recipe(blur=True, rotate=True, cutout=True, blur_prob=0.5)
    images = np.random.default_rng(0).integers(0, 256, (4, 128, 136, 3), dtype=np.uint8)
    return images, draw_views(recipe, 8, seed=3, step=1, size=(128, 128), aspect=136 / 128)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 2e-5), ("bfloat16", 0.02)])
def test_views_by_bands_are_the_views_by_whole_matrices(large, whole, rotated, dtype, atol):
    images, draw = large
    draw = draw if rotated else draw._replace(degrees=None)
    banded = make_views(images, draw, (128, 128), dtype)
    expected = whole(make_views, images, draw, (128, 128), "float32")
    for ours, theirs in zip(banded, expected, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(tf.cast(ours, tf.float32), theirs, atol=atol)


def test_views_by_bands_are_the_same_in_a_graph_under_xla_and_alone(large):
    images, draw = large

    def make(images):
        return make_views(images, draw, (128, 128))

    eager = make(tf.constant(images))
    for compiled in (tf.function(make), tf.function(make, jit_compile=True)):
        for ours, theirs in zip(compiled(tf.constant(images)), eager, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)
    alone = map_draw(lambda field: field[4:6], draw)
    for ours, theirs in zip(make_views(images[2:3], alone, (128, 128)), eager, strict=True):
        np.testing.assert_allclose(ours[0], theirs[2], atol=1e-6)


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
