"""Features as TensorBoard's embedding projector reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from simclr_tf.atomic_write import write_whole

MOST_POINTS = 10_000  # the projector draws no more in a browser with ease
SPRITE_SIDE = 8192  # pixels that it takes of the picture of all thumbnails, at most
MOST_THUMBNAIL = 64  # pixels

FEATURES, METADATA, SPRITE = "features.tsv", "metadata.tsv", "thumbnails.png"
CONFIG = "projector_config.pbtxt"  # the name that TensorBoard looks for


def thumbnail_side(count: int) -> int:
    """Returns the side, in pixels, that `count` thumbnails can have in one picture."""
    return min(MOST_THUMBNAIL, SPRITE_SIDE // math.ceil(math.sqrt(count)))


def write_projector(
    folder: Path,
    features: np.ndarray,
    columns: Mapping[str, Sequence[str]],
    thumbnail: Callable[[int, int], np.ndarray],
) -> list[Path]:
    """Writes points with what is known of them, for `tensorboard --logdir` of a folder above;
    returns the files.

    Args:
        folder: Where the four files go; made where it is missing.
        features: float32 [M, F], M up to `MOST_POINTS`.
        columns: Texts by name, M of each.
        thumbnail: (row, side) -> the picture of a point, uint8 [side, side, 3].
    """
    folder.mkdir(parents=True, exist_ok=True)
    side = thumbnail_side(len(features))

    def save_features(path: Path) -> None:
        with open(path, "wb") as file:  # savetxt would take the name for one without .gz
            np.savetxt(file, features, fmt="%.5g", delimiter="\t")

    def save_metadata(path: Path) -> None:
        rows = zip(*columns.values(), strict=True)
        # One column alone has no heading, by the projector's rules.
        lines = [tuple(columns)] * (len(columns) > 1) + [tuple(map(_plain, row)) for row in rows]
        text = "".join("\t".join(cells) + "\n" for cells in lines)
        path.write_text(text, encoding="utf-8")

    def save_sprite(path: Path) -> None:
        across = math.ceil(math.sqrt(len(features)))
        sprite = np.zeros((across * side, across * side, 3), np.uint8)
        for row in range(len(features)):
            y, x = (side * place for place in divmod(row, across))
            sprite[y : y + side, x : x + side] = thumbnail(row, side)
        Image.fromarray(sprite).save(path, "PNG")

    config = (
        "embeddings {\n"
        '  tensor_name: "h"\n'
        f'  tensor_path: "{FEATURES}"\n'
        f'  metadata_path: "{METADATA}"\n'
        f'  sprite {{ image_path: "{SPRITE}" single_image_dim: {side} '
        f"single_image_dim: {side} }}\n"
        "}\n"
    )
    files: dict[str, Callable[[Path], object]] = {
        FEATURES: save_features,
        METADATA: save_metadata,
        SPRITE: save_sprite,
        CONFIG: lambda path: path.write_text(config),
    }
    for name, save in files.items():
        write_whole(folder / name, save)
    return [folder / name for name in files]


def _plain(text: str) -> str:
    """Returns text as a cell can hold it: one line, UTF-8, no tabulator."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split()) or "-"
