"""The one exception that means: the user can mend this."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in the command or in the data, with its remedy.

    The message says what was expected, what was got and what to do. The command line prints it
    on standard error without a traceback and exits with code 2.
    """
