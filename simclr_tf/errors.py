"""The exceptions that mean: the user can mend this."""

from __future__ import annotations


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
