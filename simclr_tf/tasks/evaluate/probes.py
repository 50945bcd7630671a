"""The probes on frozen features: nearest neighbours, logistic regression, and heads by SGD."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from simclr_tf.augment import Recipe
from simclr_tf.evaluation.features import put_view
from simclr_tf.evaluation.logistic import choose_penalty, logistic_scores
from simclr_tf.evaluation.neighbours import choose_knn, knn_scores
from simclr_tf.evaluation.probes import choose_head, train_head
from simclr_tf.tasks.evaluate.outcomes import Outcome, judge
from simclr_tf.tasks.evaluate.subject import Features, Labels, Subject

LINEAR_VIEWS = 4  # of each training image for the linear probe: the image, and views of it
MLP: dict[str, Any] = {"hidden": 128, "epochs": 30}
MLP_CHOICE: dict[str, Any] = {"learning_rates": (0.03, 0.1), "weight_decays": (0.0,)}

Scores = tuple[np.ndarray, dict[str, Any]]


def probe_h(
    subject: Subject, h: Features, labels: Labels, asked: Sequence[str]
) -> dict[str, Outcome]:
    """Probes the features that tasks use; returns what came of each protocol by its name."""
    found = probe_simply(subject, h, labels, asked)
    if "linear" in asked:
        views = Features(_views(subject, h.train), h.test)
        found["linear_probe"] = judge("linear_probe", _linear, subject, views, labels)
    if "mlp" in asked:
        found["mlp"] = judge("mlp", _mlp, subject, h, labels)
    return found


def probe_simply(
    subject: Subject, features: Features, labels: Labels, asked: Sequence[str], suffix: str = ""
) -> dict[str, Outcome]:
    """Probes features by what needs nothing else: nearest neighbours and logistic regression."""
    found = {}
    if "knn" in asked:
        # Classes that nobody votes for have no order.
        run = functools.partial(judge, f"knn{suffix}", _knn, ordered=False)
        found["knn"] = run(subject, features, labels)
    if "logreg" in asked:
        name = "logistic_regression"
        found[name] = judge(f"{name}{suffix}", _logistic, subject, features, labels)
    return found


def _views(subject: Subject, h: np.ndarray) -> np.ndarray:
    """Returns features of the images and of views that are cropped and mirrored, [V, M, F]."""
    recipe = Recipe(
        jitter=False, colordrop=False, blur=False, crop_area_min=subject.recipe.crop_area_min
    )
    views = put_view(np.empty((LINEAR_VIEWS, *h.shape), np.float16), 0, h)
    for view in range(1, LINEAR_VIEWS):
        views = put_view(views, view, subject.embed_view(subject.train, recipe, view))
    return views


def _knn(features: Features, labels: Labels, seed: int) -> Scores:
    known: dict[str, Any] = {"num_classes": labels.num_classes}
    chosen = choose_knn(features.train, labels.train, seed=seed, **known)
    settings: dict[str, Any] = {"k": chosen.k, "temperature": chosen.temperature}
    scores = knn_scores(features.train, labels.train, features.test, **settings, **known)
    return scores, settings


def _logistic(features: Features, labels: Labels, seed: int) -> Scores:
    penalty = choose_penalty(features.train, labels.train, seed=seed).penalty
    scores = logistic_scores(
        features.train,
        labels.train,
        features.test,
        penalty=penalty,
        num_classes=labels.num_classes,
    )
    return scores, {"penalty": penalty}


def _linear(features: Features, labels: Labels, seed: int) -> Scores:
    scores, rates = _train(features, labels, seed, {}, {})
    return scores, rates | {"views": len(features.train)}


def _mlp(features: Features, labels: Labels, seed: int) -> Scores:
    scores, rates = _train(features, labels, seed, MLP, MLP_CHOICE)
    return scores, rates | {"hidden": MLP["hidden"]}


def _train(
    features: Features, labels: Labels, seed: int, head: dict[str, Any], choice: dict[str, Any]
) -> Scores:
    known: dict[str, Any] = {"num_classes": labels.num_classes, "seed": seed, **head}
    chosen = choose_head(features.train, labels.train, **known, **choice)
    rates: dict[str, Any] = {
        "learning_rate": chosen.learning_rate,
        "weight_decay": chosen.weight_decay,
    }
    return train_head(features.train, labels.train, features.test, **rates, **known), rates
