"""U-Net (arXiv 1505.04597) over a ResNet: a class for every pixel."""

from __future__ import annotations

import keras
import tensorflow as tf

from simclr_tf.models.convolution import Conv2D
from simclr_tf.models.normalization import BatchNormalization
from simclr_tf.models.resnet import ENCODER_WIDTH, STAGES

WIDTH = 256  # channels of the decoder's lowest level over an encoder of full width
LEAST_CHANNELS = 8  # of any level of the decoder
LEAST_LAST_CHANNELS = 16  # of what the logits are computed from


def unet(encoder: keras.Model, num_classes: int, *, width: int = WIDTH) -> keras.Model:
    """Builds a segmenter: images float [N, H, W, 3] in [0, 1] -> logits float32 [N, H, W, K].

    All maps of the encoder are normalised. From stage 4 upwards over stages 3, 2, 1 and the stem
    each level halves the channels by a 1x1 convolution, repeats pixels up to the size of the
    encoder's map, puts the two side by side and convolves twice. Where the stem has halved the
    image, a last 2x2 up-convolution undoes it.

    Images of any size are taken, 1 pixel too: each halving of the encoder rounds up, so what has
    been doubled is at most a row and a column too large, and is cut.

    Args:
        encoder: A model of `resnet`. Its layers are shared, not copied: weights that are loaded
            into it, and `encoder.trainable`, hold for this model too.
        num_classes: K.
        width: Channels of the lowest level for an encoder of width multiplier 1; each further
            level has half as many, all times the multiplier, 8 at least (the last level 16).
    """
    maps = [encoder.get_layer(name).output for name in STAGES]
    multiplier = maps[0].shape[-1] / ENCODER_WIDTH
    # With the stem for small images the stem's map is as large as the image, and the last level.
    # With the other one the image is another level above it.
    halved = encoder.get_layer("stem_conv").strides[0] == 2
    levels = [
        max(int(width * multiplier) >> level, LEAST_CHANNELS) for level in range(4 + int(halved))
    ]
    levels[-1] = max(levels[-1], LEAST_LAST_CHANNELS)

    # A pre-trained encoder's maps are up to ten times as large as the decoder's own. Normalised,
    # they end a short training a little better, and those of random weights too.
    *skips, x = [
        BatchNormalization(name=f"decoder_{name}_norm")(each)
        for name, each in zip(STAGES, maps, strict=True)
    ]
    doubled = {"stage3", "stage2", "stage1"} | ({"stem"} if halved else set())
    for name, skip, channels in zip(reversed(STAGES[:-1]), reversed(skips), levels, strict=False):
        x = _merge(x, skip, channels, name in doubled, f"decoder_{name}")
    if halved:
        x = _up_convolution(x, encoder.input, levels[-1], "decoder_image")
    # The logits leave in float32: a softmax should not see bfloat16 steps.
    logits = Conv2D(num_classes, 1, dtype="float32", name="logits")(x)
    return keras.Model(encoder.input, logits, name="unet")


def decoder_variables(model: keras.Model, encoder: keras.Model) -> list[keras.Variable]:
    """Returns all variables of `model` that are not the encoder's, moving statistics included."""
    shared = {id(variable) for variable in encoder.variables}
    return [variable for variable in model.variables if id(variable) not in shared]


def _merge(
    x: keras.KerasTensor, skip: keras.KerasTensor, channels: int, doubled: bool, name: str
) -> keras.KerasTensor:
    # The paper's up-convolution halves the channels before the two maps meet. Without it the 3x3
    # convolution right after would cost half as much again. Repeating pixels commutes with a 1x1
    # convolution, which costs a quarter before it.
    x = _convolution(x, channels, 1, f"{name}_reduce")
    if doubled:
        x = keras.layers.UpSampling2D(2, interpolation="nearest", name=f"{name}_repeat")(x)
        x = CutToSize(name=f"{name}_cut")([x, skip])
    x = keras.layers.Concatenate(name=f"{name}_concat")([x, skip])
    for index in (1, 2):
        x = _convolution(x, channels, 3, f"{name}_conv{index}")
        x = BatchNormalization(name=f"{name}_conv{index}_norm")(x)
        x = keras.layers.ReLU(name=f"{name}_relu{index}")(x)
    return x


def _up_convolution(
    x: keras.KerasTensor, images: keras.KerasTensor, channels: int, name: str
) -> keras.KerasTensor:
    # A 3x3 convolution at the size of the image would be the most expensive of the decoder, and
    # there is no skip to mix in: each pixel gets one of four linear maps of the pixel below it.
    # Four maps drawn apart would lay a lattice over the prediction until training has undone it.
    x = keras.layers.Conv2DTranspose(
        channels,
        2,
        strides=2,
        use_bias=False,
        kernel_initializer=RepeatedKernel(),
        name=f"{name}_up",
    )(x)
    x = CutToSize(name=f"{name}_cut")([x, images])
    x = BatchNormalization(name=f"{name}_up_norm")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _convolution(x: keras.KerasTensor, channels: int, kernel: int, name: str) -> keras.KerasTensor:
    return Conv2D(
        channels,
        kernel,
        padding="same",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(),
        name=name,
    )(x)


@keras.saving.register_keras_serializable("simclr_tf")
class RepeatedKernel(keras.initializers.VarianceScaling):
    """Draws one 1x1 kernel for all places of an up-convolution's (arXiv 1707.02937).

    With a kernel as large as its stride the layer begins as a 1x1 convolution whose pixels are
    repeated. The kernel is [h, w, channels, inputs], as Keras' transposed ones.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(mode="fan_out", seed=seed)  # inputs come last

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> tf.Tensor:
        return tf.tile(super().__call__((1, 1, *shape[2:]), dtype), [*shape[:2], 1, 1])

    def get_config(self) -> dict:
        return {"seed": super().get_config()["seed"]}


@keras.saving.register_keras_serializable("simclr_tf")
class CutToSize(keras.layers.Layer):
    """Cuts rows at the bottom and columns at the right, down to the size of another map.

    Called with [x, other], float [N, h, w, C] and [N, H, W, D] with H <= h and W <= w; returns
    [N, H, W, C].
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(autocast=False, **kwargs)  # of `other` only the size is looked at

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        x, other = inputs
        known, dynamic = other.shape, tf.shape(other)
        # Known sizes stay known: faster filter gradients depend on them.
        height, width = (dynamic[axis] if known[axis] is None else known[axis] for axis in (1, 2))
        return x[:, :height, :width]

    def compute_output_shape(self, input_shape: list[tuple]) -> tuple:
        x, other = input_shape
        return (x[0], other[1], other[2], x[3])
