"""Counts in words: the number and what is counted, as many as there are."""

from __future__ import annotations


def spell_number(number: int, what: str) -> str:
    """Returns such as "1 error", "1,200 errors" or "2 classes"."""
    plural = what + ("es" if what.endswith("s") else "s")
    return f"{number:,} {what if number == 1 else plural}"
