"""The training step alone, on a batch that lies on the device: ours, or PyTorch's."""

from __future__ import annotations

import gc
import importlib
import time
from typing import Any

import numpy as np
from processes import count_cores, spread
from steps.job import Job, shapes, step_flops
from steps.serve import FIRST_LOSSES

from gpu_parts.serve import Report
from gpu_parts.timing import Memory, seconds_per_run

GRID = 4  # colours along each side of an image


def measure(report: Report, options: dict[str, Any]) -> None:
    """Tells images per second of each variant, peak device memory and the first losses.

    All sides begin with the same weights on the same views, so that their losses can be compared.
    """
    job = Job(**options["network"], cores=count_cores())
    try:
        side = importlib.import_module(f"steps.{options['side']}")
    except ImportError as error:
        report.tell(missing=str(error))
        return
    if not options.get("quick") and getattr(side, "DEVICE", "cuda") != "cuda":
        report.tell(missing="PyTorch sees no GPU")
        return
    report.tell(versions=side.VERSIONS, batch_size=job.batch_size, size=job.size)
    views, weights = draw_views(job), draw_weights(job)
    for variant in options["variants"]:
        with report.attempt(variant):
            memory = side.Memory() if hasattr(side, "Memory") else Memory()
            start = time.perf_counter()
            step = side.open_step(job, variant, views)
            step.load(weights)
            losses = [step.loss_of(step.run()) for _ in range(FIRST_LOSSES)]
            report.tell(
                **{
                    variant: {
                        "precision": getattr(step, "precision", variant),
                        "tf32": side.uses_tf32(),
                        "first_losses": [round(loss, 5) for loss in losses],
                        "prepare_seconds": round(time.perf_counter() - start, 1),
                    }
                }
            )
            taken = seconds_per_run(step.run, step.loss_of, options.get("seconds", 3.0))
            rates = spread([job.batch_size / seconds for seconds in taken], 1)
            report.tell(
                **{
                    variant: {
                        "images_per_second": rates,
                        "tflops": round(rates["median"] * step_flops(job) / 1e12, 2),
                        "peak_bytes": memory.peak(),
                    }
                }
            )
        step = None  # what it holds on the device is not the next one's
        gc.collect()


def draw_views(job: Job) -> np.ndarray:
    """Draws two views of soft grids of colours, float32 [2, N, S, S, 3]: as drawn and mirrored."""
    rng = np.random.default_rng(0)
    grids = rng.random((job.batch_size, GRID, GRID, 3), np.float32)
    places = np.arange(job.size) * GRID // job.size
    images = grids[:, places][:, :, places]  # [N, S, S, 3]
    return np.stack([images, images[:, :, ::-1]])


def draw_weights(job: Job) -> dict[str, np.ndarray]:
    """Draws all that is trained, by name: the same for every side."""
    rng, found = np.random.default_rng(1), {}
    for name, shape in shapes(job).items():
        kind = name.rpartition("/")[2]
        if kind == "kernel":
            fan_in = np.prod(shape[:-1])
            found[name] = rng.normal(0.0, np.sqrt(2.0 / fan_in), shape).astype(np.float32)
        else:
            found[name] = np.full(shape, float(kind == "gamma"), np.float32)
    return found
