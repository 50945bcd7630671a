"""Which splits of a TensorFlow Datasets set are trained and reported on: tfds:NAME:TRAIN:TEST."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from simclr_tf.errors import UserError

TEST_SPLITS = ("test", "validation")  # the first that is there and is not trained on
_NAME = re.compile(r"[^:]*(?::[\d.*]+(?=:|$))?")  # a version may follow the name's own colon
_COLON = re.compile(r":(?![^\[]*\])")  # none of those in train[:10%]


class Wanted(NamedTuple):
    """A set and its splits, "" where they are not named."""

    name: str
    train: str = ""
    test: str = ""


def read_wanted(text: str, namespaces: Container[str] = ()) -> Wanted:
    """Reads NAME, NAME:TRAIN or NAME:TRAIN:TEST; the splits are in TFDS's own language.

    NAME may have a config and a version (`voc/2007`, `mnist:3.*.*`).

    Args:
        text: What was asked for.
        namespaces: Those of the community's sets: such a first part belongs to the name.

    Raises:
        UserError: There are more parts.
    """
    first, colon, _ = text.partition(":")
    start = len(first + colon) if first in namespaces else 0
    end = _NAME.match(text, start).end()  # type: ignore[union-attr]  # it matches anything
    name = text[:end]
    parts = [part.strip() for part in _COLON.split(text[len(name) :])]
    if len(parts) > 3:
        raise UserError(
            f"Expected `dataset=tfds:NAME:TRAIN:TEST`, got tfds:{text}. Join several splits by +, "
            "such as train+validation."
        )
    return Wanted(name, *parts[1:])


def choose_splits(wanted: Wanted, splits: Mapping[str, Any]) -> tuple[str, str]:
    """Returns what is trained and what is reported on, "" where nothing is.

    Without names they are `train`, and of `test` and `validation` the first that is there and has
    no image that is trained on.

    Args:
        wanted: What was asked for.
        splits: Those of the set, as TFDS describes them.

    Raises:
        UserError: The set lacks a split, it is empty, or images are in both.
    """
    train = wanted.train or "train"
    _check(wanted, train, splits)
    if not wanted.test:
        free = (s for s in TEST_SPLITS if s in splits and not _in_both(splits, train, s))
        return train, next(free, "")
    _check(wanted, wanted.test, splits)
    shared = _in_both(splits, train, wanted.test)
    if shared:
        raise UserError(
            f"Expected images to report on that are not trained on, got {shared} of the "
            f"{splits[wanted.test].num_examples} of {wanted.test!r} in {train!r} too "
            f"(tfds:{wanted.name}). Take them out of one of the two."
        )
    return train, wanted.test


def _check(wanted: Wanted, split: str, splits: Mapping[str, Any]) -> None:
    try:
        count = splits[split].num_examples
        reason = "" if count > 0 else f"without an image ({split!r})"
    # What is wrong comes as errors of several kinds, some of a line for each cause.
    except Exception as error:
        reason = f"{split!r} ({str(error).splitlines()[-1]})"
    if reason:
        there = ", ".join(f"{name} ({info.num_examples})" for name, info in splits.items())
        raise UserError(
            f"Expected splits that tfds:{wanted.name} has, {there}, or sums and parts of them, "
            f"such as train[:80%], got one {reason}. Pass `dataset=tfds:{wanted.name}:TRAIN` or "
            f"tfds:{wanted.name}:TRAIN:TEST with such."
        )


def _in_both(splits: Mapping[str, Any], first: str, second: str) -> int:
    """Returns how many images two splits share, by the rows of the files that they read."""
    rows: dict[str, set[int]] = defaultdict(set)
    for part in splits[first].file_instructions:
        rows[part.filename].update(range(part.skip, part.skip + part.take))
    parts = splits[second].file_instructions
    return sum(
        len(rows[part.filename].intersection(range(part.skip, part.skip + part.take)))
        for part in parts
    )
