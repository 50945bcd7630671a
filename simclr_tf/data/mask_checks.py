"""What is found out about masks before training: their classes, and every file that is wrong."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from simclr_tf.data.files import name_first, read_each
from simclr_tf.data.masks import MOST_CLASSES, MaskRules, spell_pixels
from simclr_tf.data.sources import Source, Splits
from simclr_tf.errors import UserError

MASKS_NAMED = 20  # wrong masks in a message
VALUES_NAMED = 3  # wrong values of one of them

_OBJECT_REMEDY = (
    "Where 255 is the object, pass --mask_colors=FILE, a file with the lines `0 0 0 background` "
    "and `255 255 255 object`."
)


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
    if rules.num_classes > MOST_CLASSES:
        raise UserError(
            f"Expected at most {MOST_CLASSES} classes, as masks have 8 bits, got "
            f"--num_classes={rules.num_classes}. Pass a smaller number, or leave it out."
        )
    sources = [
        dataclasses.replace(source, mask_colours=rules.colours if source.mask_paths else None)
        for source in (splits.train, splits.test)
        if source is not None
    ]
    masks = [_Mask(source, number) for source in sources for number in range(len(source))]
    found = read_each(_values_of, masks, "checking masks")
    _check_values(masks, found, rules)
    for source in sources:
        seen = [values for mask, values in zip(masks, found, strict=True) if mask.source is source]
        if set().union(*seen) == {rules.ignore_label}:
            raise UserError(
                f"Expected pixels that count in the masks of {source.name}, got only "
                f"--ignore_label={rules.ignore_label}. Mend the masks, or pass another value."
            )
    counted = set().union(*found) - {rules.ignore_label}
    num_classes = _known_classes(rules) or 1 + max(counted)
    if num_classes < 2:
        raise UserError(
            f"Expected at least 2 classes in the masks of {sources[0].name}, got {num_classes}. "
            "Pass --num_classes, or add masks with pixels of other classes."
        )
    given = rules.class_names or sources[0].class_names
    names = (*given[:num_classes], *map(str, range(len(given), num_classes)))
    return Splits(*(dataclasses.replace(s, class_names=names, labels=None) for s in sources))


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
        raise UserError(
            f"{mask}: expected {height}x{width} (height x width), the size of "
            f"{source.paths[number]}, got {pixels.shape[0]}x{pixels.shape[1]}. Mend the mask, or "
            "pair it with its own image."
        )
    return set(np.flatnonzero(np.bincount(pixels.ravel())).tolist())


def _check_values(masks: list[_Mask], found: list[Any], rules: MaskRules) -> None:
    """Raises the errors found, and those of values that are no class.

    Args:
        masks: All masks.
        found: For each the values in it, or the UserError that reading it ended with.
        rules: What the masks may hold.
    """
    num_classes = _known_classes(rules)
    allowed = {*range(num_classes or 256), rules.ignore_label}
    wrong = [
        (mask, values)
        for mask, values in zip(masks, found, strict=True)
        if isinstance(values, UserError) or values - allowed
    ]
    if wrong:
        named = wrong[:MASKS_NAMED]
        faults = [_fault(mask, values, allowed, rules) for mask, values in named]
        raise UserError(name_first([*faults, *wrong[MASKS_NAMED:]], MASKS_NAMED))
    if not num_classes and rules.ignore_label != 255:
        _check_255(masks, found)


def _fault(mask: _Mask, values: set[int] | UserError, allowed: set[Any], rules: MaskRules) -> str:
    if isinstance(values, UserError):
        return str(values)
    outside, num_classes = sorted(values - allowed, reverse=True), _known_classes(rules)
    value = outside[0]  # the largest: with it the others are classes too
    if rules.num_classes:
        reason, remedies = f"--num_classes={num_classes}", [f"Pass --num_classes={value + 1}"]
    else:
        reason, remedies = "the lines of --mask_colors", ["Add a line to the table"]
    if rules.ignore_label is None:
        remedies.append(f"{'' if rules.num_classes else 'pass '}--ignore_label={value}")
    remedy = f"{', '.join(remedies)}, or mend the mask."
    if rules.num_classes == 2 and values <= {0, 255} and rules.colours is None:
        remedy = _OBJECT_REMEDY
    shown = [f"value {v} {_spell_value(mask, v)}" for v in outside[:VALUES_NAMED]]
    if len(outside) > VALUES_NAMED:
        shown.append(f"{len(outside) - VALUES_NAMED} more values")
    are = "is" if len(outside) == 1 else "are"
    return f"{mask}: {', '.join(shown)} {are} outside 0..{num_classes - 1} ({reason}). {remedy}"


def _check_255(masks: list[_Mask], found: list[set[int]]) -> None:
    """Raises UserError where 255 would be counted as the last of 256 classes."""
    holders = [mask for mask, values in zip(masks, found, strict=True) if 255 in values]
    if not holders:
        return
    remedy = (
        "255 usually marks pixels that do not count: pass --ignore_label=255, or --num_classes=256."
    )
    if set().union(*found) == {0, 255}:
        remedy = _OBJECT_REMEDY
    raise UserError(
        f"Expected the numbers of classes in the masks, got 255 in {len(holders)} of {len(masks)}, "
        f"the first {holders[0]} {_spell_value(holders[0], 255)}. {remedy}"
    )


def _spell_value(mask: _Mask, value: int) -> str:
    return spell_pixels(mask.source.read_mask(mask.number) == value)
