"""Numbers that went wrong: a loss or weights that are not finite, and steps without effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.training.callbacks.logs import Logs
from simclr_tf.training.distribution import scope_of

REMEDIES = "Begin again with a smaller `learning_rate`, more `warmup_epochs` or `precision=float32`"


class StopWhereNotFinite(keras.callbacks.Callback):
    """Ends the training where the loss, or a weight after the update, is not finite.

    A weight is not after a gradient that is not, or a rate that is far too large: with a loss that
    still looks well. Each step is watched on the device, so that the first bad one is named exactly
    though several run in one execution; what was seen is read, which waits for the device, every
    few steps, at the end of an epoch, and by `check` before anything is saved. It must come before
    the callbacks that save.

    With loss scaling (float16) a step whose gradients overflow changes no weight and is no mistake;
    a run that only leaves out steps is ended too.

    Args:
        every_steps: Steps between two looks, rounded up to whole executions.
    """

    SKIPPED_IN_A_ROW = 50  # a loss scale of 2^15, Keras' first, is 2^-35 after so many

    def __init__(self, *, every_steps: int) -> None:
        super().__init__()
        self.every_steps = every_steps
        self._first_step: int | None = None
        self._looked = 0
        self._taken = (0, 0)  # updates taken, and the step at which they were seen to be so many

    def set_model(self, model: keras.Model) -> None:
        if model is self.model:  # `fit_steps` hands it over before each of its calls of `fit`
            return
        super().set_model(model)
        self._strategy = model.distribute_strategy
        with scope_of(self._strategy):
            self._seen, self._bad_loss, self._bad_weights = (_counter(tf.int64) for _ in range(3))
            self._rate = _counter(tf.float32)
        model.train_step = self._watch(model.train_step)
        model.train_function = None  # one that was made before is not watched

    def on_train_begin(self, logs: Logs = None) -> None:
        if self._first_step is None:
            self._first_step = self._looked = self.model.trained_steps
            if isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer):
                self._taken = _updates(self.model.optimizer), self._looked

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        step = self.model.trained_steps
        if step // self.every_steps != self._looked // self.every_steps:
            self.check()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.check()

    def check(self) -> None:
        """Raises UserError where a step that is done was not finite."""
        self._looked = self.model.trained_steps
        loss, weights = int(_read(self._bad_loss)), int(_read(self._bad_weights))
        if loss or weights:
            wrong = "loss" if loss and (not weights or loss <= weights) else "gradient or update"
            step = (self._first_step or 0) + min(filter(None, (loss, weights)))
            raise UserError(
                f"Expected a finite loss and finite weights, got a {wrong} that is not at step "
                f"{step}, at a learning rate of {float(_read(self._rate)):.4g}. {REMEDIES}; "
                "nothing was saved after that step."
            )
        if isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer):
            self._check_progress(self.model.optimizer)

    def _check_progress(self, optimizer: keras.optimizers.LossScaleOptimizer) -> None:
        taken = _updates(optimizer)
        if taken != self._taken[0]:
            self._taken = taken, self._looked
        elif self._looked - self._taken[1] >= self.SKIPPED_IN_A_ROW:
            rate = float(optimizer.learning_rate)
            raise UserError(
                f"Expected gradients that float16 can hold, got none from step {self._taken[1]} to "
                f"{self._looked}: all were left out, at a learning rate of {rate:.4g}. "
                f"{REMEDIES.removesuffix(' or `precision=float32`')}, or with `precision=float32` "
                "or mixed_bfloat16."
            )

    def _watch(self, train_step: Callable[[Any], dict]) -> Callable[[Any], dict]:
        def watched(data: Any) -> dict:
            rate = tf.cast(self.model.optimizer.learning_rate, tf.float32)
            logs = train_step(data)
            seen = self._seen.assign_add(1)
            # One operation a variable; a norm that overflows would be that of no weights to keep.
            weights = tf.add_n([tf.nn.l2_loss(v) for v in self.model.trainable_variables])
            before = self._bad_loss + self._bad_weights
            for number, first in ((logs["loss"], self._bad_loss), (weights, self._bad_weights)):
                is_first = (first == 0) & ~tf.reduce_all(tf.math.is_finite(number))
                first.assign(tf.where(is_first, seen, first))
            self._rate.assign(tf.where(before == 0, rate, self._rate))
            return logs

        return watched


def _counter(dtype: tf.DType) -> tf.Variable:
    """Makes a scalar that each replica counts for itself: all see the same loss and weights."""
    return tf.Variable(
        0,
        dtype=dtype,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def _updates(optimizer: keras.optimizers.Optimizer) -> int:
    return int(optimizer.iterations.numpy())  # under a strategy there is no int() of it


def _read(variable: tf.Variable) -> tf.Tensor:
    return tf.convert_to_tensor(variable)
