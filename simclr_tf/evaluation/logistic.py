"""Multinomial logistic regression on frozen features (arXiv 2002.05709, B.8), by scikit-learn.

Each feature is shifted and scaled to mean 0 and standard deviation 1 over the training set. The
weights W, [F, K], and the biases b, [K], minimise

    sum over images of cross-entropy(x W + b, label) + penalty / 2 x |W|^2.

As the sum, not the mean, is taken over the images, a penalty means the same for few images and for
many.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simclr_tf.evaluation.preparation import hold_back_tenth, mean_and_deviation

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

PENALTIES = tuple(np.logspace(-6, 5, 45).tolist())  # as in the paper
CHOICE_IMAGES = 10_000  # that penalties are chosen on, at most
CHOICE_ITERATIONS = 100  # each fit goes on from that at a stronger penalty
COARSE = 4  # every so many penalties are tried first, then those around the best
# Of the gradient of the mean over the images, times the classes: each has its share of the images.
TOLERANCE = 1e-4
CHOICE_TOLERANCE = 1e-2
# Multiplications in a product of features and weights from which on threads share it. NumPy and
# SciPy bring threads of their own, and those of one wait at work while those of the other compute:
# an iteration on 1,800 features of width 2,048 and 100 classes took 52 ms with two threads and 24
# with one, and far more where others used the cores; 2 cores, 2026-12-01.
SHARED_FROM = 2**30


class PenaltyChoice(NamedTuple):
    """A penalty, and its accuracy on what was held back; None where nothing could be."""

    penalty: float
    accuracy: float | None


def choose_penalty(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    *,
    seed: int,
    penalties: tuple[float, ...] = PENALTIES,
    max_images: int = CHOICE_IMAGES,
) -> PenaltyChoice:
    """Chooses the l2 penalty by the accuracy on a held-back tenth of the training features.

    Every fourth penalty is tried from the strongest to the weakest, each fit going on from the one
    before; then all between the best of them and its neighbours on either side.

    Args:
        train_features: float [M, F].
        train_labels: int [M].
        seed: Draws the images and what is held back.
        penalties: To choose among.
        max_images: Images taken where there are more: a draw over all of them, the held-back tenth
            included.

    Returns:
        The best penalty, the strongest of equals. Where nothing can be held back, as every class
        has a single image, the one nearest to 1.
    """
    labels = np.asarray(train_labels)
    taken = np.arange(len(labels))
    if len(labels) > max_images:
        taken = np.sort(np.random.default_rng(seed).permutation(len(labels))[:max_images])
    rest, held = (taken[part] for part in hold_back_tenth(labels[taken], seed))
    falling = sorted(penalties, reverse=True)
    if not len(held):
        return PenaltyChoice(min(falling, key=lambda p: abs(np.log(p))), None)
    training = _TrainingSet(train_features[rest], labels[rest])
    held_features = training.standardised(train_features[held])
    models: dict[float, LogisticRegression | None] = {}
    accuracy: dict[float, float] = {}

    def follow(penalties: list[float]) -> None:
        for penalty in penalties:
            stronger = min((p for p in models if p > penalty), default=None)
            models[penalty] = training.fit(
                penalty,
                CHOICE_ITERATIONS,
                CHOICE_TOLERANCE,
                start=None if stronger is None else models[stronger],
            )
            likely = training.log_probabilities(models[penalty], held_features)
            predicted = training.classes[likely.argmax(axis=1)]
            accuracy[penalty] = float(np.mean(predicted == labels[held]))

    last = len(falling) - 1
    follow([falling[index] for index in sorted({*range(0, last, COARSE), last})])
    best = falling.index(_best(accuracy))
    follow(falling[max(best - COARSE + 1, 0) : best])
    follow(falling[best + 1 : best + COARSE])
    return PenaltyChoice(_best(accuracy), accuracy[_best(accuracy)])


def logistic_scores(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    *,
    penalty: float,
    num_classes: int,
    max_iterations: int = 200,
) -> np.ndarray:
    """Fits a logistic regression and returns what it finds likely.

    Args:
        train_features: float [M, F].
        train_labels: int [M], 0 to K - 1.
        features: float [N, F].
        penalty: Above 0; see the module.
        num_classes: K.
        max_iterations: Iterations of L-BFGS at most. Ending here is no fault: with more features
            than the images can pin down, as with raw pixels, going on only fits them closer.

    Returns:
        Logarithms of probabilities, float32 [N, K]; -inf for a class without training images.

    Raises:
        ValueError: There is no training feature, one is not finite, or a label is outside the
            classes.
    """
    labels = np.asarray(train_labels)
    if not len(labels):
        raise ValueError("Expected at least one training feature to fit, got none.")
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"Expected labels in 0..{num_classes - 1}, got {labels.min()}..{labels.max()}. "
            "Pass num_classes to match."
        )
    training = _TrainingSet(train_features, labels)
    model = training.fit(penalty, max_iterations, TOLERANCE)
    scores = np.full((len(features), num_classes), -np.inf, np.float32)
    scores[:, training.classes] = training.log_probabilities(model, training.standardised(features))
    return scores


def logistic_regression(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    *,
    inverse_penalty: float = 1.0,
    max_iterations: int = 200,
) -> np.ndarray:
    """Fits a logistic regression and predicts with it.

    Args:
        train_features: float [M, F].
        train_labels: int [M], of any values.
        features: float [N, F].
        inverse_penalty: 1 / penalty; see the module.
        max_iterations: As `logistic_scores` takes them.

    Returns:
        int32 [N], classes predicted for `features`.
    """
    classes, codes = np.unique(train_labels, return_inverse=True)
    scores = logistic_scores(
        train_features,
        codes,
        features,
        penalty=1.0 / inverse_penalty,
        num_classes=len(classes),
        max_iterations=max_iterations,
    )
    return classes[scores.argmax(axis=1)].astype(np.int32)


def _best(accuracy: dict[float, float]) -> float:
    return max(accuracy, key=lambda penalty: (accuracy[penalty], penalty))


class _TrainingSet:
    """Training features and labels, to be fitted at any penalty.

    Attributes:
        classes: The labels that occur, int [C] in rising order.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        self.classes, self.codes = np.unique(labels, return_inverse=True)
        self.mean, self.deviation = mean_and_deviation(features)
        self.features = self.standardised(features)

    def standardised(self, features: np.ndarray) -> np.ndarray:
        standard = np.subtract(features, self.mean, dtype=np.float32)
        standard /= self.deviation
        return standard

    def fit(
        self,
        penalty: float,
        max_iterations: int,
        tolerance: float,
        *,
        start: LogisticRegression | None = None,
    ) -> LogisticRegression | None:
        """Returns the model, begun with the weights of another; None where there is one class."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        if len(self.classes) == 1:
            return None
        model = LogisticRegression(warm_start=True) if start is None else copy.copy(start)
        # Of two classes scikit-learn fits the difference of the weights alone. Dealt out evenly its
        # halves have half of its square together, and so it is held by half of the penalty.
        strength = (2.0 if len(self.classes) == 2 else 1.0) / penalty
        model.set_params(C=strength, max_iter=max_iterations, tol=tolerance / len(self.classes))
        threads = None if self.features.size * len(self.classes) >= SHARED_FROM else 1
        with threadpool_limits(threads, user_api="blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(self.features, self.codes)

    def log_probabilities(
        self, model: LogisticRegression | None, standard: np.ndarray
    ) -> np.ndarray:
        """Returns float [N, C] for standardised features float32 [N, F]."""
        from scipy.special import log_softmax

        if model is None or not len(standard):
            return np.zeros((len(standard), len(self.classes)), np.float32)
        # Not its own predict_log_proba, which is -inf where a probability is below float32's.
        logits = model.decision_function(standard)
        if logits.ndim == 1:  # of two classes
            logits = np.stack([-logits, logits], axis=1) / 2
        return log_softmax(logits, axis=1)
