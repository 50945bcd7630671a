"""NT-Xent, the contrastive loss of SimCLR (arXiv 2002.05709, equation 1 and algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

# Added to the logit of a view with itself: far below any other logit, finite in float32.
SELF_LOGIT = -1e30


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
    z: tf.Tensor, *, temperature: float, similarity: str = "cosine", gather: Gather | None = None
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

    logits = tf.matmul(z, candidates, transpose_b=True) / temperature  # [2N, 2M]
    columns = tf.range(total)[tf.newaxis, :]
    logits = tf.where(columns == own[:, tf.newaxis], SELF_LOGIT, logits)
    log_p = tf.nn.log_softmax(logits)  # [2N, 2M]
    is_positive = columns == positive[:, tf.newaxis]
    loss = -tf.reduce_mean(tf.reduce_sum(tf.where(is_positive, log_p, 0.0), axis=1))

    log_p = tf.stop_gradient(log_p)
    hit = tf.argmax(log_p, axis=1, output_type=tf.int32) == positive
    entropy = -tf.reduce_sum(tf.exp(log_p) * log_p, axis=1)
    return Contrast(loss, tf.reduce_mean(tf.cast(hit, tf.float32)), tf.reduce_mean(entropy))


class NTXent:
    """`nt_xent` with its settings: `model.compile(loss=NTXent(temperature=0.1))`."""

    def __init__(self, temperature: float, *, similarity: str = "cosine") -> None:
        if not temperature > 0.0:
            raise ValueError(f"Expected a temperature above 0, got {temperature}.")
        if similarity not in ("cosine", "dot"):
            raise ValueError(f"Expected similarity 'cosine' or 'dot', got {similarity!r}.")
        self.temperature = temperature
        self.similarity = similarity

    def __call__(self, z: tf.Tensor, gather: Gather | None = None) -> Contrast:
        """Returns the `Contrast` of the projections `z`, float [2N, D]."""
        return nt_xent(z, temperature=self.temperature, similarity=self.similarity, gather=gather)

    def start(self, batch_size: int) -> float:
        """Returns the loss of an encoder that tells nothing apart: ln(2N - 1)."""
        return math.log(2 * batch_size - 1)

    def floor(self, batch_size: int) -> float:
        """Returns the loss for equal positives and orthogonal negatives (cosine similarity)."""
        return math.log1p((2 * batch_size - 2) * math.exp(-1.0 / self.temperature))
