"""Cases that are defects, to see that each is noticed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from fuzzing.case import Case, Wrong
from simclr_tf.errors import UserError


def crash(_: np.random.Generator, folder: Path) -> Case:
    return Case(folder / "file", "ends", lambda: os.kill(os.getpid(), signal.SIGSEGV))


def hang(_: np.random.Generator, folder: Path) -> Case:
    return Case(folder / "file", "sleeps", lambda: time.sleep(3600))


def memory(_: np.random.Generator, folder: Path) -> Case:
    return Case(folder / "file", "fills the memory", lambda: bytearray(1 << 45))


def wrong(_: np.random.Generator, folder: Path) -> Case:
    return Case(folder / "file", "is not so", lambda: _raise(Wrong("it is not so")))


def unnamed(_: np.random.Generator, folder: Path) -> Case:
    return Case(folder / "file", "says nothing", lambda: _raise(UserError("Expected more.")))


def error(_: np.random.Generator, folder: Path) -> Case:
    return Case(folder / "file", "divides", lambda: 1 // 0)


def _raise(error: Exception) -> None:
    raise error
