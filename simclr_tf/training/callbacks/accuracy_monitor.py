"""The judgement of a classifier while it is trained."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import keras
import numpy as np
import tensorflow as tf

from simclr_tf import metrics
from simclr_tf.evaluation.features import embed
from simclr_tf.training.callbacks.steps import Logs


class AccuracyMonitor(keras.callbacks.Callback):
    """Judges a classifier on labelled inputs after some of the epochs.

    Adds `val_loss` and `val_accuracy` to the epoch's logs. The forward pass is not that of
    Keras' `evaluate`: its last, smaller batch would be compiled by XLA anew.

    Args:
        inputs: Batches of what the classifier takes, [<= N, ...] each, the same ones at every look.
        labels: int [M], of all inputs in their order.
        epochs: The epochs, counted from 1, after which it looks.
    """

    def __init__(
        self, inputs: Iterable[tf.Tensor], labels: np.ndarray, *, epochs: Collection[int]
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.labels = np.asarray(labels)
        self.epochs = epochs

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is None or epoch + 1 not in self.epochs:
            return
        logits = self.logits(self.model)
        losses = keras.losses.sparse_categorical_crossentropy(
            self.labels, logits, from_logits=True
        )  # [M]
        matrix = metrics.confusion_matrix(self.labels, logits.argmax(axis=1), logits.shape[1])
        logs["val_loss"] = float(tf.reduce_mean(losses))
        logs["val_accuracy"] = metrics.accuracy(matrix)

    def logits(self, model: keras.Model) -> np.ndarray:
        """Returns the logits of all inputs, float32 [M, K]."""
        return embed(model, self.inputs, count=len(self.labels))
