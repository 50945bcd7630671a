"""`model.fit` from any step to any step, with epochs that keep their numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

Batches = Callable[[int, int], tf.data.Dataset]


class CountSteps(keras.callbacks.Callback):
    """Counts the steps trained, over all epochs, in `model.trained_steps`.

    The optimiser's own count will not do: with loss scaling it leaves out the steps it skips.
    """

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.trained_steps += 1


def fit_steps(
    model: keras.Model,
    batches: Batches,
    *,
    first_step: int,
    last_step: int,
    steps_per_epoch: int,
    callbacks: list[keras.callbacks.Callback],
    **fit_arguments: Any,
) -> None:
    """Trains the steps first_step..last_step-1, counted over all epochs.

    A run that begins or ends within an epoch has a shorter first or last one.

    Args:
        model: Compiled.
        batches: (first, last) -> the batches of those steps.
        first_step, last_step: First included, last not.
        steps_per_epoch: Steps of a whole epoch.
        callbacks: Keras callbacks; they see the epoch's own number, and `model.trained_steps`.
        **fit_arguments: Further arguments of `model.fit`, such as `validation_data`.
    """
    step = first_step
    while step < last_step and not model.stop_training:
        epoch, within = divmod(step, steps_per_epoch)
        whole_epochs = (last_step - step) // steps_per_epoch
        if within or not whole_epochs:
            epochs, steps = 1, min(steps_per_epoch - within, last_step - step)
        else:
            epochs, steps = whole_epochs, steps_per_epoch
        model.trained_steps = step
        with warnings.catch_warnings():
            # Keras warns that it leaves the order of a data set alone, which is what is wanted.
            warnings.filterwarnings("ignore", message=".*shuffle=True.*")
            model.fit(
                batches(step, step + epochs * steps),
                initial_epoch=epoch,
                epochs=epoch + epochs,
                steps_per_epoch=steps,
                callbacks=[CountSteps(), *callbacks],
                verbose=0,
                **fit_arguments,
            )
        step += epochs * steps
