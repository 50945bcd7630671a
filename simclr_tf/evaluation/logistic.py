"""Logistic regression on frozen features, by scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np


def logistic_regression(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    *,
    inverse_penalty: float = 1.0,
    max_iterations: int = 200,
) -> np.ndarray:
    """Fits a multinomial logistic regression by L-BFGS and predicts with it.

    Each feature is shifted and scaled to mean 0 and standard deviation 1 over the training set.

    Args:
        train_features: float [M, F].
        train_labels: int [M], of at least two classes.
        features: float [N, F].
        inverse_penalty: scikit-learn's C: the larger, the weaker the l2 penalty on the weights.
        max_iterations: Iterations of L-BFGS at most. Ending here is no fault: with more features
            than the images can pin down, as with raw pixels, going on only fits them closer.

    Returns:
        int32 [N], classes predicted for `features`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=max_iterations)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(np.asarray(train_features, np.float32), np.asarray(train_labels))
    return classifier.predict(np.asarray(features, np.float32)).astype(np.int32)
