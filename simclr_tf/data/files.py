"""Sets of image files: lists of them, and their way into memory."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from simclr_tf.data.decode import EXTENSIONS, read_header, read_image, resize_to_fill
from simclr_tf.data.held import new_images, new_masks
from simclr_tf.data.lines import Line, read_lines
from simclr_tf.data.masks import resize_mask_to_fill
from simclr_tf.data.problems import Problem, Report, refuse
from simclr_tf.data.sources import MOST_CLASSES, Source, Splits, share_classes
from simclr_tf.errors import UserError

MEMORY_SHARE = 0.25  # of the free memory that --cache=auto takes at most
PROGRESS_AFTER_SECONDS = 2.0
NAMED = 5  # wrong files named in a message
_AT_A_TIME = 4096  # items that wait for a thread
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
        more = "\n--task=check lists all of them." if len(wrong) > NAMED else ""
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
    allowed = f"0..{last} (--num_classes={num_classes})" if num_classes else f"0..{last}"
    more = 0 <= label < MOST_CLASSES
    remedy = f"Pass --num_classes={label + 1} or fix the line." if more else "Fix the line."
    return f"label {label} is outside {allowed}. {remedy}"


def measure(source: Source, *, skip_bad_images: bool) -> Source:
    """Reads the headers of a set of files, and so the sizes of its images; not of one in memory.

    Raises:
        UserError: Files are no images, and `skip_bad_images` does not leave them out.
    """
    if source.images is not None:
        return source
    headers = read_each(read_header, source.paths, "reading headers")
    source, sizes = _without_bad(source, headers, skip_bad_images)
    return dataclasses.replace(source, file_sizes=np.array(sizes, np.int32))


def settle(
    source: Source, *, input_size: tuple[int, int], cache: str, skip_bad_images: bool
) -> Source:
    """Reads a set of files into memory, with its masks, where asked or where it fits.

    Args:
        source: Files, not in memory, of known sizes.
        input_size: (h, w) that images in memory are brought to; (0, 0): their own.
        cache: "auto": in memory where all images have one size and fit a quarter of the free
            memory; "true": always; "false": never.
        skip_bad_images: Leave out what does not decode, instead of stopping.

    Raises:
        UserError: Files do not decode, or the memory asked for is not there.
    """
    one_size = source.image_size
    target = input_size if input_size != (0, 0) else one_size
    if target is not None and _goes_into_memory(source, cache, target, target == one_size):
        return _into_memory(source, target, skip_bad_images)
    if cache == "true":
        raise UserError(
            f"Expected images of one size in {source.name} for --cache=true, got several. Pass "
            "--input_size, such as --input_size='224 224', or leave out --cache."
        )
    if skip_bad_images:
        shapes = read_each(lambda path: read_image(path).shape, source.paths, "checking")
        source, _ = _without_bad(source, shapes, True)
    return source


def _into_memory(source: Source, size: tuple[int, int], skip_bad_images: bool) -> Source:
    paths = source.paths
    images = new_images(len(paths), size)
    masks = new_masks(len(paths), size) if source.has_masks else None

    def decode(index: int) -> int:
        images[index] = resize_to_fill(read_image(paths[index]), size)
        if masks is not None:
            masks[index] = resize_mask_to_fill(source.read_mask(index), size)
        return index

    decoded = read_each(decode, range(len(paths)), "decoding")
    kept, good = _without_bad(source, decoded, skip_bad_images)
    whole = dataclasses.replace(source, images=images, masks=masks)
    if len(good) < len(paths):
        whole = whole.take(np.array(good))
    return dataclasses.replace(kept, images=whole.images, masks=whole.masks, file_sizes=None)


def _goes_into_memory(
    source: Source, cache: str, target: tuple[int, int], as_they_are: bool
) -> bool:
    if cache == "false" or (cache == "auto" and not as_they_are):
        return False
    need = len(source) * target[0] * target[1] * (4 if source.has_masks else 3)
    room = free_memory()
    if cache == "auto":
        return need <= MEMORY_SHARE * room
    if need > room:
        raise UserError(
            f"Expected room for {need / 1e9:.1f} GB of images with --cache=true, got "
            f"{room / 1e9:.1f} GB free. Pass a smaller --input_size or --cache=false."
        )
    return True


def free_memory() -> float:
    """Returns the memory in bytes that can be had without swapping."""
    # What the system counts as free leaves out its cache of files, which it would give up.
    with contextlib.suppress(OSError, ValueError, StopIteration):
        with open("/proc/meminfo") as lines:
            line = next(line for line in lines if line.startswith("MemAvailable:"))
        return 1024.0 * int(line.split()[1])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):  # not known on this system: assume a small machine
        return 4e9


def read_each(read: Callable[[Any], Any], items: Sequence[Any], what: str) -> list[Any]:
    """Reads every item in threads, in order, with progress; a UserError stands for a bad one.

    Args:
        read: Called with one item.
        items: What is read.
        what: What is done to them, for the lines of progress on standard error.
    """

    def attempt(item: Any) -> Any:
        try:
            return read(item)
        except UserError as error:
            return error

    started = shown = time.monotonic()
    results: list[Any] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        # A part at a time: the pool keeps something for every item it is given.
        parts = (items[start : start + _AT_A_TIME] for start in range(0, len(items), _AT_A_TIME))
        for result in itertools.chain.from_iterable(pool.map(attempt, part) for part in parts):
            results.append(result)
            now = time.monotonic()
            if now - shown > PROGRESS_AFTER_SECONDS:
                shown = now
                rate = len(results) / (now - started)
                print(
                    f"{what}: {len(results)} of {len(items)}, {rate:,.0f}/s",
                    file=sys.stderr,
                    flush=True,
                )
    return results


def _without_bad(source: Source, results: list[Any], skip: bool) -> tuple[Source, list[Any]]:
    """Takes out the images whose result is an error, or raises it."""
    bad = [result for result in results if isinstance(result, UserError)]
    if not bad:
        return source, results
    if not skip:
        raise UserError(name_first(bad))
    good = np.array([i for i, r in enumerate(results) if not isinstance(r, UserError)], np.int64)
    if not len(good):
        raise UserError(f"Expected images that decode in {source.name}, got none. First: {bad[0]}")
    kept = dataclasses.replace(source.take(good), skipped=source.skipped + len(bad))
    return kept, [results[i] for i in good]


def name_first(faults: Sequence[object], most: int = NAMED) -> str:
    """Returns the first faults, a line each, and how many more there are."""
    more = [f"... and {len(faults) - most} more"] if len(faults) > most else []
    return "\n".join([*map(str, faults[:most]), *more])
