"""A lock on a run folder: two runs that write into one would leave the work of neither.

The system's lock on an open file does it, as it ends with the process however that ends. The file
says who holds it. Where the file system knows no such locks, that alone has to do.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from simclr_tf.errors import UserError

NAME = ".lock"

_NO_SUCH_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
SAME_SECONDS = 2.0  # between two times that a process is said to have begun at

Holder = dict[str, Any]


@contextlib.contextmanager
def lock_folder(folder: Path, *, task: str, flag: str) -> Iterator[None]:
    """Holds a folder, made where it does not exist, for the length of the block.

    Args:
        folder: The folder.
        task: What it is held for, for the message another process prints.
        flag: Name of the flag that chose the folder, for the message.

    Raises:
        UserError: Another run holds it; nothing in it was touched.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"Expected a folder at {folder}, got a file. Pass another `{flag}`.")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    descriptor = _open_locked(path, flag)
    try:
        _write_holder(descriptor, task)
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may have been moved or removed
            if _is_open_as(descriptor, path):
                path.unlink()
        os.close(descriptor)
        if made:
            with contextlib.suppress(OSError):  # it is no longer empty
                folder.rmdir()


def _open_locked(path: Path, flag: str) -> int:
    """Returns a descriptor of the lock's file, which nobody else holds."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read_holder(path)
            os.close(descriptor)
            if error.errno not in _NO_SUCH_LOCKS:
                raise _in_use(path, holder, flag) from None
            return _open_unlocked(path, holder, flag)
        if _is_open_as(descriptor, path):  # else who held it has removed it in between
            _name_left_behind(path, _read_holder(path))
            return descriptor
        os.close(descriptor)


def _open_unlocked(path: Path, holder: Holder, flag: str) -> int:
    """Returns a descriptor of the lock's file by what it says alone, without a lock of the system.

    Two that take over at the very same moment are not told apart.
    """
    if holder and _may_live(holder):
        raise _in_use(path, holder, flag, f" If that process is gone, remove {path}.")
    _name_left_behind(path, holder)
    path.unlink(missing_ok=True)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        raise _in_use(path, _read_holder(path), flag) from None


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int, task: str) -> None:
    holder = {
        "task": task,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now().isoformat(" ", "seconds"),
        "birth": psutil.Process().create_time(),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _read_holder(path: Path) -> Holder:
    """Returns who holds or held a lock; nothing where the file does not say."""
    try:
        holder = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _may_live(holder: Holder) -> bool:
    """Tells whether a holder may still run: on this machine by its process, on others it may."""
    if holder.get("host") != socket.gethostname():
        return True
    try:
        born = psutil.Process(int(holder.get("pid", 0))).create_time()
        return abs(born - float(holder.get("birth", born))) < SAME_SECONDS
    except psutil.AccessDenied:
        return True
    except (psutil.Error, ValueError, TypeError):
        return False


def _spell(holder: Holder) -> str:
    if not holder:
        return "a process that did not say which"
    return (
        f"`task={holder.get('task')}`, process {holder.get('pid')} on {holder.get('host')}, since "
        f"{holder.get('since')}"
    )


def _in_use(path: Path, holder: Holder, flag: str, more: str = "") -> UserError:
    return UserError(
        f"Expected no other run at work in {path.parent}, got {_spell(holder)}. Wait until it has "
        f"ended, or pass another folder with `{flag}`.{more}"
    )


def _name_left_behind(path: Path, holder: Holder) -> None:
    if holder:
        print(
            f"note: {path.parent} was held by {_spell(holder)}, which ended without giving it up; "
            "this run takes over",
            file=sys.stderr,
            flush=True,
        )
