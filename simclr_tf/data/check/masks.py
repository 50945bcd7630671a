"""What is found out about masks before training: their classes, and every file that is wrong."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from simclr_tf.data.files import name_first, read_each
from simclr_tf.data.masks import MOST_CLASSES, MaskRules, NoColourTable, spell_pixels
from simclr_tf.data.source import Source, Splits
from simclr_tf.errors import UserError

MASKS_NAMED = 20  # wrong masks in a message
VALUES_NAMED = 3  # wrong values of one of them

_OBJECT_REMEDY = (
    "Where 255 is the object, pass `mask_colors=FILE`, a file with the lines `0 0 0 background` "
    "and `255 255 255 object`."
)


class WrongSize(UserError):
    """A mask of another size than its image."""


class _Mask(NamedTuple):
    source: Source
    number: int

    def __str__(self) -> str:
        paths = self.source.mask_paths
        return paths[self.number] if paths else f"{self.source.name}, mask {self.number}"


def check_masks(splits: Splits, rules: MaskRules) -> Splits:
    """Reads every mask of training and test set once.

    Args:
        splits: Sources with masks; where those are files, the images' sizes are known.
        rules: What the masks may hold.

    Returns:
        The splits with the names of the K classes, and without labels.

    Raises:
        UserError: A mask does not decode, is of another size than its image, or holds other values;
            a split has no pixels that count; or there are less than 2 classes.
    """
    _check_rules(rules)
    sources, masks, found = _read_all(splits, rules)
    wrong = _wrong(masks, found, rules)
    coloured = [fault for _, fault in wrong if isinstance(fault, NoColourTable)]
    if wrong:
        one_by_one = [one for one in wrong if not isinstance(one[1], NoColourTable)]
        named = [_fault(*one, rules) for one in one_by_one[:MASKS_NAMED]]
        faults = [name_first([*named, *one_by_one[MASKS_NAMED:]], MASKS_NAMED)] if named else []
        raise UserError("\n".join([*faults, *([_name_colours(coloured)] if coloured else [])]))
    names = _check_together(sources, masks, found, rules)
    return Splits(*(dataclasses.replace(s, class_names=names, labels=None) for s in sources))


def find_wrong_masks(
    splits: Splits, rules: MaskRules
) -> Iterator[tuple[Source | None, int, UserError]]:
    """Yields every mask that `check_masks` would refuse: its split, its number there, the fault.

    Without a split: what is wrong with all of them.
    """
    _check_rules(rules)
    sources, masks, found = _read_all(splits, rules)
    wrong = _wrong(masks, found, rules)
    for mask, values in wrong:
        fault = values if isinstance(values, UserError) else UserError(_fault(mask, values, rules))
        yield mask.source, mask.number, fault
    bad = {id(mask) for mask, _ in wrong}
    good = [number for number, mask in enumerate(masks) if id(mask) not in bad]
    if not good:
        return
    try:
        _check_together(sources, [masks[i] for i in good], [found[i] for i in good], rules)
    except UserError as error:
        yield None, 0, error


def _check_rules(rules: MaskRules) -> None:
    if rules.num_classes > MOST_CLASSES:
        raise UserError(
            f"Expected at most {MOST_CLASSES} classes, as masks have 8 bits, got "
            f"`num_classes={rules.num_classes}`. Pass a smaller number, or leave it out."
        )


def _read_all(
    splits: Splits, rules: MaskRules
) -> tuple[list[Source], list[_Mask], list[set[int] | UserError]]:
    """Reads all masks: the sources, every mask, and the values in each or what is wrong with it."""
    sources = [
        dataclasses.replace(source, mask_colours=rules.colours if source.mask_paths else None)
        for source in (splits.train, splits.test)
        if source is not None
    ]
    masks = [_Mask(source, number) for source in sources for number in range(len(source))]
    return sources, masks, read_each(_values_of, masks, "checking masks")


def _check_together(
    sources: list[Source], masks: list[_Mask], found: list[Any], rules: MaskRules
) -> tuple[str, ...]:
    """Returns the names of the K classes, of masks that are right one by one.

    Raises:
        UserError: A source has no pixels that count, or there are less than 2 classes, or the
            largest value looks like none.
    """
    if not _known_classes(rules) and rules.ignore_label != 255:
        _check_255(masks, found)
    for source in sources:
        seen = [values for mask, values in zip(masks, found, strict=True) if mask.source is source]
        if seen and set().union(*seen) == {rules.ignore_label}:
            raise UserError(
                f"Expected pixels that count in the masks of {source.name}, got only "
                f"`ignore_label={rules.ignore_label}`. Mend the masks, or pass another value."
            )
    counted = set().union(*found) - {rules.ignore_label}
    num_classes = _known_classes(rules) or 1 + max(counted)
    if num_classes < 2:
        raise UserError(
            f"Expected at least 2 classes in the masks of {sources[0].name}, got {num_classes}. "
            "Pass `num_classes`, or add masks with pixels of other classes."
        )
    given = rules.class_names or sources[0].class_names
    return (*given[:num_classes], *map(str, range(len(given), num_classes)))


def _known_classes(rules: MaskRules) -> int:
    """Returns K as it is given, by number or by the table of colours; 0: it is to be counted."""
    if rules.num_classes or rules.colours is None:
        return rules.num_classes
    last = len(rules.colours) - 1
    return last if rules.ignore_label == last else last + 1


def _values_of(mask: _Mask) -> set[int]:
    source, number = mask
    pixels = source.read_mask(number)
    if source.file_sizes is not None and pixels.shape != tuple(source.file_sizes[number]):
        height, width = source.file_sizes[number]
        raise WrongSize(
            f"{mask}: expected {height}x{width} (height x width), the size of "
            f"{source.paths[number]}, got {pixels.shape[0]}x{pixels.shape[1]}. Mend the mask, or "
            "pair it with its own image."
        )
    return set(np.flatnonzero(np.bincount(pixels.ravel())).tolist())


def _wrong(
    masks: list[_Mask], found: list[Any], rules: MaskRules
) -> list[tuple[_Mask, set[int] | UserError]]:
    """Returns the masks that do not decode or hold what is no class, each with what was found."""
    allowed = _allowed(rules)
    return [
        (mask, values)
        for mask, values in zip(masks, found, strict=True)
        if isinstance(values, UserError) or values - allowed
    ]


def _allowed(rules: MaskRules) -> set[Any]:
    return {*range(_known_classes(rules) or 256), rules.ignore_label}


def _fault(mask: _Mask, values: set[int] | UserError, rules: MaskRules) -> str:
    if isinstance(values, UserError):
        return str(values)
    outside, num_classes = sorted(values - _allowed(rules), reverse=True), _known_classes(rules)
    value = outside[0]  # the largest: with it the others are classes too
    if rules.num_classes:
        reason, remedies = f"`num_classes={num_classes}`", [f"Pass `num_classes={value + 1}`"]
    else:
        reason, remedies = "the lines of `mask_colors`", ["Add a line to the table"]
    if rules.ignore_label is None:
        remedies.append(f"{'' if rules.num_classes else 'pass '}`ignore_label={value}`")
    remedy = f"{', '.join(remedies)}, or mend the mask."
    if rules.num_classes == 2 and values <= {0, 255} and rules.colours is None:
        remedy = _OBJECT_REMEDY
    shown = [f"value {v} {_spell_value(mask, v)}" for v in outside[:VALUES_NAMED]]
    if len(outside) > VALUES_NAMED:
        shown.append(f"{len(outside) - VALUES_NAMED} more values")
    are = "is" if len(outside) == 1 else "are"
    return f"{mask}: {', '.join(shown)} {are} outside 0..{num_classes - 1} ({reason}). {remedy}"


def _name_colours(faults: list[NoColourTable]) -> str:
    """Names the first of the masks that need a table, and the table itself, but for its names."""
    pixels = sum((fault.pixels for fault in faults), Counter[str]())
    number = "1 mask is" if len(faults) == 1 else f"{len(faults)} masks are"
    head = f"{faults[0]}\n{number} coloured"
    if len(pixels) > MOST_CLASSES:
        return (
            f"{head}, in more than {MOST_CLASSES} colours: edges that were blurred, or other "
            "images. Make them again from the original, without smoothing."
        )
    lines = (f"{colour} # {100 * n / pixels.total():.2g} %" for colour, n in pixels.most_common())
    return f"{head}. Their colours with the shares of the pixels, for that table:\n" + "\n".join(
        lines
    )


def _check_255(masks: list[_Mask], found: list[set[int]]) -> None:
    """Raises UserError where 255 would be counted as the last of 256 classes."""
    holders = [mask for mask, values in zip(masks, found, strict=True) if 255 in values]
    if not holders:
        return
    remedy = (
        "255 usually marks pixels that do not count: pass `ignore_label=255`, or `num_classes=256`."
    )
    if set().union(*found) == {0, 255}:
        remedy = _OBJECT_REMEDY
    raise UserError(
        f"Expected the numbers of classes in the masks, got 255 in {len(holders)} of {len(masks)}, "
        f"the first {holders[0]} {_spell_value(holders[0], 255)}. {remedy}"
    )


def _spell_value(mask: _Mask, value: int) -> str:
    return spell_pixels(mask.source.read_mask(mask.number) == value)
