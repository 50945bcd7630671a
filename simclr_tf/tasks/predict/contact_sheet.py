"""Which images are shown on the contact sheet, and how large."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from simclr_tf import data
from simclr_tf.data.images import resize_pixels

SHOWN_IMAGES = 16
SHOWN_SIDE = 320  # pixels of an image's longer side


def spread(count: int) -> list[int]:
    """Returns the images on the contact sheet, spread over the set: files are sorted by class."""
    return np.unique(np.linspace(0, count - 1, SHOWN_IMAGES).astype(int)).tolist()


def sheet_title(shown: Sequence[int], source: data.Source) -> str:
    return f"{len(shown)} of the {len(source)} images of {source.name}"


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """Returns an image or a mask as it is put on the contact sheet."""
    factor = SHOWN_SIDE / max(pixels.shape[:2])
    if factor >= 1.0:
        return pixels.copy()
    height, width = (max(1, round(factor * side)) for side in pixels.shape[:2])
    method = Image.Resampling.NEAREST if pixels.ndim == 2 else Image.Resampling.BILINEAR
    return resize_pixels(pixels, (height, width), method)
