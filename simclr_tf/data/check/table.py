"""The list of problems: grouped and counted for the terminal, whole as a table."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from simclr_tf.counting import spell_number
from simclr_tf.data.check.problems import KINDS, SEVERITIES, Problem
from simclr_tf.data.files import NAMED

COLUMNS = ("kind", "severity", "file", "line", "detail", "list")


def spell_problems(
    problems: Sequence[Problem], *, skip_bad_images: bool = False, root: str = ""
) -> str:
    """Returns the problems by severity and kind: how many there are, and the first few.

    Args:
        problems: In any order.
        skip_bad_images: Whether bad images are left out.
        root: A folder that names of files and lists below it are shown without.
    """
    groups: dict[tuple[str, str], list[Problem]] = {}
    start = f"{root.rstrip(os.sep)}{os.sep}" if root else ""
    for problem in problems:
        problem = problem._replace(
            file=problem.file.removeprefix(start), list=problem.list.removeprefix(start)
        )
        severity = problem.severity(skip_bad_images=skip_bad_images)
        groups.setdefault((severity, problem.kind), []).append(problem)
    lines = []
    for severity, kind in sorted(groups, key=_rank):
        found = groups[severity, kind]
        lines.append(f"{severity}: {kind} ({len(found):,}): {KINDS[kind].meaning}")
        lines += [f"    {line}" for line in _spell_first(found)]
    return "\n".join(lines)


def _spell_first(problems: Sequence[Problem]) -> list[str]:
    """Returns NAMED lines at most, those that many share first, and how many more there are."""
    details = Counter(problem.detail for problem in problems)
    shared = [detail for detail, times in details.most_common() if detail and times > NAMED][:NAMED]
    lines = []
    for detail in shared:
        first = next(problem for problem in problems if problem.detail == detail)
        lines.append(f"{details[detail]:,} times: {detail}; the first {first.place}")
    others = [problem for problem in problems if problem.detail not in shared]
    room = NAMED - len(lines)
    lines += [_spell(problem) for problem in others[:room]]
    left = len(others) - room
    return [*lines, f"... and {left:,} more"] if left > 0 else lines


def _rank(group: tuple[str, str]) -> tuple[int, int]:
    return SEVERITIES.index(group[0]), list(KINDS).index(group[1])


def spell_counts(problems: Sequence[Problem], *, skip_bad_images: bool = False) -> str:
    """Returns such as "2 errors, 1 warning, 0 notices"."""
    found = [problem.severity(skip_bad_images=skip_bad_images) for problem in problems]
    counts = {severity: found.count(severity) for severity in SEVERITIES}
    return ", ".join(spell_number(number, severity) for severity, number in counts.items())


def count_kinds(problems: Sequence[Problem]) -> dict[str, int]:
    """Returns how many there are of each kind that occurs."""
    counts = Counter(problem.kind for problem in problems)
    return {kind: counts[kind] for kind in KINDS if kind in counts}


def write_problems(
    path: Path, problems: Sequence[Problem], *, skip_bad_images: bool = False
) -> None:
    """Writes all problems as CSV, in the order of the kinds."""
    order = {kind: place for place, kind in enumerate(KINDS)}
    # Names that are no UTF-8 are escaped: one of them must not spoil the table.
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for problem in sorted(problems, key=lambda problem: order[problem.kind]):
            severity = problem.severity(skip_bad_images=skip_bad_images)
            kind, name, detail, line, named_by = problem
            writer.writerow((kind, severity, name, line or "", detail, named_by))


def _spell(problem: Problem) -> str:
    """Returns place and detail on one line."""
    detail = " ".join(problem.detail.split())
    return f"{problem.place}: {detail}" if detail else problem.place
