"""NT-Xent, the contrastive loss of SimCLR (arXiv 2002.05709, equation 1 and algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from simclr_tf.losses.contrastive_streaming import MASKED_LOGIT, streaming_nt_xent

# Logits from which on the streaming loss is chosen: on a CPU a matrix of 64 MiB, of which the dense
# loss keeps several. There streaming is also the faster one from then on, and long before. On a GPU
# a matrix of 1 GiB, as such products are what it is made for; not measured on one yet.
STREAMING_LOGITS = 4096 * 4096
GPU_STREAMING_LOGITS = 16384 * 16384


class Contrast(NamedTuple):
    """What one batch says about its embeddings: three float32 scalars.

    Attributes:
        loss: Mean over the 2N anchors; ln(2N - 1) for an encoder that tells nothing apart.
        accuracy: Share of anchors whose most similar other view is their own second view.
        entropy: Mean entropy of the softmax over candidates, in nats.
    """

    loss: tf.Tensor
    accuracy: tf.Tensor
    entropy: tf.Tensor


# Returns the rows of all replicas, [2N_global, D] in the same view-major order, and the positions
# [2N] of this replica's rows among them.
Gather = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def nt_xent(
    z: tf.Tensor,
    *,
    temperature: float,
    similarity: str = "cosine",
    gather: Gather | None = None,
    streaming: bool | None = None,
    compiles: bool = True,
) -> Contrast:
    """Normalised temperature-scaled cross-entropy between two views of each of N images.

    Anchor i has one positive, the other view of its image, and 2N - 2 negatives. All arithmetic is
    float32, whatever the dtype of `z`, and goes through log-sum-exp, so that no temperature or
    precision overflows. The reference implementation reports the sum over both views; this is the
    paper's mean over 2N anchors, half of that.

    Args:
        z: Un-normalised projections, float [2N, D]: view 1 of all images, then view 2.
        temperature: Divides the similarities; above 0.
        similarity: "cosine" (rows are normalised: their scale does not matter) or "dot".
        gather: Brings the rows of the other replicas; None on a single device.
        streaming: Visits the [2N, 2M] logits in tiles, compiled by XLA, instead of holding them:
            the same values in little memory. None: from `STREAMING_LOGITS` logits on, on a GPU from
            `GPU_STREAMING_LOGITS` on, where the graph knows their number.
        compiles: Let XLA compile the tiles; off for a device that it cannot compile for.

    Returns:
        The loss with its gradient, accuracy and entropy of this replica's anchors.
    """
    z = tf.cast(z, tf.float32)
    if similarity == "cosine":
        z = tf.math.l2_normalize(z, axis=-1, epsilon=1e-12)  # [2N, D], unit rows
    if gather is None:
        candidates, own = z, tf.range(tf.shape(z)[0])
    else:
        candidates, own = gather(z)  # [2M, D], [2N]
    total = tf.shape(candidates)[0]  # 2M
    positive = (own + total // 2) % total  # [2N] column of the other view of each anchor

    if streaming is None:
        streaming = _are_many(z, candidates)
    if not streaming:
        return _dense(z, candidates, own, positive, temperature)
    return Contrast(
        *streaming_nt_xent(
            z,
            candidates,
            own,
            positive,
            temperature=temperature,
            alone=gather is None,
            compiles=compiles,
        )
    )


def _are_many(z: tf.Tensor, candidates: tf.Tensor) -> bool:
    """Tells whether the logits are known to be too many to hold."""
    rows, columns = z.shape[0], candidates.shape[0]
    on_gpu = tf.config.list_logical_devices("GPU")
    least = GPU_STREAMING_LOGITS if on_gpu else STREAMING_LOGITS
    return None not in (rows, columns) and rows * columns >= least


def _dense(
    z: tf.Tensor,
    candidates: tf.Tensor,
    own: tf.Tensor,
    positive: tf.Tensor,
    temperature: float,
) -> Contrast:
    """Computes the contrast from the whole matrix of logits: simple, and the streaming one's test.

    Args:
        z: float32 [2N, D].
        candidates: float32 [2M, D].
        own: Position of each anchor among the candidates, int32 [2N].
        positive: Position of its positive, int32 [2N].
        temperature: Divides the inner products.
    """
    logits = tf.matmul(z, candidates, transpose_b=True) / temperature  # [2N, 2M]
    columns = tf.range(tf.shape(candidates)[0])[tf.newaxis, :]
    logits = tf.where(columns == own[:, tf.newaxis], MASKED_LOGIT, logits)
    log_p = tf.nn.log_softmax(logits)  # [2N, 2M]
    is_positive = columns == positive[:, tf.newaxis]
    loss = -tf.reduce_mean(tf.reduce_sum(tf.where(is_positive, log_p, 0.0), axis=1))

    # Of the logits: in their logarithms of probabilities the nearly equal ones round together.
    hit = tf.argmax(logits, axis=1, output_type=tf.int32) == positive
    log_p = tf.stop_gradient(log_p)
    entropy = -tf.reduce_sum(tf.exp(log_p) * log_p, axis=1)
    return Contrast(loss, tf.reduce_mean(tf.cast(hit, tf.float32)), tf.reduce_mean(entropy))


@keras.saving.register_keras_serializable("simclr_tf")
class NTXent:
    """`nt_xent` with its settings: `model.compile(loss=NTXent(temperature=0.1))`."""

    def __init__(
        self,
        temperature: float,
        *,
        similarity: str = "cosine",
        streaming: bool | None = None,
        compiles: bool = True,
    ) -> None:
        if not temperature > 0.0:
            raise ValueError(f"Expected a temperature above 0, got {temperature}.")
        if similarity not in ("cosine", "dot"):
            raise ValueError(f"Expected similarity 'cosine' or 'dot', got {similarity!r}.")
        self.temperature = temperature
        self.similarity = similarity
        self.streaming = streaming
        self.compiles = compiles

    def __call__(self, z: tf.Tensor, gather: Gather | None = None) -> Contrast:
        """Returns the `Contrast` of the projections `z`, float [2N, D]."""
        return nt_xent(
            z,
            temperature=self.temperature,
            similarity=self.similarity,
            gather=gather,
            streaming=self.streaming,
            compiles=self.compiles,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "similarity": self.similarity,
            "streaming": self.streaming,
            "compiles": self.compiles,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NTXent:
        return cls(**config)

    def start(self, batch_size: int) -> float:
        """Returns the loss of an encoder that tells nothing apart: ln(2N - 1)."""
        return math.log(2 * batch_size - 1)

    def floor(self, batch_size: int) -> float:
        """Returns the loss for equal positives and orthogonal negatives (cosine similarity)."""
        return math.log1p((2 * batch_size - 2) * math.exp(-1.0 / self.temperature))
