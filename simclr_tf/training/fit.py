"""`model.fit` from any step to any step, with epochs that keep their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from simclr_tf.training.callbacks.steps import Logs

Batches = Callable[[int, int], tf.data.Dataset]

GPU_STEPS = 10


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
    """Returns how many steps to run at a time; what is left of an epoch is one more execution.

    Args:
        asked: At most so many; 0: `GPU_STEPS` on a GPU, which would wait for Python between short
            steps, 1 on a CPU.
        steps_per_epoch: Steps of a whole epoch.
    """
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    return min(asked or (GPU_STEPS if on_gpu else 1), steps_per_epoch)


class StepLoop:
    """Runs some steps of a model without a strategy: what Keras calls its train function.

    Keras' own runs `steps_per_execution` of them at each call, and so at the end of an epoch those
    of the next one, too. The steps are traced, and compiled, once for all numbers of them.

    Attributes:
        steps: int32 scalar, how many steps the next call runs.
    """

    def __init__(self, model: keras.Model) -> None:
        with tf.device("/CPU:0"):  # where the loop looks at it
            self.steps = tf.Variable(model.steps_per_execution, dtype=tf.int32, trainable=False)
        step = tf.function(
            model.train_step,
            jit_compile=model.jit_compile,
            reduce_retracing=True,
            autograph=False,
        )

        @tf.function(reduce_retracing=True, autograph=False)
        def run(iterator: tf.data.Iterator) -> dict[str, tf.Tensor]:
            def next_step(done: tf.Tensor) -> tf.Tensor:
                step(iterator.get_next())
                return done + 1

            tf.while_loop(lambda done: done < self.steps, next_step, [tf.constant(0)])
            return model.get_metrics_result()

        self._run = run

    def __call__(self, iterator: tf.data.Iterator) -> dict[str, tf.Tensor]:
        return self._run(iterator)


class Executions(keras.callbacks.Callback):
    """Has the last execution of an epoch run the steps that are left of it, and no more.

    Does nothing where steps run one at a time.
    """

    def on_train_begin(self, logs: Logs = None) -> None:
        several = self.model.steps_per_execution > 1
        if several and not isinstance(self.model.train_function, StepLoop):
            self.model.train_function = StepLoop(self.model)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        if isinstance(self.model.train_function, StepLoop):
            left = self.params["steps"] - batch
            self.model.train_function.steps.assign(min(self.model.steps_per_execution, left))

    def on_train_end(self, logs: Logs = None) -> None:
        if isinstance(self.model.train_function, StepLoop):  # for a `fit` without this callback
            self.model.train_function.steps.assign(self.model.steps_per_execution)


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
        model: Compiled, under a strategy with 1 step per execution.
        batches: (first, last) -> the batches of those steps.
        first_step, last_step: First included, last not.
        steps_per_epoch: Steps of a whole epoch.
        callbacks: Keras callbacks; they see the epoch's own number and a step's metrics as
            tensors; `params["first_step"]` is the step that a call of `fit` begins at.
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
        model.fit(
            prefetch_to_gpu(_of_unknown_length(batches(step, step + epochs * steps))),
            initial_epoch=epoch,
            epochs=epoch + epochs,
            steps_per_epoch=steps,
            callbacks=UnreadLogs(
                [Executions(), *callbacks],
                add_history=True,
                model=model,
                epochs=epoch + epochs,
                steps=steps,
                first_step=step,
                verbose=0,
            ),
            verbose=0,
            shuffle=False,
            **fit_arguments,
        )
        step += epochs * steps


def _of_unknown_length(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Hides how many batches there are from Keras.

    It counts the last execution of each epoch as a whole one, and would end the training where so
    many batches are used up.
    """
    known = isinstance(batches, tf.data.Dataset) and batches.cardinality() > 0
    return batches.filter(lambda *_: True) if known else batches
