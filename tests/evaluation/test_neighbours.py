"""Nearest neighbours of features, what they vote for and their picture, against slow searches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.colors import to_hex

from simclr_tf import plots
from simclr_tf.evaluation import knn_accuracy, knn_predict, neighbours
from simclr_tf.evaluation.neighbours import choose_knn, knn_scores, nearest
from simclr_tf.evaluation.preparation import hold_back_tenth

# --- votes


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
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", 64 * 5)  # 5 queries at once, the last 2
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
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", 60 * 5)  # 5 queries at once, the last 2
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
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", 400 * 7)
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
    voters = []
    original = neighbours._blocks_of_voters

    def seen(train_features, train_labels, features, k):
        voters.append(k)
        return original(train_features, train_labels, features, k)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_blocks_of_voters", seen)
        choose_knn(train, labels, num_classes=2, seed=0, ks=(5, 27, 28))
    assert voters == [27]  # once for all settings


def test_no_query_gives_no_prediction_and_no_training_feature_is_refused(rng):
    train, labels = clusters(rng, 10)
    choice = {"k": 3, "temperature": 0.1, "num_classes": 4}
    assert knn_predict(train, labels, train[:0], **choice).shape == (0,)
    with pytest.raises(ValueError, match="at least one training feature"):
        knn_predict(train[:0], labels[:0], train, **choice)


# --- neighbours


def slow_nearest(features, queries, k, own=None):
    """One query at a time, by definition: cosines, the query itself left out, the k largest."""
    indices, similarities = [], []
    for number, query in enumerate(queries):
        cosines = {}
        for row, feature in enumerate(features):
            if own is not None and row == own[number]:
                continue
            lengths = np.linalg.norm(query) * np.linalg.norm(feature)
            cosines[row] = float(query @ feature / lengths) if lengths else 0.0
        first = sorted(cosines, key=lambda row: -cosines[row])[:k]
        indices.append(first)
        similarities.append([cosines[row] for row in first])
    return np.array(indices), np.array(similarities)


@pytest.mark.parametrize("block_elements", [1, 100, 2**25])
def test_neighbours_are_those_of_a_slow_search(rng, monkeypatch, block_elements):
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", block_elements)
    lengths = rng.uniform(0.01, 100, (40, 1))
    features, queries = rng.normal(size=(40, 6)) * lengths, rng.normal(size=(23, 6))
    indices, similarities = nearest(features, queries, k=5)
    expected, cosines = slow_nearest(features, queries, 5)
    assert indices.dtype == np.int64 and similarities.dtype == np.float32
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(similarities, cosines, atol=1e-6)


@pytest.mark.parametrize("block_elements", [60, 2**25])
def test_a_query_is_no_neighbour_of_its_own(rng, monkeypatch, block_elements):
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", block_elements)
    features = rng.normal(size=(30, 4))
    rows = np.array([29, 3, 11, 12, 0])
    own = np.array([29, 3, -1, 12, 0])  # the third is looked up as if it were another image
    indices, similarities = nearest(features, features[rows], k=4, own=own)
    expected, cosines = slow_nearest(features, features[rows], 4, own)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(similarities, cosines, atol=1e-6)
    assert indices[2, 0] == 11
    assert not (indices == own[:, np.newaxis]).any()


def test_copies_of_a_query_are_its_neighbours(rng):
    features = np.repeat(rng.normal(size=(2, 5)), [6, 3], axis=0)  # more copies than are asked for
    own = np.arange(9)
    indices, similarities = nearest(features, features, k=2, own=own)
    assert not (indices == own[:, np.newaxis]).any()
    assert ((indices < 6) == (own < 6)[:, np.newaxis]).all()
    assert (indices[:, 0] != indices[:, 1]).all()
    np.testing.assert_allclose(similarities, 1.0, atol=1e-6)


def test_there_are_no_more_neighbours_than_features(rng):
    features = rng.normal(size=(4, 3))
    assert nearest(features, features[:2], k=9)[0].shape == (2, 4)
    indices, _ = nearest(features, features, k=9, own=np.arange(4))
    assert [sorted(row) for row in indices.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    with pytest.raises(ValueError, match="beside the query's own"):
        nearest(features[:1], features[:1], k=3, own=np.array([0]))
    with pytest.raises(ValueError, match="got 0"):
        nearest(features[:0], features, k=3)


def test_no_similarity_is_above_one(rng):
    features = rng.normal(size=(500, 300)).astype(np.float32)
    indices, similarities = nearest(features, features, k=1)
    np.testing.assert_array_equal(indices[:, 0], np.arange(500))
    assert 0.999999 < similarities.min() and similarities.max() <= 1.0


@pytest.mark.parametrize("length", [1e-15, 1e15])
def test_features_of_any_length_have_neighbours(rng, length):
    features = rng.normal(size=(9, 4))
    indices, similarities = nearest(features, features, k=3)
    scaled, same = nearest(length * features, features / length, k=3)
    np.testing.assert_array_equal(scaled, indices)
    np.testing.assert_allclose(same, similarities, atol=1e-6)


def test_features_of_zeros_are_similar_to_nothing():
    features = np.array([[0.0, 0.0], [1.0, 0.1], [-1.0, 0.0]])
    indices, similarities = nearest(features, np.array([[2.0, 0.0], [0.0, 0.0]]), k=3)
    assert indices[0].tolist() == [1, 0, 2]
    np.testing.assert_allclose(similarities[0], [1 / np.hypot(1, 0.1), 0, -1], atol=1e-6)
    np.testing.assert_array_equal(similarities[1], 0.0)


@pytest.mark.parametrize("framed", [True, False])
def test_each_query_is_drawn_beside_its_neighbours(rng, framed):
    shapes = [(8, 12), (12, 6), (5, 5)]  # (height, width)
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes[:2]]
    near = [[rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes] for _ in images]
    similarities = np.array([[0.91, 0.8, 0.7], [0.6, 0.5, -0.25]])
    right = np.array([[True, False, True], [False, False, True]])
    figure = plots.plot_neighbours(
        images,
        near,
        similarities,
        right=right if framed else None,
        row_titles=["cat", "dog"],
        title="T",
    )
    (axes,) = figure.axes
    grid = [picture for image, row in zip(images, near, strict=True) for picture in (image, *row)]
    for drawn, picture in zip(axes.images, grid, strict=True):
        np.testing.assert_array_equal(drawn.get_array(), picture)
    assert [t.get_text() for t in axes.texts] == ["0.91", "0.80", "0.70", "0.60", "0.50", "-0.25"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["query", "1", "2", "3"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["cat", "dog"]
    if not framed:
        assert not axes.patches
        return
    colours = [plots.RIGHT_FRAME if good else plots.WRONG_PIXEL for good in right.ravel()]
    assert [to_hex(frame.get_edgecolor()) for frame in axes.patches] == colours
    beside_queries = [drawn for number, drawn in enumerate(axes.images) if number % 4]
    for frame, drawn in zip(axes.patches, beside_queries, strict=True):
        left, edge, bottom, top = drawn.get_extent()
        box = frame.get_bbox()
        np.testing.assert_allclose([box.x0, box.x1, box.y1, box.y0], [left, edge, bottom, top])


def test_the_picture_is_written(rng, tmp_path):
    images = rng.uniform(size=(3, 9, 9, 3))
    path = tmp_path / "plots" / "n.png"
    plots.plot_neighbours(images, images[:, np.newaxis], np.ones((3, 1)), path)
    assert path.read_bytes().startswith(b"\x89PNG")
