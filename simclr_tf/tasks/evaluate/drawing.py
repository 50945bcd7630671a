"""The pictures of an evaluation."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping

import numpy as np

from simclr_tf import plots
from simclr_tf.atomic_write import write_whole
from simclr_tf.evaluation.neighbours import nearest
from simclr_tf.tasks.embed import NEIGHBOURS, SHOWN_QUERIES, draw_neighbours
from simclr_tf.tasks.evaluate.outcomes import Outcome
from simclr_tf.tasks.evaluate.subject import Features, Labels, Subject, spread

MAP_IMAGES = 1000  # of each split in the t-SNE
SPLITS: tuple[str, ...] = ("training images", "test images")


def draw_confusions(subject: Subject, names: tuple[str, ...], found: Mapping[str, Outcome]) -> None:
    """Draws the confusion matrix of each protocol."""
    for name, entry in found.items():
        plots.plot_confusion_matrix(
            np.array(entry["confusion_matrix"]),
            names,
            subject.run.folder.plots / f"confusion_matrix_{name}.png",
            title=f"Confusion matrix, {name.replace('_', ' ')}",
        )


def draw_maps(subject: Subject, h: Features, z: Features | None, labels: Labels | None) -> None:
    """Draws a t-SNE of training and test features, of z beside h where there is z; coloured by
    class, or by split where there are no labels.
    """
    train, test = (spread(len(own), MAP_IMAGES) for own in h)
    count = len(train) + len(test)
    if count < 5:
        return
    is_test = np.repeat([False, True], [len(train), len(test)])
    of_class, names = is_test.astype(np.int32), SPLITS
    if labels is not None:
        of_class, names = np.concatenate([labels.train[train], labels.test[test]]), labels.names
    maps = [
        _map(np.concatenate([own.train[train], own.test[test]]), subject.config.seed)
        for own in (h, z)
        if own is not None
    ]
    title, path = "t-SNE of training and test features", subject.run.folder.plots / "tsne.png"
    if z is None:
        plots.plot_embedding(maps[0], of_class, names, path, title=title)
    else:
        marked = None if labels is None else is_test
        plots.plot_pair(maps[0], maps[1], of_class, names, path, is_test=marked, title=title)


def draw_nearest(subject: Subject, h: Features, labels: Labels | None) -> None:
    """Draws a few test images with the most similar training images."""
    rows = spread(len(subject.test), SHOWN_QUERIES)
    found, similarities = nearest(h.train, h.test[rows], k=NEIGHBOURS)
    right = None
    if labels is not None:
        right = labels.train[found] == labels.test[rows][:, np.newaxis]
    draw_neighbours(
        subject.run, subject.train, subject.test, rows, found, similarities, right, subject.size
    )


def copy_curves(subject: Subject) -> None:
    """Copies the curves of the pre-training."""
    if subject.checkpoint is None or subject.trained is None:
        return
    for name in ("loss.png", "accuracy.png"):
        curve = subject.checkpoint.parent.parent / "plots" / name
        if curve.exists():
            target = subject.run.folder.plots / name
            write_whole(target, functools.partial(shutil.copy, curve))


def _map(features: np.ndarray, seed: int) -> np.ndarray:
    """Returns features in the plane by t-SNE, float32 [M, 2]."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    init = "pca" if features.shape[1] > 1 else "random"
    return TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(features)
