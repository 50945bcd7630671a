"""The folder that predictions are written to."""

from __future__ import annotations

import csv
import pathlib
import shutil
from collections.abc import Callable, Iterable

from simclr_tf.atomic_write import write_whole
from simclr_tf.errors import UserError
from simclr_tf.runs.lock import NAME as LOCK

# All that is written; whatever else lies in the folder is the user's.
TABLE = "predictions.csv"
FOLDERS = ("masks", "overlays")
BAD_FILES = "bad_files.csv"  # instead of results, where some did not decode
FILES = (TABLE, "contact_sheet.png", "results.json", BAD_FILES)
TABLE_BEGINS = ("path,mask,", "path,class,probability,")

Row = list[str]


class OutputFolder:
    """The folder of one prediction.

    Args:
        path: The folder; made by `begin`.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def check(self, *, overwrite: bool) -> None:
        """Raises UserError where a prediction may not be written; removes nothing yet."""
        if not {path.name for path in self.path.iterdir()} - {LOCK}:
            return
        if not overwrite and self._is_ours() and (self.path / BAD_FILES).exists():
            print(f"replaces the predictions in {self.path}, which bad files were left out of")
            return
        if not overwrite:
            raise UserError(
                f"Expected an empty folder or none at {self.path}, got files there. Pass "
                "--overwrite to replace the predictions in it, or another --predict_save_path."
            )
        # A folder of images and masks, say, is nobody's prediction: --overwrite must not cost it.
        there = [name for name in (*FOLDERS, *FILES) if (self.path / name).exists()]
        if there and not self._is_ours():
            raise UserError(
                f"Expected predictions in {self.path} for --overwrite to replace, got "
                f"{', '.join(there)} without the {TABLE} of one. Pass another --predict_save_path."
            )

    def _is_ours(self) -> bool:
        try:
            with open(self.path / TABLE, encoding="utf-8", errors="replace") as file:
                return file.readline().startswith(TABLE_BEGINS)
        except OSError:
            return False

    def begin(self) -> None:
        """Makes the folder and removes the prediction that was there, but nothing else."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in FOLDERS:
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)
        for name in FILES[1:]:  # the table is replaced; until then it says whose folder this is
            (self.path / name).unlink(missing_ok=True)

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
