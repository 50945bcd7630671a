"""A look at the features while they are learned."""

from __future__ import annotations

import keras
import numpy as np

from simclr_tf.data.batches.evaluation import plain_batches
from simclr_tf.data.source import Source
from simclr_tf.evaluation.features import embed
from simclr_tf.evaluation.neighbours import knn_accuracy
from simclr_tf.metrics import effective_rank, feature_spread
from simclr_tf.training.callbacks.steps import Logs

NEIGHBOURS = 20
TEMPERATURE = 0.1
BATCH_SIZE = 256
RANK_ROWS = 2048  # images whose features' rank is taken


class KNNMonitor(keras.callbacks.Callback):
    """Weighted kNN accuracy and spread of the features, every few epochs, without training
    anything.

    Adds `knn_accuracy`, `feature_spread` and `feature_rank` (the effective rank of the centred
    features, 1 where they lie on a line) to the epoch's logs.

    Args:
        train: Images with labels that vote.
        test: Images with labels that are classified.
        every_epochs: Epochs between two looks; 0: none but those asked for by `measure`.
        size: (h, w) that images are brought to; None: their own.
        k: Neighbours that vote (arXiv 1805.01978).
        temperature: That of the vote.
        limit: Most images taken of either set, spread evenly over it: a look stays cheap.
    """

    def __init__(
        self,
        train: Source,
        test: Source,
        *,
        every_epochs: int = 1,
        size: tuple[int, int] | None = None,
        k: int = NEIGHBOURS,
        temperature: float = TEMPERATURE,
        limit: int = 10_000,
    ) -> None:
        super().__init__()
        self.train = train
        self.test = test
        self.limit = limit
        self.every_epochs = every_epochs
        self.size = size
        self.k = k
        self.temperature = temperature

    def settings(self, *, limit: int = 0) -> str:
        """Returns how the accuracy is measured, in words for the lines that give one.

        Args:
            limit: As `measure` takes it.
        """
        most = limit or self.limit
        text = f"k {self.k}, temperature {self.temperature}"
        if max(len(self.train), len(self.test)) <= most:
            return text
        voting, judged = (min(len(source), most) for source in (self.train, self.test))
        return f"{text}, {voting:,} images vote on {judged:,}"

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None and self.every_epochs and (epoch + 1) % self.every_epochs == 0:
            logs.update(self.measure(self.model.encoder))

    def measure(self, encoder: keras.Model, *, limit: int = 0) -> dict[str, float]:
        """Returns the metrics of an encoder: images float [N, H, W, 3] -> features [N, F].

        Args:
            encoder: Run in inference mode.
            limit: Most images taken of either set; 0: as during training.
        """
        if not limit or self.train.labels is None:  # the spread alone takes no more images
            limit = self.limit
        test = _thin(self.test, limit)
        queries = self._embed(encoder, test)
        some = queries[:: -(-len(queries) // RANK_ROWS)]
        about_mean = some - some.mean(axis=0)
        metrics = {
            "feature_spread": feature_spread(queries),
            "feature_rank": effective_rank(about_mean) if about_mean.any() else 1.0,
        }
        if self.train.labels is not None and test.labels is not None:
            metrics["knn_accuracy"] = self._accuracy(encoder, test, queries, limit)
        return metrics

    def measure_accuracy(self, encoder: keras.Model, *, limit: int) -> float:
        """Returns `knn_accuracy` alone: the rank of wide features takes far longer than the vote.

        The arguments are those of `measure`.

        Raises:
            ValueError: A set has no labels.
        """
        test = _thin(self.test, limit)
        return self._accuracy(encoder, test, self._embed(encoder, test), limit)

    def _accuracy(
        self, encoder: keras.Model, test: Source, queries: np.ndarray, limit: int
    ) -> float:
        """Returns the kNN accuracy of the features [M, F] of the test images."""
        train = _thin(self.train, limit)
        if train.labels is None or test.labels is None:
            raise ValueError("Expected labels of both sets to vote with and to judge by, got none.")
        return knn_accuracy(
            self._embed(encoder, train),
            np.asarray(train.labels),
            queries,
            np.asarray(test.labels),
            k=self.k,
            temperature=self.temperature,
            num_classes=train.num_classes,
        )

    def _embed(self, encoder: keras.Model, source: Source) -> np.ndarray:
        batches = plain_batches(source, batch_size=BATCH_SIZE, size=self.size)
        return embed(encoder, batches, count=len(source))


def _thin(source: Source, limit: int) -> Source:
    """Takes at most `limit` images, evenly spaced."""
    if len(source) <= limit:
        return source
    return source.take(np.linspace(0, len(source) - 1, limit).round().astype(np.int64))
