"""Nearest neighbours of features, against a slow search; their picture."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from simclr_tf import plots
from simclr_tf.evaluation import neighbours
from simclr_tf.evaluation.neighbours import nearest


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
