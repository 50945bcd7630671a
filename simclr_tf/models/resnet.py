"""ResNet-18, 34 and 50 (arXiv 1512.03385) as SimCLR's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.models.convolution import Conv2D
from simclr_tf.models.normalization import BatchNormalization, NormalizeInput

# Residual blocks of the four stages, and whether they are bottlenecks (1x1, 3x3, 1x1).
DEPTHS: dict[int, tuple[tuple[int, int, int, int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
}
ENCODER_WIDTH = 64  # channels of the stem of an encoder of full width
EXPANSION = 4  # channels of a bottleneck's output over those of its 3x3 convolution
STEMS = ("small", "imagenet")
STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")
CHECKED = 32  # images of a batch whose range is looked at
SMALL_STEM_MAX_SIDE = 64  # pixels: up to here the ImageNet stem would leave too little to see


@keras.saving.register_keras_serializable("simclr_tf")
class Encoder(keras.Model):
    """A functional model of images that takes no pixels of the wrong range.

    What is looked at is what a user hands over, an array or a tensor with values; batches within a
    `tf.function`, a training step or a `tf.data.Dataset` are not.
    """

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        self._check_range(images)
        return super().__call__(images, *args, **kwargs)

    def predict(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        self._check_range(images)
        return super().predict(images, *args, **kwargs)

    @property
    def rescales(self) -> bool:
        """Whether pixels are 0..255; else they are in [0, 1]."""
        return any(isinstance(layer, keras.layers.Rescaling) for layer in self.layers)

    def _check_range(self, images: Any) -> None:
        """Raises UserError for pixels of 0..255 where those in [0, 1] are taken."""
        if self.rescales or not (isinstance(images, np.ndarray) or _has_values(images)):
            return
        some = np.asarray(images[:CHECKED])
        # Pixels that were standardised are below 0, too; they may be what the user wants.
        if some.size and some.min() >= 0 and some.max() > 2:
            raise UserError(
                f"Expected pixels in 0 to 1, got {some.dtype} up to {some.max():g}. Divide them by "
                "255, or build the encoder with include_rescaling=True."
            )


def _has_values(images: Any) -> bool:
    return tf.is_tensor(images) and hasattr(images, "numpy")


def choose_stem(size: tuple[int, int]) -> str:
    """Returns the stem for images of this (height, width) in pixels."""
    return "small" if min(size) <= SMALL_STEM_MAX_SIDE else "imagenet"


def resnet(
    depth: int,
    *,
    stem: str,
    width_multiplier: float = 1.0,
    depthwise: bool = False,
    stride_in_1x1: bool = False,
    channels: int = 3,
    mean_std: tuple[Sequence[float], Sequence[float]] | None = None,
    include_rescaling: bool = False,
) -> keras.Model:
    """Builds an encoder: images float [N, H, W, C] in [0, 1] -> features h [N, F].

    Example:
        >>> features = resnet(18, stem="small").predict(images / 255.0)  # float32 [N, 512]

    The outputs of the stem and the stages are the layers named in `STAGES`: a decoder takes them
    with `encoder.get_layer("stage3").output`. Images of any size are taken.

    Args:
        depth: 18, 34 or 50.
        stem: "imagenet" (7x7 stride 2, max-pool: stage 1 sees a quarter of the side) or "small"
            (3x3 stride 1, no pool), as the reference uses for 32-pixel images.
        width_multiplier: Factor on all channel counts; F = 512 x it (2,048 x it for depth 50).
        depthwise: Replace each 3x3 convolution of the blocks by a depth-wise one (followed by 1x1
            in basic blocks, which would not mix channels otherwise).
        stride_in_1x1: Let bottlenecks halve the map in their first 1x1 convolution, as the paper
            and Keras' ResNet50 do, and not in the 3x3.
        channels: C, of the images.
        mean_std: Mean and standard deviation of the channels; pixels are normalised by them first.
        include_rescaling: Take pixels in 0..255, uint8 or float, as `keras.applications` has it.

    Raises:
        ValueError: A depth or stem that does not exist.
    """
    if depth not in DEPTHS:
        raise ValueError(f"Expected depth in {sorted(DEPTHS)}, got {depth}.")
    if stem not in STEMS:
        raise ValueError(f"Expected stem in {STEMS}, got {stem!r}.")
    blocks, bottleneck = DEPTHS[depth]
    width = max(int(ENCODER_WIDTH * width_multiplier), 1)

    images = keras.Input((None, None, channels), name="images")
    x = keras.layers.Rescaling(1 / 255, name="rescale")(images) if include_rescaling else images
    x = x if mean_std is None else NormalizeInput(*mean_std, name="normalize_input")(x)
    x = _stem(x, width, stem)
    for stage, count in enumerate(blocks, start=1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            last = index == count - 1
            name = f"stage{stage}_block{index + 1}"
            channels = width * 2 ** (stage - 1)
            if bottleneck:
                x = _bottleneck_block(x, channels, stride, depthwise, name, early=stride_in_1x1)
            else:
                x = _basic_block(x, channels, stride, depthwise, name)
            x = keras.layers.ReLU(name=f"stage{stage}" if last else f"{name}_relu")(x)
    # The features leave in float32: what is fitted on them should not see bfloat16 steps.
    h = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pooled")(x)
    return Encoder(images, h, name=f"resnet{depth}")


def _stem(x: keras.KerasTensor, width: int, stem: str) -> keras.KerasTensor:
    if stem == "small":
        x = _conv_norm(x, width, 3, 1, "stem_conv")
        return keras.layers.ReLU(name="stem")(x)
    x = _conv_norm(x, width, 7, 2, "stem_conv")
    x = keras.layers.ReLU(name="stem")(x)
    # Zeros are no smaller than what ReLU leaves, so zero padding is the max-pool's own padding.
    x = keras.layers.ZeroPadding2D(1, name="stem_pad")(x)
    return keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)


def _basic_block(
    x: keras.KerasTensor, width: int, stride: int, depthwise: bool, name: str
) -> keras.KerasTensor:
    shortcut = _shortcut(x, width, stride, name)
    y = _spatial_conv_norm(x, width, stride, depthwise, f"{name}_conv1", mix=True)
    y = keras.layers.ReLU(name=f"{name}_relu1")(y)
    y = _spatial_conv_norm(y, width, 1, depthwise, f"{name}_conv2", mix=True, zero_gamma=True)
    return keras.layers.Add(name=f"{name}_add")([shortcut, y])


def _bottleneck_block(
    x: keras.KerasTensor, width: int, stride: int, depthwise: bool, name: str, *, early: bool
) -> keras.KerasTensor:
    shortcut = _shortcut(x, EXPANSION * width, stride, name)
    first, second = (stride, 1) if early else (1, stride)
    y = _conv_norm(x, width, 1, first, f"{name}_conv1")
    y = keras.layers.ReLU(name=f"{name}_relu1")(y)
    y = _spatial_conv_norm(y, width, second, depthwise, f"{name}_conv2", mix=False)
    y = keras.layers.ReLU(name=f"{name}_relu2")(y)
    y = _conv_norm(y, EXPANSION * width, 1, 1, f"{name}_conv3", zero_gamma=True)
    return keras.layers.Add(name=f"{name}_add")([shortcut, y])


def _shortcut(x: keras.KerasTensor, channels: int, stride: int, name: str) -> keras.KerasTensor:
    if stride == 1 and x.shape[-1] == channels:
        return x
    return _conv_norm(x, channels, 1, stride, f"{name}_shortcut")


def _spatial_conv_norm(
    x: keras.KerasTensor,
    channels: int,
    stride: int,
    depthwise: bool,
    name: str,
    *,
    mix: bool,
    zero_gamma: bool = False,
) -> keras.KerasTensor:
    """A 3x3 convolution with its norm, or depth-wise 3x3 (then 1x1 where `mix`)."""
    if not depthwise:
        return _conv_norm(x, channels, 3, stride, name, zero_gamma=zero_gamma)
    x = keras.layers.DepthwiseConv2D(
        3,
        strides=stride,
        padding="valid",
        use_bias=False,
        depthwise_initializer=keras.initializers.VarianceScaling(),
        name=f"{name}_depthwise",
    )(keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x))
    if mix:
        return _conv_norm(x, channels, 1, 1, name, zero_gamma=zero_gamma)
    return BatchNormalization(zero_gamma=zero_gamma, name=f"{name}_norm")(x)


def _conv_norm(
    x: keras.KerasTensor,
    channels: int,
    kernel: int,
    stride: int,
    name: str,
    *,
    zero_gamma: bool = False,
) -> keras.KerasTensor:
    # With a stride, "same" would pad by the image's size; explicit padding does not depend on it.
    explicit = stride > 1 and kernel > 1
    if explicit:
        x = keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    x = Conv2D(
        channels,
        kernel,
        strides=stride,
        padding="valid" if explicit else "same",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(),
        name=name,
    )(x)
    return BatchNormalization(zero_gamma=zero_gamma, name=f"{name}_norm")(x)
