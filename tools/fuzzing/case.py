"""What a case is, and what is made of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """A file that may be broken.

    Attributes:
        file: Whose name a refusal must hold.
        how: What was done to it.
        read: Puts it through the library; raises UserError where that refuses it, `Wrong` where
            what was read is not what the file holds.
    """

    file: Path
    how: str
    read: Callable[[], object]


Make = Callable[[np.random.Generator, Path], Case]


class Wrong(Exception):
    """A file was read, and what came of it is not what it holds."""


def judge(make: Make, seed: int, number: int, folder: Path) -> dict[str, Any]:
    """Makes a case and reads it.

    Args:
        make: Its kind.
        seed, number: The case is a function of these.
        folder: Empty; the case is written there.

    Returns:
        `outcome`: "read", "refused", or a defect: "wrong", "unnamed" (a refusal that does not name
        the file) or "error" (any other exception); `how`, `message` and `seconds`.
    """
    from simclr_tf.errors import UserError

    case = make(np.random.default_rng([seed, number]), folder)
    started = time.monotonic()
    try:
        case.read()
        outcome, message = "read", ""
    except UserError as error:
        message = str(error)
        outcome = "refused" if case.file.name in message else "unnamed"
    except Wrong as error:
        outcome, message = "wrong", str(error)
    # All else is what is looked for.
    except Exception as error:
        outcome, message = "error", f"{type(error).__module__}.{type(error).__name__}: {error}"
    seconds = round(time.monotonic() - started, 3)
    return {"outcome": outcome, "how": case.how, "message": message[:2000], "seconds": seconds}
