"""List files: one image a line, with its label or its mask."""

from __future__ import annotations

import csv
import dataclasses
import os
from pathlib import Path

import numpy as np

from simclr_tf.data.check.problems import Problem, Report, refuse
from simclr_tf.data.files import NAMED, name_first
from simclr_tf.data.images import EXTENSIONS
from simclr_tf.data.lines import Line, read_lines
from simclr_tf.data.source import MOST_CLASSES, Source, Splits
from simclr_tf.data.splitting import share_classes
from simclr_tf.errors import UserError

_MASK_EXTENSIONS = (*EXTENSIONS, ".tif", ".tiff")
Cells = tuple[Line, list[str]]


def load_lists(
    train_path: str,
    val_path: str,
    *,
    need_labels: bool,
    num_classes: int,
    masks: bool = False,
    some_labels: bool = False,
    labels: bool = True,
    report: Report = refuse,
) -> Splits:
    """Reads list files: one image a line, `path`, `path,label` or `path,mask`.

    Relative paths are relative to the list; blank lines and lines that begin with # are left out; a
    comma in a quoted path is part of it.

    Args:
        train_path: The list that is trained on.
        val_path: The list that is reported on, or "".
        need_labels: Every line must have a label. Otherwise all lines have one, or none has; a
            second column of another kind is left aside.
        num_classes: Labels are 0 to num_classes - 1; 0: any.
        masks: Every line must have the path of a mask.
        some_labels: Where some lines have a label, the others need none: a note says that all are
            taken as images without labels.
        labels: Off: a column of labels is left aside like any other.
        report: Called with every line that is wrong; where it returns, the line is left out.

    Raises:
        UserError: A list or a line is wrong; it names the lines of both lists.
    """
    wrong: list[Problem] = []

    def read(path: str) -> Source:
        if masks:
            return _read_pairs(Path(path), wrong.append)
        cells = _read_cells(Path(path))
        required = need_labels or (labels and _kind_of_column(cells) == "labels")
        if required and some_labels and _name_unlabelled(path, cells):
            required = False
        return _read_list(Path(path), cells, required, num_classes, wrong.append)

    train = read(train_path)
    test = read(val_path) if val_path else None
    if wrong and report is refuse:
        more = "\n`task=check` lists all of them." if len(wrong) > NAMED else ""
        raise UserError(
            name_first([f"{problem.place}: {problem.detail}" for problem in wrong]) + more
        )
    for problem in wrong:
        report(problem)
    return share_classes(train, test)


def second_column(path: str | Path) -> str:
    """Returns what most lines of a list hold beside the image: "", "labels", "masks" or "text"."""
    return _kind_of_column(_read_cells(Path(path)))


def _kind_of_column(lines: list[Cells]) -> str:
    cells = [cell for _, (_, cell) in lines if cell]
    masks = sum(cell.lower().endswith(_MASK_EXTENSIONS) for cell in cells)
    if 2 * masks > len(cells):
        return "masks"
    numbers = sum(cell.removeprefix("-").isdecimal() for cell in cells)
    return ("labels" if numbers else "text") if cells else ""


def _name_unlabelled(path: str, cells: list[Cells]) -> bool:
    """Tells whether lines have no label, and prints how many."""
    bare = [line for line, (_, cell) in cells if not cell.isdecimal()]
    if bare:
        print(
            f"note: {len(bare)} of the {len(cells)} lines of {path} have no label, the first "
            f"line {bare[0].number}: all are taken as images without labels",
            flush=True,
        )
    return bool(bare)


def _read_list(
    path: Path, cells: list[Cells], required: bool, num_classes: int, report: Report
) -> Source:
    paths: list[str] = []
    labels: list[int] = []
    lines: list[int] = []
    for line, (image, cell) in cells:
        fault = _fault_of_file(path, image, "an image")
        if fault:
            report(Problem("line", str(path), fault, line.number))
            continue
        if required and not cell:
            fault = (
                f"expected the image's path, a comma and a label, got {line.text!r}. Complete the "
                "line."
            )
        elif required:
            fault = _fault_of_label(cell, num_classes)
            if not fault:
                labels.append(int(cell))
        if fault:
            report(Problem("label", str(path), fault, line.number))
            continue
        paths.append(_join(path, image))
        lines.append(line.number)
    source = Source(f"list:{path}", paths=tuple(paths), lines=tuple(lines))
    if not labels:
        return source
    names = tuple(str(i) for i in range(num_classes or max(labels) + 1))
    return dataclasses.replace(source, labels=np.array(labels, np.int32), class_names=names)


def _read_pairs(path: Path, report: Report) -> Source:
    pairs = []
    lines: list[int] = []
    for line, (image, mask) in _read_cells(path):
        if not mask:
            fault = (
                f"expected the image's path, a comma and the mask's path, got {line.text!r}. "
                "Complete the line."
            )
        else:
            fault = _fault_of_file(path, image, "an image") or _fault_of_file(path, mask, "a mask")
        if fault:
            report(Problem("line", str(path), fault, line.number))
            continue
        pairs.append((_join(path, image), _join(path, mask)))
        lines.append(line.number)
    images, masks = zip(*pairs, strict=True) if pairs else ((), ())
    return Source(f"list:{path}", paths=images, mask_paths=masks, lines=tuple(lines))


def _read_cells(path: Path) -> list[Cells]:
    """Returns every line and its first two cells, "" where there is none."""
    lines = []
    for line in read_lines(path, "a list of images"):
        try:
            cells = [cell.strip() for cell in next(csv.reader([line.text], skipinitialspace=True))]
        except csv.Error as error:
            raise UserError(
                f"{path} line {line.number}: expected an image's path and at most a comma and a "
                f"cell after it, got {line.text[:80]!r} ({error}). Correct the line."
            ) from None
        lines.append((line, [*cells, ""][:2]))
    if not lines:
        raise UserError(f"Expected lines with images in {path}, got none. Write one path a line.")
    return lines


def _join(list_path: Path, cell: str) -> str:
    try:
        return str(list_path.parent / os.path.expanduser(cell))
    except ValueError:  # no name of a user, such as one with a NUL
        return str(list_path.parent / cell)


def _fault_of_file(list_path: Path, cell: str, kind: str) -> str:
    """Returns what is wrong with a path, or ""."""
    path = _join(list_path, cell)
    # pathlib lets the error for a name that is too long through; os.path does not.
    if os.path.isfile(path):
        return ""
    return (
        f"expected {kind} file, got none at {path}. Correct the line; relative paths are relative "
        f"to {list_path.parent}."
    )


def _fault_of_label(cell: str, num_classes: int) -> str:
    """Returns what is wrong with a label, or ""."""
    try:
        label = int(cell)
    except ValueError:
        return f"expected a label as an integer from 0, got {cell!r}. Number the classes."
    if 0 <= label < (num_classes or MOST_CLASSES):
        return ""
    last = (num_classes or MOST_CLASSES) - 1
    allowed = f"0..{last} (`num_classes={num_classes}`)" if num_classes else f"0..{last}"
    more = 0 <= label < MOST_CLASSES
    remedy = f"Pass `num_classes={label + 1}` or fix the line." if more else "Fix the line."
    return f"label {label} is outside {allowed}. {remedy}"
