"""`model.fit` from any step to any step, with epochs that keep their numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from simclr_tf.training.logs import Logs

Batches = Callable[[int, int], tf.data.Dataset]

GPU_STEPS = 10


class CountSteps(keras.callbacks.Callback):
    """Counts the steps trained, over all epochs, in `model.trained_steps`.

    The optimiser's own count will not do: with loss scaling it leaves out the steps it skips.

    Args:
        steps: Steps of each epoch it sees.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self._before = 0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._before = self.model.trained_steps

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        # Keras counts the last execution as a whole one, also where the data end within it.
        self.model.trained_steps = self._before + min(batch + 1, self.steps)


class UnreadLogs(keras.callbacks.CallbackList):
    """Hands the callbacks the metrics of a step unread, as tensors.

    Keras' own list turns them into numbers after every step, and so waits for the device each time;
    here a callback that wants a number asks for it by `float`.
    """

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        for callback in self.callbacks:
            callback.on_test_batch_end(batch, logs)


def prefetch_to_gpu(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Copies the next batch to the GPU while one is trained on; without a GPU, changes nothing.

    It must come last. The batches of a strategy are left to it, as it prefetches by itself. This
    has been run on CPUs only.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) != 1 or not isinstance(batches, tf.data.Dataset):
        return batches
    return batches.apply(tf.data.experimental.prefetch_to_device(gpus[0].name, buffer_size=1))


def choose_steps_per_execution(asked: int, steps_per_epoch: int) -> int:
    """Returns how many steps to run at a time: the largest divisor of an epoch's up to `asked`.

    Keras would run the last execution of an epoch whole, and so into the next epoch's batches.

    Args:
        asked: At most so many; 0: `GPU_STEPS` on a GPU, which would wait for Python between short
            steps, 1 on a CPU.
        steps_per_epoch: Steps of a whole epoch.
    """
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    most = min(asked or (GPU_STEPS if on_gpu else 1), steps_per_epoch)
    return max(n for n in range(1, most + 1) if steps_per_epoch % n == 0)


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
        model: Compiled; where with `steps_per_execution`, with a divisor of `steps_per_epoch`.
        batches: (first, last) -> the batches of those steps.
        first_step, last_step: First included, last not.
        steps_per_epoch: Steps of a whole epoch.
        callbacks: Keras callbacks; they see the epoch's own number and `model.trained_steps`, and a
            step's metrics as tensors.
        **fit_arguments: Further arguments of `model.fit`, such as `validation_data`.

    Raises:
        ValueError: The epochs are no multiple of `steps_per_execution`.
    """
    if steps_per_epoch % model.steps_per_execution:
        raise ValueError(
            f"Expected steps_per_execution to divide the {steps_per_epoch} steps of an epoch, got "
            f"{model.steps_per_execution}. Pass what `choose_steps_per_execution` returns."
        )
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
                prefetch_to_gpu(batches(step, step + epochs * steps)),
                initial_epoch=epoch,
                epochs=epoch + epochs,
                steps_per_epoch=steps,
                callbacks=UnreadLogs(
                    [CountSteps(steps), *callbacks],
                    add_history=True,
                    model=model,
                    epochs=epoch + epochs,
                    steps=steps,
                    verbose=0,
                ),
                verbose=0,
                **fit_arguments,
            )
        step += epochs * steps
