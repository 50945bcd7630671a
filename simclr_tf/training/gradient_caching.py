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

from typing import TYPE_CHECKING

import tensorflow as tf

from simclr_tf.losses import Contrast

if TYPE_CHECKING:
    from simclr_tf.training.simclr import SimCLR


def cached_gradients(
    model: SimCLR, views: tuple[tf.Tensor, tf.Tensor], microbatch_size: int
) -> tuple[Contrast, list[tf.Tensor]]:
    """Returns the contrast of a batch and its gradients, holding one microbatch's activations.

    The running statistics of BatchNorm move once: each microbatch starts from those before the
    step, and afterwards they are the mean over the microbatches.

    Args:
        model: Compiled.
        views: Two views, float [N, h, w, C] each.
        microbatch_size: m, a divisor of N.

    Returns:
        The contrast of all 2N projections, and the gradients of its loss (scaled as the optimiser
        asks) with respect to `model.trainable_variables`.
    """
    batch_size = views[0].shape[0]
    if batch_size is None or batch_size % microbatch_size:
        raise ValueError(
            f"Expected batches of a fixed size that microbatch_size={microbatch_size} divides, got "
            f"{batch_size or 'an unknown size'}. Batch with drop_remainder=True."
        )
    count = batch_size // microbatch_size  # K
    parts = tf.concat([_split(view, count) for view in views], axis=1)  # [K, 2m, h, w, C]
    statistics = model.non_trainable_variables
    before = [tf.identity(variable) for variable in statistics]

    def project(images: tf.Tensor) -> tf.Tensor:
        for variable, value in zip(statistics, before, strict=True):
            variable.assign(value)
        return tf.cast(model(images, training=True), tf.float32)  # [2m, D]

    def project_and_look(images: tf.Tensor) -> tuple[tf.Tensor, ...]:
        z = project(images)
        return z, *(tf.identity(variable) for variable in statistics)

    signature = (tf.float32, *(value.dtype for value in before))
    z_parts, *moved = tf.map_fn(
        project_and_look, parts, fn_output_signature=signature, parallel_iterations=1
    )
    z = _join(z_parts, microbatch_size)  # [2N, D], view 1 first
    with tf.GradientTape() as tape:
        tape.watch(z)
        contrast = model.contrastive_loss(z)
        loss = model.optimizer.scale_loss(contrast.loss)
    dz = tape.gradient(loss, z)
    dz_parts = tf.concat([_split(half, count) for half in tf.split(dz, 2)], axis=1)  # [K, 2m, D]

    weights = model.trainable_variables

    def add_part(index: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            # The gradient of this inner product with respect to z is dz.
            product = tf.reduce_sum(project(parts[index]) * dz_parts[index])
        gradients = tape.gradient(product, weights)
        return index + 1, [s + g for s, g in zip(sums, gradients, strict=True)]

    sums = [tf.zeros(variable.shape, variable.dtype) for variable in weights]
    _, gradients = tf.while_loop(
        lambda index, _: index < count, add_part, (0, sums), parallel_iterations=1
    )
    for variable, value, values in zip(statistics, before, moved, strict=True):
        # The mean of the moves: what is frozen, and so did not move, stays bit for bit.
        variable.assign(value + tf.reduce_mean(values - value, axis=0))
    return contrast, gradients


def _split(rows: tf.Tensor, count: int) -> tf.Tensor:
    """Cuts [N, ...] into [count, N / count, ...]."""
    return tf.reshape(rows, [count, -1, *rows.shape[1:]])


def _join(parts: tf.Tensor, microbatch_size: int) -> tf.Tensor:
    """Puts [K, 2m, D] into the order of the whole batch, [2N, D] with view 1 first."""
    first, second = parts[:, :microbatch_size], parts[:, microbatch_size:]
    width = parts.shape[-1]
    return tf.concat([tf.reshape(first, [-1, width]), tf.reshape(second, [-1, width])], axis=0)
