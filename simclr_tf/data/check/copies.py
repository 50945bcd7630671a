"""Images that are the same: found by content, and what it means where they lie."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from simclr_tf.data.files import read_each
from simclr_tf.data.members import Member, open_bytes
from simclr_tf.data.source import Source

_BLOCK = 1 << 20  # bytes of a file in memory at a time


class Item(NamedTuple):
    """An image that others may be the same as.

    Attributes:
        name: Its file, or its place in an array.
        place: The same, with the line of a list.
        trained: Whether it is trained on; else it is reported on.
        label: The name of its class; "" where there is none.
        source: The split it lies in.
        number: Its place there.
    """

    name: str
    place: str
    trained: bool
    label: str
    source: Source
    number: int


def keys_of_files(paths: Sequence[str]) -> list[Hashable]:
    """Returns a key for each file, equal where contents are; None where no other has its size.

    Only files of equal sizes are read, in blocks, and each once, whatever links lead to it.
    """
    stats = [_stat(path) for path in paths]
    sizes = Counter({}) + Counter(size for size, _ in set(filter(None, stats)))
    repeated = Counter(filter(None, stats))
    first = {stat: path for path, stat in zip(paths, stats, strict=True) if stat}
    asked = [stat for stat in first if sizes[stat[0]] > 1]
    digests = read_each(_digest, [first[stat] for stat in asked], "comparing")
    by_stat: dict[object, Hashable] = dict(zip(asked, digests, strict=True))
    # What has several names but no other file of its size needs no reading.
    return [by_stat.get(s, s if s and repeated[s] > 1 else None) for s in stats]


def keys_of_images(sources: Sequence[Source]) -> list[Hashable]:
    """Returns a key for each image of sets in memory, equal where the pixels are."""
    images = (image for source in sources if source.images is not None for image in source.images)
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]


def compare_copies(
    items: Sequence[Item], keys: Sequence[Hashable]
) -> Iterator[tuple[str, Item, str]]:
    """Yields (kind, item, detail) for every image that an earlier one is the same as.

    Args:
        items: All images, those that are trained on first.
        keys: Equal for equal contents; None is equal to nothing.
    """
    groups: dict[Hashable, list[Item]] = {}
    for item, key in zip(items, keys, strict=True):
        if key is not None:
            groups.setdefault(key, []).append(item)
    for first, *others in groups.values():
        for other in others:
            if first.label and other.label and first.label != other.label:
                detail = f"class {other.label}, but class {first.label} as {first.place}"
                yield "two labels", other, detail
            if first.trained and not other.trained:
                yield "leak", other, f"trained on as {first.place}"
            elif first.source is other.source and first.label == other.label:
                yield "duplicate", other, f"the same as {first.place}"


def _stat(path: str) -> tuple[int, Hashable] | None:
    """Returns the size and what tells the bytes from those of other files."""
    if isinstance(path, Member):
        return path.size, (path.container, path.start)
    try:
        stat = os.stat(path)
    except OSError:  # it was there when it was decoded
        return None
    return stat.st_size, (stat.st_dev, stat.st_ino)


def _digest(path: str) -> bytes | None:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open_bytes(path) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except (OSError, ValueError, zlib.error):  # it was as it should be when it was decoded
        return None
    return digest.digest()
