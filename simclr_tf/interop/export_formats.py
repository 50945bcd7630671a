"""Writes a model in the formats of others, preprocessing included: images uint8 in, values out."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.interop.stock_layers import plain_copy, side_factor
from simclr_tf.interop.torch_names import to_torch

NAMES = {
    "keras": "model.keras",
    "saved_model": "saved_model",
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
    "tflite": "model.tflite",
}
INPUT = "images"
OPSET = 17  # of ONNX
FIXED = ("onnx", "tflite")  # formats that do not resize: images come at the size that is known

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Exported:
    """What is exported.

    Attributes:
        body: Images float [N, H, W, 3] in [0, 1] -> features; or logits, of a U-Net.
        head: Features -> logits, of dense layers alone (see `folded_head`), or None.
        size: (h, w) that images are brought to, or None where none is known.
    """

    body: keras.Model
    head: keras.Sequential | None = None
    size: Size | None = None

    @property
    def segments(self) -> bool:
        """Whether logits come out for every pixel."""
        return len(self.body.output_shape) == 4

    @property
    def output(self) -> str:
        """Name of what comes out."""
        return "features" if self.head is None and not self.segments else "logits"

    def input_shape(self, format: str) -> tuple[int | None, ...]:
        """Returns the shape of the images that the model takes; None is any.

        Raises:
            UserError: The format needs a size and none is known.
        """
        if format == "tflite" and self.size is None:
            raise UserError(
                "Expected the size of the images for `format=tflite`, got none from the run. "
                'Pass `input_size="224 224"`, for instance.'
            )
        fixed = format == "tflite" or (format == "onnx" and not self.segments)
        return (
            None,
            *(self.size if fixed and self.size else (None, None)),
            self.body.input_shape[-1],
        )

    def resizes(self, format: str) -> bool:
        """Whether the model itself cuts and resizes images to `size`."""
        return self.size is not None and not self.segments and format not in FIXED

    def multiple(self, format: str) -> int:
        """Returns what the sides of images must be multiples of."""
        return side_factor(self.body) if format == "keras" else 1


def save(exported: Exported, format: str, folder: pathlib.Path, metadata: dict[str, str]) -> str:
    """Writes a model into a folder and returns the name of the file or folder in it.

    Args:
        exported: The model.
        format: One of NAMES.
        folder: It exists.
        metadata: Strings for the header of a safetensors file.

    Raises:
        UserError: The format cannot hold this model, or a package is missing.
    """
    path = folder / NAMES[format]
    if format == "keras":
        _whole_model(exported, format).save(path)
    elif format == "saved_model":
        _save_saved_model(exported, path)
    elif format == "safetensors":
        _save_safetensors(exported, path, metadata)
    elif format == "onnx":
        _save_onnx(exported, path)
    else:
        _save_tflite(exported, path)
    return path.name


def torch_arrays(exported: Exported) -> dict[str, np.ndarray]:
    """Returns encoder and head under torchvision's names.

    A linear head is `fc`; one with a hidden layer is `fc.0` and `fc.2`, as of
    `nn.Sequential(Linear, ReLU, Linear)`.

    Raises:
        UserError: A part has no name there.
    """
    paths = {v.path: np.asarray(v) for v in exported.body.variables}
    foreign = {
        "a segmenter": exported.segments,
        "depth-wise convolutions": any("depthwise" in path for path in paths),
        # These have names, but would load into a network that computes something else.
        "bottlenecks that stride in the first 1x1 convolution": _strides_early(exported.body),
    }
    for what, there in foreign.items():
        if there:
            raise UserError(
                "Expected a ResNet as torchvision has it for `format=safetensors`, got "
                f"{what}. Pass another `format`."
            )
    arrays = to_torch({p: a for p, a in paths.items() if not p.startswith("normalize_input/")})
    counters = {
        name.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)
        for name in arrays
        if name.endswith("running_mean")
    }
    return arrays | counters | _torch_head(exported.head)


def _strides_early(encoder: keras.Model) -> bool:
    names = [layer.name for layer in encoder.layers]
    bottleneck = "stage2_block1_conv3" in names
    return bottleneck and encoder.get_layer("stage2_block1_conv1").strides[0] > 1


def _torch_head(head: keras.Sequential | None) -> dict[str, np.ndarray]:
    dense = [] if head is None else head.layers
    arrays: dict[str, np.ndarray] = {}
    for index, layer in enumerate(dense):
        name = "fc" if len(dense) == 1 else f"fc.{2 * index}"
        kernel, bias = layer.get_weights()
        arrays[f"{name}.weight"] = np.ascontiguousarray(kernel.T)
        arrays[f"{name}.bias"] = bias
    return arrays


def _whole_model(exported: Exported, format: str) -> keras.Model:
    """Builds the model that is saved, of Keras' own layers: images uint8 -> output."""
    images = keras.Input(exported.input_shape(format)[1:], dtype="uint8", name=INPUT)
    x = keras.layers.Rescaling(1.0 / 255.0, name="to_unit_range")(images)
    if exported.resizes(format):
        x = _resizing(exported)(x)  # after the scaling: it would round levels
    # Said here and not left to the caller: after Resizing, whose own default is training=True, a
    # bare `model(images)` would run the norms on the batch's statistics.
    x = plain_copy(exported.body)(x, training=False)
    if exported.head is not None:
        x = exported.head(x)
    return keras.Model(images, x, name=exported.output)


def _graph(exported: Exported, format: str) -> tf.types.experimental.GenericFunction:
    """Returns the model as a function of TensorFlow with our own layers, which fold well."""
    resize = _resizing(exported) if exported.resizes(format) else None
    batch = tf.TensorSpec(exported.input_shape(format), tf.uint8, INPUT)

    @tf.function(input_signature=[batch])
    def forward(images: tf.Tensor) -> Mapping[str, tf.Tensor]:
        x = tf.cast(images, tf.float32) / 255.0
        x = x if resize is None else resize(x)
        x = exported.body(x, training=False)
        return {exported.output: x if exported.head is None else exported.head(x, training=False)}

    return forward


def _resizing(exported: Exported) -> keras.layers.Layer:
    """Returns the layer that cuts images to the size's aspect and resizes them, antialiased."""
    height, width = exported.size or (None, None)
    return keras.layers.Resizing(
        height,
        width,
        antialias=True,
        crop_to_aspect_ratio=True,
        dtype="float32",
        name="resize_to_fill",
    )


def _save_saved_model(exported: Exported, path: pathlib.Path) -> None:
    forward = _graph(exported, "saved_model")
    # Only the variables, and not Keras' objects and our gradients, which nobody could load.
    served = tf.Module()
    parts = [part for part in (exported.body, exported.head) if part is not None]
    served.weights = [variable.value for part in parts for variable in part.variables]
    tf.saved_model.save(
        served,
        str(path),
        signatures={"serving_default": forward.get_concrete_function()},
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )


def _save_safetensors(exported: Exported, path: pathlib.Path, metadata: dict[str, str]) -> None:
    from safetensors.numpy import save

    # Not by its `save_file`, which says in words of its own that the disk is full.
    path.write_bytes(save(torch_arrays(exported), metadata | {"format": "pt"}))


def _save_onnx(exported: Exported, path: pathlib.Path) -> None:
    try:
        import tf2onnx
    except ImportError:
        raise UserError(
            "Expected the package tf2onnx for `format=onnx`, got none. "
            "Run: pip install 'simclr-tf[onnx]', or choose another `format`."
        ) from None
    forward = _graph(exported, "onnx")
    tf2onnx.convert.from_function(
        forward, input_signature=forward.input_signature, opset=OPSET, output_path=str(path)
    )


def _save_tflite(exported: Exported, path: pathlib.Path) -> None:
    # Without the model as its second argument: given that, weights are left out (TF 2.21).
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [_graph(exported, "tflite").get_concrete_function()]
    )
    path.write_bytes(converter.convert())
