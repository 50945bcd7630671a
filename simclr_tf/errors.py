"""The exceptions that mean: the user can mend this."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """A mistake in the command or in the data, with its remedy.

    The message says what was expected, what was got and what to do. The command line prints it
    on standard error without a traceback and exits with code 2.
    """


class OutOfMemoryError(MemoryError):
    """Memory has run out for something that the message names; it is printed as a `UserError`'s.

    It is none, as nothing is wrong with the data: what leaves bad files out must not leave this
    one out.
    """


_within_tensorflow: list[UserError | OutOfMemoryError] = []


@contextlib.contextmanager
def kept_within_tensorflow() -> Iterator[None]:
    """Keeps the block's error for who catches what TensorFlow, which calls the block, makes of it:
    an error of its own that no longer is one of these.
    """
    try:
        yield
    except (UserError, OutOfMemoryError) as error:
        _within_tensorflow[:] = [error]
        raise


def take_kept() -> UserError | OutOfMemoryError | None:
    """Returns the error that was kept last, once; None where none was."""
    return _within_tensorflow.pop() if _within_tensorflow else None
