"""How fast views are made and how fast the encoder trains, each alone and both together.

    python benchmarks/throughput.py --json=throughput.json

For 32 and 96 pixels and ResNet-18 at full and quarter width: views per second of the input pipeline
alone, images per second (two views each) of the training step on a batch that lies ready, and of
training fed by the pipeline. Medians over the repeats, with the smallest and largest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import checkout  # noqa: F401
import numpy as np
import tensorflow as tf

import simclr_tf as st
from simclr_tf.training.execution import choose_execution


def measure(work: Callable[[], None], amount: int, repeats: int) -> dict[str, float]:
    """Returns amount per second of the work, after a first run that is left out."""
    work()
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        rates.append(amount / (time.perf_counter() - start))
    return {
        "median": round(float(np.median(rates)), 1),
        "min": round(min(rates), 1),
        "max": round(max(rates), 1),
    }


def measure_one(side: int, width: float, batch_size: int, repeats: int) -> dict[str, Any]:
    """Measures one size of image and one width of ResNet-18."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (max(2048, batch_size), side, side, 3), np.uint8)
    views = st.data.two_views(
        images,
        batch_size=batch_size,
        recipe=st.augment.Recipe(),
        seed=0,
        first_step=0,
        last_step=1_000_000,
    )
    batches = iter(views)
    model = st.SimCLR(
        st.models.resnet(18, stem="small", width_multiplier=width), st.models.ProjectionHead(128)
    )
    model.compile(st.optimizers.LARS(0.1), st.losses.NTXent(temperature=0.1), jit_compile=False)
    step = tf.function(model.train_step)
    ready = next(batches)
    # A window is long enough that the batches prefetched before it do not count.
    window = max(1, int(8192 * (32 / side) ** 2 * (0.25 / width) / batch_size))

    def make_views() -> None:
        for _ in range(4 * window):
            next(batches)

    def train_ready() -> None:
        for _ in range(window):
            result = step(ready)
        float(result["loss"])

    def train_fed() -> None:
        for _ in range(window):
            result = step(next(batches))
        float(result["loss"])

    return {
        "pipeline_views_per_second": measure(make_views, 8 * window * batch_size, repeats),
        "step_images_per_second": measure(train_ready, window * batch_size, repeats),
        "training_images_per_second": measure(train_fed, window * batch_size, repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="", help="file to write the numbers to")
    parser.add_argument("--precision", default="auto", help="Keras policy, or auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 96])
    parser.add_argument("--widths", type=float, nargs="+", default=[0.25, 1.0])
    arguments = parser.parse_args()
    execution = choose_execution(arguments.precision, "false")
    results: dict[str, Any] = {"device": execution.device, "precision": execution.precision}
    for side, width in itertools.product(arguments.sides, arguments.widths):
        batch_size = 256 if side <= 32 else 64
        name = f"resnet18_width{width:g}_{side}px_batch{batch_size}"
        results[name] = measure_one(side, width, batch_size, arguments.repeats)
        print(name, json.dumps(results[name]), flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
