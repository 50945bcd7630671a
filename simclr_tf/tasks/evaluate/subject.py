"""What is evaluated: an encoder, images, and their features, which are computed once."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import NamedTuple

import keras
import numpy as np

from simclr_tf import data
from simclr_tf.augment import Recipe
from simclr_tf.config.settings import Config
from simclr_tf.counting import spell_number
from simclr_tf.data.batches.evaluation import images_together, plain_batches, view_batches
from simclr_tf.errors import UserError
from simclr_tf.evaluation.features import embed
from simclr_tf.tasks.embed import check_finite, project
from simclr_tf.workflow.encoder import load_projection_head
from simclr_tf.workflow.run import Run


class Features(NamedTuple):
    """Features of the training and of the test images, float32 [M, F] and [N, F]."""

    train: np.ndarray
    test: np.ndarray


class Labels(NamedTuple):
    """Labels of the same images, int32 [M] and [N], and the names of their K classes."""

    train: np.ndarray
    test: np.ndarray
    names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        run: The run.
        train, test: Images, both with labels or both without.
        size: (h, w) that they are seen at.
        encoder: Frozen, with its weights.
        checkpoint: Where these are from; None: they are random.
        trained: The settings of the pre-training, where they are known.
    """

    run: Run
    train: data.Source
    test: data.Source
    size: tuple[int, int]
    encoder: keras.Model
    checkpoint: pathlib.Path | None
    trained: Config | None

    @property
    def config(self) -> Config:
        return self.run.config

    @property
    def seeds(self) -> range:
        return range(self.config.seed, self.config.seed + self.config.num_seeds)

    @property
    def recipe(self) -> Recipe:
        """The augmentation that the encoder was trained with."""
        return (self.trained or self.config).recipe()

    def labels(self) -> Labels | None:
        """Returns the labels with as many classes as the settings ask for, or as there are."""
        if self.train.labels is None or self.test.labels is None:
            return None
        known = self.train.class_names
        count = self.config.num_classes or max(self.train.num_classes, self.test.num_classes)
        names = known[:count] + tuple(map(str, range(len(known), count)))
        return Labels(self.train.labels, self.test.labels, names)

    def embed(self, encoder: keras.Model) -> Features:
        """Computes what an encoder makes of all images."""
        return Features(*(self._embed(encoder, source) for source in (self.train, self.test)))

    def embed_view(self, source: data.Source, recipe: Recipe, view: int) -> np.ndarray:
        """Computes the features of an augmented view of images, float32 [M, F]."""
        batches = view_batches(
            source,
            batch_size=images_together(self.size),
            recipe=recipe,
            seed=self.config.seed,
            size=self.size,
            view=view,
        )
        return embed(self.encoder, batches, count=len(source))

    def _embed(self, encoder: keras.Model, source: data.Source) -> np.ndarray:
        batches = plain_batches(source, batch_size=images_together(self.size), size=self.size)
        return embed(encoder, batches, count=len(source))


def compute_h(subject: Subject) -> tuple[Features, float]:
    """Computes the features of all images; returns them and the images per second.

    Raises:
        UserError: They are no numbers.
    """
    started = time.monotonic()
    h = subject.embed(subject.encoder)
    for features in h:
        check_finite(features)
    images = len(subject.train) + len(subject.test)
    rate = round(images / (time.monotonic() - started), 1)
    print(f"features of {spell_number(images, 'image')}, {rate:,.0f} images/s", flush=True)
    return h, rate


def compute_z(subject: Subject, h: Features) -> Features | None:
    """Computes the projections; None where the checkpoint has no projection head."""
    if subject.checkpoint is None:
        return None
    try:
        head = load_projection_head(subject.config, h.train.shape[1], subject.checkpoint)
    except UserError as error:
        print(f"without z: {error}", flush=True)
        return None
    z = Features(*(project(head, features) for features in h))
    for projections in z:
        check_finite(projections)
    return z


def spread(count: int, most: int) -> np.ndarray:
    """Returns at most so many numbers of 0..count-1, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
