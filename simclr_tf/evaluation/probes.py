"""Linear and nonlinear probes by SGD on frozen features, and how any probe is judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_tf import metrics
from simclr_tf.errors import UserError
from simclr_tf.evaluation.heads import prepare_inputs, scores_of, train_heads
from simclr_tf.evaluation.preparation import hold_back_tenth

EPOCHS = 90  # as the linear evaluation of arXiv 2002.05709, B.6
BATCH_SIZE = 256
LEARNING_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
WEIGHT_DECAYS = (0.0, 1e-3)
TOP = 5


class HeadChoice(NamedTuple):
    """Settings, and their accuracy on what was held back; None where nothing could be."""

    learning_rate: float
    weight_decay: float
    accuracy: float | None


def train_head(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    *,
    num_classes: int,
    hidden: int | None = None,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = 0.03,
    weight_decay: float = 0.0,
    seed: int,
) -> np.ndarray:
    """Trains a head on features and returns what it makes of others.

    Nesterov SGD on batches of all images, a new order in each epoch, the rate falling as a cosine
    to 0. Each feature is shifted and scaled to mean 0 and standard deviation 1.

    Args:
        features: float [M, F], or float [V, M, F]: V augmented views of each image, of which each
            epoch draws one. Half precision saves memory, batches are float32.
        labels: int [M], 0 to K - 1.
        test_features: float [N, F].
        num_classes: K.
        hidden: Width of the hidden layer, which is followed by ReLU; None: the head is linear.
        epochs: Passes over the images, at least 1.
        batch_size: Images a step at most: those of an epoch are dealt out evenly.
        learning_rate: That of the first step.
        weight_decay: l2, added to the gradients of the kernels.
        seed: First weights, orders and views are a function of it.

    Returns:
        Logits, float32 [N, K].

    Raises:
        UserError: Training diverged.
        ValueError: There is no image, or a shape does not fit.
    """
    views, truth = _check(features, labels)
    everything = np.arange(len(truth))
    inputs = prepare_inputs(views, everything)
    heads = train_heads(
        inputs,
        truth,
        everything,
        num_classes=num_classes,
        hidden=hidden,
        epochs=epochs,
        batch_size=batch_size,
        settings=[(learning_rate, weight_decay)],
        seed=seed,
    )
    scores = [block[:, 0] for block in scores_of(heads, inputs, test_features)]
    found = np.concatenate([np.zeros((0, num_classes), np.float32), *scores])
    if not np.isfinite(found).all():
        raise UserError(
            f"Expected a head that learns at a learning rate of {learning_rate:g}, got numbers "
            "that are not finite. Pass a smaller learning rate."
        )
    return found


def choose_head(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    hidden: int | None = None,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    seed: int,
) -> HeadChoice:
    """Chooses learning rate and weight decay by the accuracy on a held-back tenth.

    All pairs are trained at once, on the same batches; with a wide hidden layer, whose products
    take the time, pass few. The held-back images are judged by the first of their views.

    Args:
        features: float [M, F] or [V, M, F], as `train_head` takes them.
        labels: int [M], 0 to K - 1.
        num_classes: K.
        hidden: Width of the hidden layer; None: the head is linear.
        epochs: As in the training that the choice is for.
        batch_size: As in the training that the choice is for.
        learning_rates: To choose among.
        weight_decays: To choose among.
        seed: Draws what is held back, and what `train_head` draws.

    Returns:
        The best pair, of equals the one named first. Where nothing can be held back, as every class
        has a single image, the lowest rate and the first decay.

    Raises:
        UserError: Training diverged with every pair.
    """
    settings = [(rate, decay) for rate in learning_rates for decay in weight_decays]
    views, truth = _check(features, labels)
    rest, held = hold_back_tenth(truth, seed)
    if not len(held):
        return HeadChoice(min(learning_rates), weight_decays[0], None)
    inputs = prepare_inputs(views, rest)
    heads = train_heads(
        inputs,
        truth,
        rest,
        num_classes=num_classes,
        hidden=hidden,
        epochs=epochs,
        batch_size=batch_size,
        settings=settings,
        seed=seed,
    )
    hits = np.zeros(len(settings), np.int64)
    finite = np.ones(len(settings), bool)
    start = 0
    for block in scores_of(heads, inputs, views[0][held]):  # [B, S, K]
        own = truth[held[start : start + len(block)]]
        hits += np.sum(block.argmax(axis=2) == own[:, np.newaxis], axis=0)
        finite &= np.isfinite(block).all(axis=(0, 2))
        start += len(block)
    if not finite.any():
        raise UserError(
            f"Expected a head that learns at a learning rate of {min(learning_rates):g}, got "
            "numbers that are not finite. Pass smaller learning rates."
        )
    best = int(np.where(finite, hits, -1).argmax())  # the first of equals
    return HeadChoice(*settings[best], float(hits[best] / len(held)))


def score(scores: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    """Judges what a probe makes of images; all of it can be written as JSON.

    Args:
        scores: float [N, K], N of at least 1: votes, logits or logarithms of probabilities.
        labels: int [N], 0 to K - 1.
        num_classes: K.

    Returns:
        "accuracy"; "top5", None where there are no more than 5 classes; "f1_macro";
        "confusion_matrix", int [K][K], row: the truth.

    Raises:
        ValueError: The scores are not of K classes, or one is nan.
    """
    if scores.ndim != 2 or scores.shape != (len(labels), num_classes):
        raise ValueError(
            f"Expected scores of shape {(len(labels), num_classes)}, got {scores.shape}."
        )
    first = metrics.top_k_accuracy(scores, labels, 1)
    matrix = metrics.confusion_matrix(labels, scores.argmax(axis=1), num_classes)
    return {
        "accuracy": first,
        "top5": metrics.top_k_accuracy(scores, labels, TOP) if num_classes > TOP else None,
        "f1_macro": metrics.f1_macro(matrix),
        "confusion_matrix": matrix.tolist(),
    }


def _check(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns features with views, float [V, M, F], and labels, int32 [M].

    Raises:
        ValueError: There is no image, or not a label for each.
    """
    truth = np.asarray(labels).astype(np.int32)
    if features.ndim not in (2, 3) or features.shape[-2] != len(truth) or not features.size:
        raise ValueError(
            "Expected features [M, F] or [V, M, F] of at least one image and a label for each, "
            f"got shapes {features.shape} and {truth.shape}."
        )
    return features.reshape(-1, *features.shape[-2:]), truth
