"""Files that may be broken, kind by kind, and what the library makes of them."""

from __future__ import annotations

import importlib

from fuzzing.case import Make

# Where each is made, so that a kind that is not asked for imports nothing.
KINDS = {
    "image": "images",
    "mask": "images",
    "image_list": "texts",
    "colour_table": "texts",
    "settings": "texts",
    "npz": "arrays",
    "archive": "archives",
    "records": "archives",
    "weights": "runs",
    "run_folder": "runs",
}
# Of a check of the fuzzing itself: each is a defect by its name.
DEFECTS = ("crash", "hang", "memory", "wrong", "unnamed", "error")


def make_of(kind: str) -> Make:
    """Returns what makes the cases of a kind."""
    module = "defects" if kind in DEFECTS else KINDS[kind]
    return getattr(importlib.import_module(f"fuzzing.{module}"), kind)
