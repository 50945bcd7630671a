"""What both pages show of an evaluation, as plain values: facts, pictures, spread, settings."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from simclr_tf.plots import COLOURS
from simclr_tf.report.measures import list_of, mapping_of, number_of, protocol_name

FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
SHOWN_CLASSES = 10
Facts = list[tuple[str, Any]]


class Report(NamedTuple):
    """An evaluation that is reported.

    Attributes:
        name: Of the run.
        results: What its results.json holds.
        pictures: Files of pictures by their name below plots/, such as "tsne.png".
    """

    name: str
    results: Mapping[str, Any]
    pictures: Mapping[str, Path] = {}


# Kinds of pictures, known by how the name begins: title, and how it is read.
KINDS = {
    "fractions": (
        "Accuracy by share of the labels",
        "Above the supervised curve, pre-training has saved labels. Bars: standard deviation.",
    ),
    "tsne": (
        "t-SNE of h and z",
        "Classes that lie apart can be told apart from the features. Distances between clusters "
        "mean little.",
    ),
    "confusion_matrix": ("Confusion matrix", "Rows: the truth; columns: the prediction."),
    "neighbours": (
        "Nearest neighbours",
        "The images that the encoder takes for most alike to each query.",
    ),
    "per_dimension_spread": (
        "Spread of each dimension",
        "Dimensions with a spread near 0 carry nothing.",
    ),
    "loss": ("Loss", "Over the epochs of training."),
    "accuracy": ("Accuracy", "Over the epochs of training."),
}


class Picture(NamedTuple):
    """A picture as a page holds it.

    Attributes:
        title: Such as "Confusion matrix, nearest neighbours".
        run: Whose it is.
        file: Its file's name.
        kind: The key in `KINDS`; "" where it is not known.
        reading: How it is read.
        source: The picture itself, as a data URL; None where it cannot be read.
        width, height: In pixels.
    """

    title: str
    run: str
    file: str
    kind: str
    reading: str
    source: str | None
    width: int
    height: int


class Spread(NamedTuple):
    """A drawing of the spread of each dimension: (x, y, width, height) of each bar, in pixels."""

    bars: list[tuple[float, float, float, float]]
    text: str
    width: int = 640
    height: int = 120
    colour: str = COLOURS[0]


def facts_of(results: Mapping[str, Any]) -> Facts:
    """Returns (name, value) of what was evaluated, on what, and when; None: not recorded."""
    config = mapping_of(results.get("config"))
    data = config.get("train_file_path") or config.get("dataset")
    if config.get("train_file_path") and config.get("val_file_path"):
        data = f"{data}, judged on {config['val_file_path']}"
    counts = [
        f"{int(number_of(results[key])):,} {text}"
        for key, text in (("num_train", "to train on"), ("num_test", "to test on"))
        if number_of(results.get(key)) >= 0
    ]
    seconds = number_of(results.get("seconds"))
    return [
        ("Date", results.get("date")),
        ("Data", data),
        ("Images", ", ".join(counts)),
        ("Classes", _format_classes(results)),
        ("Encoder", results.get("checkpoint") or config.get("pretrain_save_path")),
        ("Device", results.get("device")),
        ("Took", f"{seconds / 60:.1f} minutes" if seconds >= 0 else None),
    ]


def _format_classes(results: Mapping[str, Any]) -> str | None:
    if results.get("labelled") is False:
        return "none: images without labels"
    names = list(map(str, list_of(results.get("class_names"))))
    more = ", ..." if len(names) > SHOWN_CLASSES else ""
    return f"{len(names)}: {', '.join(names[:SHOWN_CLASSES])}{more}" if names else None


def notes_of(results: Mapping[str, Any]) -> list[str]:
    """Returns what has to be known before the numbers are read."""
    return list(map(str, list_of(results.get("notes"))))


def setup_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what repeats the evaluation: `command`, and facts of `machine` and `settings`."""
    command = results.get("command")
    if isinstance(command, list | tuple):
        command = shlex.join(map(str, command))
    machine = [("Device", results.get("device")), ("Number format", results.get("precision"))]
    settings = mapping_of(results.get("config")).items()
    return {
        "command": command,
        "machine": [*machine, *mapping_of(results.get("versions")).items()],
        "settings": [(name, "not set" if v in (None, "") else v) for name, v in settings],
    }


def spread_of(results: Mapping[str, Any]) -> Spread | None:
    """Returns the drawing of the spread of each dimension; None where it was not measured."""
    values = list_of(mapping_of(results.get("health")).get("per_dimension_spread"))
    spread = sorted((v for v in map(number_of, values) if v >= 0.0), reverse=True)
    if not spread:
        return None
    (width, height), top = (Spread._field_defaults[n] for n in ("width", "height")), spread[0] or 1
    step = width / len(spread)
    bars = [
        (i * step, height - height * value / top, 0.85 * step, height * value / top)
        for i, value in enumerate(spread)
    ]
    text = (
        f"Spread of the dimensions of h, largest first: from {spread[0]:.3g} to {spread[-1]:.3g}. "
        "Dimensions near 0 carry nothing"
    )
    dead = sum(value < 0.01 * spread[0] for value in spread)
    if dead:
        text += f": {dead} of the {len(spread)} drawn lie below a hundredth of the largest"
    return Spread(bars, f"{text}.")


def pictures_of(run: Report) -> list[Picture]:
    """Returns all pictures of a run."""
    return [picture_of(run, name) for name in run.pictures]


def picture_of(run: Report, name: str) -> Picture:
    """Returns a picture by its name below plots/."""
    kind, path = kind_of(name), Path(run.pictures[name])
    reading = KINDS[kind][1] if kind else ""
    return Picture(title_of(name), run.name, path.name, kind, reading, *_read_picture(path))


def _read_picture(path: Path) -> tuple[str | None, int, int]:
    """Reads a PNG, JPEG, GIF or WebP file: data URL, width, height."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            kind, (width, height) = FORMATS[image.format or ""], image.size
    except (OSError, KeyError, UnidentifiedImageError, Image.DecompressionBombError):
        return None, 0, 0
    return f"data:{kind};base64,{base64.b64encode(content).decode()}", width, height


def title_of(name: str) -> str:
    """Returns a picture's title: "confusion_matrix_knn.png" is "Confusion matrix, ..."."""
    kind, stem = kind_of(name), _stem(name)
    if not kind:
        return stem.replace("_", " ").strip().capitalize() or "Picture"
    rest = stem[len(kind) :].strip("_-. ")
    return f"{KINDS[kind][0]}, {protocol_name(rest)}" if rest else KINDS[kind][0]


def kind_of(name: str) -> str:
    """Returns the kind of a picture by its name below plots/; "" for one that is not known."""
    return next((kind for kind in KINDS if _stem(name).startswith(kind)), "")


def _stem(name: str) -> str:
    return Path(name).stem.lower().replace("-", "").replace(" ", "_")
