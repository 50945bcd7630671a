"""Tables of cases that are one test: it runs them all and names those that fail."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def for_each(names: str | tuple[str, ...], cases: Iterable[Any]) -> Callable[[Callable], Callable]:
    """As `pytest.mark.parametrize`, of one test: for a loop over flags or files, not for numbers.

    The cases share the test's fixtures.
    """
    listed = (names,) if isinstance(names, str) else names
    table = [(case,) if isinstance(names, str) else tuple(case) for case in cases]
    assert table, f"no cases of {names}"

    def decorate(test: Callable) -> Callable:
        signature = inspect.signature(test)

        @functools.wraps(test)
        def of_all(**fixtures: Any) -> None:
            wrong = []
            for case in table:
                try:
                    test(**fixtures, **dict(zip(listed, case, strict=True)))
                except (Exception, pytest.fail.Exception) as error:
                    wrong.append((case, error))
            if wrong:
                told = "\n".join(f"{case}: {type(e).__name__}: {e}" for case, e in wrong)
                raise AssertionError(
                    f"{len(wrong)} of {len(table)} cases are wrong:\n{told}"
                ) from wrong[0][1]

        kept = [p for name, p in signature.parameters.items() if name not in listed]
        of_all.__signature__ = signature.replace(parameters=kept)
        del of_all.__wrapped__  # pytest would look there for the fixtures
        return of_all

    return decorate
