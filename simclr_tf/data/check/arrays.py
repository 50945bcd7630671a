"""Checks of the arrays in an .npz file, image by image, where the file cannot be used as it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from simclr_tf.data.check.problems import Problem
from simclr_tf.data.sets.arrays import TEST_KEYS, TRAIN_KEYS


def check_npz(path: str) -> Iterator[Problem]:
    """Yields the images and labels that `load_npz` refuses the file for."""
    with np.load(path, allow_pickle=False) as file:
        for keys in (TRAIN_KEYS, TEST_KEYS):
            for names, fault_of in ((keys.images, wrong_image), (keys.labels, wrong_label)):
                name = next((name for name in names if name in file.files), None)
                entries = file[name] if name else np.empty(0)
                for index, entry in enumerate(entries if entries.ndim else ()):
                    fault = fault_of(entry)
                    if fault:
                        yield Problem("array", f"{path} {name}[{index}]", fault)


def wrong_image(image: np.ndarray) -> str:
    """Pixels that are no numbers, or outside 0..1 (floats) or 0..255 (integers)."""
    if not image.size or image.dtype.kind not in "iuf":
        return f"{image.dtype} of shape {list(image.shape)} is no image"
    if image.dtype.kind == "f":
        bad = np.count_nonzero(~np.isfinite(image))
        if bad:
            return f"{bad} values are not finite (NaN or infinite)"
        most = 1
    else:
        most = 255
    low, high = image.min(), image.max()
    return f"values {low:g}..{high:g} are outside 0..{most}" if low < 0 or high > most else ""


def wrong_label(label: np.ndarray) -> str:
    """Labels that are negative or no whole numbers; masks are none of its business."""
    if label.size != 1:
        return ""
    whole = np.issubdtype(label.dtype, np.integer)
    return "" if whole and label.item() >= 0 else f"label {label.item()} is no integer from 0"
