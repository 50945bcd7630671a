"""What sits on an encoder: the projection head of pre-training and the classifier."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from simclr_tf.models.normalization import BatchNormalization

HEAD_INITIALIZER_STDDEV = 0.01  # of every dense kernel, as in the reference


@keras.saving.register_keras_serializable("simclr_tf")
class ProjectionHead(keras.layers.Layer):
    """g(h) = z: dense layers with BatchNorm, ReLU between them (arXiv 2002.05709, section 4.2).

    No dense layer has a bias. The last norm has a scale but no offset and is followed by no ReLU,
    as in the reference implementation. Features float [N, F] -> projections float [N, width].

    Args:
        width: Dimension of z.
        layers: Number of dense layers, 1 to 4 (the paper's v1 has 2, v2 (2006.10029) 3).
        hidden: Width of the hidden layers; 0: that of the features.
    """

    def __init__(
        self,
        width: int = 128,
        *,
        layers: int = 2,
        hidden: int = 0,
        name: str = "projection_head",  # one name always: checkpoints go by it
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if layers < 1:
            raise ValueError(f"Expected at least 1 layer in the projection head, got {layers}.")
        self.width = width
        self.layers = layers
        self.hidden = hidden

    def build(self, input_shape: tuple) -> None:
        hidden = self.hidden or input_shape[-1]
        stack: list[keras.layers.Layer] = []
        for index in range(1, self.layers):
            stack += [
                _dense(hidden, f"dense{index}", self.dtype_policy),
                BatchNormalization(name=f"norm{index}", dtype=self.dtype_policy),
                keras.layers.ReLU(name=f"relu{index}", dtype=self.dtype_policy),
            ]
        stack += [
            _dense(self.width, f"dense{self.layers}", self.dtype_policy),
            BatchNormalization(center=False, name=f"norm{self.layers}", dtype=self.dtype_policy),
        ]
        self.stack = keras.Sequential(stack, name="stack")
        self.stack.build(input_shape)

    def call(self, features: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.stack(features, training=training)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:-1], self.width)

    def get_config(self) -> dict:
        config = {"width": self.width, "layers": self.layers, "hidden": self.hidden}
        return {**super().get_config(), **config}


def _dense(width: int, name: str, policy: keras.DTypePolicy) -> keras.layers.Dense:
    initializer = keras.initializers.RandomNormal(stddev=HEAD_INITIALIZER_STDDEV)
    return keras.layers.Dense(
        width, use_bias=False, kernel_initializer=initializer, name=name, dtype=policy
    )


def classifier_head(
    features: int, num_classes: int, *, nonlinear: bool = False, normalize: bool = False
) -> keras.Sequential:
    """Builds a classifier: features float [N, F] -> logits float32 [N, num_classes].

    Args:
        features: F, width of the features.
        num_classes: Number of classes.
        nonlinear: Put a hidden layer of width F, with ReLU, before the linear one.
        normalize: Begin with a layer "normalize" that shifts and scales each feature; see
            `set_scale`. On a frozen encoder it spares tuning the learning rate.
    """
    layers: list[keras.layers.Layer] = [keras.Input((features,))]
    if normalize:
        layers.append(keras.layers.Normalization(dtype="float32", name="normalize"))
    if nonlinear:
        layers.append(keras.layers.Dense(features, activation="relu", name="hidden"))
    layers.append(keras.layers.Dense(num_classes, dtype="float32", name="logits"))
    return keras.Sequential(layers, name="classifier_head")


def set_scale(head: keras.Sequential, mean: np.ndarray, deviation: np.ndarray) -> None:
    """Sets what the layer "normalize" of a classifier subtracts and divides by, float [F] each."""
    _, _, count = head.get_layer("normalize").get_weights()
    head.get_layer("normalize").set_weights([mean, np.square(deviation), count])
    take_up_scale(head)


def take_up_scale(head: keras.Sequential) -> None:
    """Has the layer "normalize" compute with its variables, such as after a checkpoint was read.

    Runs of version 0.1.0 hold variance 0 for a feature that was silent in training, which the layer
    would divide by 1e-7: it becomes 1. Their head has learnt nothing of such a feature.
    """
    layer = head.get_layer("normalize")
    mean, variance, count = layer.get_weights()
    layer.set_weights([mean, np.where(variance > 0.0, variance, 1.0), count])
    layer.finalize_state()  # the layer computes with constants that it makes of its variables
