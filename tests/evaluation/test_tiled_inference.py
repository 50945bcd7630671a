"""Segmentation in windows: against a reference that holds everything, and in bounded memory."""

from __future__ import annotations

import itertools
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from simclr_tf.evaluation import tiled_inference
from simclr_tf.evaluation.segmentation import make_segment
from simclr_tf.evaluation.tiled_inference import segment_image

KERNEL = np.random.default_rng(7).normal(0, 9, (3, 5)).astype(np.float32)


def by_pixel(pixels):
    """Logits of 5 classes that depend on the pixel alone: windows cannot change them."""
    return pixels @ KERNEL


def places(height, width):
    """An image whose pixels tell where they are: (row, column, 255 - row)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 255 - rows], axis=-1).astype(np.uint8)


class Recorder:
    """Predicts by the pixel and by its place in the window; notes where windows of `places` lay."""

    def __init__(self):
        self.windows = []  # (top, left, height, width)

    def __call__(self, pixels):
        assert pixels.dtype == np.float32 and pixels.shape[0] == 1
        height, width = pixels.shape[1:3]
        top, left, _ = np.rint(pixels[0, 0, 0] * 255).astype(int)
        self.windows.append((top, left, height, width))
        # Steep towards one corner, so that windows contradict each other where they overlap.
        slope = np.linspace(-3, 3, height)[:, None] + np.linspace(-2, 2, width)
        signs = np.array([1, -1, 0.5, -0.5, 0])
        logits = by_pixel(pixels) / 6 + slope[..., None] * signs
        return logits.astype(np.float32)


def random_image(rng, height, width):
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def blended_at_once(windows, logits_of, height, width):
    """The reference: probabilities [H, W, 5] of all windows with tents, divided by their sum."""
    total, weight = np.zeros((height, width, 5)), np.zeros((height, width, 1))
    for top, left, h, w in windows:
        logits = np.float64(logits_of(top, left, h, w))
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        odds /= odds.sum(-1, keepdims=True)
        for y, x in itertools.product(range(h), range(w)):
            tent = min(y + 0.5, h - y - 0.5) * min(x + 0.5, w - x - 0.5)
            total[top + y, left + x] += tent * odds[y, x]
            weight[top + y, left + x] += tent
    return total / weight


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (37, 53), (8, 90), (5, 3), (1, 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_what_depends_on_the_pixel_alone_is_the_same_in_windows(rng, size, overlap):
    image = random_image(rng, *size)
    expected = by_pixel(image / np.float32(255)).argmax(-1)
    np.testing.assert_array_equal(segment_image(by_pixel, image), expected)
    for tile in ((16, 16), (9, 21), (64, 8)):
        classes = segment_image(by_pixel, image, tile=tile, overlap=overlap)
        assert classes.dtype == np.uint8
        np.testing.assert_array_equal(classes, expected)


@pytest.mark.parametrize("scale", [0.31, 0.5, 1.0, 1.7, 3.0])
@pytest.mark.parametrize("size", [(45, 31), (31, 64)])
def test_windows_make_of_a_resized_image_what_the_whole_makes(rng, scale, size):
    image = random_image(rng, *size)
    whole = segment_image(by_pixel, image, scale=scale)
    assert whole.shape == size
    for overlap in (0.0, 0.3):
        classes = segment_image(by_pixel, image, scale=scale, tile=(10, 13), overlap=overlap)
        # Blended probabilities are rounded otherwise: a tie may fall to the other side.
        assert np.mean(classes != whole) < 2e-3


@pytest.mark.parametrize("size", [(50, 33), (33, 50)])
@pytest.mark.parametrize("scale", [0.4, 1.0, 2.3])
def test_the_whole_image_is_one_window_resized_back(rng, size, scale):
    image, seen = random_image(rng, *size), []

    def predict(pixels):
        seen.append(pixels)
        return by_pixel(pixels)

    classes = segment_image(predict, image, scale=scale)
    (pixels,) = seen
    height, width = round(scale * size[0]), round(scale * size[1])
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixels[0], resized.astype(np.float32) / 255)
    odds = tf.nn.softmax(by_pixel(pixels))
    back = tf.image.resize(odds, size, method="bilinear")[0].numpy()
    assert np.mean(classes != back.argmax(-1)) < 2e-3


@pytest.mark.parametrize("size", [(61, 40), (40, 61), (64, 64), (23, 90)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
def test_blending_is_that_of_a_reference_that_holds_everything(size, overlap):
    record, tile = Recorder(), (24, 31)
    classes = segment_image(record, places(*size), tile=tile, overlap=overlap)
    tile = (min(tile[0], size[0]), min(tile[1], size[1]))
    assert {window[2:] for window in record.windows} == {tile}  # one shape: nothing is retraced
    assert len(set(record.windows)) == len(record.windows)
    for axis in (0, 1):
        starts = sorted({window[axis] for window in record.windows})
        assert starts[0] == 0 and starts[-1] + tile[axis] == size[axis]
        assert all(np.diff(starts) <= max(1, tile[axis] * (1 - overlap)))

    def logits_of(top, left, h, w):
        pixels = places(*size)[None, top : top + h, left : left + w] / np.float32(255)
        return Recorder()(pixels)[0]

    expected = blended_at_once(record.windows, logits_of, *size)
    first, second = np.sort(expected, axis=-1)[..., -1], np.sort(expected, axis=-1)[..., -2]
    clear = first - second > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(classes[clear], expected.argmax(-1)[clear])


def test_windows_do_matter_to_the_reference():
    """The comparison above would be worth nothing if all windows said the same."""
    image = places(61, 40)
    tiled = segment_image(Recorder(), image, tile=(24, 31))
    assert np.mean(tiled != segment_image(Recorder(), image)) > 0.02


def test_large_images_are_cut_by_themselves(monkeypatch):
    monkeypatch.setattr(tiled_inference, "WHOLE_PIXELS", 900)
    monkeypatch.setattr(tiled_inference, "WINDOW", (20, 20))
    for size, scale, shapes in (
        ((30, 30), 1.0, {(30, 30)}),
        ((31, 30), 1.0, {(20, 20)}),
        ((60, 60), 0.5, {(30, 30)}),
        ((30, 30), 1.5, {(20, 20)}),
        ((10, 200), 1.0, {(10, 20)}),
    ):
        record = Recorder()
        assert segment_image(record, places(*size), scale=scale).shape == size
        assert {window[2:] for window in record.windows} == shapes


@pytest.mark.parametrize("size", [(4000, 48), (48, 4000)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_no_array_of_all_probabilities_is_held(rng, size, scale, monkeypatch):
    monkeypatch.setattr(tiled_inference, "PART_ELEMENTS", 2**14)
    image, classes = random_image(rng, *size), 32
    logits = rng.normal(size=(1, 64, 64, classes)).astype(np.float32)

    def predict(pixels):
        return logits[:, : pixels.shape[1], : pixels.shape[2]]

    segment_image(predict, image[:99, :99], tile=(64, 64))  # what is loaded once
    tracemalloc.start()
    segment_image(predict, image, scale=scale, tile=(64, 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    everything = round(scale * size[0]) * round(scale * size[1]) * classes * 4
    assert peak < everything / 3


def test_a_network_is_traced_once_for_all_sizes(rng):
    traced = []

    class Noting(keras.layers.Layer):
        def call(self, x):
            traced.append(x.shape)
            return x

    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="logits")(Noting()(images))
    segment = make_segment(keras.Model(images, x))
    traced.clear()  # building the model calls it once
    for size in ((16, 16), (21, 40), (33, 9)):
        classes = segment_image(segment, random_image(rng, *size), tile=(16, 16))
        assert classes.max() < 4
    assert len(traced) == 1
