"""Numbers that judge predictions and features: arrays in, floats out.

Predictions are counted once, in a confusion matrix, and every score is read off that matrix.
"""

from __future__ import annotations

import numpy as np

PAIR_BLOCK = 1024  # rows compared with all others at once: bounds the memory of `uniformity`


def confusion_matrix(
    truth: np.ndarray,
    predicted: np.ndarray,
    num_classes: int,
    *,
    ignore_label: int | None = None,
) -> np.ndarray:
    """Counts how often each class was predicted for each class.

    Args:
        truth: Integer array of any shape (images, or pixels), 0 to K - 1.
        predicted: Integer array of the same shape, 0 to K - 1.
        num_classes: K.
        ignore_label: A value of `truth` that is not counted, such as "void" in segmentation.

    Returns:
        int64 [K, K]; row: the truth, column: the prediction.

    Raises:
        ValueError: The shapes differ, or a value is outside the classes.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ValueError(
            f"Expected truth and predictions of one shape, got {truth.shape} and {predicted.shape}."
        )
    truth, predicted = truth.ravel().astype(np.int64), predicted.ravel().astype(np.int64)
    if ignore_label is not None:
        counted = truth != ignore_label
        truth, predicted = truth[counted], predicted[counted]
    for name, values in (("truth", truth), ("predicted", predicted)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"Expected {name} classes in 0..{num_classes - 1}, "
                f"got {values.min()}..{values.max()}. Pass num_classes or ignore_label to match."
            )
    cells = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)  # [K * K]
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def accuracy(matrix: np.ndarray) -> float:
    """Returns the share of right predictions, from a confusion matrix [K, K]; nan for no count."""
    return _ratio(np.trace(matrix), np.sum(matrix)).item()


pixel_accuracy = accuracy  # its name where the things counted are pixels


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Returns the share of labels among the k classes with the highest scores; nan for none.

    Args:
        scores: float [N, K]; of equal ones the first class is the higher, as `argmax` has it.
        labels: int [N], 0 to K - 1.
        k: 1 to K.

    Raises:
        ValueError: A score is nan, or a label is outside the classes.
    """
    scores, labels = np.asarray(scores), np.asarray(labels).astype(np.int64)
    count, num_classes = scores.shape
    if np.isnan(scores).any():
        raise ValueError("Expected scores that can be put in order, got nan.")
    if count and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"Expected labels in 0..{num_classes - 1}, got {labels.min()}..{labels.max()}."
        )
    own = np.take_along_axis(scores, labels[:, np.newaxis], axis=1)  # [N, 1]
    earlier = np.arange(num_classes) < labels[:, np.newaxis]  # [N, K]
    before = np.sum((scores > own) | ((scores == own) & earlier), axis=1)  # [N]
    return _ratio(np.sum(before < k), np.asarray(count)).item()


def f1_macro(matrix: np.ndarray) -> float:
    """Returns the mean over classes of F1, the harmonic mean of precision and recall.

    Follows scikit-learn: a class that is neither true nor predicted anywhere does not count, a
    class that is never right counts 0.

    Args:
        matrix: Confusion matrix, int [K, K].
    """
    return _mean(_ratio(2 * np.diagonal(matrix), matrix.sum(axis=0) + matrix.sum(axis=1)))


def iou_per_class(matrix: np.ndarray) -> np.ndarray:
    """Returns intersection over union of each class.

    Args:
        matrix: Confusion matrix, int [K, K].

    Returns:
        float64 [K] in 0..1; nan for a class that is neither true nor predicted anywhere.
    """
    hits = np.diagonal(matrix)  # [K]
    return _ratio(hits, matrix.sum(axis=0) + matrix.sum(axis=1) - hits)


def mean_iou(matrix: np.ndarray) -> float:
    """Returns the mean of `iou_per_class` over the classes that occur."""
    return _mean(iou_per_class(matrix))


def feature_spread(features: np.ndarray) -> float:
    """Tells whether features have collapsed: 1 for an isotropic cloud, 0 for a single point.

    The standard deviation of each dimension of the unit-length features, averaged over dimensions,
    times sqrt(D) (arXiv 2011.10566, section 4.1).

    Args:
        features: float [M, D].
    """
    unit = _unit_rows(features)
    # float32 sums over many rows would leave a spread of 3e-5 to a cloud that has none.
    return float(unit.std(axis=0, dtype=np.float64).mean() * np.sqrt(unit.shape[1]))


def alignment(first: np.ndarray, second: np.ndarray, *, alpha: float = 2.0) -> float:
    """Returns the mean distance, to the power `alpha`, of two views of an image (arXiv 2005.10242).

    Args:
        first: Features of one view of each image, float [M, D]; their length does not matter.
        second: Features of the other view, float [M, D].
        alpha: Power of the distance; the paper's is 2.

    Returns:
        0 for equal directions, 2 for unrelated ones, 4 for opposite ones (at `alpha` 2).
    """
    distances = np.linalg.norm(_unit_rows(first) - _unit_rows(second), axis=1)  # [M]
    return float(np.mean(distances**alpha))


def uniformity(features: np.ndarray, *, t: float = 2.0) -> float:
    """Returns the log of the mean Gaussian potential of all pairs of features (arXiv 2005.10242).

    Args:
        features: float [M, D], M of at least 2; their length does not matter.
        t: Sharpness of the potential exp(-t |x - y|^2); the paper's is 2.

    Returns:
        0 when all features coincide; near -2 t for features spread evenly over the sphere.
    """
    unit = _unit_rows(features)
    count = len(unit)
    total = 0.0
    for start in range(0, count, PAIR_BLOCK):
        cosines = unit[start : start + PAIR_BLOCK] @ unit.T  # [B, M]
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf  # a feature makes no pair with itself
        total += np.exp(2.0 * t * (cosines - 1.0)).sum(dtype=np.float64)
    return float(np.log(total / (count * (count - 1))))


def effective_rank(features: np.ndarray) -> float:
    """Returns the number of dimensions the features use: exp of the entropy of singular values.

    This is RankMe (arXiv 2210.02885, equation 1): features are neither centred nor normalised.

    Args:
        features: float [M, D].

    Returns:
        1 for features on a line through 0, min(M, D) for features that fill all dimensions alike.
    """
    x = np.asarray(features, np.float64)
    narrow = x if len(x) >= x.shape[1] else x.T
    # [min(M, D)]: cheaper than the singular values of [M, D]; what is left out of them is 0.
    squares = np.linalg.eigvalsh(narrow.T @ narrow)
    values = np.sqrt(np.clip(squares, 0.0, None))
    share = values / values.sum()
    share = share[share > 0.0]
    return float(np.exp(-np.sum(share * np.log(share))))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divides, with nan where there is nothing to divide by."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    """Averages what is a number; nan for none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _unit_rows(features: np.ndarray) -> np.ndarray:
    """Scales rows to unit length; a row of zeros stays."""
    x = np.asarray(features, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
