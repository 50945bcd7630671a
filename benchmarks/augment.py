"""How fast SimCLR's views are made: ours against others, on the same cores in the same minutes.

    python benchmarks/augment.py --size=32 --json=augment_32.json
    python benchmarks/augment.py --size=224 --operations --json=augment_224.json

The whole recipe (crop, flip, jitter, gray, and blur from 64 pixels up), two views of each image, in
batches, from uint8 images in memory. Sides: ours (`simclr_tf.data.two_views`, in the number format
that training here uses, with one thread an operation, as `main.py` has it where a GPU trains; and
`ours_float32`, `ours_default_threads`), `tf_image` (image by image, as SimCLR's own code does it,
in TensorFlow's default threads; and `tf_image_tuned`, the same with its worst costs taken out),
`keras_layers` (Keras 3's layers), `torchvision` (transforms.v2) and `lightly`, the last two in
DataLoader workers; `benchmarks/requirements.txt` lists what they need. Each side lives in a process
of its own and takes its turn in every round, while the others rest. Views per second are medians
over the rounds, buffers emptied before each.

`limit` is what memory alone would allow: the fastest copy of large arrays on all cores, over the
bytes of half an image read and a view written. `--operations` adds what rotation, noise, cutout and
blur cost on top of crop, flip, jitter and gray, by the difference within each round.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import numpy as np
from processes import Side, count_cores, middle, started, turned
from rivals.side import ASPECT, SIGMA, Job

from simclr_tf.augment.recipe import JITTER_MODES, Recipe
from simclr_tf.data.sets.shapes import make_shapes

MODULES = {
    "ours": "ours",
    "ours_float32": "ours_float32",
    "ours_default_threads": "ours_default_threads",
    "tf_image": "tf_image",
    "tf_image_tuned": "tf_image_tuned",
    "keras_layers": "keras_layers",
    "torchvision": "torchvision_v2",
    "lightly": "lightly_simclr",
}
RIVALS = [name for name in MODULES if name != "ours"]
TORCH = ("torchvision", "lightly")
SOURCE_BYTES = 64 << 20  # of images: more than a cache holds
DRAWN = 256  # different images among them
COPY_BYTES = 128 << 20  # copied by each thread at a time
SHOWN = 8  # images per side whose views are checked and drawn
EXTRA = {  # operation -> its probability among a recipe's fields
    "rotate": "rotate_prob",
    "noise": "noise_prob",
    "cutout": "cutout_prob",
    "blur": "blur_prob",
}


@contextlib.contextmanager
def processes(pythons: dict[str, str]) -> Iterator[dict[str, Side]]:
    """Starts all sides at once, each by its own interpreter; ends them whatever happens."""
    commands = {
        name: [python, "-m", "rivals.serve", MODULES[name]] for name, python in pythons.items()
    }
    with started(commands) as sides:
        yield sides


class Work:
    """The job that all sides do, and the questions about it."""

    def __init__(self, job: Job, file: str, seconds: float) -> None:
        self.job, self.file, self.seconds = job, file, seconds

    def rate(self, side: Side, recipe: Recipe) -> float:
        """Returns views per second over one window."""
        counted = side.ask(**self._task(recipe), seconds=self.seconds)
        side.rest()
        return counted["views"] / counted["seconds"]

    def sample(self, side: Side, recipe: Recipe, file: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns views [2, n, S, S, 3] of a side, checked, and what it says of its batches.

        Raises:
            RuntimeError: They are not what was asked for.
        """
        count = min(SHOWN, self.job.batch_size)
        told = side.ask(**self._task(recipe), file=file, count=count)
        side.rest()
        views = np.load(file)
        expected = [self.job.batch_size, self.job.size, self.job.size, 3]
        if told["shapes"] != [expected, expected]:
            raise RuntimeError(f"{side.name}: expected {expected} twice, got {told['shapes']}.")
        if not (views.min() >= 0.0 and views.max() <= 1.0):
            raise RuntimeError(f"{side.name}: expected 0..1, got {views.min()}..{views.max()}.")
        if any(np.array_equal(first, second) for first, second in zip(*views, strict=True)):
            raise RuntimeError(f"{side.name}: two views of one image are the same.")
        return views, told

    def _task(self, recipe: Recipe) -> dict[str, Any]:
        job = {
            "recipe": dataclasses.asdict(recipe),
            "batch_size": self.job.batch_size,
            "cores": self.job.cores,
        }
        return {"images": self.file, "job": job}


def source_images(size: int, batch_size: int) -> np.ndarray:
    """Draws uint8 [M, size, size, 3]: the built-in shapes over and over, until no cache holds them.

    M is at least twice the batch size.
    """
    count = max(SOURCE_BYTES // (size * size * 3), 2 * batch_size)
    drawn = make_shapes(min(count, DRAWN), size=(size, size), seed=0)[0]
    return np.resize(drawn, (count, size, size, 3))


def copy_bandwidth(cores: int) -> float:
    """Returns gigabytes per second, read and written together, of copying on all cores at once."""
    pairs = [(np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)) for _ in range(cores)]

    def copy(pair: tuple[np.ndarray, np.ndarray]) -> None:
        np.copyto(pair[1], pair[0])

    rates = []
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(copy, pairs))
            rates.append(2 * COPY_BYTES * cores / (time.perf_counter() - start) / 1e9)
    return max(rates)


def run_rounds(work: Work, sides: dict[str, Side], recipe: Recipe, repeats: int) -> dict[str, Any]:
    """Returns {side: views per second of each round} and the bandwidth seen in each round."""
    names = list(sides)
    rates: dict[str, list[float]] = {name: [] for name in names}
    bandwidth = []
    for name in names:  # not counted: compiles, starts workers, lets tf.data tune itself
        work.rate(sides[name], recipe)
    for number in range(repeats):
        for name in turned(names, number):
            rates[name].append(work.rate(sides[name], recipe))
        bandwidth.append(copy_bandwidth(work.job.cores))
        line = ", ".join(f"{name} {rates[name][-1]:,.0f}" for name in names)
        print(f"round {number + 1} of {repeats}: {line}", flush=True)
    return {"rates": rates, "bandwidth": bandwidth}


def describe(recipe: Recipe, size: int) -> dict[str, Any]:
    """Returns the operations of a recipe with their numbers; null for those that are off."""
    spread = 0.8 * recipe.strength
    factor = [round(max(0.0, 1 - spread), 4), round(1 + spread, 4)]
    jitter = {
        "prob": recipe.jitter_prob,
        "brightness": factor,
        "contrast": factor,
        "saturation": factor,
        "hue": [round(-0.2 * recipe.strength, 4), round(0.2 * recipe.strength, 4)],
        "mode": recipe.jitter_mode,
    }
    aspect = [round(share, 4) for share in ASPECT]
    blur = {"prob": recipe.blur_prob, "sigma": list(SIGMA)}
    return {
        "crop": {"area": [recipe.crop_area_min, 1.0], "aspect": aspect, "to": [size, size]},
        "flip": {"prob": recipe.flip_prob},
        "jitter": jitter,
        "gray": {"prob": recipe.color_prob},
        "blur": blur if recipe.blur else None,
    }


def measure_limit(job: Job, bandwidth: float, value_bytes: int, ours: float) -> dict[str, float]:
    """Returns what memory alone would allow, and our share of it."""
    values = job.size * job.size * 3
    bytes_per_view = values * 0.5 + values * value_bytes  # an image is read for two views
    bound = bandwidth * 1e9 / bytes_per_view
    return {
        "bandwidth_gb_per_s": round(bandwidth, 2),
        "bytes_per_view": int(bytes_per_view),
        "views_per_second": round(bound, 1),
        "share": round(ours / bound, 5),
    }


def measure_operations(
    work: Work, side: Side, recipe: Recipe, names: list[str], repeats: int
) -> dict[str, Any]:
    """Measures what each further operation adds to crop, flip, jitter and gray, for ours.

    `crop_jitter` is a recipe of these two alone and `nothing` one with all switched off; both hold
    what any batch costs (order, gathering, conversion).
    """
    base = dataclasses.replace(recipe, blur=False)
    alone = dataclasses.replace(base, flip=False, colordrop=False)
    off = dataclasses.replace(alone, crop=False, jitter=False)
    recipes = {"base": base, "crop_jitter": alone, "nothing": off}
    for name in names:
        recipes[f"{name} default"] = dataclasses.replace(base, **{name: True})
        recipes[f"{name} always"] = dataclasses.replace(base, **{name: True, EXTRA[name]: 1.0})
    took: dict[str, list[float]] = {name: [] for name in recipes}  # microseconds per view
    for changed in recipes.values():  # not counted: compiles
        work.rate(side, changed)
    for number in range(repeats):
        for name in turned(list(recipes), number):
            took[name].append(1e6 / work.rate(side, recipes[name]))
    results: dict[str, Any] = {"microseconds_per_view": {}, "added": {}}
    for name in ("nothing", "crop_jitter", "base"):
        results["microseconds_per_view"][name] = middle(took[name], 2)
    of_crop_jitter = results["microseconds_per_view"]["crop_jitter"]["median"]
    for name in names:
        results["added"][name] = {}
        for case in ("default", "always"):
            changed, times = recipes[f"{name} {case}"], took[f"{name} {case}"]
            added = middle([a - b for a, b in zip(times, took["base"], strict=True)], 2)
            results["added"][name][case] = {
                "prob": getattr(changed, EXTRA[name]),
                "views_per_second": round(1e6 / float(np.median(times)), 1),
                "microseconds_added": added["median"],
                "spread": added["spread"],
                "share_of_crop_jitter": round(added["median"] / of_crop_jitter, 3),
            }
    return results


def draw_pictures(folder: Path, name: str, views: np.ndarray) -> None:
    """Writes views [2, n, S, S, 3] as one picture: a row per view, a column per image."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rows = [np.concatenate(list(row), axis=1) for row in views]
    picture = np.round(np.concatenate(rows) * 255).astype(np.uint8)
    Image.fromarray(picture).save(folder / f"{name}.png")


def print_results(results: dict[str, Any]) -> None:
    size, cores = results["size"], results["cores"]
    print(f"\nviews per second, {size} x {size}, {cores} cores, batches of {results['batch_size']}")
    print(f"{'':<16}{'median':>10}{'smallest':>10}{'largest':>10}{'ours is':>10}")
    for name in MODULES:
        if results[name] is None:
            print(f"{name:<16}{'-':>10}  {results['missing'][name]}")
            continue
        low, high = results["spread"][name]
        ratio = f"{results['ratios'][name]:.2f} x" if name in results["ratios"] else ""
        note = results["notes"].get(name, "")
        print(f"{name:<16}{results[name]:>10,.0f}{low:>10,.0f}{high:>10,.0f}{ratio:>10}  {note}")
    limit = results["limit"]
    print(
        f"\nmemory: {limit['bandwidth_gb_per_s']:.1f} GB/s copied, {limit['bytes_per_view']:,} "
        f"bytes a view: at most {limit['views_per_second']:,.0f} views per second, of which ours "
        f"makes {limit['share']:.1%}"
    )
    if "operations" not in results:
        return
    print("\nmicroseconds per view of ours, all cores together")
    for name, took in results["operations"]["microseconds_per_view"].items():
        print(f"{name.replace('_', ' and '):<22}{took['median']:>9.1f}")
    for name, cases in results["operations"]["added"].items():
        for case in cases.values():
            print(
                f"{'+ ' + name + ' at ' + format(case['prob'], 'g'):<22}"
                f"{case['microseconds_added']:>9.1f}  {case['share_of_crop_jitter']:.0%} of crop "
                f"and jitter, {case['views_per_second']:,.0f} views per second"
            )


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32, help="side of the images and of the views")
    parser.add_argument("--json", default="", help="file to write the numbers to")
    parser.add_argument("--blur", choices=["auto", "true", "false"], default="auto")
    parser.add_argument("--jitter_mode", choices=JITTER_MODES, default="fused", help="of ours")
    parser.add_argument("--batch_size", type=int, default=0, help="0: 256 up to 32 px, 64 above")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count")
    parser.add_argument("--seconds", type=float, default=3.0, help="per side and round")
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=RIVALS)
    parser.add_argument(
        "--operations", nargs="*", choices=EXTRA, help="also what these cost, of ours; none: all"
    )
    parser.add_argument("--pictures", default="", help="folder to draw some views of each side in")
    parser.add_argument(
        "--torch_python", default=sys.executable, help="interpreter with torch; default: this one"
    )
    return parser.parse_args(words)


def main() -> None:
    arguments = parse()
    size = (arguments.size, arguments.size)
    batch_size = arguments.batch_size or (256 if arguments.size <= 32 else 64)
    blurs = Recipe().blurs(size) if arguments.blur == "auto" else arguments.blur == "true"
    recipe = Recipe(blur=blurs, jitter_mode=arguments.jitter_mode)
    cores = count_cores()
    images = source_images(arguments.size, batch_size)
    job = Job(images, dataclasses.asdict(recipe), batch_size, cores)
    results: dict[str, Any] = {
        **dict.fromkeys(MODULES),
        "size": arguments.size,
        "recipe": describe(recipe, arguments.size),
        "batch_size": batch_size,
        "cores": cores,
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "notes": {},
        "differs": {},
        "missing": {name: "not asked for" for name in RIVALS if name not in arguments.rivals},
    }
    pythons = {
        name: arguments.torch_python if name in TORCH else sys.executable
        for name in ["ours", *arguments.rivals]
    }
    with tempfile.TemporaryDirectory() as folder, processes(pythons) as sides:
        file = os.path.join(folder, "images.npy")
        np.save(file, images)
        work = Work(job, file, arguments.seconds)
        for name, side in list(sides.items()):
            told = side.answer()
            if "missing" in told:
                if name == "ours":
                    raise RuntimeError(told["missing"])
                results["missing"][name] = told["missing"]
                sides.pop(name).close()
            else:
                results["versions"] |= told["versions"]
                results["differs"][name] = told["differs"]
        value_bytes = 4
        for name, side in sides.items():
            views, told = work.sample(side, recipe, os.path.join(folder, "views.npy"))
            results["notes"][name] = f"{told['dtype']} {told['note']}".strip()
            if name == "ours":
                value_bytes = told["bytes_per_value"]
            if arguments.pictures:
                draw_pictures(Path(arguments.pictures), f"{name}_{arguments.size}", views)
        measured = run_rounds(work, sides, recipe, arguments.repeats)
        summary = {name: middle(rates) for name, rates in measured["rates"].items()}
        results |= {name: found["median"] for name, found in summary.items()}
        results["spread"] = {name: found["spread"] for name, found in summary.items()}
        results["ratios"] = {
            name: round(results["ours"] / results[name], 2) for name in sides if name != "ours"
        }
        bandwidth = max(measured["bandwidth"])
        results["limit"] = measure_limit(job, bandwidth, value_bytes, results["ours"])
        if arguments.operations is not None:
            results["operations"] = measure_operations(
                work, sides["ours"], recipe, arguments.operations or list(EXTRA), arguments.repeats
            )
    print_results(results)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
