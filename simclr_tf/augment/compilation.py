"""Compilation of single stages by XLA, which a device may have to do without."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

_compiles = contextvars.ContextVar("_compiles", default=True)


def compiled(stage: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a stage a function that XLA compiles; within `compilation(False)` a plain one.

    The values are the same but for rounding; on a CPU the plain one takes several times as long.
    """
    by_xla = tf.function(stage, jit_compile=True)
    plain = tf.function(stage)

    @functools.wraps(stage)
    def call(*arguments: Any, **named: Any) -> Any:
        return (by_xla if _compiles.get() else plain)(*arguments, **named)

    return call


@contextlib.contextmanager
def compilation(on: bool) -> Iterator[None]:
    """Decides whether the stages that are called within the block are compiled by themselves.

    What is traced in the block keeps the decision: a step that is traced with it off has no part
    that needs XLA's compiler, which for a GPU may be missing or not work.
    """
    token = _compiles.set(on)
    try:
        yield
    finally:
        _compiles.reset(token)
