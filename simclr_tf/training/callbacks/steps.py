"""Steps as a callback counts them, and the type of what Keras tells it."""

from __future__ import annotations

from typing import Any

import keras

Logs = dict[str, Any] | None  # numbers by name, which a callback may add to


class StepCallback(keras.callbacks.Callback):
    """A callback that knows the step it is at; what overrides a method here calls it, too.

    The optimiser's own count will not do: with loss scaling it leaves out the steps it skips.

    Attributes:
        step: Steps trained, over all epochs. `fit_steps` says where it begins; with Keras' `fit`
            it goes on from one call to the next, and begins at those of `initial_epoch`.
    """

    step = 0
    _before = 0  # the step that the epoch began at

    def on_train_begin(self, logs: Logs = None) -> None:
        self.step = self.params.get("first_step", self.step)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if not self.step and "first_step" not in self.params:
            self.step = epoch * (self.params.get("steps") or 0)
        self._before = self.step

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        # Keras counts the last execution as a whole one, also where the data end within it.
        self.step = self._before + min(batch + 1, self.params.get("steps") or batch + 1)
