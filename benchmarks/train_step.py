"""How fast a training step is: ours against stock layers and PyTorch, on the same cores.

    python benchmarks/train_step.py --json=train_step.json

A whole step on a batch that lies ready: forward pass of the 2N views, NT-Xent, backward pass, LARS
update. Sides: `ours` (`simclr_tf.SimCLR`), `stock_batchnorm` (the same model with Keras' own
BatchNormalization) and `torch` (the same network in plain PyTorch; `benchmarks/requirements.txt`
says which). Each is measured in several variants: number formats, for torch also the memory format
and torch.compile. Reported are images per second, of two views each: of ours and stock those of the
number format that training here chooses, of torch the fastest variant's.

Before they are timed, all begin with the same weights: shapes must be equal, and so must the losses
of the first steps. Each side lives in a process of its own and takes its turn in every round while
the others rest; rates are medians over the rounds. `matrix_peak` is how fast TensorFlow multiplies
large square matrices; `share` is what part of it the convolutions and dense layers of a step reach.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import numpy as np
from processes import Side, count_cores, processor, spread, started, turned
from steps.job import Job, multiply_adds, shapes, step_flops

from simclr_tf.data.sets.shapes import make_shapes

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "resnet18_width0.25_32px": {
        "depth": 18,
        "stem": "small",
        "width_multiplier": 0.25,
        "size": 32,
        "batch_size": 128,
    },
    "resnet18_width1_32px": {
        "depth": 18,
        "stem": "small",
        "width_multiplier": 1.0,
        "size": 32,
        "batch_size": 64,
    },
    "resnet50_width1_96px": {
        "depth": 50,
        "stem": "imagenet",
        "width_multiplier": 1.0,
        "size": 96,
        "batch_size": 16,
    },
    # Too small to tell anything: they try out whether the sides agree.
    "tiny18": {
        "depth": 18,
        "stem": "small",
        "width_multiplier": 0.0625,
        "size": 16,
        "batch_size": 8,
    },
    "tiny50": {
        "depth": 50,
        "stem": "imagenet",
        "width_multiplier": 0.0625,
        "size": 32,
        "batch_size": 8,
    },
}
MODULES = {
    "ours": "ours",
    "stock_batchnorm": "stock_batchnorm",
    "torch": "torch_resnet",
    # Apart from the others: it is given up where compiling takes too long.
    "torch_compiled": "torch_resnet",
}
REPORTED = ("ours", "stock_batchnorm", "torch")
MATRIX_SECONDS = 0.5
# How far the first losses may be from ours in float32, as a share. The first two are compared, so
# the network and one update of it; every update after these multiplies what rounding differs by,
# which the processor decides. In bfloat16 the first alone is: the paths part at once.
TOLERANCE, REDUCED_TOLERANCE = 0.01, 0.05
COMPARED, REDUCED_COMPARED = 2, 1

Variant = tuple[str, str]  # side, variant


def is_reduced(variant: str) -> bool:
    return not variant.startswith("float32")


def variants_of(side: str, precision: str) -> list[str]:
    """Returns what is measured of a side where training chooses this precision."""
    reduced = precision != "float32"
    if side in ("ours", "stock_batchnorm"):
        return ["float32", precision] if reduced else ["float32"]
    if side == "torch_compiled":
        return [("bfloat16" if reduced else "float32") + "_channelslast_compiled"]
    plain = ["float32", "float32_channelslast"]
    return [*plain, "bfloat16_channelslast"] if reduced else plain


def make_views(job: Job) -> np.ndarray:
    """Makes two views of the built-in shapes, float32 [2, N, S, S, 3]: as drawn and mirrored."""
    images = make_shapes(job.batch_size, size=(job.size, job.size), seed=0)[0]
    images = images.astype(np.float32) / 255.0
    return np.stack([images, images[:, :, ::-1]])


class Measurement:
    """One configuration: its sides at work, and what was seen of them."""

    def __init__(self, job: Job, folder: str, arguments: argparse.Namespace) -> None:
        self.job = job
        self.arguments = arguments
        self.views = os.path.join(folder, "views.npy")
        self.weights = os.path.join(folder, "weights.npz")
        np.save(self.views, make_views(job))
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.precision = ""
        self.first: dict[Variant, dict[str, Any]] = {}
        self.rates: dict[Variant, list[float]] = {}
        self.matrix: dict[str, list[float]] = {}

    def open(self, sides: dict[str, Side]) -> None:
        """Prepares all variants of all sides, ours in float32 first, and checks what they hold."""
        for name in list(sides):
            told = sides[name].answer()
            if "missing" in told:
                if not name.startswith("torch"):
                    raise RuntimeError(f"{name}: {told['missing']}")
                self.missing[name] = told["missing"]
                sides.pop(name).close()
                continue
            self.versions |= told["versions"]
            self.precision = told["precision"] or self.precision
        for name in list(sides):
            for variant in variants_of(name, self.precision):
                self._prepare(sides, name, variant)

    def _prepare(self, sides: dict[str, Side], name: str, variant: str) -> None:
        question = {
            "job": vars(self.job),
            "variant": variant,
            "views": self.views,
            "weights": self.weights,
            "save": not self.first,
        }
        try:
            within = self.arguments.compile_seconds if name == "torch_compiled" else None
            told = sides[name].ask(within=within, **question)
        except (TimeoutError, RuntimeError) as error:
            if name != "torch_compiled":  # which needs a compiler, and patience
                raise
            self.missing[name] = str(error)
            sides.pop(name).close(patience=0.0)
            return
        sides[name].rest()
        self.check(name, variant, told)
        self.first[name, variant] = told
        losses = ", ".join(f"{loss:.4f}" for loss in told["losses"])
        print(f"  {name} {variant}: ready in {told['seconds']:.0f} s, losses {losses}", flush=True)

    def check(self, name: str, variant: str, told: dict[str, Any]) -> None:
        """Raises RuntimeError where a side is not the network that was asked for."""
        held = {layer: tuple(shape) for layer, shape in told["shapes"].items()}
        expected = shapes(self.job)
        if held != expected:
            differing = sorted(set(held.items()) ^ set(expected.items()))
            raise RuntimeError(f"{name} {variant}: these weights differ: {differing[:8]}.")
        losses = told["losses"]
        like = self.first["ours", "float32"]["losses"] if self.first else losses
        reduced = is_reduced(variant)
        compared = REDUCED_COMPARED if reduced else COMPARED
        tolerance = REDUCED_TOLERANCE if reduced else TOLERANCE
        if not np.allclose(losses[:compared], like[:compared], rtol=tolerance):
            raise RuntimeError(f"{name} {variant}: expected first losses {like}, got {losses}.")

    def run_rounds(self, sides: dict[str, Side]) -> None:
        names = list(self.first)
        self.rates = {name: [] for name in names}
        dtypes = ["bfloat16", "float32"] if self.precision == "mixed_bfloat16" else ["float32"]
        self.matrix = {dtype: [] for dtype in dtypes}
        repeats = self.arguments.repeats
        for number in range(repeats):
            for key in turned(names, number):
                side, variant = key
                counted = sides[side].ask(variant=variant, seconds=self.arguments.seconds)
                sides[side].rest()
                if not math.isfinite(counted["loss"]):
                    raise RuntimeError(f"{side} {variant}: loss {counted['loss']}.")
                images = counted["steps"] * self.job.batch_size
                self.rates[key].append(images / counted["seconds"])
            for dtype, rates in self.matrix.items():
                rates.append(sides["ours"].ask(matrix=dtype, seconds=MATRIX_SECONDS)["rate"])
                sides["ours"].rest()
            line = ", ".join(
                f"{' '.join(key)} {rates[-1]:.1f}" for key, rates in self.rates.items()
            )
            print(f"  round {number + 1} of {repeats}: {line}", flush=True)

    def reported(self) -> dict[str, Variant]:
        """Returns the variant that stands for each side."""
        chosen = {key[0]: key for key in self.rates if key[1] == self.precision}
        of_torch = [key for key in self.rates if key[0].startswith("torch")]
        if of_torch:
            chosen["torch"] = max(of_torch, key=lambda key: np.median(self.rates[key]))
        return chosen

    def results(self) -> dict[str, Any]:
        chosen = self.reported()
        medians = {name: float(np.median(self.rates[key])) for name, key in chosen.items()}
        peaks = {dtype: max(rates) for dtype, rates in self.matrix.items()}
        detail: dict[str, Any] = {
            **{k: v for k, v in vars(self.job).items() if k != "cores"},
            "parameters": sum(math.prod(shape) for shape in shapes(self.job).values()),
            "multiply_adds_per_view": multiply_adds(self.job),
            "flops_per_image": step_flops(self.job),
            "matrix_peak_tflops": {dtype: round(peak, 3) for dtype, peak in peaks.items()},
            "reported": {name: " ".join(key) for name, key in chosen.items()},
            "ratios": {
                name: self._ratio(key, chosen["ours"])
                for name, key in chosen.items()
                if name != "ours"
            },
            "variants": {},
            "missing": self.missing,
        }
        for (side, variant), rates in self.rates.items():
            dtype = "bfloat16" if is_reduced(variant) and "bfloat16" in peaks else "float32"
            reached = float(np.median(rates)) * step_flops(self.job) / 1e12
            detail["variants"].setdefault(side, {})[variant] = {
                **spread(rates, 2),
                "share": round(reached / peaks[dtype], 4),
                "first_losses": [round(loss, 5) for loss in self.first[side, variant]["losses"]],
                "prepare_seconds": round(self.first[side, variant]["seconds"], 1),
            }
        sides = {name: round(medians[name], 2) if name in medians else None for name in REPORTED}
        return {**sides, "detail": detail}

    def _ratio(self, rival: Variant, ours: Variant) -> dict[str, float]:
        """Returns how many times as fast as the rival ours is, by the rounds."""
        pairs = zip(self.rates[ours], self.rates[rival], strict=True)
        return spread([mine / other for mine, other in pairs], 3)


def measure(name: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Measures one configuration, with fresh processes; returns its results and the versions."""
    job = Job(**CONFIGURATIONS[name], cores=count_cores())
    print(f"{name}: batch of {job.batch_size} images, {job.size} px", flush=True)
    wanted = [side for side in MODULES if side == "ours" or side in arguments.rivals]
    if not arguments.compile_seconds and "torch_compiled" in wanted:
        wanted.remove("torch_compiled")
    commands = {}
    for side in wanted:
        python = arguments.torch_python if side.startswith("torch") else sys.executable
        commands[side] = [python, "-m", "steps.serve", MODULES[side]]
    with tempfile.TemporaryDirectory() as folder, started(commands) as sides:
        measurement = Measurement(job, folder, arguments)
        measurement.open(sides)
        measurement.run_rounds(sides)
    for side in MODULES:
        if side not in wanted:
            measurement.missing[side] = "not asked for"
    return measurement.results(), measurement.versions


def print_results(name: str, result: dict[str, Any]) -> None:
    print(f"\n{name}: images per second, spread, share of the matrix peak, first losses")
    for side, variants in result["detail"]["variants"].items():
        for variant, rate in variants.items():
            print(
                f"  {side:<16}{variant:<32}{rate['median']:>9.2f}  {rate['min']:.2f} to "
                f"{rate['max']:.2f}  {rate['share']:.1%}"
            )
    print("  matrix peak, TFLOP/s:", result["detail"]["matrix_peak_tflops"])
    for side, reason in result["detail"]["missing"].items():
        print(f"  {side:<16}missing: {reason.splitlines()[-1]}")
    for rival, ratio in result["detail"]["ratios"].items():
        against = result["detail"]["reported"][rival]
        print(f"  ours over {against}: {ratio['median']:.2f} x", flush=True)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    real = [name for name in CONFIGURATIONS if not name.startswith("tiny")]
    parser.add_argument("--json", default="", help="file to write the numbers to")
    parser.add_argument("--configurations", nargs="+", choices=CONFIGURATIONS, default=real)
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count")
    parser.add_argument("--seconds", type=float, default=3.0, help="per variant and round")
    parser.add_argument("--rivals", nargs="*", choices=list(MODULES)[1:], default=list(MODULES)[1:])
    parser.add_argument(
        "--compile_seconds",
        type=float,
        default=300.0,
        help="patience with torch.compile; 0: leave it out",
    )
    parser.add_argument(
        "--torch_python", default=sys.executable, help="interpreter with torch; default: this one"
    )
    return parser.parse_args(words)


def main() -> None:
    arguments = parse()
    results: dict[str, Any] = {}
    versions: dict[str, str] = {"python": platform.python_version(), "numpy": np.__version__}
    for name in arguments.configurations:
        results[name], found = measure(name, arguments)
        versions |= found
        print_results(name, results[name])
    machine = {
        "processor": processor(),
        "cores": count_cores(),
        "date": datetime.date.today().isoformat(),
        "versions": versions,
    }
    for result in results.values():  # the file holds configurations and nothing else
        result["detail"]["machine"] = machine
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
