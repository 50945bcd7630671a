"""Data: sources of images by index, and the pipeline that makes batches of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names below, for who checks types or completes them
    from simclr_tf.data.batches.evaluation import plain_batches as plain_batches
    from simclr_tf.data.batches.tensors import one_thread_an_operation as one_thread_an_operation
    from simclr_tf.data.batches.train import drawn_batches as drawn_batches
    from simclr_tf.data.batches.train import labelled_batches as labelled_batches
    from simclr_tf.data.batches.train import two_views as two_views
    from simclr_tf.data.images import read_image as read_image
    from simclr_tf.data.loading import check_labels as check_labels
    from simclr_tf.data.loading import load as load
    from simclr_tf.data.masks import MaskRules as MaskRules
    from simclr_tf.data.masks import read_colour_table as read_colour_table
    from simclr_tf.data.masks import read_mask as read_mask
    from simclr_tf.data.sets.shapes import make_shapes as make_shapes
    from simclr_tf.data.source import Source as Source
    from simclr_tf.data.source import Splits as Splits
    from simclr_tf.data.source import from_arrays as from_arrays
    from simclr_tf.data.splitting import hold_back as hold_back
    from simclr_tf.data.splitting import stratified_split as stratified_split

_HOME = {
    "Source": "source",
    "Splits": "source",
    "from_arrays": "source",
    "hold_back": "splitting",
    "stratified_split": "splitting",
    "check_labels": "loading",
    "load": "loading",
    "make_shapes": "sets.shapes",
    "MaskRules": "masks",
    "read_colour_table": "masks",
    "read_mask": "masks",
    "read_image": "images",
    "two_views": "batches.train",
    "drawn_batches": "batches.train",
    "labelled_batches": "batches.train",
    "plain_batches": "batches.evaluation",
    "one_thread_an_operation": "batches.tensors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    # On first use: the sources must be had without TensorFlow.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
