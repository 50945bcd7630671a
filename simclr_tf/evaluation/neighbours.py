"""Nearest neighbours of features by cosine similarity, and the classes that they vote for.

The weighted vote is that of arXiv 1805.01978, section 3.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from simclr_tf.evaluation.preparation import hold_back_tenth

BLOCK_ELEMENTS = 2**24  # similarities held at once: 64 MiB
KS = (1, 5, 10, 20, 50, 100, 200)
TEMPERATURES = (0.05, 0.07, 0.1, 0.2)


class KnnChoice(NamedTuple):
    """Settings, and their accuracy on what was held back; None where nothing could be."""

    k: int
    temperature: float
    accuracy: float | None


def nearest(
    features: np.ndarray, queries: np.ndarray, *, k: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the features that are most similar to each query, by cosine similarity.

    Args:
        features: float [M, F]; their length does not matter, and one of zeros is similar 0 to all.
        queries: float [Q, F].
        k: Neighbours of each query; all that there are where they are fewer.
        own: The row of `features` that each query itself is, which is no neighbour of it, int [Q];
            -1 where it is none of them. None: no query is.

    Returns:
        Rows of `features`, int64 [Q, k], and their similarities, float32 [Q, k], falling. Equal
        ones may come in any order.

    Raises:
        ValueError: A query would have no neighbour.
    """
    own = np.full(len(queries), -1) if own is None else np.asarray(own)
    spare = int((own >= 0).any())  # one more is asked for: among the nearest is the query itself
    k = min(k, len(features) - spare)
    if k < 1:
        raise ValueError(
            f"Expected features beside the query's own to be neighbours, got {len(features)}."
        )
    rows = np.empty((len(queries), k), np.int64)
    similarities = np.empty((len(queries), k), np.float32)
    for start, cosines, found in _blocks_of_nearest(features, queries, k + spare):
        part = slice(start, start + len(found))
        # The query itself goes last and is cut off; of one that is not there, the farthest is.
        order = np.argsort(found.numpy() == own[part, np.newaxis], axis=1, kind="stable")[:, :k]
        rows[part] = np.take_along_axis(found.numpy(), order, axis=1)
        similarities[part] = np.take_along_axis(cosines.numpy(), order, axis=1)
    return rows, np.clip(similarities, -1.0, 1.0)  # rounding goes beyond


def knn_predict(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    *,
    k: int,
    temperature: float,
    num_classes: int,
) -> np.ndarray:
    """Predicts the class that the most similar training features vote for.

    Each of the k neighbours votes for its class with weight exp(cosine similarity / temperature).

    Args:
        train_features: float [M, F]; their length does not matter.
        train_labels: int [M], 0 to K - 1.
        features: float [N, F].
        k: Neighbours that vote; all M where there are fewer. The paper's is 200.
        temperature: Above 0; the smaller, the more the nearest decide. The paper's is 0.07.
        num_classes: K.

    Returns:
        int32 [N]; of classes with equal votes, the first.
    """
    blocks = _blocks_of_voters(train_features, train_labels, features, k)
    predicted = [
        _votes(cosines, found, temperature, num_classes).numpy().argmax(axis=1).astype(np.int32)
        for _, cosines, found in blocks
    ]
    return np.concatenate([np.zeros(0, np.int32), *predicted])


def knn_scores(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    *,
    k: int,
    temperature: float,
    num_classes: int,
) -> np.ndarray:
    """Returns the votes that `knn_predict` counts, float32 [N, K].

    The nearest neighbour of each has the weight 1. A class that none of the k is of has 0 votes.
    """
    votes = np.zeros((len(features), num_classes), np.float32)
    blocks = _blocks_of_voters(train_features, train_labels, features, k)
    for start, cosines, found in blocks:
        votes[start : start + len(found)] = _votes(cosines, found, temperature, num_classes)
    return votes


def choose_knn(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    *,
    num_classes: int,
    seed: int,
    ks: tuple[int, ...] = KS,
    temperatures: tuple[float, ...] = TEMPERATURES,
) -> KnnChoice:
    """Chooses k and temperature by the accuracy on a held-back tenth of the training features.

    Args:
        train_features: float [M, F].
        train_labels: int [M], 0 to K - 1.
        num_classes: K.
        seed: Draws what is held back.
        ks: To choose among; those larger than the part that votes are dropped (the smallest never).
        temperatures: To choose among.

    Returns:
        The best pair; of equals that with the smaller k, then that with the temperature named
        first. Where nothing can be held back, as every class has a single image, the first of both.
    """
    labels = np.asarray(train_labels)
    rest, held = hold_back_tenth(labels, seed)
    usable = [k for k in sorted(set(ks)) if k <= len(rest)] or [min(ks)]
    if not len(held):
        return KnnChoice(usable[0], temperatures[0], None)
    pairs = [(k, temperature) for k in usable for temperature in temperatures]
    hits = np.zeros(len(pairs), np.int64)
    blocks = _blocks_of_voters(train_features[rest], labels[rest], train_features[held], usable[-1])
    for start, cosines, found in blocks:
        truth = labels[held[start : start + len(found)]]
        for index, (k, temperature) in enumerate(pairs):
            votes = _votes(cosines[:, :k], found[:, :k], temperature, num_classes)
            hits[index] += np.sum(votes.numpy().argmax(axis=1) == truth)
    best = int(hits.argmax())  # the first of equals
    return KnnChoice(*pairs[best], float(hits[best] / len(held)))


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    k: int,
    temperature: float,
    num_classes: int,
) -> float:
    """Returns the share of `labels`, int [N], that `knn_predict` finds."""
    predicted = knn_predict(
        train_features,
        train_labels,
        features,
        k=k,
        temperature=temperature,
        num_classes=num_classes,
    )
    return float(np.mean(predicted == np.asarray(labels)))


def _blocks_of_voters(
    train_features: np.ndarray, train_labels: np.ndarray, features: np.ndarray, k: int
) -> Iterator[tuple[int, tf.Tensor, tf.Tensor]]:
    """Yields (row of the first, cosines float32 [B, k] falling, labels int32 [B, k]) by blocks."""
    if len(train_features) == 0:
        raise ValueError("Expected at least one training feature to vote, got none.")
    labels = tf.convert_to_tensor(train_labels, tf.int32)
    for start, cosines, found in _blocks_of_nearest(train_features, features, k):
        yield start, cosines, tf.gather(labels, found)


def _blocks_of_nearest(
    features: np.ndarray, queries: np.ndarray, k: int
) -> Iterator[tuple[int, tf.Tensor, tf.Tensor]]:
    """Yields (first query, cosines float32 [B, k] falling, rows of features int32 [B, k])."""
    bank = _unit_rows(features)  # [M, F]
    units = _unit_rows(queries)  # [Q, F]
    k = min(k, len(features))
    rows = max(BLOCK_ELEMENTS // len(features), 1)
    for start in range(0, len(queries), rows):
        yield start, *_most_similar(bank, units[start : start + rows], k)


@tf.function(
    input_signature=[
        tf.TensorSpec([None, None], tf.float32),
        tf.TensorSpec([None, None], tf.float32),
        tf.TensorSpec([], tf.int32),
    ]
)
def _most_similar(bank: tf.Tensor, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.math.top_k(tf.matmul(queries, bank, transpose_b=True), k)  # [B, k], falling


@tf.function(
    input_signature=[
        tf.TensorSpec([None, None], tf.float32),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([], tf.float32),
        tf.TensorSpec([], tf.int32),
    ]
)
def _votes(
    cosines: tf.Tensor, labels: tf.Tensor, temperature: tf.Tensor, num_classes: tf.Tensor
) -> tf.Tensor:
    # Relative to the nearest, which changes no vote's order: exp(1 / 0.01) overflows float32.
    weights = tf.exp((cosines - cosines[:, :1]) / temperature)
    count = tf.shape(cosines)[0]
    # A flat sum over (row, class): a one-hot [B, k, K] would not fit for many classes.
    cell = tf.range(count)[:, tf.newaxis] * num_classes + labels  # [B, k]
    votes = tf.math.unsorted_segment_sum(
        tf.reshape(weights, [-1]), tf.reshape(cell, [-1]), count * num_classes
    )
    return tf.reshape(votes, [count, num_classes])


def _unit_rows(features: np.ndarray) -> tf.Tensor:
    # An epsilon below any square that float32 holds whole: features may be as short as they like.
    return tf.math.l2_normalize(tf.cast(features, tf.float32), axis=1, epsilon=1e-37)
