"""How a pre-training does, in plain words."""

from __future__ import annotations

from typing import Any

import keras

from simclr_tf.counting import spell_number
from simclr_tf.losses.contrastive import NTXent
from simclr_tf.training.callbacks.knn_monitor import KNNMonitor
from simclr_tf.training.callbacks.steps import Logs


class HealthLine(keras.callbacks.Callback):
    """Prints after each epoch how the pre-training does, in one line and in plain words.

    Warns, once as it begins, where the representation has collapsed, and says when it no longer is:
    all features nearly the same, or on one line, or a loss that is that of projections which are
    all the same.

    Args:
        loss: That of the run: it knows its start and its floor.
        batch_size: Images per step.
        monitor: Looks at the features; as a callback of its own, before this one.
    """

    SAME = 0.01  # feature spread below it; an untrained encoder has about 0.04
    LINE = 1.1  # effective rank of the centred features below it; 1: they lie on a line
    STUCK_STEPS = 500  # from then on the loss must not be that of equal projections
    STUCK_SHARE = 0.02  # within so much of the way from start to floor it is

    CAUSES = (
        "Likely causes: `learning_rate` too large or `warmup_epochs` too few; augmentation so "
        "strong that two views share nothing (`task=check` `preview` shows them); images that are "
        "all alike"
    )

    def __init__(self, *, loss: NTXent, batch_size: int, monitor: KNNMonitor) -> None:
        super().__init__()
        self.monitor = monitor
        self.start = loss.start(batch_size)
        self.floor = loss.floor(batch_size) if loss.similarity == "cosine" else None
        self._warned: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs or {}
        floor = "" if self.floor is None else f", floor {self.floor:.2f}"
        parts = [
            f"epoch {epoch + 1:>3}",
            f"loss {logs['loss']:.3f} (start {self.start:.2f}{floor})",
            f"contrastive accuracy {logs['contrastive_accuracy']:.3f}",
        ]
        if "val_loss" in logs:
            parts.append(f"validation loss {logs['val_loss']:.3f}")
        if "feature_spread" in logs:
            parts.append(f"feature spread {logs['feature_spread']:.2f}")
        if "knn_accuracy" in logs:
            knn = f"kNN accuracy {logs['knn_accuracy']:.3f}"
            parts.append(f"{knn} ({self.monitor.settings()})")
        if logs.get("skipped_steps"):
            parts.append(
                f"{spell_number(int(logs['skipped_steps']), 'step')} skipped (float16 overflow)"
            )
        print("  ".join(parts), flush=True)
        for what, is_so in self._judge(logs).items():
            if is_so and what not in self._warned:
                print(f"warning: collapse: {what}. {self.CAUSES}.", flush=True)
                self._warned.add(what)
            elif not is_so and what in self._warned:
                print(f"over: {what}", flush=True)
                self._warned.remove(what)

    def _judge(self, logs: dict[str, Any]) -> dict[str, bool]:
        """Returns what could be told from this epoch, and whether it is so."""
        told = {}
        if "feature_spread" in logs:
            told["the features of all images are nearly the same"] = (
                logs["feature_spread"] < self.SAME
            )
        if "feature_rank" in logs:
            told["the features of all images lie nearly on a line"] = (
                logs["feature_rank"] < self.LINE
            )
        steps = int(self.model.optimizer.iterations.numpy())  # a strategy has no int()
        if steps >= self.STUCK_STEPS:
            way = self.start - (self.floor or 0.0)
            told[f"the loss is {self.start:.2f}, as where nothing is told apart"] = (
                abs(logs["loss"] - self.start) < self.STUCK_SHARE * way
            )
        return told
