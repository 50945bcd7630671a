"""Features of a whole data set: an encoder run once over batches of images."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

# Tracing a ResNet takes seconds, and a monitor embeds with the same one after every epoch.
_forwards: weakref.WeakKeyDictionary[keras.Model, Callable[[tf.Tensor], tf.Tensor]] = (
    weakref.WeakKeyDictionary()
)


def embed(model: keras.Model, batches: tf.data.Dataset) -> np.ndarray:
    """Computes the features of images, in their order.

    The model runs in inference mode, traced once for batches of any size and not again when it is
    embedded with later.

    Args:
        model: Functional or sequential, images [N, H, W, C] to features [N, F].
        batches: Batches of images as the model takes them; the last may be smaller.

    Returns:
        float32 [M, F], a row per image.

    Raises:
        ValueError: There is no batch.
    """
    if model not in _forwards:
        _forwards[model] = _make_forward(model)
    forward = _forwards[model]
    features = [forward(images).numpy() for images in batches]
    if not features:
        raise ValueError("Expected at least one batch of images to embed, got none.")
    return np.concatenate(features)


def pixel_encoder(side: int) -> keras.Model:
    """Builds the encoder that has learnt nothing: images float [N, H, W, 3] -> their pixels.

    Args:
        side: Pixels to a side that images are reduced to (antialiased): F = 3 x side^2.
    """
    images = keras.Input((None, None, 3), name="images")
    # A resize to the size that an image has already leaves it as it is.
    small = keras.ops.image.resize(images, (side, side), antialias=True)
    return keras.Model(images, keras.layers.Flatten()(small), name="pixels")


def _make_forward(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    # A strong reference from here would keep the model, the key of its own entry, alive for good.
    reference = weakref.ref(model)

    # One trace for batches of all sizes: sets differ in their last one.
    @tf.function(input_signature=[tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)])
    def forward(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(reference()(images, training=False), tf.float32)  # type: ignore[misc]

    return forward
