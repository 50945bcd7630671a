"""The model that is pre-trained: encoder and projection head, trained to match two views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from simclr_tf.losses.contrastive import Contrast, NTXent
from simclr_tf.training.distribution import (
    gather_rows,
    mean_over_replicas,
    replicas_here,
    share_overflow,
    spans_workers,
)
from simclr_tf.training.gradient_caching import cached_gradients

Views = tuple[tf.Tensor, tf.Tensor]


@keras.saving.register_keras_serializable("simclr_tf")
class SimCLR(keras.Model):
    """SimCLR (arXiv 2002.05709): `compile` with an `NTXent` loss, `fit` on `data.two_views`.

    Both views of a batch go through the network in one forward pass of 2N images, view 1 first, so
    that BatchNorm sees them together, as in the reference implementation.

    Made, compiled and fitted under a `tf.distribute` strategy, each replica is given its part of
    the batch (see `distribution.spread`); loss, BatchNorm and metrics are those of the whole batch.

    Args:
        encoder: Images float [N, H, W, 3] in [0, 1] -> features float [N, F].
        head: Features -> projections float [N, D].
        microbatch_size: Images that go through the network at a time, a divisor of the batch (of
            several replicas, of each one's part); the loss is still that of the whole batch (see
            `gradient_caching`). 0: all at once.
        augment: Makes the two views of what `fit` is given, within the training step: an
            `augment.RandomViews`, of images, or a function of a batch's parts, which is not saved
            with the model, and whose validation is given views. None: `fit` is given views.
    """

    def __init__(
        self,
        encoder: keras.Model,
        head: keras.layers.Layer,
        *,
        microbatch_size: int = 0,
        augment: Callable[..., Views] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder = encoder
        self.head = head
        self.microbatch_size = microbatch_size
        self.augment = augment
        if not head.built:
            head.build((None, encoder.output_shape[-1]))
        self.built = True
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.accuracy_tracker = keras.metrics.Mean(name="contrastive_accuracy")

    def compile(self, optimizer: keras.optimizers.Optimizer, loss: NTXent, **kwargs: Any) -> None:
        """Sets optimiser and loss; further arguments are Keras' own (`jit_compile`, ...)."""
        super().compile(optimizer=optimizer, **kwargs)
        self.contrastive_loss = loss
        self._compiled_with = kwargs
        self.optimizer.build(self.trainable_variables)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Returns what `compile_from_config` takes: a saved model trains on as it was compiled."""
        if not self.compiled:
            return None
        parts = {"optimizer": self.optimizer, "loss": self.contrastive_loss}
        saved = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
        return {**self._compiled_with, **saved}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as it was before it was saved; Keras then loads the optimiser."""
        parts = {n: keras.saving.deserialize_keras_object(config[n]) for n in ("optimizer", "loss")}
        self.compile(**{**config, **parts})

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does; a `tf.data.Dataset` keeps its own order."""
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # Keras would warn that it cannot
        return super().fit(x, *args, **kwargs)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.head(self.encoder(images, training=training), training=training)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.loss_tracker, self.accuracy_tracker]

    def train_step(self, data: tuple) -> dict[str, tf.Tensor]:
        if self.augment is not None:
            data = self._augmented(data, training=True)
        if self.microbatch_size and self.microbatch_size != data[0].shape[0]:
            contrast, gradients = cached_gradients(self, data, self.microbatch_size)
        else:
            with tf.GradientTape() as tape:
                contrast = self.contrast(self._project(data, training=True))
                loss = self.scaled_loss(contrast)
            gradients = tape.gradient(loss, self.trainable_variables)
        scaled = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        if scaled and replicas_here() > 1:
            gradients = share_overflow(gradients)
        self.optimizer.apply(gradients, self.trainable_variables)
        return self._track(contrast)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        if isinstance(self.augment, keras.layers.Layer):
            data = self._augmented(data, training=False)
        return self._track(self.contrast(self._project(data, training=False)))

    def _augmented(self, data: Any, *, training: bool) -> Views:
        """Makes the two views of what a step is given."""
        if not isinstance(self.augment, keras.layers.Layer):
            return self.augment(*data)  # type: ignore[misc]
        images, beside, _ = keras.utils.unpack_x_y_sample_weight(data)
        if beside is not None and beside.shape.rank == images.shape.rank:
            return images, beside  # views already
        return self.augment(images, training=training)

    def contrast(self, z: tf.Tensor) -> Contrast:
        """Returns the contrast of the projections [2N, D], against those of all replicas."""
        return self.contrastive_loss(z, gather_rows if replicas_here() > 1 else None)

    def scaled_loss(self, contrast: Contrast) -> tf.Tensor:
        """Returns what is differentiated: a replica's share, scaled as the optimiser asks."""
        return self.optimizer.scale_loss(contrast.loss / replicas_here())

    def _project(self, views: Views, *, training: bool) -> tf.Tensor:
        images = tf.concat(views, axis=0)  # [2N, h, w, C]
        count, size = images.shape[0], 2 * self.microbatch_size
        if training or not size or None in images.shape or count <= size:
            return self(images, training=training)  # [2N, D]
        # Evaluated in parts the projections are the same; in one piece they may not fit.
        padding = [[0, -count % size], *([0, 0] for _ in images.shape[1:])]
        z = tf.map_fn(
            lambda part: tf.cast(self(part, training=False), tf.float32),
            tf.reshape(tf.pad(images, padding), [-1, size, *images.shape[1:]]),
            fn_output_signature=tf.float32,
            parallel_iterations=1,
        )
        return tf.reshape(z, [-1, z.shape[-1]])[:count]

    def _track(self, contrast: Contrast) -> dict[str, tf.Tensor]:
        loss, accuracy, _ = mean_over_replicas(contrast)
        self.loss_tracker.update_state(loss)
        self.accuracy_tracker.update_state(accuracy)
        results = {metric.name: metric.result() for metric in self.metrics}
        # Keras averages the results of several workers along their first axis.
        apart = spans_workers(self.distribute_strategy)
        return {k: v[tf.newaxis] for k, v in results.items()} if apart else results

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing, as the model is built: Keras would average a batch over the replicas."""

    def get_config(self) -> dict:
        layers = {"encoder": self.encoder, "head": self.head}
        if isinstance(self.augment, keras.layers.Layer):
            layers["augment"] = self.augment
        serialized = {k: keras.saving.serialize_keras_object(v) for k, v in layers.items()}
        return {**super().get_config(), **serialized, "microbatch_size": self.microbatch_size}

    @classmethod
    def from_config(cls, config: dict) -> SimCLR:
        layers = {name: config[name] for name in ("encoder", "head", "augment") if name in config}
        made = {n: keras.saving.deserialize_keras_object(layer) for n, layer in layers.items()}
        return cls(**{**config, **made})
