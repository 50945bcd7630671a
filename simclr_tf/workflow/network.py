"""What is trained: a model, what all training changes in it, and the batches it is trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from simclr_tf import data
from simclr_tf.config.settings import Config
from simclr_tf.data.batches.steps import Batches
from simclr_tf.runs.checkpoints import Variables


@dataclasses.dataclass(frozen=True)
class Network:
    """A model that is ready for `fit`, as a trainer builds it.

    Attributes:
        model: Compiled.
        variables: All that training changes, saved in checkpoints.
        batches: What it is trained on, by step.
        callbacks: The task's own; what they add to an epoch's logs is written down too.
        facts: What `model.json` says of the model beside its views' size and its first weights.
        validation: Further arguments of `model.fit`.
        first_row: Gives the journal's row of epoch 0, before training.
    """

    model: keras.Model
    variables: Variables
    batches: Batches
    callbacks: Sequence[keras.callbacks.Callback]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    validation: dict[str, Any] = dataclasses.field(default_factory=dict)
    first_row: Callable[[], dict[str, float]] = dict


def batches_of_views(
    make: Callable[..., tf.data.Dataset],
    source: data.Source,
    config: Config,
    *,
    size: tuple[int, int],
    **arguments: Any,
) -> Batches:
    """Returns the batches of drawn views that the settings ask for.

    Args:
        make: A function of `data.batches.train` that makes batches of drawn views.
        source: The images.
        config: The settings.
        size: (h, w) of the views.
        **arguments: Further arguments of `make`.
    """
    return Batches(
        make,
        source,
        recipe=config.recipe(),
        seed=config.seed,
        size=size,
        **({"batch_size": config.batch_size} | arguments),
    )
