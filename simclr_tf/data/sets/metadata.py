"""`metadata.csv` in a folder of images, as Hugging Face's image folders have it: their labels."""

from __future__ import annotations

import csv
import io

from simclr_tf.data.members import open_bytes
from simclr_tf.errors import UserError

TABLE = "metadata.csv"
_FILE, _LABEL = "file_name", "label"


def read_labels(path: str) -> dict[str, str]:
    """Returns the names of the images' classes by their paths relative to the table.

    Args:
        path: A CSV file with the columns `file_name` and `label`; others are left aside. Without a
            column `label` nothing is returned.

    Raises:
        UserError: It is no such table, or a line has no label.
    """
    labels: dict[str, str] = {}
    try:
        with io.TextIOWrapper(open_bytes(path), "utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {_FILE, _LABEL} <= set(rows.fieldnames or ()):
                return {}
            for row in rows:
                name, label = row[_FILE], row[_LABEL]
                if not name or not label:
                    raise UserError(
                        f"{path} line {rows.line_num}: expected {_FILE} and {_LABEL}, got "
                        f"{name or ''!r} and {label or ''!r}. Complete the line."
                    )
                known = labels.setdefault(name.removeprefix("./"), label)
                if known != label:
                    raise UserError(
                        f"{path} line {rows.line_num}: expected one label for {name}, got "
                        f"{known!r} and {label!r}. Remove one of the lines."
                    )
    except UserError:
        raise
    # A member of an archive may be damaged in any way.
    except Exception as error:
        raise UserError(
            f"Expected a table of labels in UTF-8 at {path}, got: "
            f"{getattr(error, 'strerror', None) or error}. Mend or remove it."
        ) from None
    return labels
