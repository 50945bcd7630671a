"""Augmentation: pure, batched tensor functions, and the recipe that combines them."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Recipe": "recipe",
    "RandomViews": "random_views",
    "Draw": "views",
    "draw_views": "views",
    "pack_draw": "views",
    "unpack_draw": "views",
    "apply_views": "views",
    "make_views": "views",
    "apply_masks": "views",
    "crop_resize": "resampling",
    "rotate": "rotation",
    "apply_colour": "colour",
    "apply_colour_in_order": "colour_sequence",
    "gaussian_blur": "blur",
    "add_noise": "noise",
    "cutout": "cut_out",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    # Recipe must be had without TensorFlow (the command line reads its defaults).
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
