"""Checkpoints: one safetensors file each, put in place whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import pathlib
import sys
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import BinaryIO

import keras
import numpy as np

from simclr_tf.atomic_write import write_whole
from simclr_tf.errors import UserError

PATTERN = f"step-{9 * '[0-9]'}.safetensors"
CHECKSUM = "checksum"  # its name among a file's metadata
SUM = "crc32:"  # what it begins with
TRIES = 10  # checkpoints that may be dropped by their run before one is held

Arrays = dict[str, np.ndarray]
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

    Attributes:
        seconds: What saving has taken so far.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int = 1) -> None:
        self.folder = folder
        self.keep = keep
        self.seconds = 0.0
        self._said: set[str] = set()

    def files(self) -> list[pathlib.Path]:
        """Returns the checkpoints, oldest first."""
        return sorted(self.folder.glob(PATTERN))

    def newest(self) -> pathlib.Path | None:
        """Returns the newest checkpoint, damaged or not, if there is one."""
        return max(self.files(), default=None)

    def newest_good(self) -> pathlib.Path | None:
        """Returns the newest checkpoint that is whole, if there are any; warns of damaged ones.

        Raises:
            UserError: There are some, and none is whole.
        """
        path, faults = self.find_good()
        if faults and path is None:
            raise UserError(
                f"Expected a checkpoint that is whole, got {len(faults)} damaged: "
                f"{'; '.join(faults)}. Restore one from a copy, or begin again."
            )
        if faults:
            self._warn(f"damaged: {'; '.join(faults)}. Takes {path} instead")
        return path

    def find_good(self) -> tuple[pathlib.Path | None, list[str]]:
        """Returns the newest checkpoint that is whole, if any is, and what the newer ones lack."""
        faults: dict[pathlib.Path, str] = {}
        while True:
            # A run that saves in the meantime drops older ones: then there are newer.
            left = [path for path in self.files() if path not in faults]
            if not left:
                return None, list(faults.values())
            path = left[-1]
            try:
                fault = fault_of(path)
            except UserError as error:
                if isinstance(error.__cause__, FileNotFoundError) and path not in self.files():
                    continue
                raise
            if not fault:
                return path, [said for other, said in faults.items() if other > path]
            faults[path] = f"{path} ({fault})"

    def newest_held(self) -> pathlib.Path | None:
        """Does as `newest_good`, for who reads a run that may go on and drop the file meanwhile.

        The file stays readable by that path in this process, the last one that was so returned.
        """
        for _ in range(TRIES):
            path = self.newest_good()
            if path is None or _hold(path):
                return path
        raise UserError(
            f"Expected a checkpoint that stays in {self.folder} while it is read, got {TRIES} that "
            "were dropped at once. Wait until the run there has ended, or let it keep more with "
            "`keep_checkpoints`."
        )

    def best_or_newest(self) -> pathlib.Path | None:
        """Returns the best weights, or, with a warning where these are damaged, the newest; to be
        read as those of `newest_held`.
        """
        if not self.best.exists():
            return self.newest_held()
        fault = fault_of(self.best)
        if not fault:
            return self.best
        newest = self.newest_held()
        if newest is None:
            raise _unreadable(self.best, fault)
        self._warn(f"damaged: {self.best} ({fault}). Takes {newest} instead, not the best weights")
        return newest

    def step_of_best(self) -> int | None:
        """Returns the step of the best weights; None where there are none or, with a warning, where
        they are damaged.
        """
        if not self.best.exists():
            return None
        fault = fault_of(self.best)
        if fault:
            self._warn(f"damaged: {self.best} ({fault}). Takes the last weights instead")
            return None
        return step_of(self.best)

    def save(self, variables: Variables, *, step: int) -> pathlib.Path:
        """Writes the variables after `step` optimiser steps and drops what is no longer kept.

        The file gets its name once it is whole and on disk, and others go after that: a kill at any
        moment leaves the files that were there before. Those of later steps go too: a run that was
        resumed has passed by them as they were damaged.

        Raises:
            NotWritten: The disk is full, say.
        """
        path = self.path_of(step)
        self._write(path, variables, step)
        past = [other for other in self.files() if step_of(other) <= step]
        for other in set(self.files()) - set(past[-self.keep :]):
            other.unlink()
        return path

    def path_of(self, step: int) -> pathlib.Path:
        """Returns where the checkpoint of a step is kept."""
        return self.folder / f"step-{step:09d}.safetensors"

    @property
    def best(self) -> pathlib.Path:
        """Where the weights of the best validation score so far are kept, if any were judged."""
        return self.folder / "best.safetensors"

    def save_best(self, variables: Variables, *, step: int) -> None:
        """Writes the variables as the best so far; it replaces the ones before."""
        self._write(self.best, variables, step)

    def clear(self) -> None:
        """Removes all checkpoints and the best weights; other files stay."""
        for path in (*self.files(), self.best):
            path.unlink(missing_ok=True)
        self.remove_partial()

    def remove_partial(self) -> None:
        """Removes what a process that was killed while it saved has left."""
        for path in self.folder.glob("*.safetensors.partial"):
            path.unlink()

    def _warn(self, text: str) -> None:
        """Prints a warning, once."""
        if text not in self._said:
            self._said.add(text)
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def _write(self, path: pathlib.Path, variables: Variables, step: int) -> None:
        from safetensors.numpy import save

        started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.asarray(variable) for name, variable in variables.items()}
        metadata = {"step": str(step)}
        content = save(arrays, metadata | {CHECKSUM: _checksum(arrays, metadata)})
        write_whole(path, lambda file: file.write_bytes(content), sync=True, need=len(content))
        self.seconds += time.monotonic() - started


def size_of(variables: Variables) -> int:
    """Returns about how many bytes a checkpoint of these variables takes."""
    return sum(4 * math.prod(variable.shape) for variable in variables.values())


def _checksum(arrays: Arrays, metadata: Mapping[str, str]) -> str:
    """Returns a sum over names, shapes, dtypes and bytes, whatever their order in the file."""
    found = zlib.crc32(repr(sorted(metadata.items())).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found = zlib.crc32(repr((name, array.dtype.str, arrays[name].shape)).encode(), found)
        found = zlib.crc32(array.data, found)
    return f"{SUM}{found:08x}"


_held: dict[pathlib.Path, BinaryIO] = {}  # a file that is open can be read though it was removed


def _hold(path: pathlib.Path) -> bool:
    """Holds a file, and no other; returns whether it was there."""
    while _held:
        _held.popitem()[1].close()
    with contextlib.suppress(FileNotFoundError):
        _held[path] = open(path, "rb")
    return path in _held


def is_held(path: pathlib.Path) -> bool:
    """Tells whether a file can be read though it may have been removed."""
    return path in _held


def _content_of(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if path not in _held:
            raise
        _held[path].seek(0)
        return _held[path].read()


class _Damage(Exception):
    """Says what is wrong with a file."""


def _read(path: pathlib.Path) -> tuple[Arrays, dict[str, str]]:
    """Returns a file's arrays and metadata; raises _Damage, or OSError where it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = _content_of(path)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise _Damage(f"the disk cannot read it: {error.strerror}") from error
    if not any(content[:64]):
        raise _Damage("it begins with zeros" if content else "it is empty")
    try:
        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = dict(header.get("__metadata__") or {})
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _Damage(f"no whole safetensors file: {error}") from error
    # Files from before there were checksums, and of other origin, have none of ours.
    written = metadata.pop(CHECKSUM, "")
    if written.startswith(SUM) and written != _checksum(arrays, metadata):
        raise _Damage("its content is not what was written: the checksum differs")
    return arrays, metadata


def fault_of(path: pathlib.Path) -> str:
    """Returns what is wrong with a checkpoint, '' where nothing is.

    Raises:
        UserError: It cannot be read, which says nothing of what it holds.
    """
    try:
        _read(path)
    except _Damage as damage:
        return str(damage)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    return ""


def read_arrays(path: pathlib.Path) -> Arrays:
    """Reads a checkpoint: name -> array.

    Raises:
        UserError: The file is missing or damaged.
    """
    return _read_as_asked(path)[0]


def step_of(path: pathlib.Path) -> int:
    """Returns the number of optimiser steps that a checkpoint of ours was saved after.

    Raises:
        UserError: Its name does not say, and the file is damaged or none of ours.
    """
    if path.match(PATTERN):
        return int(path.stem.removeprefix("step-"))
    metadata = _read_as_asked(path)[1]
    if not metadata.get("step", "").isdecimal():
        raise _unreadable(path, "one that does not say after which step it was saved")
    return int(metadata["step"])


def _read_as_asked(path: pathlib.Path) -> tuple[Arrays, dict[str, str]]:
    try:
        return _read(path)
    except (_Damage, OSError) as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(path: pathlib.Path, reason: str) -> UserError:
    return UserError(
        f"Expected a checkpoint in safetensors format at {path}, got: {reason}. Pass another "
        "file, or the folder of the run to have its newest checkpoint that is whole."
    )


def restore(variables: Variables, arrays: Arrays, origin: str) -> None:
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
            f"{shown}\nPass the `model`, `width_multiplier`, `stem` and `depthwise` they were "
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
