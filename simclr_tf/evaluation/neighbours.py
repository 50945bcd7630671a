"""Nearest neighbours of features, by scikit-learn: which images an encoder takes to be alike."""

from __future__ import annotations

import numpy as np

BLOCK_ELEMENTS = 2**25  # similarities held at once, float32: 128 MiB, and its order 256 MiB


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
    from sklearn.neighbors import NearestNeighbors

    own = np.full(len(queries), -1) if own is None else np.asarray(own)
    spare = int((own >= 0).any())  # one more is asked for: among the nearest is the query itself
    k = min(k, len(features) - spare)
    if k < 1:
        raise ValueError(
            f"Expected features beside the query's own to be neighbours, got {len(features)}."
        )
    bank = NearestNeighbors(n_neighbors=k + spare, metric="cosine", algorithm="brute")
    bank.fit(np.asarray(features, np.float32))
    indices = np.empty((len(queries), k), np.int64)
    similarities = np.empty((len(queries), k), np.float32)
    rows = max(BLOCK_ELEMENTS // len(features), 1)
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        distances, found = bank.kneighbors(np.asarray(queries[part], np.float32))
        # The query itself goes last and is cut off; of one that is not there, the farthest is.
        order = np.argsort(found == own[part, np.newaxis], axis=1, kind="stable")[:, :k]
        indices[part] = np.take_along_axis(found, order, axis=1)
        similarities[part] = 1.0 - np.take_along_axis(distances, order, axis=1)
    return indices, similarities
