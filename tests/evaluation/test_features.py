"""Features of a data set, against the encoder that computes them."""

from __future__ import annotations

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import tiny_encoder

from simclr_tf.evaluation import embed, features, pixel_encoder
from simclr_tf.evaluation.features import put_view


def test_embed_keeps_the_order_whatever_the_size_of_batches(rng):
    model = tiny_encoder()
    images = rng.random((23, 9, 9, 3), np.float32)
    expected = model(images, training=False).numpy()
    for size in (23, 10, 1):
        batches = tf.data.Dataset.from_tensor_slices(images).batch(size)
        found = embed(model, batches)
        assert (found.dtype, found.shape) == (np.float32, (23, 6))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_embed_fills_one_array_where_the_images_are_counted(rng):
    model = tiny_encoder()
    batches = tf.data.Dataset.from_tensor_slices(rng.random((7, 9, 9, 3), np.float32)).batch(3)
    found = embed(model, batches, count=7)
    np.testing.assert_array_equal(found, embed(model, batches))
    assert found.dtype == np.float32 and np.ptp(found) > 0


def test_views_are_kept_in_half_precision_while_it_holds_them(rng):
    features = rng.normal(size=(3, 5, 4)).astype(np.float32)
    views = np.empty(features.shape, np.float16)
    for index, own in enumerate(features):
        assert put_view(views, index, own) is views
    np.testing.assert_allclose(views, features, rtol=1e-3, atol=1e-6)
    for sign in (1.0, -1.0):
        large = features[1].copy()
        large[2, 3] = sign * 65505.0  # float16 ends at 65504
        wide = put_view(views, 1, large)
        assert wide.dtype == np.float32 and views.dtype == np.float16
        np.testing.assert_array_equal(wide[1], large)
        np.testing.assert_array_equal(wide[[0, 2]], views[[0, 2]])
        assert put_view(wide, 2, features[2]) is wide
        np.testing.assert_array_equal(wide[2], features[2])


def test_embed_leaves_running_statistics_alone(rng):
    model = tiny_encoder()
    before = [v.numpy() for v in model.non_trainable_variables]
    images = rng.random((8, 9, 9, 3), np.float32)
    embed(model, tf.data.Dataset.from_tensors(images))
    for old, variable in zip(before, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_embed_traces_the_model_once_and_sees_new_weights(rng):
    traces = []

    @keras.saving.register_keras_serializable("simclr_tf_tests")
    class Counting(keras.layers.Layer):
        def call(self, inputs):
            traces.append(inputs.shape)
            return inputs * 1.0

    inputs = keras.Input((4,))
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(inputs, dense(Counting()(inputs)))
    traces.clear()
    x = rng.random((25, 4), np.float32)
    for size in (10, 7, 10, 3):  # last batches of 5, 4, 5 and 1
        embed(model, tf.data.Dataset.from_tensor_slices(x).batch(size))
    assert len(traces) == 1
    dense.kernel.assign(dense.kernel.numpy() * 0.0 + 1.0)
    found = embed(model, tf.data.Dataset.from_tensor_slices(x).batch(10))
    np.testing.assert_allclose(found, np.repeat(x.sum(axis=1, keepdims=True), 2, 1), rtol=1e-5)


def test_embed_keeps_no_model_alive(rng):
    model = tiny_encoder()
    embed(model, tf.data.Dataset.from_tensors(rng.random((2, 9, 9, 3), np.float32)))
    assert model in features._forwards
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_embed_refuses_no_batches():
    nothing = tf.data.Dataset.from_tensor_slices(np.zeros((0, 9, 9, 3), np.float32)).batch(4)
    with pytest.raises(ValueError, match="at least one batch"):
        embed(tiny_encoder(), nothing)


def test_raw_pixels_are_the_image_itself_or_its_reduction(rng):
    images = rng.random((5, 8, 8, 3), np.float32)
    batches = tf.data.Dataset.from_tensor_slices(images).batch(2)
    np.testing.assert_allclose(embed(pixel_encoder(8), batches), images.reshape(5, -1), atol=1e-6)
    flat = tf.data.Dataset.from_tensors(np.full((1, 8, 12, 3), 0.25, np.float32))
    np.testing.assert_allclose(embed(pixel_encoder(4), flat), np.full((1, 48), 0.25), atol=1e-6)
