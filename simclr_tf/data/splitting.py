"""Shares of a set: drawn with the seed, class by class where labels are known."""

from __future__ import annotations

import dataclasses

import numpy as np

from simclr_tf.data.source import Source, Splits
from simclr_tf.errors import UserError


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a share of every class, at least one image of each.

    Args:
        labels: int [M].
        fraction: Share of each class, 0 to 1.
        seed: The draw is a function of it and the labels.

    Returns:
        Indices drawn, and the others; both int64 in rising order.
    """
    rng = np.random.default_rng(seed)
    drawn = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, round(fraction * len(members)))
        drawn[rng.permutation(members)[:count]] = True
    return np.flatnonzero(drawn), np.flatnonzero(~drawn)


def hold_back(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Splits a share off, class by class where labels are known: (the rest, what is held back).

    Raises:
        UserError: One of the parts would be empty.
    """
    rest, held = share_out(source, fraction, seed)
    part = dataclasses.replace(source.take(held), name=f"{source.name}, held back")
    return source.take(rest), part


def share_out(source: Source, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the two parts of `hold_back`, int64 in rising order; raises as it."""
    labels = np.zeros(len(source), np.int32) if source.labels is None else source.labels
    held, rest = stratified_split(labels, fraction, seed)
    single = ~np.isin(labels[held], labels[rest])  # classes that training would lose
    held, rest = held[~single], np.union1d(rest, held[single])
    if not len(held) or not len(rest):
        raise UserError(
            f"Expected images on both sides of `val_fraction={fraction}`, got {len(source)} in "
            f"{source.name}. Add images, or pass another share."
        )
    return rest, held


def share_classes(train: Source, test: Source | None) -> Splits:
    """Pairs two sets whose classes are numbers: both have as many as the larger label asks for."""
    if test is None or train.labels is None or test.labels is None:
        return Splits(train, test)
    names = tuple(map(str, range(max(train.num_classes, test.num_classes))))
    return Splits(*(dataclasses.replace(s, class_names=names) for s in (train, test)))
