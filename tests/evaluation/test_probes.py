"""Probes on features: each against a slow reference, and what they may not look at."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model import LogisticRegression
from tiny import shallow_encoders

from simclr_tf import metrics
from simclr_tf.errors import UserError
from simclr_tf.evaluation import heads, logistic, neighbours, preparation, probes

ROOT = Path(__file__).resolve().parents[2]
CHOOSERS = (neighbours.choose_knn, logistic.choose_penalty, probes.choose_head)


def clusters(seed, count, *, num_classes=4, width=6, noise=1.0):
    """Features float32 [count, width] around a point per class, and labels int32 [count]."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(num_classes, width))
    labels = rng.integers(0, num_classes, count).astype(np.int32)
    features = 5.0 + 3.0 * (centres[labels] + rng.normal(0, noise, (count, width)))
    return features.astype(np.float32), labels


def scaled(train, *others):
    """The arrays in float64, shifted and scaled by the first."""
    mean, deviation = train.mean(0, dtype=float), train.std(0, dtype=float)
    return [(x - mean) / deviation for x in (train, *others)]


def fit_slowly(x, labels, penalty, iterations=5000):
    """scikit-learn's logistic regression in float64 at our penalty, for standardised features."""
    strength = (2.0 if len(np.unique(labels)) == 2 else 1.0) / penalty
    model = LogisticRegression(C=strength, max_iter=iterations, tol=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(np.asarray(x, float), labels)


def share(predicted, truth):
    return float(np.mean(np.asarray(predicted) == truth))


def in_classes(chooser, num_classes):
    """Arguments of a chooser with the number of classes, where it takes that."""
    names = inspect.signature(chooser).parameters
    return {"num_classes": num_classes} if "num_classes" in names else {}


# --- what is held back


def test_a_tenth_of_each_class_is_held_back():
    labels = np.repeat([0, 1, 2], [100, 40, 5])
    rest, held = preparation.hold_back_tenth(labels, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[held]), [10, 4, 1])
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, held])), np.arange(145))
    assert not np.array_equal(held, preparation.hold_back_tenth(labels, seed=1)[1])


def test_a_class_never_loses_its_only_image():
    labels = np.array([3, 0, 0, 0, 7])
    rest, held = preparation.hold_back_tenth(labels, seed=0)
    assert labels[held].tolist() == [0]
    assert sorted(labels[rest]) == [0, 0, 3, 7]


def test_mean_and_deviation_count_the_rows_asked_for_in_every_view(rng, monkeypatch):
    monkeypatch.setattr(preparation, "BLOCK_ROWS", 3)
    features = rng.normal(100.0, 0.1, (2, 10, 4)).astype(np.float32)
    features[..., 2] = 12345.678  # constant
    rows = np.array([0, 2, 3, 7, 9])
    mean, deviation = preparation.mean_and_deviation(features, rows)
    used = features[:, rows].reshape(-1, 4).astype(float)
    np.testing.assert_allclose(mean, used.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(deviation[[0, 1, 3]], used.std(axis=0)[[0, 1, 3]], rtol=1e-5)
    assert deviation[2] == 1.0
    whole = preparation.mean_and_deviation(features[0])[0]
    np.testing.assert_allclose(whole, features[0].mean(axis=0, dtype=float), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_a_trace_of_a_feature_is_not_blown_up(rng, scale):
    """Of few images, one may show a feature faintly that a test image shows whole."""
    features = rng.normal(3.0, 1.0, (20, 5)) * scale
    features[:, 3] = 0.0
    features[7, 3] = 1e-4 * scale
    features[:, 4] = 0.0
    mean, deviation = preparation.mean_and_deviation(features.astype(np.float32))
    spread = features[:, :3].std(axis=0)
    np.testing.assert_allclose(deviation[:3], spread, rtol=1e-5)  # ordinary ones keep their own
    typical = np.sqrt(np.mean([*spread**2, features[:, 3].var()]))
    np.testing.assert_allclose(deviation[3], preparation.LEAST_DEVIATION * typical, rtol=1e-5)
    assert deviation[4] == 1.0
    assert np.abs((3.0 * scale - mean[3]) / deviation[3]) < 50.0


def test_constant_features_alone_have_deviation_1():
    mean, deviation = preparation.mean_and_deviation(np.full((6, 3), 0.3, np.float32))
    np.testing.assert_array_equal(deviation, 1.0)
    np.testing.assert_allclose(mean, 0.3, rtol=1e-6)


@pytest.mark.parametrize("chooser", CHOOSERS)
def test_no_choice_can_see_the_test_images(chooser):
    arrays = [n for n in inspect.signature(chooser).parameters if "features" in n or "labels" in n]
    assert len(arrays) == 2


@pytest.mark.parametrize("chooser", CHOOSERS)
def test_a_seed_chooses_the_same_twice(chooser):
    train, labels = clusters(0, 120)
    arguments = {**in_classes(chooser, 4), **({"epochs": 3} if "head" in chooser.__name__ else {})}
    first, second = (chooser(train, labels, seed=3, **arguments) for _ in range(2))
    assert first == second
    assert 0.5 < first.accuracy <= 1.0  # chance: 0.25


@pytest.mark.parametrize("chooser", CHOOSERS)
def test_an_image_a_class_leaves_nothing_to_choose_by(chooser):
    train, _ = clusters(0, 6)
    found = chooser(train, np.arange(6), seed=0, **in_classes(chooser, 6))
    assert found.accuracy is None
    if chooser is neighbours.choose_knn:
        assert (found.k, found.temperature) == (1, 0.05)
    elif chooser is logistic.choose_penalty:
        assert found.penalty == 1.0
    else:
        assert (found.learning_rate, found.weight_decay) == (0.01, 0.0)


@pytest.mark.parametrize("chooser", CHOOSERS)
def test_a_class_may_be_missing_in_what_is_held_back(chooser):
    train, labels = clusters(0, 60, num_classes=3, noise=0.3)
    train, labels = np.concatenate([train, train[:1] + 50.0]), np.append(labels, 4)  # 3 is nowhere
    found = chooser(train, labels, seed=0, **in_classes(chooser, 5))
    assert found.accuracy == 1.0


# --- logistic regression


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("penalty", [0.1, 10.0, 1000.0])
def test_the_fit_minimises_the_objective(penalty, num_classes):
    train, labels = clusters(0, 300, num_classes=num_classes)
    test, _ = clusters(1, 100, num_classes=num_classes)
    x, y = scaled(train, test)
    weights = descend_objective(x, labels, penalty, num_classes)
    expected = softmax(y @ weights[:, :-1].T + weights[:, -1], axis=1)
    arguments = {"penalty": penalty, "num_classes": num_classes, "max_iterations": 1000}
    scores = logistic.logistic_scores(train, labels, test, **arguments)
    assert (scores.dtype, scores.shape) == (np.float32, (100, num_classes))
    np.testing.assert_allclose(np.exp(scores), expected, atol=1e-3)


def descend_objective(x, labels, penalty, num_classes):
    """Weights [K, F + 1] at the minimum of the sum that the module names, in float64."""

    def objective(flat):
        weights = flat.reshape(num_classes, -1)
        likely = log_softmax(x @ weights[:, :-1].T + weights[:, -1], axis=1)
        residual = np.exp(likely) - np.eye(num_classes)[labels]
        slope = np.c_[residual.T @ x + penalty * weights[:, :-1], residual.sum(axis=0)]
        loss = -likely[np.arange(len(x)), labels].sum()
        return loss + penalty / 2 * np.sum(weights[:, :-1] ** 2), slope.ravel()

    start = np.zeros(num_classes * (x.shape[1] + 1))
    found = minimize(objective, start, jac=True, options={"gtol": 1e-6})
    return found.x.reshape(num_classes, -1)


def test_an_unlikely_class_keeps_its_order():
    # Probabilities far below float32's: their logarithms still say which class is the next best.
    labels = np.repeat([0, 1, 2], 20)
    train = np.array([[0.0], [1.0], [2.0]])[labels]
    scores = logistic.logistic_scores(train, labels, [[-300.0]], penalty=0.1, num_classes=3)
    assert np.isfinite(scores).all() and scores[0, 2] < scores[0, 1] < -200 < scores[0, 0]


def test_one_class_alone_is_certain():
    train, _ = clusters(0, 30)
    ones = np.ones(30, int)
    scores = logistic.logistic_scores(train, ones, train[:4], penalty=1.0, num_classes=3)
    np.testing.assert_array_equal(scores, [[-np.inf, 0.0, -np.inf]] * 4)
    assert logistic.choose_penalty(train, ones, seed=0) == (pytest.approx(1e5), 1.0)


def test_no_feature_gives_no_score():
    train, labels = clusters(0, 30)
    scores = logistic.logistic_scores(train, labels, train[:0], penalty=1.0, num_classes=4)
    assert scores.shape == (0, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value encountered in subtract")
def test_a_feature_that_is_not_finite_is_refused(value):
    train, labels = clusters(0, 30)
    spoilt = train.copy()
    spoilt[3, 2] = value
    for arrays in ((spoilt, labels, train), (train, labels, spoilt)):
        with pytest.raises(ValueError, match="contains"):
            logistic.logistic_scores(*arrays, penalty=1.0, num_classes=4)


def test_a_fit_gives_the_same_bits_twice():
    train, labels = clusters(0, 200)
    first, second = (
        logistic.logistic_scores(train, labels, train, penalty=1.0, num_classes=4) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("shared_from", [0, 2**60])
def test_how_many_threads_share_a_fit_changes_little(monkeypatch, shared_from):
    train, labels = clusters(0, 200)
    arguments = {"penalty": 1.0, "num_classes": 4}
    scores = logistic.logistic_scores(train, labels, train, **arguments)
    monkeypatch.setattr(logistic, "SHARED_FROM", shared_from)
    again = logistic.logistic_scores(train, labels, train, **arguments)
    np.testing.assert_allclose(np.exp(again), np.exp(scores), atol=1e-3)


def test_a_class_without_images_is_impossible():
    train, labels = clusters(0, 50, num_classes=3)
    arguments = {"penalty": 1.0, "num_classes": 6}
    scores = logistic.logistic_scores(train, 2 * labels, train, **arguments)
    assert np.isneginf(scores[:, [1, 3, 5]]).all()
    np.testing.assert_allclose(np.exp(scores[:, ::2]).sum(axis=1), 1.0, rtol=1e-5)
    narrow = logistic.logistic_scores(train, labels, train, penalty=1.0, num_classes=3)
    np.testing.assert_array_equal(scores[:, ::2], narrow)


def test_logistic_scores_refuses_labels_that_are_no_class():
    train, labels = clusters(0, 20)
    with pytest.raises(ValueError, match=r"labels in 0\.\.2, got 0\.\.3"):
        logistic.logistic_scores(train, labels, train, penalty=1.0, num_classes=3)
    with pytest.raises(ValueError, match="at least one training feature"):
        logistic.logistic_scores(train[:0], labels[:0], train, penalty=1.0, num_classes=4)


def test_the_penalties_are_the_papers():
    assert len(logistic.PENALTIES) == 45
    assert logistic.PENALTIES[0] == pytest.approx(1e-6)
    assert logistic.PENALTIES[-1] == pytest.approx(1e5)


@pytest.mark.parametrize("width", [6, 80])
def test_the_penalty_is_among_the_best_of_all_45(width):
    train, labels = clusters(0, 300, width=width, noise=2.5 if width == 80 else 1.5)
    found = logistic.choose_penalty(train, labels, seed=0)
    rest, held = preparation.hold_back_tenth(labels, 0)
    x, y = scaled(train[rest], train[held])
    slow = {
        p: share(fit_slowly(x, labels[rest], p, 300).predict(y), labels[held])
        for p in logistic.PENALTIES
    }
    assert found.penalty in slow
    one = 1 / len(held)
    assert found.accuracy == pytest.approx(slow[found.penalty], abs=1.01 * one)
    assert max(slow.values()) - found.accuracy <= 2.01 * one  # between the coarse ones
    assert min(slow.values()) < found.accuracy - 3 * one  # or there was nothing to choose


@pytest.fixture
def fits(monkeypatch):
    """Of each fit the penalty, the number of images, the weights at its beginning and its end."""
    original, seen = LogisticRegression.fit, []

    def fit(model, x, labels):
        start = getattr(model, "coef_", None)
        original(model, x, labels)
        seen.append((1 / model.C, len(x), start, model.coef_))
        return model

    monkeypatch.setattr(LogisticRegression, "fit", fit)
    return seen


def test_penalties_around_the_best_coarse_one_are_tried(fits):
    falling = sorted(logistic.PENALTIES, reverse=True)
    train, labels = clusters(0, 300, width=80, noise=2.5)
    found = logistic.choose_penalty(train, labels, seed=0)
    tried = [min(range(45), key=lambda i: abs(np.log(falling[i] / fit[0]))) for fit in fits]
    assert tried[:12] == list(range(0, 45, 4))
    around = tried[12:]
    (best,) = set(range(min(around), max(around) + 1)) - set(around)
    assert best % 4 == 0 and around == [*range(best - 3, best), *range(best + 1, best + 4)]
    assert abs(falling.index(found.penalty) - best) < 4


def test_a_fit_goes_on_from_the_next_stronger_penalty(fits):
    logistic.choose_penalty(*clusters(0, 300, width=80, noise=2.5), seed=0)
    ends: dict[float, np.ndarray] = {}
    for penalty, _, start, end in fits:
        stronger = min((p for p in ends if p > penalty), default=None)
        assert start is (None if stronger is None else ends[stronger])
        ends[penalty] = end


def test_of_equal_penalties_the_strongest_is_chosen():
    # Two points, as many images of each: small weights tell them apart as well as large ones.
    labels = np.arange(80) % 2
    found = logistic.choose_penalty(np.outer(labels, [1.0, 2.0]), labels, seed=0)
    assert found == (pytest.approx(1e5), 1.0)


def test_penalties_are_chosen_on_a_bounded_number_of_images(fits):
    logistic.choose_penalty(*clusters(0, 200), seed=0, max_images=100)
    (size,) = {fit[1] for fit in fits}
    assert 85 <= size <= 92


def test_logistic_regression_learns_what_can_be_separated():
    train, labels = clusters(0, 600, width=8, noise=0.1)
    train *= np.float32(10.0) ** np.arange(-3, 5)  # the scale of a feature does not matter
    predicted = logistic.logistic_regression(train[:400], labels[:400], train[400:])
    assert predicted.dtype == np.int32
    assert np.mean(predicted == labels[400:]) > 0.95


def test_logistic_regression_gives_the_labels_it_was_given(rng):
    x = np.concatenate([rng.normal(-3, 1, (30, 2)), rng.normal(3, 1, (30, 2))])
    labels = np.repeat([7, 2], 30)
    predicted = logistic.logistic_regression(x, labels, [[-3, -3], [3, 3]])
    np.testing.assert_array_equal(predicted, [7, 2])


def test_logistic_regression_may_stop_early_without_a_warning(recwarn):
    train, labels = clusters(0, 100)
    logistic.logistic_regression(train, labels, train, max_iterations=1)
    assert not recwarn.list


# --- heads


def descend_slowly(x, labels, first, *, num_classes, steps, rate, decay):
    """Keras' Nesterov SGD on whole batches, from the first weights of our heads."""
    stack = [keras.Input((x.shape[1],))]
    if len(first) == 4:
        stack.append(keras.layers.Dense(first[0].shape[2], activation="relu"))
    stack.append(keras.layers.Dense(num_classes))
    for layer in stack[1:]:
        layer.kernel_regularizer = keras.regularizers.L2(decay / 2)
    model = keras.Sequential(stack)
    model.set_weights(
        [value.numpy().reshape(w.shape) for value, w in zip(first, model.weights, strict=True)]
    )
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, labels, batch_size=len(x), epochs=steps, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("hidden", [None, 7])
def test_a_head_takes_the_steps_that_keras_takes(hidden):
    train, labels = clusters(0, 50)
    test, _ = clusters(1, 20)
    x, y = (part.astype(np.float32) for part in scaled(train, test))
    first = heads._first_heads(6, 4, hidden, 1, 5)
    slow = descend_slowly(x, labels, first, num_classes=4, steps=30, rate=0.3, decay=0.05)
    arguments = {"num_classes": 4, "hidden": hidden, "batch_size": 50, "seed": 5}
    scores = probes.train_head(
        train, labels, test, epochs=30, learning_rate=0.3, weight_decay=0.05, **arguments
    )
    assert (scores.dtype, scores.shape) == (np.float32, (20, 4))
    np.testing.assert_allclose(scores, slow.predict(y, verbose=0), atol=2e-4)


@pytest.mark.parametrize("hidden", [None, 5])
def test_heads_trained_together_are_those_trained_alone(hidden):
    train, labels = clusters(0, 50)
    settings = [(0.1, 0.0), (0.3, 0.1), (0.01, 0.5)]
    rows = np.arange(3, 47)
    inputs = heads.prepare_inputs(train[np.newaxis], rows)
    arguments = {"num_classes": 4, "hidden": hidden, "epochs": 3, "batch_size": 8, "seed": 0}

    def logits(pairs):
        found = heads.train_heads(inputs, labels, rows, settings=pairs, **arguments)
        return np.concatenate(list(heads.scores_of(found, inputs, train)))

    together = logits(settings)
    assert together.shape == (50, 3, 4)
    for index, pair in enumerate(settings):
        np.testing.assert_allclose(together[:, index], logits([pair])[:, 0], atol=1e-5)
    assert np.abs(together[:, 0] - together[:, 1]).max() > 0.01


def test_batches_of_an_epoch_take_every_image_once_and_are_even():
    # Heads that hardly move add up the gradients at 0: each epoch the same sum, in any order.
    train, labels = clusters(0, 50)
    rows = np.arange(50)
    inputs = heads.prepare_inputs(train[np.newaxis], rows)
    arguments = {"num_classes": 4, "hidden": None, "epochs": 1, "settings": [(1e-7, 0.0)]}
    (x,) = scaled(train)
    each = x[:, :, np.newaxis] * (0.25 - np.eye(4)[labels])[:, np.newaxis]  # [M, F, K]
    for batch_size in (16, 8):  # of 50 images: 12 and 13, and 7 and 8
        steps = -(-50 // batch_size)
        order = heads._draw_order(50, 2, 0)
        expected, velocity = 0.0, 0.0
        for step in range(steps):
            batch = order[50 * step // steps : 50 * (step + 1) // steps]
            rate = 0.5 * (1 + np.cos(np.pi * step / steps))
            velocity = 0.9 * velocity - rate * each[batch].mean(axis=0)
            expected = expected + 0.9 * velocity - rate * each[batch].mean(axis=0)
        kernel, _ = heads.train_heads(
            inputs, labels, rows, batch_size=batch_size, seed=2, **arguments
        )
        np.testing.assert_allclose(kernel[:, 0].numpy() / 1e-7, expected, atol=1e-4)


def test_orders_and_views_are_functions_of_seed_and_epoch():
    orders = [heads._draw_order(40, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    views = [heads._draw_views(400, 4, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for drawn in (orders, views):
        assert not any(np.array_equal(drawn[0], other) for other in drawn[1:])
    np.testing.assert_array_equal(np.sort(orders[0]), np.arange(40))
    np.testing.assert_array_equal(orders[0], heads._draw_order(40, 0, 0))
    np.testing.assert_array_equal(views[0], heads._draw_views(400, 4, 0, 0))
    assert np.bincount(views[0], minlength=4).min() > 60  # expected: 100


def test_each_image_is_trained_on_in_the_view_drawn_for_it():
    labels = np.arange(30, dtype=np.int32) % 3
    views = np.random.default_rng(0).normal(size=(4, 30, 5)).astype(np.float32)
    drawn = heads._draw_views(30, 4, 9, 0)
    arguments = {"num_classes": 3, "hidden": None, "epochs": 1, "batch_size": 8, "seed": 9}
    rows = np.setdiff1d(np.arange(30), [4, 11])
    inputs = heads.prepare_inputs(views, rows)
    fixed = inputs._replace(features=views[drawn, np.arange(30)])
    settings = [(0.1, 0.0)]
    many = heads.train_heads(inputs, labels, rows, settings=settings, **arguments)
    one = heads.train_heads(fixed, labels, rows, settings=settings, **arguments)
    np.testing.assert_array_equal(many[0], one[0])
    wrong = inputs._replace(features=views[0])
    other = heads.train_heads(wrong, labels, rows, settings=settings, **arguments)
    assert np.abs(many[0] - other[0]).max() > 1e-3


def test_equal_views_are_no_views():
    train, labels = clusters(0, 40)
    test, _ = clusters(1, 20)
    arguments = {"num_classes": 4, "epochs": 4, "batch_size": 16, "seed": 0}
    plain = probes.train_head(train, labels, test, **arguments)
    views = np.stack([train, train, train])
    np.testing.assert_allclose(
        probes.train_head(views, labels, test, **arguments), plain, atol=1e-5
    )


def test_half_precision_is_taken():
    train, labels = clusters(0, 60)
    arguments = {"num_classes": 4, "epochs": 4, "seed": 0}
    whole = probes.train_head(train, labels, train, **arguments)
    half = probes.train_head(train.astype(np.float16), labels, train, **arguments)
    np.testing.assert_allclose(half, whole, atol=0.02)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("hidden", [None, 16])
def test_a_head_learns_what_can_be_separated_and_nothing_from_shuffled_labels(hidden, num_classes):
    train, labels = clusters(0, 400, num_classes=num_classes, noise=0.4)
    test, truth = clusters(1, 200, num_classes=num_classes, noise=0.4)
    arguments = {"num_classes": num_classes, "hidden": hidden, "epochs": 20, "seed": 0}
    scores = probes.train_head(train, labels, test, **arguments)
    assert share(scores.argmax(axis=1), truth) > 0.9
    shuffled = np.random.default_rng(5).permutation(labels)
    scores = probes.train_head(train, shuffled, test, **arguments)
    assert abs(share(scores.argmax(axis=1), truth) - 1 / num_classes) < 0.17


def test_a_hidden_layer_learns_what_no_linear_head_can():
    x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
    labels = (x[:, 0] * x[:, 1] > 0).astype(np.int32)
    arguments = {"num_classes": 2, "epochs": 30, "batch_size": 32, "learning_rate": 0.1, "seed": 0}
    found = {
        hidden: share(
            probes.train_head(x[:400], labels[:400], x[400:], hidden=hidden, **arguments).argmax(1),
            labels[400:],
        )
        for hidden in (None, 16)
    }
    assert found[None] < 0.65 < 0.9 < found[16]


def test_a_head_is_the_same_at_the_same_seed():
    train, labels = clusters(0, 60)
    arguments = {"num_classes": 4, "hidden": 8, "epochs": 2, "batch_size": 16}
    first, again, other = (
        probes.train_head(train, labels, train, seed=seed, **arguments) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_a_rate_that_diverges_is_refused_and_never_chosen():
    train, labels = clusters(0, 100)
    arguments = {"num_classes": 4, "hidden": 8, "epochs": 20, "seed": 0}
    with pytest.raises(UserError, match="smaller learning rate"):
        probes.train_head(train, labels, train, learning_rate=1e30, **arguments)
    with pytest.raises(UserError, match="smaller learning rates"):
        probes.choose_head(train, labels, learning_rates=(1e30,), **arguments)
    found = probes.choose_head(train, labels, learning_rates=(1e30, 0.03), **arguments)
    assert found.learning_rate == 0.03


def test_the_head_chosen_is_the_best_on_what_was_held_back():
    train, labels = clusters(0, 200, noise=1.5)
    choice = {"learning_rates": (1e-6, 0.1, 0.03), "weight_decays": (30.0, 0.0)}
    arguments = {"num_classes": 4, "epochs": 6, "batch_size": 32, "seed": 0}
    found = probes.choose_head(train, labels, **choice, **arguments)
    rest, held = preparation.hold_back_tenth(labels, 0)
    slow = {}
    for rate in choice["learning_rates"]:
        for decay in choice["weight_decays"]:
            logits = probes.train_head(
                train[rest], labels[rest], train[held],
                learning_rate=rate, weight_decay=decay, **arguments,
            )  # fmt: skip
            slow[rate, decay] = share(logits.argmax(axis=1), labels[held])
    assert found.accuracy == max(slow.values()) > min(slow.values())
    assert found[:2] == max(slow, key=slow.get)  # the first of equals


def test_held_back_images_are_judged_by_their_first_view():
    train, labels = clusters(0, 100, noise=0.2)
    nonsense = np.random.default_rng(0).permutation(train)
    arguments = {"num_classes": 4, "epochs": 10, "batch_size": 16, "seed": 0}
    good = probes.choose_head(np.stack([train, nonsense]), labels, **arguments)
    bad = probes.choose_head(np.stack([nonsense, train]), labels, **arguments)
    assert good.accuracy > 0.8 > bad.accuracy


@pytest.mark.parametrize("shape", [(5,), (4, 3), (0, 3), (2, 4, 3)])
def test_features_that_do_not_fit_the_labels_are_refused(shape):
    labels = np.zeros(0 if shape[0] == 0 else 5, np.int32)
    with pytest.raises(ValueError, match="a label for each"):
        probes.train_head(np.zeros(shape), labels, np.zeros((1, 3)), num_classes=2, seed=0)


# --- scores


def test_top_k_accuracy_is_scikit_learns(rng):
    scores, labels = rng.normal(size=(200, 7)), rng.integers(0, 7, 200)
    for k in (1, 2, 5, 6):
        expected = sklearn_metrics.top_k_accuracy_score(labels, scores, k=k)
        assert metrics.top_k_accuracy(scores, labels, k) == pytest.approx(expected)
    assert metrics.top_k_accuracy(scores, labels, 7) == 1.0


def test_of_equal_scores_the_first_classes_are_the_top():
    votes = np.array([[0.0, 2.0, 0.0, 2.0]] * 4)
    found = [metrics.top_k_accuracy(votes, np.arange(4), k) for k in (1, 2, 3, 4)]
    assert found == [0.25, 0.5, 0.75, 1.0]
    assert [metrics.top_k_accuracy(votes[:1], [c], 3) for c in range(4)] == [1, 1, 0, 1]
    assert metrics.top_k_accuracy(votes, [1, 1, 1, 1], 1) == 1.0  # as argmax has it


def test_scores_without_an_order_are_refused():
    with pytest.raises(ValueError, match="nan"):
        metrics.top_k_accuracy(np.array([[0.0, np.nan]]), [0], 1)
    with pytest.raises(ValueError, match=r"0\.\.1, got 2\.\.2"):
        metrics.top_k_accuracy(np.zeros((1, 2)), [2], 1)
    assert np.isnan(metrics.top_k_accuracy(np.zeros((0, 2)), np.zeros(0), 1))


def test_a_score_is_what_scikit_learn_counts(rng):
    scores, labels = rng.normal(size=(200, 7)).astype(np.float32), rng.integers(0, 7, 200)
    scores[:, 3] = -np.inf
    found = json.loads(json.dumps(probes.score(scores, labels, 7)))
    predicted = scores.argmax(axis=1)
    assert found["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    assert found["f1_macro"] == pytest.approx(
        sklearn_metrics.f1_score(labels, predicted, average="macro")
    )
    assert found["confusion_matrix"] == sklearn_metrics.confusion_matrix(labels, predicted).tolist()
    assert found["top5"] == metrics.top_k_accuracy(scores, labels, 5) > found["accuracy"]


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_there_is_no_top_5_of_five_classes(num_classes, rng):
    labels = rng.integers(0, num_classes, 20)
    assert probes.score(rng.normal(size=(20, num_classes)), labels, num_classes)["top5"] is None


def test_a_score_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\), got \(3, 2\)"):
        probes.score(np.zeros((3, 2)), np.zeros(3, int), 4)


@pytest.mark.slow
def test_a_tiny_run_of_the_benchmark_writes_every_key(tmp_path, monkeypatch):
    file = tmp_path / "probes.json"
    words = f"--images=600 --features=16 --epochs=2 --batches=2 --json={file}"
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ["probes.py", *words.split()])
    with shallow_encoders():
        importlib.import_module("probes").main()
    found = json.loads(file.read_text())
    for name in ("knn", "logistic_regression", "linear_probe", "mlp"):
        probe = found["probes"][name]
        assert probe["choice_seconds"] > 0 and probe["fit_seconds"] > 0
        assert 0 <= probe["accuracy"] <= 1 and probe["peak"] > 0
    encoder = found["through_encoder"]
    assert encoder["images_measured"] < 600 * 2
    assert found["speed_ratio"] == pytest.approx(
        encoder["seconds_scaled"] / found["probes"]["linear_probe"]["fit_seconds"], rel=1e-2
    )
