"""The smallest things that the library can work on, for tests that train."""

from __future__ import annotations

import contextlib
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from simclr_tf.losses.contrastive import nt_xent
from simclr_tf.models import BatchNormalization, ProjectionHead
from simclr_tf.models.resnet import DEPTHS
from simclr_tf.training.model import SimCLR


@contextlib.contextmanager
def policy(name):
    """Sets the global Keras policy within the block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def shallow_encoders():
    """Makes encoders of depth 18 half as deep within the block: runs trace and compile sooner."""
    return mock.patch.dict(DEPTHS, {18: ((1, 1, 1, 1), False)})


def tiny_encoder(features=6):
    """One convolution with its norm: images [N, H, W, 3] -> [N, features]."""
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(features, 3, strides=2, use_bias=False, name="conv")(images)
    x = BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    h = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pooled")(x)
    return keras.Model(images, h, name="tiny")


def tiny_simclr(**arguments):
    """A `SimCLR` whose weights are the same at each call."""
    keras.utils.set_random_seed(3)
    model = SimCLR(tiny_encoder(), ProjectionHead(5, layers=2, name="head"), **arguments)
    # A head that starts at 0.01 makes gradients too small to compare; this one is of order 1.
    for variable in model.head.trainable_variables:
        if len(variable.shape) == 2:
            variable.assign(variable.value * 30.0)
    return model


def tiny_views(count=8, side=9, seed=0):
    """Two views that share what tells the images apart: float32 [N, side, side, 3] each."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.2, 0.8, (count, side, side, 3))
    noisy = (base + rng.normal(0, 0.02, base.shape) for _ in range(2))
    return tuple(view.clip(0, 1).astype(np.float32) for view in noisy)


def write_colour_classes(folder, names, rng, *, count=12, side=16, file="{:02d}.png"):
    """Writes a folder of pictures for each name, class by colour: red is that of the last."""
    for channel, name in enumerate(reversed(names)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = rng.integers(0, 100, (side, side, 3), np.uint8)
            image[..., channel] += 120
            Image.fromarray(image).save(folder / name / file.format(index), quality=95)


def norms(layers):
    """Those among the layers that are norms."""
    return [layer for layer in layers if isinstance(layer, BatchNormalization)]


def loss_and_gradient(z, **arguments):
    """The contrast of projections by `nt_xent` and the gradient of its loss."""
    with tf.GradientTape() as tape:
        tape.watch(z)
        contrast = nt_xent(z, **arguments)
    return contrast, tape.gradient(contrast.loss, z)
