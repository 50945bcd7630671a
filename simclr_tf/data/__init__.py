"""Data: sources of images by index, and the pipeline that makes batches of them."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Source": "sources",
    "Splits": "sources",
    "from_arrays": "sources",
    "hold_back": "sources",
    "stratified_split": "sources",
    "check_labels": "loading",
    "load": "loading",
    "make_shapes": "shapes",
    "MaskRules": "masks",
    "read_colour_table": "masks",
    "read_mask": "masks",
    "read_image": "decode",
    "two_views": "pipeline",
    "drawn_batches": "pipeline",
    "labelled_batches": "pipeline",
    "plain_batches": "pipeline",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    # On first use: the sources must be had without TensorFlow.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
