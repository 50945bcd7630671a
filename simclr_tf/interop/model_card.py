"""The model card that lies beside an export: what it is, how to call it, how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MARK = "Written by simclr_tf"

_LOAD = {
    "keras": """\
import keras
model = keras.models.load_model("{file}")  # needs Keras 3 alone
outputs = model.predict(images)""",
    "saved_model": """\
import tensorflow as tf
model = tf.saved_model.load("{file}")  # needs TensorFlow alone
outputs = model.signatures["serving_default"](images=tf.constant(images))["{output}"]""",
    "onnx": """\
import onnxruntime
session = onnxruntime.InferenceSession("{file}")
(outputs,) = session.run(["{output}"], {{"images": images}})""",
    "tflite": """\
import tensorflow as tf  # or ai_edge_litert.interpreter.Interpreter
interpreter = tf.lite.Interpreter("{file}")
index = interpreter.get_input_details()[0]["index"]
interpreter.resize_tensor_input(index, images.shape)
interpreter.allocate_tensors()
interpreter.set_tensor(index, images)
interpreter.invoke()
outputs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])""",
}

# As the library reads files: `data.images.read_windows` of the window that evaluation sees.
_READ = """\
import numpy as np
from PIL import Image, ImageOps

def read(path, height={height}, width={width}):  # an image file -> uint8 [height, width, 3]
    image = Image.open(path)
    turned = image.getexif().get(0x0112, 1) > 4  # it is stored on its side
    size = (height, width) if turned else (width, height)
    drafted = image.draft(image.mode, size)  # a large JPEG is decoded at 1/2, 1/4 or 1/8
    sides = drafted[1][2:] if drafted else image.size  # fractions of pixels where these are cut
    w, h = sides[::-1] if turned else sides
    image = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")  # below what is transparent
    image = Image.alpha_composite(white, image).convert("RGB")
    scale = min(w / width, h / height)
    left, top = max(w - scale * width, 0) / 2, max(h - scale * height, 0) / 2
    centre = (left, top, w - left, h - top)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, centre))

images = np.stack([read(path) for path in ["image.jpg"]])
"""


def model_card(
    *,
    title: str,
    licence: str,
    format: str,
    file: str,
    takes: str,
    gives: str,
    code: str,
    facts: Mapping[str, Any],
    metrics: Mapping[str, Any],
    notes: list[str],
) -> str:
    """Returns the text of a model card, in Markdown with the header that model hubs read.

    Args:
        title: A line.
        licence: Of the weights; may be empty.
        format: Of the export.
        file: Name of the export.
        takes, gives: What goes in and comes out, a sentence each.
        code: Python that loads and calls it.
        facts: Settings of the run, by name.
        metrics: What the run measured, by name.
        notes: Further sentences.
    """
    header = ["---", *([f"license: {licence}"] if licence else []), "tags:", "- simclr", "---"]
    terms = licence or (
        "Not stated. Weights may carry the terms of the images, and of the weights, they came from."
    )
    parts = [
        "\n".join(header),
        f"# {title}",
        f"`{file}` ({format}).\n\n- In: {takes}\n- Out: {gives}"
        + "".join(f"\n- {note}" for note in notes),
        f"```python\n{code}\n```",
        f"## How it was trained\n\n{_table(facts)}",
        f"## What was measured\n\n{_table(metrics) if metrics else 'No results lie in the run.'}",
        f"## Licence\n\n{terms}",
        f"{MARK}.",
    ]
    return "\n\n".join(parts) + "\n"


def load_code(format: str, file: str, output: str) -> str:
    """Returns Python that loads and calls an export; not for safetensors."""
    return _LOAD[format].format(file=file, output=output)


def read_code(size: tuple[int, int]) -> str:
    """Returns Python that reads files as the library does, for images at `size`, (h, w)."""
    return _READ.format(height=size[0], width=size[1])


def torch_code(
    file: str,
    *,
    depth: int,
    width: float,
    small: bool,
    channels: int,
    fc: tuple[int, ...],
    mean_std: tuple | None,
) -> str:
    """Returns Python that loads a safetensors export into torchvision's ResNet.

    Args:
        file: Name of the export.
        depth: 18, 34 or 50.
        width: Channels over torchvision's.
        small: Whether the stem is that for small images.
        channels: C, of the images.
        fc: Widths of the head from the features on; () for none, (F, K) where it is linear.
        mean_std: What pixels in [0, 1] are normalised by, or None.
    """
    if width != 1.0:
        return f'import safetensors.torch\nweights = safetensors.torch.load_file("{file}")'
    lines = [
        "import safetensors.torch, torch, torchvision",
        f"model = torchvision.models.resnet{depth}({f'num_classes={fc[-1]}' if fc else ''})",
    ]
    if small or channels != 3:
        kernel = "3, padding=1" if small else "7, stride=2, padding=3"
        lines.append(f"model.conv1 = torch.nn.Conv2d({channels}, 64, {kernel}, bias=False)")
    if small:
        lines.append("model.maxpool = torch.nn.Identity()")
    if not fc:
        lines.append("model.fc = torch.nn.Identity()")
    elif len(fc) > 2:
        layers = [f"torch.nn.Linear({a}, {b})" for a, b in zip(fc[:-1], fc[1:], strict=True)]
        lines.append(f"model.fc = torch.nn.Sequential({', torch.nn.ReLU(), '.join(layers)})")
    lines += [
        f'model.load_state_dict(safetensors.torch.load_file("{file}"), strict=True)',
        "model.eval()",
        f"x = images.permute(0, 3, 1, 2) / 255  # uint8 [N, H, W, {channels}] -> "
        f"[N, {channels}, H, W] in [0, 1]",
    ]
    if mean_std is not None:
        mean, std = ([round(value, 9) for value in values] for values in mean_std)
        lines.append(f"x = (x - torch.tensor({mean})[:, None, None])")
        lines.append(f"x = x / torch.tensor({std})[:, None, None]")
    return "\n".join([*lines, "outputs = model(x)"])


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
