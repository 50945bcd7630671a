"""Gradient caching: a large batch by microbatches against the same at once, and a small one."""

from __future__ import annotations

import gc
from typing import Any

import checkout  # noqa: F401
from gradient_caching import build_step
from processes import spread

from gpu_parts.serve import Report
from gpu_parts.timing import Memory, seconds_per_run

NETWORK = {"depth": 18, "width_multiplier": 1.0, "size": 32, "precision": "auto"}


def measure(report: Report, options: dict[str, Any]) -> None:
    """Tells images per second and peak device memory of each, the smallest first."""
    network = {name: options.get(name, value) for name, value in NETWORK.items()}
    large, small = options["batch_size"], options["microbatch_size"]
    report.tell(network=network, batch_size=large, microbatch_size=small)
    sides = {"small": (small, 0), "cached": (large, small), "large": (large, 0)}
    for name, (batch_size, microbatch_size) in sides.items():
        with report.attempt(name):
            memory = Memory()
            step = build_step(network, batch_size, microbatch_size)
            loss = step()
            taken = seconds_per_run(step, float, options.get("seconds", 3.0))
            report.tell(
                **{
                    name: {
                        "images_per_second": spread([batch_size / t for t in taken], 1),
                        "peak_bytes": memory.peak(),
                        "loss": round(loss, 5),
                    }
                }
            )
        step = None
        gc.collect()
