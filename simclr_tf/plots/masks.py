"""Masks in colours: a palette of 256 classes, and masks laid over their images."""

from __future__ import annotations

import functools

import numpy as np

from simclr_tf.plots.pixels import as_bytes, rgb
from simclr_tf.plots.style import COLOURS

# Class 0, which is the background where there is one, and values that are no class.
FIRST_CLASS, NO_CLASS = "#1c2430", "#dcdcdc"
OVERLAY_ALPHA = 0.55


def mask_palette(num_classes: int) -> np.ndarray:
    """Returns a colour for every value of a mask, uint8 [256, 3].

    A class has one colour whatever their number: 0 is dark, 1 to 10 have those of the plots, the
    others are as unlike all before them as can be. Values from `num_classes` on are light gray.
    """
    palette = np.tile(rgb(NO_CLASS), (256, 1))
    palette[:num_classes] = _class_colours()[:num_classes]
    return palette


def colour_masks(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns a mask, uint8 [..., H, W], in colours, uint8 [..., H, W, 3]."""
    return mask_palette(num_classes)[mask]


def overlay_masks(
    image: np.ndarray, mask: np.ndarray, num_classes: int, alpha: float = OVERLAY_ALPHA
) -> np.ndarray:
    """Lays the colours of a mask over an image; pixels of no class stay as they are.

    Args:
        image: uint8 [H, W, 3] or float in 0..1.
        mask: uint8 [H, W].
        num_classes: K.
        alpha: Share of the mask's colour, 0 to 1.

    Returns:
        uint8 [H, W, 3].
    """
    pixels = as_bytes(image)
    # In 8 bits of fraction: of large images floats would take four times the memory.
    share = np.where(mask < num_classes, round(256 * alpha), 0).astype(np.uint16)[..., np.newaxis]
    mixed = pixels * (256 - share)
    mixed += colour_masks(mask, num_classes) * share
    mixed += 128
    return (mixed >> 8).astype(np.uint8)


@functools.cache
def _class_colours() -> np.ndarray:
    """Returns the colours of 256 classes, uint8 [256, 3]; the first do not depend on the others."""
    levels = np.linspace(0, 255, 14).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    chosen = [rgb(colour) for colour in (FIRST_CLASS, *COLOURS)]
    seen = _perceived(candidates)

    def distance_to(colour: np.ndarray) -> np.ndarray:
        return np.linalg.norm(seen - _perceived(colour), axis=-1)

    taken = [*chosen, rgb(NO_CLASS)]
    distance = np.min([distance_to(colour) for colour in taken], axis=0)
    while len(chosen) < 256:
        chosen.append(candidates[distance.argmax()])
        distance = np.minimum(distance, distance_to(chosen[-1]))
    return np.array(chosen)


def _perceived(colours: np.ndarray) -> np.ndarray:
    """Returns sRGB, uint8 [..., 3], in CIELAB, where like distances look alike."""
    shares = colours / 255.0
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)  # of white: 1, 1, 1
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
