"""Images and colours as pixels that can be shown."""

from __future__ import annotations

import numpy as np


def displayed(image: np.ndarray) -> np.ndarray:
    """Returns an image [H, W, C] as colours [H, W, 3]: of other channels the first, or the first
    three.
    """
    image = np.asarray(image)
    image = image[..., np.newaxis] if image.ndim == 2 else image
    channels = image.shape[2]
    if channels != 3:
        image = image[..., :3] if channels > 3 else np.repeat(image[..., :1], 3, axis=-1)
    return image if image.dtype == np.uint8 else np.clip(image.astype(np.float32), 0.0, 1.0)


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Returns an image as it is displayed, uint8 [H, W, 3]."""
    image = displayed(image)
    return image if image.dtype == np.uint8 else np.rint(255.0 * image).astype(np.uint8)


def rgb(colour: str) -> np.ndarray:
    """Returns "#rrggbb" as uint8 [3]."""
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)
