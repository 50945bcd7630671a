"""Batches by step: what a training takes from the data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from simclr_tf.data.batches.order import WHOLE, Shard


class Batches:
    """The batches of a training: `steps(first, last, shard)` makes those of any of its steps.

    Example:
        >>> batches = Batches(two_views, images, batch_size=256, recipe=Recipe(), seed=0)
        >>> views = batches.steps(100, 200)

    Args:
        make: Makes batches by `first_step`, `last_step` and `shard`, such as a function of
            `data.batches.train`; to be served (`data.service`) also by `step_stride`.
        *arguments, **more: Further arguments of `make`.
    """

    def __init__(self, make: Callable[..., tf.data.Dataset], *arguments: Any, **more: Any) -> None:
        self.make = functools.partial(make, *arguments, **more)

    def steps(self, first: int, last: int, shard: Shard = WHOLE) -> tf.data.Dataset:
        """Returns the batches of the steps first..last-1, joint or of the shard's replicas."""
        return self.make(first_step=first, last_step=last, shard=shard)
