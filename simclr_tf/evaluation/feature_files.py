"""Features and what they are of, written to a file: arrays, or a table with a row an image."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simclr_tf.errors import UserError

FORMATS = ("npz", "parquet")
GROUP_ELEMENTS = 2**22  # features that are written together: 16 MiB

# Columns by name: texts, int32 [M], or features float32 [M, F].
Columns = Mapping[str, Sequence[str] | np.ndarray]


def check_format(name: str) -> None:
    """Raises UserError for a format whose library is not installed."""
    if name != "parquet":
        return
    try:
        importlib.import_module("pyarrow")
    except ImportError:
        raise UserError(
            "Expected the library pyarrow for `embed_format=parquet`, got none. Install it "
            "(pip install pyarrow, or this package with its extra: pip install '.[parquet]'), or "
            "pass `embed_format=npz`."
        ) from None


def write_columns(path: Path, columns: Columns, name: str) -> None:
    """Writes a file of the format `name`, of `FORMATS`."""
    if name == "parquet":
        _write_parquet(path, columns)
    else:
        _write_npz(path, columns)


def _write_npz(path: Path, columns: Columns) -> None:
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _write_parquet(path: Path, columns: Columns) -> None:
    """Writes row group by row group: what is in memory beside the columns is one of them."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, _type_of(values)) for name, values in columns.items()])
    count = len(next(iter(columns.values())))
    width = sum(np.shape(values)[1] for values in columns.values() if _is_wide(values))
    rows = max(GROUP_ELEMENTS // max(width, 1), 1)
    with parquet.ParquetWriter(path, schema, use_dictionary=["split"]) as writer:
        for start in range(0, count, rows):
            part = slice(start, start + rows)
            cells = [_cells(values[part]) for values in columns.values()]
            writer.write_table(pyarrow.Table.from_arrays(cells, schema=schema))


def _is_wide(values: Any) -> bool:
    return isinstance(values, np.ndarray) and values.ndim == 2


def _type_of(values: Sequence[str] | np.ndarray) -> Any:
    import pyarrow

    if not isinstance(values, np.ndarray):
        return pyarrow.string()
    own = pyarrow.from_numpy_dtype(values.dtype)
    return pyarrow.list_(own, values.shape[1]) if _is_wide(values) else own


def _cells(values: Sequence[str] | np.ndarray) -> Any:
    import pyarrow

    if not isinstance(values, np.ndarray):
        # Names of files need not be UTF-8, texts of a table must.
        return pyarrow.array([t.encode("utf-8", "backslashreplace").decode() for t in values])
    if _is_wide(values):
        flat = pyarrow.array(values.reshape(-1))
        return pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pyarrow.array(values)
