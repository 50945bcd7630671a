"""NT-Xent on a device: the dense loss against the streaming one, by batch and by tile."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any
from unittest import mock

import checkout  # noqa: F401
import numpy as np
import tensorflow as tf
from processes import spread

from gpu_parts.serve import Report
from gpu_parts.timing import Memory, seconds_per_run
from simclr_tf.losses import contrastive_streaming
from simclr_tf.losses.contrastive import nt_xent

WIDTH, TEMPERATURE = 128, 0.1
TOLERANCE = 1e-4  # relative, between the two, without TF32

Results = tuple[tf.Tensor, tf.Tensor]  # loss and its gradient


def measure(report: Report, options: dict[str, Any]) -> None:
    """Tells milliseconds and peak memory of a forward and backward pass, and whether they agree."""
    seconds, swept, compiled = options.get("seconds", 1.0), options["swept"], options["xla"]
    report.tell(width=WIDTH, swept=swept, tile=contrastive_streaming.tile_side())
    with report.attempt("agreement"):
        _compare(report, swept, compiled)
    for images in options["sizes"]:
        for streaming in (True, False):  # dense is the first that runs out of memory
            name = f"{'streaming' if streaming else 'dense'} {images}"
            with report.attempt(name):
                report.tell(**{name: _time(images, streaming, compiled, seconds)})
            gc.collect()
    for tile in options["tiles"]:
        name = f"tile {tile}"
        chosen = mock.patch.object(contrastive_streaming, "tile_side", return_value=tile)
        with report.attempt(name), chosen:
            report.tell(**{name: _time(swept, True, compiled, seconds)})
        gc.collect()


def _pass(images: int, streaming: bool, compiled: str) -> Callable[[], Results]:
    """Returns what computes the loss of drawn projections, [2N, D], and its gradient."""
    z = tf.random.stateless_normal([2 * images, WIDTH], seed=[0, 0])

    @tf.function(jit_compile=compiled == "true")
    def step(z: tf.Tensor) -> Results:
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = nt_xent(z, temperature=TEMPERATURE, streaming=streaming).loss
        return loss, tape.gradient(loss, z)

    return lambda: step(z)


def _time(images: int, streaming: bool, compiled: str, seconds: float) -> dict[str, Any]:
    memory = Memory()
    step = _pass(images, streaming, compiled)
    taken = seconds_per_run(step, lambda results: float(results[0]), seconds)
    milliseconds = spread([1e3 * t for t in taken], 3)
    return {"milliseconds": milliseconds, "peak_bytes": memory.peak()}


def _compare(report: Report, images: int, compiled: str) -> None:
    """Tells how far loss and gradient of the two are apart, with TF32 and without."""
    found = {}
    for name, tf32 in (("tf32", True), ("float32", False)):
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
        (loss, slope), (dense, slope_of_dense) = (
            (float(loss), slope.numpy())
            for loss, slope in (_pass(images, streaming, compiled)() for streaming in (True, False))
        )
        largest = np.abs(slope_of_dense).max()
        found[name] = {
            "loss": abs(loss - dense) / dense,
            "gradient": float(np.abs(slope - slope_of_dense).max() / largest),
        }
    tf.config.experimental.enable_tensor_float_32_execution(False)  # as in a run
    report.tell(agreement={"images": images, **found})
    if max(found["float32"].values()) > TOLERANCE:
        report.fail("agreement", f"dense and streaming differ by {found['float32']}")
