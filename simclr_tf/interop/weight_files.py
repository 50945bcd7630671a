"""Reads arrays by name from the files of other libraries; needs none of these libraries."""

from __future__ import annotations

import pathlib

import numpy as np

from simclr_tf.errors import UserError

SUFFIXES = (".safetensors", ".npz")
PICKLED = (".pth", ".pt", ".ckpt", ".bin", ".pkl", ".tar")

_CONVERT = """\
  import torch; from safetensors.torch import save_file; found = torch.load({old!r}, "cpu")
  save_file({{n: t.clone() for n, t in found.get("state_dict", found).items()}}, {new!r})"""


def check_suffix(path: pathlib.Path) -> None:
    """Raises UserError for a file that cannot be read; for a pickled one with what converts it."""
    if path.suffix in SUFFIXES:
        return
    if path.suffix in PICKLED:
        new = path.with_suffix(SUFFIXES[0]).name
        raise UserError(
            f"Expected a {' or '.join(SUFFIXES)} file of weights, got {path}: a pickled file can "
            "run any code when it is read. Where it was written, with torch and safetensors:\n"
            f"{_CONVERT.format(old=path.name, new=new)}"
        )
    raise UserError(
        f"Expected a run folder, or a {' or '.join(SUFFIXES)} file of weights, got {path}. "
        "Pass one of these."
    )


def read_file(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a `.safetensors` or `.npz` file: arrays by name, numbers as float32, and metadata.

    Raises:
        UserError: The file is of another kind, missing or damaged.
    """
    check_suffix(path)
    try:
        arrays, metadata = _read(path)
        return {name: _as_float32(array) for name, array in arrays.items()}, metadata
    # What a damaged file raises depends on where it is damaged, in both formats.
    except Exception as error:
        raise UserError(
            f"Expected weights in {path.suffix[1:]} format at {path}, got: {error}. "
            "Pass another file."
        ) from error


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file), {}
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


def _as_float32(array: np.ndarray) -> np.ndarray:
    return array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32)
