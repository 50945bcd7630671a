"""Sets of image files: their sizes, and their way into memory."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil

from simclr_tf.data.images import read_header, read_image, resize_to_fill
from simclr_tf.data.masks import resize_mask_to_fill
from simclr_tf.data.memory import new_images, new_masks
from simclr_tf.data.source import Source
from simclr_tf.errors import UserError

MEMORY_SHARE = 0.25  # of the free memory that --cache=auto takes at most
PROGRESS_AFTER_SECONDS = 2.0
NAMED = 5  # wrong files named in a message
_AT_A_TIME = 4096  # items that wait for a thread


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
            f"Expected images of one size in {source.name} for `cache=true`, got several. Pass "
            "`input_size`, such as `input_size='224 224'`, or leave out `cache`."
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
            f"Expected room for {need / 1e9:.1f} GB of images with `cache=true`, got "
            f"{room / 1e9:.1f} GB free. Pass a smaller `input_size` or `cache=false`."
        )
    return True


def free_memory() -> int:
    """Returns the memory in bytes that can be had without swapping, caches of files included."""
    return psutil.virtual_memory().available


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
