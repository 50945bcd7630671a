"""The text files that users write: lists of images, tables of colours."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from simclr_tf.errors import UserError


class Line(NamedTuple):
    """A line of a file: its place "FILE line 3", its text without blanks around, its number."""

    where: str
    text: str
    number: int


def read_lines(path: str | Path, kind: str) -> list[Line]:
    """Reads a text file's lines, but for blank ones and those that begin with #.

    Args:
        path: The file, UTF-8.
        kind: What it is, such as "a list of images"; for the message.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(
            f"Expected {kind} at {path}, got: {reason}. Correct the path or the file."
        ) from None
    lines = enumerate(map(str.strip, text.splitlines()), start=1)
    return [
        Line(f"{path} line {i}", line, i) for i, line in lines if line and not line.startswith("#")
    ]
