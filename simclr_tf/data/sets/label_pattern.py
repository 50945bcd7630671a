"""Labels that stand in the names of files, such as the age in UTKFace's 26_0_1_2017....jpg."""

from __future__ import annotations

import dataclasses
import os
import re

import numpy as np

from simclr_tf.data.check.problems import Problem, Report, refuse
from simclr_tf.data.files import name_first
from simclr_tf.data.sets.folders import with_classes_of
from simclr_tf.data.source import Source, Splits
from simclr_tf.errors import UserError


def label_by_name(splits: Splits, pattern: str, *, skip: bool, report: Report) -> Splits:
    """Gives every image the class that a pattern finds in its file's name.

    Classes that are numbers are in their order, before all others, which are in that of their
    names. A group that is empty, as the tens of 7 are, is the class 0.

    Args:
        splits: Sets of files.
        pattern: A regular expression with one group, looked for in the name without its folder.
        skip: Leave out, and count, files in whose names it is not found.
        report: Called with each of those; where it returns, the file is left out.

    Raises:
        UserError: The pattern is none, no name has it, or `report` refuses one without it.
    """
    search = _compile(pattern)
    train = _label(splits.train, search, skip, report)
    if splits.test is None:
        return Splits(train)
    return Splits(train, with_classes_of(train, _label(splits.test, search, skip, report), report))


def _compile(pattern: str) -> re.Pattern:
    try:
        search = re.compile(pattern)
        reason = "" if search.groups == 1 else f"{search.groups} groups"
    except (re.error, OverflowError, RecursionError) as error:
        reason = str(error)
    if reason:
        raise UserError(
            f"Expected a regular expression with one group, which is the class, for "
            f"`label_pattern`, got '{pattern}' ({reason}). Pass `label_pattern='^([^_]*)_'`, for "
            "instance, for what stands before the first _; groups that are no class are (?:...)."
        )
    return search


def _label(source: Source, search: re.Pattern, skip: bool, report: Report) -> Source:
    names = [os.path.basename(path) for path in source.paths]
    matches = [search.search(name) for name in names]
    fitting = np.flatnonzero([match is not None for match in matches])
    if not len(fitting):
        raise UserError(
            f"Expected `label_pattern='{search.pattern}'` to find a class in the names of the "
            f"files of {source.name}, got none in {len(names)}, such as {names[0]!r}. Correct the "
            "pattern."
        )
    misfits = [path for path, match in zip(source.paths, matches, strict=True) if match is None]
    if misfits and report is refuse and not skip:
        raise UserError(
            f"Expected `label_pattern='{search.pattern}'` to find a class in every file's name in "
            f"{source.name}, got {len(misfits)} of {len(names)} without:\n{name_first(misfits)}\n"
            "Rename them, correct the pattern, or pass `skip_bad_images` to leave them out."
        )
    if report is not refuse:
        for path in misfits:
            report(Problem("no label", path))
    # A name that is no UTF-8 could not be printed.
    found = [
        (match[1] or "0").encode("utf-8", "backslashreplace").decode() for match in matches if match
    ]
    classes = sorted(set(found), key=_in_order)
    numbers = {name: number for number, name in enumerate(classes)}
    return dataclasses.replace(
        source.take(fitting),
        labels=np.array([numbers[name] for name in found], np.int32),
        class_names=tuple(classes),
        skipped=source.skipped + len(misfits),
    )


def _in_order(name: str) -> tuple[bool, int, str]:
    number = name.isdecimal()
    return not number, int(name) if number else 0, name
