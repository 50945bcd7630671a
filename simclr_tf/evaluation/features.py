"""Features of a whole data set: an encoder run once over batches of images."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

# Tracing a ResNet takes seconds, and a monitor embeds with the same one after every epoch.
_forwards: weakref.WeakKeyDictionary[keras.Model, Callable[[tf.Tensor], tf.Tensor]] = (
    weakref.WeakKeyDictionary()
)


def embed(
    model: keras.Model, batches: Iterable[tf.Tensor], *, count: int | None = None
) -> np.ndarray:
    """Computes the features of images, in their order.

    Args:
        model: Functional or sequential, images [N, H, W, C] to features [N, F].
        batches: Batches of images as the model takes them; the last may be smaller.
        count: Images in all. Where it is known features are filled into one array, at half the
            memory of joining them.

    Returns:
        float32 [M, F], a row per image.

    Raises:
        ValueError: There is no batch.
    """
    blocks = embed_each(model, batches)
    first = next(blocks, None)
    if first is None:
        raise ValueError("Expected at least one batch of images to embed, got none.")
    if count is None:
        return np.concatenate([first, *blocks])
    features = np.empty((count, *first.shape[1:]), np.float32)
    start = 0
    for block in itertools.chain([first], blocks):
        features[start : start + len(block)] = block
        start += len(block)
    return features


def embed_each(model: keras.Model, batches: Iterable[tf.Tensor]) -> Iterator[np.ndarray]:
    """Yields the features of each batch, float32 [B, F].

    The model runs in inference mode, traced once for batches of any size and not again when it is
    embedded with later. On a GPU a smaller batch is filled up to the largest so far: cuDNN looks
    for the fastest kernel of each size anew, which takes longer than the batch.
    """
    if model not in _forwards:
        _forwards[model] = _make_forward(model)
    forward = _forwards[model]
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    largest = 0
    for images in batches:
        count = len(images)
        largest = max(largest, count) if on_gpu else count
        padding = [[0, largest - count], *([0, 0] for _ in images.shape[1:])]
        filled = images if largest == count else tf.pad(images, padding)
        yield forward(filled).numpy()[:count]


def put_view(views: np.ndarray, index: int, features: np.ndarray) -> np.ndarray:
    """Puts features of one view among those of all and returns these.

    Args:
        views: float16 or float32 [V, M, F], changed in place.
        index: Of the view.
        features: float32 [M, F].

    Returns:
        The views, in float32 from the first feature on that float16 would make infinite.
    """
    largest = np.finfo(np.float16).max
    if views.dtype == np.float16 and max(features.max(), -features.min()) > largest:
        views = views.astype(np.float32)
    views[index] = features
    return views


def pixel_encoder(side: int, channels: int = 3) -> keras.Model:
    """Builds the encoder that has learnt nothing: images float [N, H, W, C] -> their pixels.

    Args:
        side: Pixels to a side that images are reduced to (antialiased): F = C x side^2.
        channels: C.
    """
    images = keras.Input((None, None, channels), name="images")
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

    # At once: TensorFlow takes the traces that first calls make, a model after another, for those
    # of one function called in ever new ways, and warns of them.
    return forward.get_concrete_function()
