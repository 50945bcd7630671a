"""Numbers that went wrong: a loss or weights that are not finite, and steps without effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.training.callbacks.steps import Logs, StepCallback

REMEDIES = "Begin again with a smaller `learning_rate`, more `warmup_epochs` or `precision=float32`"


class StopWhereNotFinite(StepCallback):
    """Ends the training where the loss, or a weight after the update, is not finite.

    A weight is not after a gradient that is not, or a rate that is far too large: with a loss that
    still looks well. The device looks after each execution; what it saw is read, which waits for
    it, every few steps, at the end of an epoch, and by `check` before anything is saved. It must
    come before the callbacks that save.

    With loss scaling (float16) a step whose gradients overflow changes no weight and is no mistake;
    a run that only leaves out steps is ended too.

    Args:
        every_steps: Steps between two looks, rounded up to whole executions.
    """

    SKIPPED_IN_A_ROW = 50  # a loss scale of 2^15, Keras' first, is 2^-35 after so many

    _rate: tf.Tensor  # of the step to come
    _weights_are_finite: Callable[[], tf.Tensor] | None = None

    def __init__(self, *, every_steps: int) -> None:
        super().__init__()
        self.every_steps = every_steps
        self._seen: list[_Look] = []  # those that are not read yet
        self._taken: tuple[int, int] | None = None  # updates, and the step they were seen at

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        self._rate = tf.convert_to_tensor(self.model.optimizer.learning_rate)
        if self._weights_are_finite is None:
            weights = self.model.trainable_variables
            # One operation a variable; a norm that overflows would be that of no weights to keep.
            norms = tf.function(lambda: tf.add_n([tf.nn.l2_loss(w) for w in weights]))
            self._weights_are_finite = lambda: tf.math.is_finite(norms())
        if self._taken is None and _scales_loss(self.model):
            self._taken = _updates(self.model.optimizer), self.step

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        before = self.step
        super().on_train_batch_end(batch, logs)
        loss = tf.reduce_all(tf.math.is_finite((logs or {})["loss"]))
        weights = self._weights_are_finite() if self._weights_are_finite else loss
        self._seen.append(_Look(before + 1, self.step, loss, weights, self._rate))
        self._rate = tf.convert_to_tensor(self.model.optimizer.learning_rate)
        if self.step // self.every_steps != before // self.every_steps:
            self.check()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.check()

    def check(self) -> None:
        """Raises UserError where a step that is done was not finite."""
        looks, self._seen = self._seen, []
        for look in looks:
            if not (look.loss and look.weights):
                wrong = "gradient or update" if look.loss else "loss"
                steps = "" if look.first == look.last else f"{look.first} to "
                raise UserError(
                    f"Expected a finite loss and finite weights, got a {wrong} that is not at step "
                    f"{steps}{look.last}, at a learning rate of {float(look.rate):.4g}. "
                    f"{REMEDIES}; nothing was saved after that step."
                )
        if self._taken is not None:
            self._taken = self._check_progress(*self._taken)

    def _check_progress(self, before: int, since: int) -> tuple[int, int]:
        """Returns the updates taken and the step they were seen at; raises where none were."""
        taken = _updates(self.model.optimizer)
        if taken != before:
            return taken, self.step
        if self.step - since >= self.SKIPPED_IN_A_ROW:
            rate = float(self.model.optimizer.learning_rate)
            raise UserError(
                f"Expected gradients that float16 can hold, got none from step {since} to "
                f"{self.step}: all were left out, at a learning rate of {rate:.4g}. "
                f"{REMEDIES.removesuffix(' or `precision=float32`')}, or with `precision=float32` "
                "or mixed_bfloat16."
            )
        return before, since


class _Look(NamedTuple):
    """What an execution left behind, on the device until it is read.

    Attributes:
        first, last: The steps of the execution, both included.
        loss, weights: bool scalars, whether they are finite.
        rate: The learning rate of its first step.
    """

    first: int
    last: int
    loss: tf.Tensor
    weights: tf.Tensor
    rate: tf.Tensor


def _scales_loss(model: keras.Model) -> bool:
    return isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


def _updates(optimizer: keras.optimizers.Optimizer) -> int:
    return int(optimizer.iterations.numpy())  # under a strategy there is no int() of it
