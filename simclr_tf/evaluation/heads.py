"""Small heads trained by SGD on features that were computed once, several at a time.

All batches of an epoch are taken within one graph, and heads with different settings are trained
at once on the same batches: the time that a small head's step takes is mostly that of starting it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from simclr_tf.evaluation.preparation import mean_and_deviation
from simclr_tf.seeds import stream_seed

MOMENTUM = 0.9
BLOCK_ROWS = 4096  # scored at once

# Of S heads: kernels float32 [inputs, S, outputs] and biases float32 [S, outputs] in turns.
Heads = tuple[tf.Tensor, ...]


class Inputs(NamedTuple):
    """Features as they were given, and what brings a batch of them to a common scale."""

    features: tf.Tensor  # float [V M, F], view by view
    mean: tf.Tensor  # float32 [F]
    scale: tf.Tensor  # float32 [F]


def prepare_inputs(features: np.ndarray, rows: np.ndarray) -> Inputs:
    """Returns features, float [V, M, F], with the scale that the images `rows`, int [m], give."""
    mean, deviation = mean_and_deviation(features, rows)
    flat = tf.convert_to_tensor(features.reshape(-1, features.shape[-1]))
    return Inputs(flat, tf.constant(mean), tf.constant(1.0 / deviation))


def train_heads(
    inputs: Inputs,
    labels: np.ndarray,
    rows: np.ndarray,
    *,
    num_classes: int,
    hidden: int | None,
    epochs: int,
    batch_size: int,
    settings: Sequence[tuple[float, float]],
    seed: int,
) -> Heads:
    """Trains a head for each pair (learning rate, weight decay) of the settings.

    Args:
        inputs: V views of each of M images.
        labels: Of all images, int32 [M].
        rows: The images to train on, int [m].
        num_classes: K.
        hidden: Width of the hidden layer; None: the heads are linear.
        epochs: Passes over the images.
        batch_size: Images a step at most.
        settings: S pairs.
        seed: First weights, orders and views are a function of it.
    """
    rates, decays = (tf.constant(column, tf.float32) for column in zip(*settings, strict=True))
    width = inputs.features.shape[1]
    heads = _first_heads(width, num_classes, hidden, len(settings), seed)
    velocities = tuple(tf.zeros_like(value) for value in heads)
    steps = math.ceil(len(rows) / batch_size)
    for epoch in range(epochs):
        order = rows[_draw_order(len(rows), seed, epoch)]
        view = _draw_views(len(labels), inputs.features.shape[0] // len(labels), seed, epoch)
        heads, velocities = _train_epoch(
            inputs,
            tf.constant(view[order].astype(np.int64) * len(labels) + order),
            tf.constant(labels[order]),
            heads,
            velocities,
            rates,
            decays,
            tf.constant(steps),
            tf.constant(epoch * steps),
            tf.constant(epochs * steps),
        )
    return heads


def _draw_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch, int64 [count]."""
    keys = tf.random.stateless_uniform([count], stream_seed(seed, "probe/order", epoch))
    return np.argsort(keys.numpy(), kind="stable")


def _draw_views(count: int, views: int, seed: int, epoch: int) -> np.ndarray:
    """Returns which view of each image an epoch takes, int32 [count], 0 to `views` - 1."""
    key = stream_seed(seed, "probe/view", epoch)
    return tf.random.stateless_uniform([count], key, maxval=views, dtype=tf.int32).numpy()


def _first_heads(width: int, num_classes: int, hidden: int | None, count: int, seed: int) -> Heads:
    """Returns the first weights of `count` equal heads: what is linear begins at 0."""
    if hidden is None:
        return tf.zeros([width, count, num_classes]), tf.zeros([count, num_classes])

    def kernel(name: str, fan_in: int, outputs: int) -> tf.Tensor:
        key = stream_seed(seed, f"probe/{name}")
        values = tf.random.stateless_normal([fan_in, 1, outputs], key) * math.sqrt(2.0 / fan_in)
        return tf.tile(values, [1, count, 1])

    return (
        kernel("hidden", width, hidden),
        tf.zeros([count, hidden]),
        kernel("logits", hidden, num_classes),
        tf.zeros([count, num_classes]),
    )


@tf.function(reduce_retracing=True)
def _train_epoch(
    inputs: Inputs,
    places: tf.Tensor,
    labels: tf.Tensor,
    heads: Heads,
    velocities: Heads,
    rates: tf.Tensor,
    decays: tf.Tensor,
    steps: tf.Tensor,
    first_step: tf.Tensor,
    total_steps: tf.Tensor,
) -> tuple[Heads, Heads]:
    """Takes the steps of an epoch; the images of batches differ by one at most.

    Args:
        inputs: Of all images.
        places: Rows of the inputs in the epoch's order, int64 [m].
        labels: Their labels, int32 [m].
        heads: Heads of S heads.
        velocities: As the parameters.
        rates: float32 [S], of the first step of all.
        decays: float32 [S].
        steps: int32 scalar.
        first_step: Steps taken before, int32 scalar.
        total_steps: Steps of the whole training, int32 scalar.
    """
    count = tf.size(labels)
    for step in tf.range(steps):
        # Wide: the product of images and steps leaves int32 at 750,000 images.
        start, end = (_wide(count) * _wide(s) // _wide(steps) for s in (step, step + 1))
        x = _batch(inputs, tf.gather(inputs.features, places[start:end]))
        progress = tf.cast(first_step + step, tf.float32) / tf.cast(total_steps, tf.float32)
        rate = 0.5 * (1.0 + tf.cos(math.pi * progress)) * rates  # [S]
        gradients = _gradients(heads, x, labels[start:end], decays)
        heads, velocities = _nesterov(heads, velocities, gradients, rate[:, tf.newaxis])
    return heads, velocities


def _wide(number: tf.Tensor) -> tf.Tensor:
    return tf.cast(number, tf.int64)


def _batch(inputs: Inputs, rows: tf.Tensor) -> tf.Tensor:
    """Brings rows of features, [B, F], to the common scale, float32."""
    return (tf.cast(rows, tf.float32) - inputs.mean) * inputs.scale


def _gradients(heads: Heads, x: tf.Tensor, labels: tf.Tensor, decays: tf.Tensor) -> list[tf.Tensor]:
    """Returns the gradients of each head's mean cross-entropy, with the decay of its kernels."""
    with tf.GradientTape() as tape:
        tape.watch(heads)
        logits = _logits(heads, x)  # [B, S, K]
        truth = tf.tile(labels[:, tf.newaxis], [1, tf.shape(logits)[1]])  # [B, S]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(truth, logits)
        loss = tf.reduce_sum(tf.reduce_mean(losses, axis=0))  # heads share no parameter
    gradients = tape.gradient(loss, heads)
    decay = decays[:, tf.newaxis]  # [S, 1]
    return [
        gradient + decay * value if len(value.shape) == 3 else gradient
        for gradient, value in zip(gradients, heads, strict=True)
    ]


def _nesterov(
    heads: Heads, velocities: Heads, gradients: Sequence[tf.Tensor], rate: tf.Tensor
) -> tuple[Heads, Heads]:
    """Takes a step of Nesterov's SGD as Keras does; `rate` is float32 [S, 1]."""
    pushes = [rate * gradient for gradient in gradients]
    moved = tuple(MOMENTUM * v - p for v, p in zip(velocities, pushes, strict=True))
    values = tuple(
        value + MOMENTUM * v - push for value, v, push in zip(heads, moved, pushes, strict=True)
    )
    return values, moved


def _logits(heads: Heads, x: tf.Tensor) -> tf.Tensor:
    """Returns the logits of S heads for features float32 [B, F]: float32 [B, S, K]."""
    if len(heads) == 2:
        return tf.einsum("bf,fsk->bsk", x, heads[0]) + heads[1]
    middle = tf.nn.relu(tf.einsum("bf,fsh->bsh", x, heads[0]) + heads[1])
    return tf.einsum("bsh,hsk->bsk", middle, heads[2]) + heads[3]


_logits_in_graph: Callable[[Heads, tf.Tensor], tf.Tensor] = tf.function(
    _logits, reduce_retracing=True
)


def scores_of(heads: Heads, inputs: Inputs, features: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the logits of features float [N, F], float32 [B, S, K], block by block."""
    for start in range(0, len(features), BLOCK_ROWS):
        rows = tf.convert_to_tensor(features[start : start + BLOCK_ROWS])
        yield _logits_in_graph(heads, _batch(inputs, rows)).numpy()
