"""Files written whole or not at all, and what is said where the disk does not take them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from simclr_tf.errors import UserError

# Full, over the quota, over the largest file allowed, broken, or mounted to be read only.
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class NotWritten(UserError):
    """A file could not be written; what lay under its name is as it was.

    Args:
        path: The file.
        reason: What the system says.
        need: Bytes that were to be written, where that is known.
        remedy: What to do.
    """

    def __init__(
        self, path: Path, reason: str, *, need: int = 0, remedy: str = "Make room there."
    ) -> None:
        self.path, self.reason, self.need = path, reason, need
        size = f" ({spell_bytes(need)})" if need else ""
        super().__init__(
            f"Expected to write {path}{size}, got: {reason}, with {spell_bytes(free_bytes(path))} "
            f"free. What was written before is whole. {remedy}"
        )

    def with_remedy(self, remedy: str) -> NotWritten:
        """Returns the same with other advice."""
        return NotWritten(self.path, self.reason, need=self.need, remedy=remedy)


def write_whole(
    path: Path, save: Callable[[Path], object], *, sync: bool = False, need: int = 0
) -> None:
    """Calls `save` with a path and gives what it wrote its name once it is whole.

    Args:
        path: The file; what lies there is replaced.
        save: Writes to the path it is given.
        sync: Return once file and name are on the disk: a crash of the machine leaves the old file
            or the new one.
        need: Bytes that will be written, for the message.

    Raises:
        NotWritten: The disk is full, say. The file that was there is as it was.
        OSError: `save` or the folder has another fault.
    """
    name, most = path.name, 240  # bytes: an image's name may be as long as names can be
    if len(os.fsencode(name)) > most:
        name = f"{zlib.crc32(os.fsencode(name)):08x}"
    partial = path.with_name(f"{name}.partial")
    try:
        save(partial)
        if sync:
            _sync(partial)
        os.replace(partial, path)
        if sync:
            _sync(path.parent)
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        at, reason = path_in(error) or path, error.strerror or str(error)
        if at in (path, partial, path.parent):
            raise NotWritten(path, reason, need=need) from error
        raise NotWritten(at, reason) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def path_in(error: OSError) -> Path | None:
    """Returns the file that an error of the system names, if it does."""
    return Path(error.filename) if isinstance(error.filename, str | os.PathLike) else None


def _sync(path: Path) -> None:
    """Waits until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems know no such thing for folders.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    """Returns what is free where a file or folder lies, or will lie."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def spell_bytes(count: float) -> str:
    """Returns a number of bytes as a person reads it: 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
