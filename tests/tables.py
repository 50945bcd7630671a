"""Tables of cases that are one test: it runs them all and names those that fail."""

from __future__ import annotations

import functools
import inspect
import itertools
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


def pairs(**axes: Iterable[Any]) -> pytest.MarkDecorator:
    """As a cross of `pytest.mark.parametrize` over the axes, but of few cases.

    Every value of an axis occurs with every value of each other axis, not with all combinations of
    these: a fault that takes two of the values to show is found. `a__b` is an axis of pairs (a, b).
    """
    names = list(axes)
    values = [list(axis) for axis in axes.values()]
    wanted = {
        ((i, x), (j, y))
        for i, j in itertools.combinations(range(len(values)), 2)
        for x in range(len(values[i]))
        for y in range(len(values[j]))
    }
    every = list(itertools.product(*(range(len(axis)) for axis in values)))
    pairs_of = {case: set(itertools.combinations(enumerate(case), 2)) for case in every}
    chosen = []
    while wanted:  # the case that has the most pairs which none before it has
        best = max(every, key=functools.partial(_count_new, wanted, pairs_of))
        wanted -= pairs_of[best]
        chosen.append([values[i][x] for i, x in enumerate(best)])
    flat = [name for axis in names for name in axis.split("__")]
    cases = []
    for case in chosen:
        row = []
        for axis, value in zip(names, case, strict=True):
            row += value if "__" in axis else [value]
        cases.append(tuple(row))
    return pytest.mark.parametrize(flat, cases)


def _count_new(wanted: set, pairs_of: dict[tuple, set], case: tuple) -> int:
    return len(wanted & pairs_of[case])
