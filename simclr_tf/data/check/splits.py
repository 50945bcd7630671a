"""Checks of data before training: each is a small function that yields `Problem`s.

To add one: write it here (files, one by one), in `check_folders.py` (names and links) or in
`check_copies.py` (images compared with each other), name its kind in `problems.KINDS`, and put it
into the table below, or call it in `check_splits`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from simclr_tf.counting import spell_number
from simclr_tf.data.check.copies import Item, compare_copies, keys_of_files, keys_of_images
from simclr_tf.data.check.masks import WrongSize, find_wrong_masks
from simclr_tf.data.check.problems import Problem
from simclr_tf.data.files import read_each
from simclr_tf.data.images import BadFile, is_transparent, load_pixels, open_image, size_of
from simclr_tf.data.masks import MaskRules
from simclr_tf.data.sets.folders import TEST_FOLDERS, TRAIN_FOLDER
from simclr_tf.data.source import Source, Splits, each_split
from simclr_tf.data.splitting import share_out
from simclr_tf.errors import UserError

# What is decoded of a split before a run starts: so many images, and pixels in all.
SAMPLE, SAMPLE_PIXELS = 64, 100_000_000
Size = tuple[int, int]
_LIKE_SPLITS = (TRAIN_FOLDER, *TEST_FOLDERS, "training", "testing", "dev", "eval", "holdout")
_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
}


class Facts(NamedTuple):
    """What is known of an image file that decodes.

    Attributes:
        size: (height, width) in pixels, upright.
        format: Pillow's name for it, such as "JPEG".
        pixels: What is done to pixels that are not 8-bit gray, palette or RGB; "" for those.
    """

    size: Size
    format: str
    pixels: str


def read_facts(path: str) -> Facts:
    """Decodes an image file; raises BadFile."""

    def facts(image: Image.Image) -> Facts:
        size, pixels = size_of(image), describe_pixels(image)
        load_pixels(image)
        return Facts(size, image.format or "", pixels)

    return open_image(path, facts)


def describe_pixels(image: Image.Image) -> str:
    """Says what reading does to the pixels of an open image, not decoded yet; "" for plain ones."""
    stored = str(image.tile[0][3]) if image.tile else ""
    done = []
    if getattr(image, "is_animated", False):
        done.append("several frames: the first is read")
    if image.mode == "CMYK":
        done.append("CMYK: turned into RGB, colour profile left aside")
    elif image.mode.startswith("I") or stored.endswith(";16B"):
        done.append("16 bits: scaled to 8")
    elif image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"):
        done.append(f"{image.mode}: turned into RGB")
    if is_transparent(image):
        palette = "palette with transparency" if image.mode == "P" else "transparency"
        done.append(f"{palette}: laid on white")
    return "; ".join(done)


# -- image by image: (path, facts, size of the views) -> what is wrong, or "" --


def too_small(path: str, facts: Facts, view: Size) -> str:
    """Images that views must enlarge; a view of (0, 0) is not known."""
    if facts.size[0] >= view[0] and facts.size[1] >= view[1]:
        return ""
    return f"{_spell(facts.size)}, views are {_spell(view)} (height x width)"


def odd_pixels(path: str, facts: Facts, view: Size) -> str:
    """Pixels that are turned into something else."""
    return facts.pixels


def other_extension(path: str, facts: Facts, view: Size) -> str:
    """Names that say another format than the content has."""
    extension = os.path.splitext(path)[1].lower()
    if not extension or extension in _FORMATS.get(facts.format, (f".{facts.format.lower()}",)):
        return ""
    return f"it is {facts.format}"


def odd_name(path: str, facts: Facts, view: Size) -> str:
    """Names that are no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "use another name where other programs must read it"
    return ""


IMAGE_CHECKS: dict[str, Callable[[str, Facts, Size], str]] = {
    "small": too_small,
    "pixels": odd_pixels,
    "extension": other_extension,
    "odd name": odd_name,
}
"""Kind of problem -> what finds it in one image."""


# -- split by split --


def absent_classes(splits: Splits) -> Iterator[Problem]:
    """Classes without a training image, and those trained on but never reported on."""
    train, test = splits.train, splits.test
    if train.labels is None or not len(train):
        return
    names = train.class_names or tuple(map(str, range(train.num_classes)))
    trained = np.bincount(train.labels, minlength=len(names)) > 0
    for label in np.flatnonzero(~trained):
        yield Problem("class without images", train.name, f"class {names[label]}")
    if test is None or test.labels is None:
        return
    tested = np.isin(np.arange(len(trained)), test.labels)
    for label in np.flatnonzero(trained & ~tested):
        yield Problem("class not tested", test.name, f"class {names[label]}")


def odd_classes(source: Source) -> Iterator[Problem]:
    """Classes that are hardly meant: splits of another name, or a single one."""
    if source.labels is None or not len(source):
        return
    names = source.class_names
    found = [name for name in names if name.lower() in _LIKE_SPLITS]
    if found and (len(names) <= 2 or found != [TRAIN_FOLDER]):  # trains are a class of many sets
        yield Problem("split as class", source.name, f"classes {', '.join(found)}")
    elif source.num_classes == 1:
        yield Problem("one class", source.name, f"class {names[0] if names else 0}")


def untold_labels(splits: Splits) -> Iterator[Problem]:
    """Images to report on that have no labels, where those that are trained on have some."""
    train, test = splits.train, splits.test
    if train.labels is not None and test is not None and test.labels is None:
        yield Problem("test without labels", test.name, spell_number(len(test), "image"))


def wrong_labels(source: Source, num_classes: int) -> Iterator[Problem]:
    """Labels of arrays beyond `num_classes`; lists are checked as they are read."""
    if source.labels is None or source.paths or not num_classes:
        return
    for index in np.flatnonzero(source.labels >= num_classes):
        yield Problem(
            "label",
            f"{source.name}[{index}]",
            f"label {source.labels[index]} is outside 0..{num_classes - 1} "
            f"(`num_classes={num_classes}`)",
        )


def wrong_masks(splits: Splits, rules: MaskRules) -> Iterator[Problem]:
    """Masks that do not fit their images, or hold what is no class."""
    for source, number, fault in find_wrong_masks(splits, rules):
        if source is None:
            yield Problem("masks", splits.train.name, str(fault))
            continue
        kind = "mask size" if isinstance(fault, WrongSize) else "mask values"
        kind = "bad mask" if isinstance(fault, BadFile) else kind
        paths = source.mask_paths
        name = paths[number] if paths else f"{source.name}, mask {number}"
        detail = fault.reason if isinstance(fault, BadFile) else str(fault)
        yield _at(source, number, kind, name, detail.removeprefix(f"{name}: "))


# -- all of it --


class Checked(NamedTuple):
    """What a check found.

    Attributes:
        read: How many images were read.
        splits: The images that decode, their sizes known.
        problems: In no order.
        smallest: Lowest height and lowest width in pixels.
        largest: Greatest height and greatest width.
        sizes: How many sizes there are.
    """

    read: int
    splits: Splits
    problems: list[Problem]
    smallest: Size
    largest: Size
    sizes: int


def check_splits(
    splits: Splits,
    *,
    view: Size,
    num_classes: int = 0,
    masks: MaskRules | None = None,
    val_fraction: float = 0.0,
    seed: int = 0,
) -> Checked:
    """Reads everything: decodes every image and mask, and compares what may be the same.

    Memory grows by some hundred bytes an image; each thread holds one image.

    Args:
        splits: As loaded; files need not have been opened.
        view: (h, w) of the views; (0, 0): not known.
        num_classes: Labels are 0 to num_classes - 1; 0: any.
        masks: What the masks may hold, where there are some.
        val_fraction: Share of a set without a test split that is held back: what is the same as
            one of the others leaks.
        seed: Of the draw of that share.
    """
    problems: list[Problem] = []
    sizes: set[Size] = set()

    def check(source: Source) -> Source:
        kept, found, seen = _check_images(source, view)
        problems.extend(found)
        sizes.update(seen)
        return kept

    read = sum(map(len, splits.present()))
    splits = each_split(splits, check)
    problems += absent_classes(splits)
    problems += odd_classes(splits.train)
    problems += untold_labels(splits)
    for source in splits.present():
        problems += wrong_labels(source, num_classes)
    held = np.empty(0, np.int64)
    if splits.test is None and val_fraction and len(splits.train):
        try:
            _, held = share_out(splits.train, val_fraction, seed)
        except UserError as error:
            problems.append(Problem("held back", splits.train.name, str(error)))
    problems += _check_copies(splits, held)
    if masks is not None and splits.train.has_masks:
        problems += wrong_masks(splits, masks)
    heights, widths = zip(*sizes, strict=True) if sizes else ((0,), (0,))
    return Checked(
        read, splits, problems, (min(heights), min(widths)), (max(heights), max(widths)), len(sizes)
    )


def look_at(splits: Splits, *, view: Size, labels: bool) -> list[Problem]:
    """The quick form: decodes a sample of the image files of each split.

    Args:
        splits: As a task uses them.
        view: (h, w) of the views; (0, 0): not known.
        labels: Whether the task learns from labels.
    """
    problems: list[Problem] = []
    for source in splits.present():
        if source.images is None:
            problems += _check_images(source.take(_sample(source)), view)[1]
    problems += odd_classes(splits.train)
    if labels:
        problems += absent_classes(splits)
    return problems


def _sample(source: Source) -> np.ndarray:
    """Returns the indices of the files that are looked at, spread over the whole of a set."""
    sizes = source.file_sizes
    for count in range(SAMPLE, 0, -1):
        chosen = np.unique(np.linspace(0, len(source) - 1, count).astype(int))
        if sizes is None or sizes[chosen].prod(axis=1, dtype=np.int64).sum() <= SAMPLE_PIXELS:
            break
    return chosen


def _check_images(source: Source, view: Size) -> tuple[Source, list[Problem], set[Size]]:
    """Checks images one by one: returns those that decode, the problems and the sizes."""
    if source.images is not None:
        height, width = source.images.shape[1:3]
        size = height, width
        fault = too_small(source.name, Facts(size, "", ""), view)
        return source, [Problem("small", source.name, fault)] if fault else [], {size}
    found = read_each(read_facts, source.paths, "reading")
    problems = [
        problem for i, facts in enumerate(found) for problem in _of_one(source, i, facts, view)
    ]
    good = [i for i, facts in enumerate(found) if isinstance(facts, Facts)]
    sizes = [found[i].size for i in good]
    if not good:
        problems.append(Problem("no image left", source.name))
    kept = dataclasses.replace(
        source.take(np.array(good, np.int64)),
        file_sizes=np.array(sizes, np.int32).reshape(-1, 2),
        skipped=source.skipped + len(found) - len(good),
    )
    return kept, problems, set(sizes)


def _of_one(source: Source, index: int, facts: Facts | BadFile, view: Size) -> Iterator[Problem]:
    path = source.paths[index]
    if isinstance(facts, BadFile):
        yield _at(source, index, facts.kind, path, facts.reason)
        return
    for kind, check in IMAGE_CHECKS.items():
        fault = check(path, facts, view)
        if fault:
            yield _at(source, index, kind, path, fault)


def _check_copies(splits: Splits, held: np.ndarray) -> Iterator[Problem]:
    """Compares the images of all splits with each other by their content.

    Args:
        splits: All of them.
        held: Indices of the images of `splits.train` that are held back.
    """
    items: list[Item] = []
    reported = set(held.tolist())
    sources = splits.present()
    for source in sources:
        labels: Iterable[Any] = [None] * len(source) if source.labels is None else source.labels
        names = source.class_names
        for index, label in enumerate(labels):
            name = source.paths[index] if source.paths else f"{source.name}[{index}]"
            spelled = "" if label is None else names[label] if names else str(label)
            items.append(
                Item(
                    name,
                    _at(source, index, "", name, "").place,
                    source is not splits.test
                    and not (source is splits.train and index in reported),
                    spelled,
                    source,
                    index,
                )
            )
    in_memory = [s for s in sources if not s.paths]
    keys = keys_of_images(in_memory) if in_memory else keys_of_files([i.name for i in items])
    # What is trained on comes first.
    order = sorted(range(len(items)), key=lambda i: not items[i].trained)
    for kind, item, detail in compare_copies([items[i] for i in order], [keys[i] for i in order]):
        yield _at(item.source, item.number, kind, item.name, detail)


def _at(source: Source, index: int, kind: str, file: str, detail: str) -> Problem:
    """Makes a problem of one image of a source, with the line of the list that names it."""
    if not source.lines:
        return Problem(kind, file, detail)
    return Problem(kind, file, detail, source.lines[index], source.name.removeprefix("list:"))


def _spell(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
