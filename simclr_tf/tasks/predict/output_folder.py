"""The files of a prediction, each written whole."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Callable, Iterable

from simclr_tf.atomic_write import write_whole

TABLE = "predictions.csv"
BAD_FILES = "bad_files.csv"  # instead of results, where some did not decode

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
