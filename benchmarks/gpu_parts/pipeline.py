"""The input pipeline alone, on the host: images of two views per second."""

from __future__ import annotations

import time
from typing import Any

import checkout  # noqa: F401
import numpy as np
from processes import spread

import simclr_tf as st
from gpu_parts.serve import Report
from gpu_parts.timing import REPEATS
from simclr_tf.data.batches.tensors import one_thread_an_operation

IN_STORE = 16  # batches: more than the pipeline keeps ready


def measure(report: Report, options: dict[str, Any]) -> None:
    """Tells images per second of views in float32 and bfloat16."""
    one_thread_an_operation()  # as beside a GPU that trains
    network, seconds = options["network"], options.get("seconds", 5.0)
    size, batch_size = network["size"], network["batch_size"]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4 * batch_size, size, size, 3), np.uint8)
    for dtype in ("float32", "bfloat16"):
        with report.attempt(dtype):
            views = iter(
                st.data.two_views(
                    images,
                    batch_size=batch_size,
                    recipe=st.augment.Recipe(),
                    seed=0,
                    first_step=0,
                    last_step=1_000_000,
                    dtype=dtype,
                )
            )
            for _ in range(IN_STORE):
                next(views)
            rates = []
            for _ in range(REPEATS):
                batches, start = 0, time.perf_counter()
                while time.perf_counter() - start < seconds / REPEATS or batches < IN_STORE:
                    next(views)
                    batches += 1
                rates.append(batches * batch_size / (time.perf_counter() - start))
            report.tell(**{dtype: {"images_per_second": spread(rates, 1)}})
