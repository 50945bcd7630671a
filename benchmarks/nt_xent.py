"""What the streaming NT-Xent costs against the dense one: time per pair, and memory.

    python benchmarks/nt_xent.py --json=nt_xent.json
    python benchmarks/nt_xent.py --dense_once=16384 --json=nt_xent.json

Forward and backward pass of the loss of N images, 2N random projections of width D, in float32: the
matrix has (2N)^2 pairs. Each side at each size lives in a process of its own, and takes its turn in
every round while the others rest. Seconds are medians over the rounds, with the smallest and the
largest; `ratio_per_pair` is streaming at the largest size against dense at its largest, within each
round.

`added_gb` is what the passes add to the process, compiling them included: the kernel's own record
of the largest resident memory, reset after everything is imported and the projections are there. In
10^9 bytes.

Dense takes many gigabytes above 4,096 images, so it is left out there, unless `--dense_once` names
a size to run a single time. It is ended before it takes the last of the memory; then `above_gb`
says what it held by then.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import numpy as np
from processes import Side, count_cores, open_answers, processor, spread, started, turned

TEMPERATURE = 0.1
LEFT_GB = 4.0  # of memory that is to stay free
SIDES = ("dense", "streaming")
LOSS_TOLERANCE = 1e-5  # relative, between the sides at one size


def peak_bytes() -> int:
    """Returns the largest resident memory of this process since `reset_peak`."""
    with contextlib.suppress(OSError):
        return _kilobytes("/proc/self/status", "VmHWM") * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak() -> None:
    # Where it cannot be reset, the peak of the imports stays in it: little above what they leave.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def free_gb() -> float:
    """Returns the memory that the machine could still give out; without Linux, no limit."""
    with contextlib.suppress(OSError):
        return _kilobytes("/proc/meminfo", "MemAvailable") * 1024 / 1e9
    return float("inf")


def _kilobytes(file: str, name: str) -> int:
    for line in Path(file).read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"Expected {name} in {file}.")


def serve(side: str, images: int, width: int, most_gb: float) -> None:
    """Runs one forward and backward pass for each question, and answers what it took."""
    answers = open_answers()
    import tensorflow as tf

    from simclr_tf.losses.contrastive import nt_xent

    def answer(**told: Any) -> None:
        answers.write(json.dumps(told) + "\n")

    @tf.function
    def step(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(z)
            contrast = nt_xent(z, temperature=TEMPERATURE, streaming=side == "streaming")
        return contrast.loss, tape.gradient(contrast.loss, z)

    z = tf.random.stateless_normal([2 * images, width], seed=[0, 0])
    reset_peak()
    before = peak_bytes()

    def watch() -> None:
        while (held := (peak_bytes() - before) / 1e9) < most_gb:
            time.sleep(0.02)
        answer(above_gb=held)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    for _ in sys.stdin:
        start = time.perf_counter()
        loss, gradient = step(z)
        gradient.numpy()
        seconds = time.perf_counter() - start
        answer(seconds=seconds, loss=float(loss), added_gb=(peak_bytes() - before) / 1e9)


@dataclasses.dataclass
class Measured:
    """One side at one size: the seconds of each round, and its last answer."""

    side: str
    images: int
    seconds: list[float] = dataclasses.field(default_factory=list)
    told: dict[str, float] = dataclasses.field(default_factory=dict)

    def command(self, width: int) -> list[str]:
        most_gb = max(0.0, free_gb() - LEFT_GB)
        words = [f"--serve={self.side}", f"--images={self.images}", f"--width={width}"]
        return [sys.executable, str(Path(__file__).resolve()), *words, f"--most_gb={most_gb}"]

    def run(self, process: Side, *, counted: bool = True) -> None:
        self.told = process.ask()
        if counted and "seconds" in self.told:
            self.seconds.append(self.told["seconds"])

    def summary(self) -> dict[str, Any]:
        """Returns what was measured, in the keys of the results."""
        if "above_gb" in self.told:
            return {"above_gb": round(self.told["above_gb"], 2)}
        pairs = (2 * self.images) ** 2
        return {
            "seconds": spread(self.seconds, 4),
            "nanoseconds_per_pair": spread([1e9 * s / pairs for s in self.seconds], 3),
            "added_gb": round(self.told["added_gb"], 3),
            "loss": self.told["loss"],
        }


def run_rounds(sides: list[Measured], width: int, repeats: int) -> None:
    """Measures all sides in turn, after a pass of each that compiles and is not counted."""
    named = {f"{measured.side} {measured.images}": measured for measured in sides}
    commands = {name: measured.command(width) for name, measured in named.items()}
    with started(commands) as running:
        for name, process in running.items():
            named[name].run(process, counted=False)
        for number in range(repeats):
            for name in turned(list(named), number):
                named[name].run(running[name])
            print(f"round {number + 1} of {repeats}", flush=True)


def run_once(measured: Measured, width: int) -> None:
    """Runs a single pass, compiled within it."""
    with started({measured.side: measured.command(width)}) as running:
        measured.run(running[measured.side])


def ratio_per_pair(sides: list[Measured]) -> dict[str, Any]:
    """Compares streaming with dense, each at its largest size, round by round."""
    largest = {
        name: max((s for s in sides if s.side == name), key=lambda measured: measured.images)
        for name in SIDES
    }
    streaming, dense = largest["streaming"], largest["dense"]
    pairs = (streaming.images / dense.images) ** 2
    ratios = [a / b / pairs for a, b in zip(streaming.seconds, dense.seconds, strict=True)]
    return {"streaming": streaming.images, "dense": dense.images, **spread(ratios, 3)}


def check_losses(results: dict[str, Any], sizes: list[int]) -> None:
    """Raises RuntimeError where the two sides have not computed the same loss."""
    for images in sizes:
        losses = [s["loss"] for s in results[str(images)].values() if s and "loss" in s]
        if not np.allclose(losses, losses[0], rtol=LOSS_TOLERANCE):
            raise RuntimeError(f"Expected one loss at {images:,} images, got {losses}.")


def print_results(results: dict[str, Any], sizes: list[int]) -> None:
    for images in sizes:
        for name, side in results[str(images)].items():
            if side is None:
                continue
            if "above_gb" in side:
                print(f"{images:>7,} {name:<10} ended above {side['above_gb']:.1f} GB")
                continue
            seconds, pair = side["seconds"]["median"], side["nanoseconds_per_pair"]["median"]
            added = side["added_gb"]
            print(f"{images:>7,} {name:<10} {seconds:8.3f} s {pair:7.2f} ns/pair {added:7.2f} GB")
    ratio = results["ratio_per_pair"]
    print(
        f"streaming at {ratio['streaming']:,} against dense at {ratio['dense']:,}, per pair: "
        f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="", help="file to write the numbers to")
    parser.add_argument("--images", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--dense_images", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--dense_once", type=int, default=0, help="a further size for dense")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--most_gb", type=float, default=float("inf"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.serve:
        serve(arguments.serve, arguments.images[0], arguments.width, arguments.most_gb)
        return
    sides = [Measured("dense", images) for images in arguments.dense_images]
    sides += [Measured("streaming", images) for images in arguments.images]
    once = [Measured("dense", arguments.dense_once)] if arguments.dense_once else []
    sizes = sorted({measured.images for measured in [*sides, *once]})
    for measured in once:  # alone: it needs all the memory there is
        run_once(measured, arguments.width)
    run_rounds(sides, arguments.width, arguments.repeats)
    results: dict[str, Any] = {str(images): dict.fromkeys(SIDES) for images in sizes}
    for measured in [*once, *sides]:
        results[str(measured.images)][measured.side] = measured.summary()
    results["ratio_per_pair"] = ratio_per_pair(sides)
    check_losses(results, sizes)
    import tensorflow as tf

    results |= {
        "width": arguments.width,
        "temperature": TEMPERATURE,
        "repeats": arguments.repeats,
        "processor": processor(),
        "cores": count_cores(),
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version(), "tensorflow": tf.__version__},
    }
    print_results(results, sizes)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
