"""Large contrastive batches in little memory: gradient caching (arXiv 2101.06983).

Activations, not the similarity matrix, fill a device. So the batch is embedded microbatch by
microbatch without keeping activations; the loss of all 2N projections gives its gradient at each
of them; then each microbatch is embedded again and that gradient is sent back through it. The
gradient is that of the whole batch, for one forward pass more, except that BatchNorm sees a
microbatch at a time.

    pass 1    views -> z                 [K, 2m, D], nothing kept
    loss      z -> dL/dz                 all 2N rows against each other
    pass 2    views -> z, dL/dz -> dL/dw  summed over the K microbatches
"""

from __future__ import annotations

import keras
import tensorflow as tf

from simclr_tf.losses.contrastive import Contrast
from simclr_tf.models.cross_replica import local_statistics
from simclr_tf.training.distribution import mean_over_replicas

Sums = list[tf.Tensor]


def cached_gradients(
    model: keras.Model, views: tuple[tf.Tensor, tf.Tensor], microbatch_size: int
) -> tuple[Contrast, list[tf.Tensor]]:
    """Returns the contrast of a batch and its gradients, holding one microbatch's activations.

    The running statistics of BatchNorm move once: each microbatch starts from those before the
    step, and afterwards they are the mean over the microbatches, those of all replicas. Both passes
    draw the same random numbers, where they come from Keras' seed generators, as those of its
    layers do; each microbatch draws its own.

    Args:
        model: A `SimCLR`, compiled.
        views: Two views, float [N, h, w, C] each.
        microbatch_size: m, a divisor of N.

    Returns:
        The contrast of all 2N projections, and the gradients of its loss (scaled as the optimiser
        asks) with respect to `model.trainable_variables`.

    Raises:
        ValueError: The batch is of unknown size, or m does not divide it.
    """
    batch_size = views[0].shape[0]
    if batch_size is None or batch_size % microbatch_size:
        raise ValueError(
            f"Expected batches of a fixed size that microbatch_size={microbatch_size} divides, got "
            f"{batch_size or 'an unknown size'}. Batch with drop_remainder=True."
        )
    count = batch_size // microbatch_size  # K
    weights = model.trainable_variables
    states = model.non_trainable_variables
    statistics = [v for v in states if tf.as_dtype(v.dtype).is_floating]
    counters = [v for v in states if not tf.as_dtype(v.dtype).is_floating]  # of seed generators
    before = _values(statistics)
    first_counts = _values(counters)

    def project(index: tf.Tensor) -> tf.Tensor:
        _assign(statistics, before)
        # Cut out one at a time: all microbatches laid out side by side would be a second batch.
        part = [tf.gather(tf.reshape(v, [count, -1, *v.shape[1:]]), index) for v in views]
        with local_statistics():
            return tf.cast(model(tf.concat(part, axis=0), training=True), tf.float32)  # [2m, D]

    z = tf.map_fn(
        project, tf.range(count), fn_output_signature=tf.float32, parallel_iterations=1
    )  # [K, 2m, D]
    width = z.shape[-1]
    z = tf.reshape(_swap(tf.reshape(z, [count, 2, -1, width])), [2 * batch_size, width])
    with tf.GradientTape() as tape:
        tape.watch(z)
        contrast = model.contrast(z)
        loss = model.scaled_loss(contrast)
    dz = _swap(tf.reshape(tape.gradient(loss, z), [2, count, -1, width]))  # [K, 2, m, D]
    _assign(counters, first_counts)

    def add_part(index: tf.Tensor, sums: Sums, moves: Sums) -> tuple[tf.Tensor, Sums, Sums]:
        with tf.GradientTape() as tape:
            # The gradient of this inner product with respect to z is dz.
            product = tf.reduce_sum(project(index) * tf.reshape(dz[index], [-1, width]))
        gradients = tape.gradient(product, weights, unconnected_gradients="zero")
        moved = [value - start for value, start in zip(_values(statistics), before, strict=True)]
        return index + 1, _add(sums, gradients), _add(moves, moved)

    nothing = [[tf.zeros(v.shape, v.dtype) for v in group] for group in (weights, statistics)]
    _, gradients, moves = tf.while_loop(
        lambda index, *_: index < count, add_part, (0, *nothing), parallel_iterations=1
    )
    # Frozen statistics have not moved, and so stay bit for bit.
    moves = mean_over_replicas(moves)
    _assign(statistics, [v + move / count for v, move in zip(before, moves, strict=True)])
    return contrast, gradients


def _values(variables: list[keras.Variable]) -> list[tf.Tensor]:
    return [tf.identity(variable) for variable in variables]


def _assign(variables: list[keras.Variable], values: list[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _add(sums: Sums, terms: Sums) -> Sums:
    return [s + t for s, t in zip(sums, terms, strict=True)]


def _swap(blocks: tf.Tensor) -> tf.Tensor:
    """Turns [K, 2, m, D], by microbatch, into [2, K, m, D], by view, and back."""
    return tf.transpose(blocks, [1, 0, 2, 3])
