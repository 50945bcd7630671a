"""The weights of `keras.applications`' ResNet50, recast for our encoder with equal features.

Its blocks stride in the first 1x1 convolution, for which `resnet` has `stride_in_1x1`. The rest is
a matter of weights: its convolutions have biases, its norms another epsilon, and its images are BGR
with ImageNet's mean taken off but not scaled.
"""

from __future__ import annotations

import re

import keras
import numpy as np

from simclr_tf.errors import UserError
from simclr_tf.models.normalization import EPSILON

NAME = "keras:ResNet50"
MEAN = (123.68, 116.779, 103.939)  # of red, green and blue, in levels, as the source takes it off
SETTINGS = {
    "model": 50,
    "stem": "imagenet",
    "width_multiplier": 1.0,
    "depthwise": False,
    "stride_in_1x1": True,
    "channels": 3,
    "normalize_input": " ".join(f"{level / 255:.9g}" for level in MEAN) + f" {1 / 255:.9g}" * 3,
}


def load_weights() -> dict[str, np.ndarray]:
    """Downloads (once) and recasts the ImageNet weights: by the paths of our variables.

    Raises:
        UserError: They cannot be downloaded.
    """
    try:
        source = keras.applications.ResNet50(include_top=False, weights="imagenet")
    except Exception as error:  # what a failed download raises depends on where it fails
        raise UserError(
            f"Expected to download the weights of {NAME}, got: {error}. Run once with a network, "
            "or pass a file of weights as `init_weights`."
        ) from error
    return recast(source)


def recast(source: keras.Model) -> dict[str, np.ndarray]:
    """Recasts the weights of `keras.applications.ResNet50`: by the paths of our variables."""
    arrays: dict[str, np.ndarray] = {}
    for layer in source.layers:
        if not isinstance(layer, keras.layers.Conv2D):
            continue
        norm = source.get_layer(layer.name.replace("_conv", "_bn"))
        name = _our_name(layer.name)
        kernel, bias = layer.get_weights()
        gamma, beta, mean, variance = norm.get_weights()
        arrays[f"{name}/kernel"] = kernel
        # gamma / sqrt(variance + epsilon) is what counts; the mean takes the bias in.
        arrays[f"{name}_norm/gamma"] = gamma * np.sqrt(
            (variance + EPSILON) / (variance + norm.epsilon)
        )
        arrays[f"{name}_norm/beta"] = beta
        arrays[f"{name}_norm/moving_mean"] = mean - bias
        arrays[f"{name}_norm/moving_variance"] = variance
    arrays["stem_conv/kernel"] = arrays["stem_conv/kernel"][:, :, ::-1]  # BGR
    return arrays


def _our_name(name: str) -> str:
    """`conv3_block1_2_conv` -> `stage2_block1_conv2`; number 0 is the shortcut."""
    if name == "conv1_conv":
        return "stem_conv"
    match = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_conv", name)
    if match is None:
        raise ValueError(f"Expected a convolution of keras.applications' ResNet50, got {name}.")
    stage, block, number = match.groups()
    part = "shortcut" if number == "0" else f"conv{number}"
    return f"stage{int(stage) - 1}_block{block}_{part}"
