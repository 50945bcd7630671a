"""Weighted k-nearest-neighbour classification on features (arXiv 1805.01978, section 3.4)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

BLOCK_ELEMENTS = 2**24  # similarities held at once: 64 MiB


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
    if len(train_features) == 0:
        raise ValueError("Expected at least one training feature to vote, got none.")
    bank = _unit_rows(train_features)  # [M, F]
    queries = _unit_rows(features)  # [N, F]
    labels = tf.convert_to_tensor(train_labels, tf.int32)
    k = min(k, len(train_features))
    rows = max(BLOCK_ELEMENTS // len(train_features), 1)
    predicted = [
        _vote(bank, labels, queries[start : start + rows], k, temperature, num_classes).numpy()
        for start in range(0, len(features), rows)
    ]
    return np.concatenate([np.zeros(0, np.int32), *predicted])


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


@tf.function(
    input_signature=[
        tf.TensorSpec([None, None], tf.float32),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None, None], tf.float32),
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec([], tf.float32),
        tf.TensorSpec([], tf.int32),
    ]
)
def _vote(
    bank: tf.Tensor,
    labels: tf.Tensor,
    queries: tf.Tensor,
    k: tf.Tensor,
    temperature: tf.Tensor,
    num_classes: tf.Tensor,
) -> tf.Tensor:
    cosines = tf.matmul(queries, bank, transpose_b=True)  # [B, M]
    cosines, nearest = tf.math.top_k(cosines, k)  # [B, k], falling
    # Relative to the nearest, which changes no vote's order: exp(1 / 0.01) overflows float32.
    weights = tf.exp((cosines - cosines[:, :1]) / temperature)
    count = tf.shape(queries)[0]
    # A flat sum over (row, class): a one-hot [B, k, K] would not fit for many classes.
    cell = tf.range(count)[:, tf.newaxis] * num_classes + tf.gather(labels, nearest)  # [B, k]
    votes = tf.math.unsorted_segment_sum(
        tf.reshape(weights, [-1]), tf.reshape(cell, [-1]), count * num_classes
    )
    votes = tf.reshape(votes, [count, num_classes])
    return tf.argmax(votes, axis=1, output_type=tf.int32)


def _unit_rows(features: np.ndarray) -> tf.Tensor:
    return tf.math.l2_normalize(tf.cast(features, tf.float32), axis=1)
