"""Scores against scikit-learn and slow loops; measures of features at their closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from simclr_tf import metrics


@pytest.fixture
def answers(rng):
    """Truth and predictions of 5 classes, right about half of the time."""
    truth = rng.integers(0, 5, 400)
    predicted = np.where(rng.random(400) < 0.5, truth, rng.integers(0, 5, 400))
    return truth, predicted


def matrix_of(truth, predicted, num_classes, **arguments):
    return metrics.confusion_matrix(np.array(truth), np.array(predicted), num_classes, **arguments)


def test_the_confusion_matrix_counts_the_truth_in_rows():
    matrix = matrix_of([0, 0, 0, 2], [1, 1, 0, 2], 3)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, [[1, 2, 0], [0, 0, 0], [0, 0, 1]])


def test_scores_are_those_of_scikit_learn(answers):
    truth, predicted = answers
    matrix = metrics.confusion_matrix(truth, predicted, 5)
    np.testing.assert_array_equal(matrix, sklearn_metrics.confusion_matrix(truth, predicted))
    assert metrics.accuracy(matrix) == sklearn_metrics.accuracy_score(truth, predicted)
    f1 = sklearn_metrics.f1_score(truth, predicted, average="macro")
    iou = sklearn_metrics.jaccard_score(truth, predicted, average=None)
    assert metrics.f1_macro(matrix) == pytest.approx(f1)
    np.testing.assert_allclose(metrics.iou_per_class(matrix), iou)
    assert metrics.mean_iou(matrix) == pytest.approx(iou.mean())


def test_a_class_that_is_nowhere_does_not_count():
    truth, predicted = [0, 0, 1, 1], [0, 1, 1, 1]
    narrow, wide = matrix_of(truth, predicted, 2), matrix_of(truth, predicted, 4)
    assert np.isnan(metrics.iou_per_class(wide)).tolist() == [False, False, True, True]
    assert metrics.mean_iou(wide) == metrics.mean_iou(narrow)
    assert metrics.f1_macro(wide) == metrics.f1_macro(narrow)
    assert metrics.f1_macro(wide) == pytest.approx(
        sklearn_metrics.f1_score(truth, predicted, average="macro")
    )


def test_a_class_that_is_never_right_counts_as_zero():
    # Class 2 is true and never predicted, class 1 is predicted and never true.
    matrix = matrix_of([0, 0, 2], [0, 0, 1], 3)
    np.testing.assert_array_equal(metrics.iou_per_class(matrix), [1.0, 0.0, 0.0])
    assert metrics.mean_iou(matrix) == metrics.f1_macro(matrix) == pytest.approx(1 / 3)


def test_pixels_of_the_ignored_label_are_not_counted(rng):
    truth, predicted = rng.integers(0, 4, (2, 6, 7)), rng.integers(0, 3, (2, 6, 7))
    matrix = metrics.confusion_matrix(truth, predicted, 3, ignore_label=3)
    known = truth != 3
    assert matrix.sum() == known.sum()
    assert metrics.pixel_accuracy(matrix) == np.mean(truth[known] == predicted[known])


def test_nothing_counted_gives_nan():
    empty = np.zeros((3, 3), np.int64)
    for score in (metrics.accuracy, metrics.f1_macro, metrics.mean_iou):
        assert math.isnan(score(empty))


def test_small_integers_do_not_overflow():
    labels = np.full(10, 99, np.uint8)  # 99 x 100 + 99 does not fit into 8 bits
    assert metrics.confusion_matrix(labels, labels, 100)[99, 99] == 10


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([0, 3], [0, 0], r"truth classes in 0\.\.2, got 0\.\.3"),
        ([0, 1], [-1, 0], r"predicted classes in 0\.\.2, got -1\.\.0"),
        ([0, 1], [0], r"one shape, got \(2,\) and \(1,\)"),
    ],
)
def test_what_cannot_be_counted_is_refused(truth, predicted, message):
    with pytest.raises(ValueError, match=message):
        matrix_of(truth, predicted, 3)


def test_spread_is_one_for_isotropic_features_and_zero_for_collapse(rng):
    cloud = rng.normal(size=(5_000, 64))
    assert metrics.feature_spread(cloud) == pytest.approx(1.0, abs=0.01)
    lengths = rng.uniform(0.5, 20.0, (5_000, 1))
    assert metrics.feature_spread(cloud * lengths) == pytest.approx(
        metrics.feature_spread(cloud), abs=1e-5
    )
    # One direction at many lengths is a collapse too; so is all zeros.
    assert metrics.feature_spread(lengths * cloud[:1]) == pytest.approx(0.0, abs=1e-5)
    assert metrics.feature_spread(np.zeros((9, 4))) == 0.0


def test_spread_falls_when_dimensions_are_lost(rng):
    cloud = rng.normal(size=(2_000, 64))
    cloud[:, 16:] = 0.0
    assert metrics.feature_spread(cloud) == pytest.approx(math.sqrt(16 / 64), abs=0.02)


def test_alignment_of_equal_unrelated_and_opposite_views():
    x = np.array([[1.0, 0.0], [0.0, 3.0]])
    turned = np.array([[0.0, 5.0], [2.0, 0.0]])
    assert metrics.alignment(x, 4.0 * x) == pytest.approx(0.0, abs=1e-6)
    assert metrics.alignment(x, turned) == pytest.approx(2.0, rel=1e-5)
    assert metrics.alignment(x, -x) == pytest.approx(4.0, rel=1e-5)
    assert metrics.alignment(x, -x, alpha=1.0) == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("block", [4, 11, 1_000])
@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_is_that_of_a_loop_over_pairs(rng, monkeypatch, block, t):
    monkeypatch.setattr(metrics, "PAIR_BLOCK", block)
    features = rng.normal(size=(11, 6))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    potentials = [
        math.exp(-t * np.sum((unit[i] - unit[j]) ** 2)) for i in range(11) for j in range(i)
    ]
    expected = math.log(sum(potentials) / len(potentials))
    assert metrics.uniformity(features, t=t) == pytest.approx(expected, rel=1e-5)


def test_uniformity_of_collapse_is_zero():
    assert metrics.uniformity(np.ones((5, 3))) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("count", [30, 8, 3])  # also fewer features than dimensions
def test_effective_rank_is_the_entropy_of_singular_values(rng, count):
    features = rng.normal(size=(count, 8)) * np.arange(1, 9)
    values = np.linalg.svd(features, compute_uv=False)
    share = values / values.sum()
    expected = math.exp(-sum(p * math.log(p) for p in share))
    assert metrics.effective_rank(features) == pytest.approx(expected, rel=1e-6)


def test_effective_rank_at_its_ends(rng):
    line = rng.normal(size=(50, 1)) * rng.normal(size=(1, 6))
    assert metrics.effective_rank(line) == pytest.approx(1.0, abs=1e-4)
    assert metrics.effective_rank(np.eye(7)) == pytest.approx(7.0)
