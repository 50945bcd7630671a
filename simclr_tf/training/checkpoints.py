"""Checkpoints: one safetensors file each, put in place whole or not at all."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable

import keras
import numpy as np

from simclr_tf.errors import UserError

# Not "step-000000010 (1)", a copy.
PATTERN = f"step-{'[0-9]' * 9}.safetensors"

Variables = dict[str, keras.Variable]


def named_variables(prefix: str, variables: Iterable[keras.Variable]) -> Variables:
    """Names variables by their path below a prefix: "encoder/stem_conv/kernel"."""
    named: Variables = {}
    for variable in variables:
        name = f"{prefix}/{variable.path}"
        if name in named:
            raise ValueError(f"Expected variables with paths of their own, got {name} twice.")
        named[name] = variable
    return named


def numbered_variables(prefix: str, variables: Iterable[keras.Variable]) -> Variables:
    """Names variables by their position, for those whose path is not stable (an optimiser's)."""
    return {f"{prefix}/{index:04d}": v for index, v in enumerate(variables)}


class Checkpoints:
    """The checkpoints in one folder, of which the newest `keep` are kept.

    Args:
        folder: Made on the first save.
        keep: Number of files kept.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int = 1) -> None:
        self.folder = folder
        self.keep = keep

    def files(self) -> list[pathlib.Path]:
        """Returns the checkpoints, oldest first."""
        return sorted(self.folder.glob(PATTERN))

    def newest(self) -> pathlib.Path | None:
        """Returns the newest checkpoint, if there is one."""
        return max(self.files(), default=None)

    def save(self, variables: Variables, *, step: int) -> pathlib.Path:
        """Writes the variables after `step` optimiser steps and drops the oldest files.

        The file gets its name once it is whole and on disk, so a kill at any moment leaves the
        files that were there before.
        """
        path = self.folder / f"step-{step:09d}.safetensors"
        _write(path, variables, step)
        for old in self.files()[: -self.keep]:
            old.unlink()
        return path

    @property
    def best(self) -> pathlib.Path:
        """Where the weights of the best validation score so far are kept, if any were judged."""
        return self.folder / "best.safetensors"

    def save_best(self, variables: Variables, *, step: int) -> None:
        """Writes the variables as the best so far; it replaces the ones before."""
        _write(self.best, variables, step)


def _write(path: pathlib.Path, variables: Variables, step: int) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    arrays = {name: np.asarray(variable) for name, variable in variables.items()}
    save_file(arrays, partial, metadata={"step": str(step)})
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a checkpoint: name -> array.

    Raises:
        UserError: The file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    # A kind of numbers that NumPy does not have comes out as a KeyError or a TypeError.
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"Expected a checkpoint in safetensors format at {path}, got: {error}. Pass another "
            "file, or remove this one to fall back on the one before."
        ) from error


def step_of(path: pathlib.Path) -> int:
    """Returns the number of optimiser steps that a checkpoint of ours was saved after.

    Raises:
        UserError: The file does not say it.
    """
    from safetensors import SafetensorError, safe_open

    if path.match(PATTERN):
        return int(path.stem.removeprefix("step-"))
    try:
        with safe_open(path, "numpy") as file:
            return int(file.metadata()["step"])
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"Expected a checkpoint with the number of its step at {path}, got: {error}. Remove "
            "the file, or begin again with --overwrite."
        ) from error


def restore(variables: Variables, arrays: dict[str, np.ndarray], origin: str) -> None:
    """Assigns every variable its array; arrays beyond those asked for are left aside.

    Args:
        variables: What is to be restored, by name.
        arrays: What there is, by name.
        origin: Where the arrays come from, for the message.

    Raises:
        UserError: An array is missing, or of another shape or kind; all such are listed. Or one
            holds nan or infinity.
    """
    wrong = [
        f"- missing {name} {tuple(variable.shape)}"
        for name, variable in variables.items()
        if name not in arrays
    ]
    found = {name: arrays[name] for name in variables if name in arrays}
    wrong += [
        f"- {name}: expected {tuple(variables[name].shape)}, got {array.shape}"
        for name, array in found.items()
        if tuple(variables[name].shape) != array.shape
    ]
    wrong += [
        f"- {name}: expected {variables[name].dtype}, got {array.dtype}"
        for name, array in found.items()
        if "float" in variables[name].dtype and array.dtype.kind in "iubc"
    ]
    if wrong:
        shown = "\n".join(wrong[:20] + ([f"... {len(wrong) - 20} more"] if len(wrong) > 20 else []))
        raise UserError(
            f"Expected weights that fit the model in {origin}, got {len(wrong)} that do not:\n"
            f"{shown}\nPass the --model, --width_multiplier, --stem and --depthwise they were "
            "trained with."
        )
    broken = [
        name
        for name, array in found.items()
        if array.dtype.kind not in "iub" and not np.isfinite(array).all()
    ]
    if broken:
        raise UserError(
            f"Expected weights that are numbers in {origin}, got nan or infinity in {len(broken)} "
            f"of {len(found)} arrays, the first {broken[0]}: the training diverged, or the file is "
            "damaged. Pass an earlier checkpoint, or train again."
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
