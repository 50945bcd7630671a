"""Our networks rebuilt from Keras' own layers, so that plain Keras can load what is saved."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from simclr_tf.models.convolution import Conv2D
from simclr_tf.models.normalization import EPSILON, MOMENTUM, BatchNormalization, NormalizeInput
from simclr_tf.models.unet import CutToSize


def plain_copy(model: keras.Model) -> keras.Model:
    """Copies a model of `resnet` or `unet`, weights and all, into layers of Keras alone.

    The copy computes the same. A U-Net's loses the layers that cut maps to odd sizes: it takes
    images whose sides are multiples of `side_factor`.
    """
    copy = keras.models.clone_model(model, clone_function=_plain_layer, call_function=_call)
    copy = keras.Model(copy.input, copy.output, name=model.name)  # no `Encoder`
    for layer in model.layers:
        if layer.weights and not isinstance(layer, NormalizeInput):
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def folded_head(head: keras.Sequential) -> keras.Sequential:
    """Copies a model of `classifier_head`; its layer "normalize" goes into the first dense layer.

    That layer computes with constants which some formats take for inputs.
    """
    dense = [layer for layer in head.layers if isinstance(layer, keras.layers.Dense)]
    weights = [np.asarray(weight, np.float64) for layer in dense for weight in layer.get_weights()]
    first = head.layers[0]
    if isinstance(first, keras.layers.Normalization):
        mean, variance = (np.asarray(x, np.float64).ravel() for x in (first.mean, first.variance))
        scale = 1.0 / np.maximum(np.sqrt(variance), keras.backend.epsilon())
        weights[1] = weights[1] - (mean * scale) @ weights[0]
        weights[0] = weights[0] * scale[:, np.newaxis]
    copies = [keras.layers.Dense.from_config(layer.get_config()) for layer in dense]
    copy = keras.Sequential([keras.Input(head.input_shape[1:]), *copies], name=head.name)
    copy.set_weights(weights)
    return copy


def side_factor(model: keras.Model) -> int:
    """Returns what the sides of images must be multiples of for the plain copy of a model."""
    cuts = [layer for layer in model.layers if isinstance(layer, CutToSize)]
    return 2 ** len(cuts)


def _plain_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    config: dict[str, Any] = {"name": layer.name, "dtype": "float32"}
    if isinstance(layer, BatchNormalization):
        return keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, **config)
    if isinstance(layer, NormalizeInput):
        mean, std = (np.asarray(variable, np.float64) for variable in layer.weights)
        return keras.layers.Normalization(
            mean=mean.tolist(), variance=np.square(std).tolist(), **config
        )
    if isinstance(layer, Conv2D):
        return keras.layers.Conv2D.from_config({**layer.get_config(), "dtype": "float32"})
    return layer.__class__.from_config(layer.get_config())


def _call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    return args[0][0] if isinstance(layer, CutToSize) else layer(*args, **kwargs)
