"""Multinomial logistic regression on frozen features (arXiv 2002.05709, B.8), by L-BFGS.

Each feature is shifted and scaled to mean 0 and standard deviation 1 over the training set. The
weights W, float [F, K], and the biases b, float [K], minimise

    sum over images of cross-entropy(x W + b, label) + penalty / 2 x |W|^2.

That is scikit-learn's objective at C = 1 / penalty (of two classes, whose weights it keeps as one
difference, at C = 2 / penalty). As the sum, not the mean, is taken over the images, a penalty means
the same for few images and for many.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from simclr_tf.evaluation.preparation import hold_back_tenth, mean_and_deviation

PENALTIES = tuple(np.logspace(-6, 5, 45).tolist())  # as in the paper
CHOICE_IMAGES = 10_000  # that penalties are chosen on, at most
CHOICE_ITERATIONS = 100  # each fit goes on from that at a stronger penalty
COARSE = 4  # every so many penalties are tried first, then those around the best
BLOCK_ROWS = 8192
GRADIENT_TOLERANCE = 1e-6  # of the mean over the images; float32 sums are no finer
LOSS_TOLERANCE = 1e-9
CHOICE_LOSS_TOLERANCE = 1e-6


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
    path = _Path(train_features[rest], labels[rest], train_features[held], labels[held])
    last = len(falling) - 1
    coarse = sorted({*range(0, last, COARSE), last})
    path.follow([falling[index] for index in coarse])
    best = falling.index(path.best().penalty)
    path.follow(falling[max(best - COARSE + 1, 0) : best])
    path.follow(falling[best + 1 : best + COARSE])
    return path.best()


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
        ValueError: There is no training feature, or a label is outside the classes.
    """
    labels = np.asarray(train_labels)
    if not len(labels):
        raise ValueError("Expected at least one training feature to fit, got none.")
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"Expected labels in 0..{num_classes - 1}, got {labels.min()}..{labels.max()}. "
            "Pass num_classes to match."
        )
    problem = Problem(train_features, labels)
    weights = problem.fit(penalty, max_iterations)
    scores = np.full((len(features), num_classes), -np.inf, np.float32)
    scores[:, problem.classes] = problem.log_probabilities(weights, features)
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


class _Path:
    """Fits at falling penalties, each begun where the next stronger one tried ended."""

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        held_features: np.ndarray,
        held_labels: np.ndarray,
    ) -> None:
        self.problem = Problem(features, labels)
        self.held_features = held_features
        self.held_labels = held_labels
        self.weights: dict[float, np.ndarray] = {}
        self.accuracy: dict[float, float] = {}

    def follow(self, penalties: list[float]) -> None:
        for penalty in penalties:
            stronger = min((p for p in self.weights if p > penalty), default=None)
            weights = self.problem.fit(
                penalty,
                CHOICE_ITERATIONS,
                start=None if stronger is None else self.weights[stronger],
                loss_tolerance=CHOICE_LOSS_TOLERANCE,
            )
            likely = self.problem.log_probabilities(weights, self.held_features)
            predicted = self.problem.classes[likely.argmax(axis=1)]
            self.weights[penalty] = weights
            self.accuracy[penalty] = float(np.mean(predicted == self.held_labels))

    def best(self) -> PenaltyChoice:
        penalty = max(self.accuracy, key=lambda p: (self.accuracy[p], p))
        return PenaltyChoice(penalty, self.accuracy[penalty])


class Problem:
    """Training features and labels, to be fitted at any penalty.

    Attributes:
        classes: The labels that occur, int [C] in rising order.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        self.classes, codes = np.unique(labels, return_inverse=True)
        self.mean, self.deviation = mean_and_deviation(features)
        # On the host: the tensor cores of a GPU round to 10 bits, and L-BFGS ends at the noise.
        with tf.device("CPU:0"):
            self.features = tf.convert_to_tensor(self._standardised(features))  # [M, F]
            self.codes = tf.constant(codes, tf.int32)  # [M]

    def fit(
        self,
        penalty: float,
        max_iterations: int,
        *,
        start: np.ndarray | None = None,
        loss_tolerance: float = LOSS_TOLERANCE,
    ) -> np.ndarray:
        """Returns the minimum of the objective, float64 [C, F + 1]; the last column are the biases.

        Args:
            penalty: See the module.
            max_iterations: Of L-BFGS.
            start: Weights to begin with, float64 [C, F + 1]; None: zeros.
            loss_tolerance: Ends where an iteration lowers the mean over the images by less.
        """
        from scipy.optimize import minimize

        shape = (len(self.classes), self.features.shape[1] + 1)
        found = minimize(
            lambda flat: self.objective(flat.reshape(shape), penalty),
            np.zeros(shape).ravel() if start is None else start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": max_iterations, "gtol": GRADIENT_TOLERANCE, "ftol": loss_tolerance},
        )
        return found.x.reshape(shape)

    def objective(self, weights: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        """Returns the objective over the number of images, and its gradient, float64 [C (F + 1)].

        Args:
            weights: float64 [C, F + 1].
            penalty: See the module.
        """
        with tf.device("CPU:0"):
            loss, gradient = _loss_and_gradient(
                tf.constant(weights, tf.float32), self.features, self.codes
            )
        kernel = weights[:, :-1]
        total = float(loss) + 0.5 * penalty * np.sum(kernel**2)
        slope = gradient.numpy().astype(np.float64)
        slope[:, :-1] += penalty * kernel
        return total / len(self.codes), slope.ravel() / len(self.codes)

    def log_probabilities(self, weights: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Returns float32 [N, C] for features float [N, F] and weights float64 [C, F + 1]."""
        found = np.zeros((len(features), len(weights)), np.float32)
        with tf.device("CPU:0"):
            small = tf.constant(weights, tf.float32)
            for start in range(0, len(features), BLOCK_ROWS):
                block = self._standardised(features[start : start + BLOCK_ROWS])
                found[start : start + BLOCK_ROWS] = _log_probabilities(small, block)
        return found

    def _standardised(self, features: np.ndarray) -> np.ndarray:
        standard = np.subtract(features, self.mean, dtype=np.float32)
        standard /= self.deviation
        return standard


@tf.function(
    input_signature=[
        tf.TensorSpec([None, None], tf.float32),
        tf.TensorSpec([None, None], tf.float32),
        tf.TensorSpec([None], tf.int32),
    ]
)
def _loss_and_gradient(
    weights: tf.Tensor, features: tf.Tensor, codes: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the summed cross-entropy, float64, and its gradient, float32 [C, F + 1]."""
    likely = _log_probabilities(weights, features)  # [M, C]
    loss = -tf.reduce_sum(tf.cast(tf.gather(likely, codes, batch_dims=1), tf.float64))
    residual = tf.exp(likely) - tf.one_hot(codes, tf.shape(weights)[0])
    kernel = tf.matmul(residual, features, transpose_a=True)  # [C, F]
    biases = tf.reduce_sum(residual, axis=0)[:, tf.newaxis]
    return loss, tf.concat([kernel, biases], axis=1)


def _log_probabilities(weights: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
    logits = tf.matmul(features, weights[:, :-1], transpose_b=True) + weights[:, -1]
    return tf.nn.log_softmax(logits)
