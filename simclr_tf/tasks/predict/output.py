"""Files of a prediction: what they are called, written whole, and the contact sheet."""

from __future__ import annotations

import csv
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image

from simclr_tf import data
from simclr_tf.atomic_write import write_whole
from simclr_tf.data.images import resize_pixels

TABLE = "predictions.csv"
BAD_FILES = "bad_files.csv"  # instead of results, where some did not decode
SHOWN_IMAGES = 16  # on the contact sheet
SHOWN_SIDE = 320  # pixels of an image's longer side there

Row = list[str]


class OutputFolder:
    """The folder of one prediction.

    Args:
        path: The folder.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def write(self, name: str, save: Callable[[pathlib.Path], object]) -> None:
        """Calls `save` with a path and gives what it wrote its name once it is whole."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save)

    def write_table(self, columns: Row, rows: Iterable[Row], name: str = TABLE) -> None:
        """Writes the table of predictions, or another."""

        def save(path: pathlib.Path) -> None:
            # Names that are no UTF-8 go out as the bytes that they came in as.
            with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                csv.writer(file).writerows([columns, *rows])

        self.write(name, save)


def output_names(source: data.Source) -> list[str]:
    """Returns the name of each image's files without extension, below the images' common folder.

    Images of one name but for the extension keep it; images in memory are numbered.
    """
    if not source.paths:
        digits = max(len(str(len(source) - 1)), 4)
        return [f"{index:0{digits}d}" for index in range(len(source))]
    paths = [os.path.abspath(path) for path in source.paths]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    whole = [pathlib.Path(path).relative_to(root).as_posix() for path in paths]
    names = [os.path.splitext(name)[0] for name in whole]
    for _ in range(2):  # beside a.jpg and a.png, the stem of a.jpg.bmp is no name of its own either
        count = Counter(names)
        names = [full if count[name] > 1 else name for name, full in zip(names, whole, strict=True)]
    if len(set(names)) < len(names):  # a list may name an image twice
        names = [f"{name}_{index}" for index, name in enumerate(names)]
    return names


def shown_images(count: int) -> list[int]:
    """Returns the images on the contact sheet, spread over the set: files are sorted by class."""
    return np.unique(np.linspace(0, count - 1, SHOWN_IMAGES).astype(int)).tolist()


def sheet_title(shown: Sequence[int], source: data.Source) -> str:
    return f"{len(shown)} of the {len(source)} images of {source.name}"


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """Returns an image or a mask as it is put on the contact sheet."""
    factor = SHOWN_SIDE / max(pixels.shape[:2])
    if factor >= 1.0:
        return pixels.copy()
    height, width = (max(1, round(factor * side)) for side in pixels.shape[:2])
    method = Image.Resampling.NEAREST if pixels.ndim == 2 else Image.Resampling.BILINEAR
    return resize_pixels(pixels, (height, width), method)
