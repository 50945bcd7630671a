"""The live line of a training."""

from __future__ import annotations

import math
import sys
import time

import keras
import numpy as np

from simclr_tf.training.callbacks.steps import Logs, StepCallback


class Progress(StepCallback):
    """One live line: epoch, step, loss, images per second, time left.

    On a terminal the line is rewritten in place; elsewhere a new one is printed, more rarely. The
    loss is read, which waits for the device, only where the line is due.

    Adds `images_per_second` to the epoch's logs and, with loss scaling, `skipped_steps`: those of
    the run so far whose gradients overflowed, so that they changed no weight.

    Args:
        last_step: Steps of the whole run, for the time left.
        batch_size: Images per step.
        every_steps: Steps between two updates, rounded up to whole executions.
    """

    LINE_SECONDS = 15.0  # at least between two lines that are not rewritten

    def __init__(self, *, last_step: int, batch_size: int, every_steps: int) -> None:
        super().__init__()
        self.last_step = last_step
        self.batch_size = batch_size
        self.every_steps = every_steps
        self.images_per_second = 0.0
        self._live = sys.stdout.isatty()
        self._epoch = 0
        self._mark = (0, 0.0)  # step and time of the last update
        self._printed = 0.0
        self._rates: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch + 1
        self._mark = (self.step, time.monotonic())

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        super().on_train_batch_end(batch, logs)
        step = self.step
        if step // self.every_steps == self._mark[0] // self.every_steps:
            return
        self._keep_pace(step)
        if self._live or time.monotonic() - self._printed > self.LINE_SECONDS:
            self._printed = time.monotonic()
            self._print(step, float((logs or {}).get("loss", math.nan)))

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if not self._rates:  # a short run; else the time of a validation would count as training's
            self._keep_pace(self.step)
        if logs is not None:
            logs["images_per_second"] = round(self.images_per_second, 1)
            if isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer):
                taken = int(self.model.optimizer.iterations.numpy())  # a strategy has no int()
                logs["skipped_steps"] = self.step - taken
        if self._live:
            print("\r\033[K", end="", flush=True)

    def _keep_pace(self, step: int) -> None:
        now = time.monotonic()
        images = (step - self._mark[0]) * self.batch_size
        self._rates.append(images / max(now - self._mark[1], 1e-9))
        # The median tells the pace; the first window holds the compilation.
        self.images_per_second = float(np.median(self._rates))
        self._mark = (step, now)

    def _print(self, step: int, loss: float) -> None:
        left = (self.last_step - step) * self.batch_size / max(self.images_per_second, 1e-9)
        line = (
            f"epoch {self._epoch}  step {step}/{self.last_step}  loss {loss:.4f}  "
            f"{self.images_per_second:,.0f} images/s  {_clock(left)} left"
        )
        print(f"\r\033[K{line}" if self._live else line, end="" if self._live else "\n", flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
