"""Features of a data set and the classifiers on them, against loops and scikit-learn."""

from __future__ import annotations

import gc
import math
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import tiny_encoder

from simclr_tf.evaluation import (
    embed,
    features,
    knn,
    knn_accuracy,
    knn_predict,
    logistic_regression,
    pixel_encoder,
)
from simclr_tf.evaluation.features import put_view
from simclr_tf.evaluation.knn import choose_knn, knn_scores
from simclr_tf.evaluation.preparation import hold_back_tenth


def clusters(rng, count, *, num_classes=4, width=8, noise=0.7):
    """Features float32 [count, width] around a direction per class, and labels int32 [count]."""
    centres = np.random.default_rng(1).normal(size=(num_classes, width))
    labels = rng.integers(0, num_classes, count).astype(np.int32)
    noisy = centres[labels] + rng.normal(0, noise, (count, width))
    return (noisy * rng.uniform(0.1, 10.0, (count, 1))).astype(np.float32), labels


def slow_votes(train, labels, query, *, k, temperature, num_classes):
    """The votes that each class gets for one query, in float64."""
    cosines = [x @ query / (np.linalg.norm(x) * np.linalg.norm(query)) for x in train.astype(float)]
    votes = [0.0] * num_classes
    for index in sorted(range(len(train)), key=lambda i: -cosines[i])[:k]:
        votes[labels[index]] += math.exp(cosines[index] / temperature)
    return votes


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("k", [1, 5, 60, 500])  # the last: more than there are
def test_predictions_are_those_of_a_loop_over_neighbours(rng, k, temperature):
    train, labels = clusters(rng, 60)
    queries, _ = clusters(rng, 40)
    choice = {"k": k, "temperature": temperature, "num_classes": 4}
    predicted = knn_predict(train, labels, queries, **choice)
    expected = [int(np.argmax(slow_votes(train, labels, q, **choice))) for q in queries]
    assert (predicted.dtype, predicted.shape) == (np.int32, (40,))
    np.testing.assert_array_equal(predicted, expected)


def test_nearer_neighbours_outvote_more_of_them():
    # Cosines 0.99 (class 1) and twice 0.6 (class 0): at 0.1 the near one weighs e^3.9 times more.
    train = np.array([[0.99, math.sqrt(1 - 0.99**2)], [0.6, 0.8], [0.6, -0.8]])
    arguments = {"k": 3, "num_classes": 2}
    query = np.array([[1.0, 0.0]])
    assert knn_predict(train, [1, 0, 0], query, temperature=0.1, **arguments).tolist() == [1]
    assert knn_predict(train, [1, 0, 0], query, temperature=10.0, **arguments).tolist() == [0]


def test_a_tiny_temperature_does_not_overflow(rng):
    train, labels = clusters(rng, 50)
    choice = {"k": 10, "num_classes": 4}
    sharp = knn_predict(train, labels, train, temperature=1e-4, **choice)
    np.testing.assert_array_equal(sharp, labels)  # each image is its own nearest


def test_blocks_change_nothing(rng, monkeypatch):
    train, labels = clusters(rng, 64)
    queries, _ = clusters(rng, 37)
    choice = {"k": 7, "temperature": 0.1, "num_classes": 4}
    whole = knn_predict(train, labels, queries, **choice)
    monkeypatch.setattr(knn, "BLOCK_ELEMENTS", 64 * 5)  # 5 queries at once, the last 2
    np.testing.assert_array_equal(knn_predict(train, labels, queries, **choice), whole)


def test_knn_accuracy_is_the_share_found(rng):
    train, labels = clusters(rng, 300)
    queries, truth = clusters(rng, 100)
    choice = {"k": 20, "temperature": 0.1, "num_classes": 4}
    share = np.mean(knn_predict(train, labels, queries, **choice) == truth)
    assert knn_accuracy(train, labels, queries, truth, **choice) == share
    assert share > 0.6  # chance: 0.25


@pytest.mark.parametrize("k", [1, 7, 500])
def test_scores_are_the_votes_of_a_loop_over_neighbours(rng, monkeypatch, k):
    train, labels = clusters(rng, 60, num_classes=7)
    queries, _ = clusters(rng, 37, num_classes=7)
    choice = {"k": k, "temperature": 0.1, "num_classes": 7}
    monkeypatch.setattr(knn, "BLOCK_ELEMENTS", 60 * 5)  # 5 queries at once, the last 2
    scores = knn_scores(train, labels, queries, **choice)
    assert (scores.dtype, scores.shape) == (np.float32, (37, 7))
    for found, query in zip(scores, queries, strict=True):
        expected = np.array(slow_votes(train, labels, query, **choice))
        nearest = slow_votes(train, labels, query, **choice | {"k": 1})
        np.testing.assert_allclose(found, expected / max(nearest), rtol=1e-4)
    np.testing.assert_array_equal(
        scores.argmax(axis=1), knn_predict(train, labels, queries, **choice)
    )


def slow_choice(train, labels, *, num_classes, seed, ks, temperatures):
    """The accuracy of every pair on the held-back tenth."""
    rest, held = hold_back_tenth(labels, seed)
    return {
        (k, temperature): knn_accuracy(
            train[rest], labels[rest], train[held], labels[held],
            k=k, temperature=temperature, num_classes=num_classes,
        )
        for k in sorted(ks)
        for temperature in temperatures
    }  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_k_chosen_is_the_best_of_all(rng, monkeypatch, seed, num_classes):
    train, labels = clusters(rng, 400, num_classes=num_classes, noise=1.5)
    choice = {"ks": (20, 1, 5, 100), "temperatures": (0.5, 0.01, 0.1)}
    arguments = {"num_classes": num_classes, "seed": seed, **choice}
    slow = slow_choice(train, labels, **arguments)
    monkeypatch.setattr(knn, "BLOCK_ELEMENTS", 400 * 7)
    found = choose_knn(train, labels, **arguments)
    best = max(slow, key=slow.get)  # the first of equals: the smaller k
    assert found == (*best, slow[best])
    assert min(slow.values()) < slow[best]


def test_of_equal_ks_the_smallest_is_chosen(rng):
    train, labels = clusters(rng, 100, noise=0.01)
    found = choose_knn(train, labels, num_classes=4, seed=0, ks=(10, 5))
    assert found == (5, 0.05, 1.0)


def test_ks_larger_than_the_bank_are_dropped(rng):
    # All neighbours together always vote for the class with more images, which 20 of 30 have.
    train = np.ones((30, 3), np.float32)
    labels = np.repeat([0, 1], [20, 10])
    assert choose_knn(train, labels, num_classes=2, seed=0, ks=(27, 28)).k == 27
    assert choose_knn(train, labels, num_classes=2, seed=0, ks=(28, 50)).k == 28  # all that vote
    neighbours = []
    original = knn._blocks_of_neighbours

    def seen(train_features, train_labels, features, k):
        neighbours.append(k)
        return original(train_features, train_labels, features, k)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "_blocks_of_neighbours", seen)
        choose_knn(train, labels, num_classes=2, seed=0, ks=(5, 27, 28))
    assert neighbours == [27]  # once for all settings


def test_no_query_gives_no_prediction_and_no_training_feature_is_refused(rng):
    train, labels = clusters(rng, 10)
    choice = {"k": 3, "temperature": 0.1, "num_classes": 4}
    assert knn_predict(train, labels, train[:0], **choice).shape == (0,)
    with pytest.raises(ValueError, match="at least one training feature"):
        knn_predict(train[:0], labels[:0], train, **choice)


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


def test_logistic_regression_learns_what_can_be_separated(rng):
    train, labels = clusters(rng, 600, noise=0.3)
    train /= np.linalg.norm(train, axis=1, keepdims=True)
    train *= np.float32(10.0) ** np.arange(-3, 5)  # the scale of a feature does not matter
    predicted = logistic_regression(train[:400], labels[:400], train[400:])
    assert predicted.dtype == np.int32
    assert np.mean(predicted == labels[400:]) > 0.95


def test_logistic_regression_gives_the_labels_it_was_given(rng):
    x = np.concatenate([rng.normal(-3, 1, (30, 2)), rng.normal(3, 1, (30, 2))])
    labels = np.repeat([7, 2], 30)
    np.testing.assert_array_equal(logistic_regression(x, labels, [[-3, -3], [3, 3]]), [7, 2])


def test_logistic_regression_may_stop_early_without_a_warning(rng, recwarn):
    train, labels = clusters(rng, 100)
    logistic_regression(train, labels, train, max_iterations=1)
    assert not recwarn.list
