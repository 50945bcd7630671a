"""Whether a long pre-training grows: memory, open files and threads over its steps.

    python benchmarks/memory.py --steps=2000 --json=memory.json --plot=memory.png

Trains a tiny encoder on drawn shapes through the task's own path (`main.main`), with a validation,
a look at the features, a checkpoint and a line of the journal every 50 steps, and takes the memory
of its own, the open file handles and the threads of the process every 25, after the collectors of
Python and of the C library have run. `megabytes_per_1000_steps` is the slope of a line fitted to
the memory in the second half: pools and caches fill first. Linux only.

    python benchmarks/memory.py --set=npz --megabytes=1000

What a set in memory takes: two pre-trainings of a few steps, each in a process of its own, one on
so many megabytes of random images of 96 pixels, one on hardly any. `held` is how much more memory
of its own the first has after its last step, `peak` how much more it had at the most at any time,
both over the size of the images. With a validation and the look at the features; `folder` are PNG
files and --cache=true, `tfds` is a set of TensorFlow Datasets laid out as CIFAR-10 is.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import checkout  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from processes import processor

import main as program
from simclr_tf.data.sets.shapes import make_shapes
from simclr_tf.models.resnet import DEPTHS
from simclr_tf.training.callbacks import Progress
from simclr_tf.workflow import loop

EPOCH, BATCH_SIZE, SIDE, TESTS = 50, 8, 16, 64
TASKS = ("pretrain", "segmentation")
SETS = ("npz", "folder", "tfds")
SET_SIDE, FEW, LABELS = 96, 400, 10


class Gauge(Progress):
    """Also takes what the process holds, every few steps."""

    every = 25
    seen: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        if self.step % self.every == 0:
            self.seen.append({"step": self.step, **holdings()})


def holdings() -> dict[str, float]:
    """Returns what this process holds; the files of /proc are Linux'."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # glibc's: what is free goes back to the system
        ctypes.CDLL(None).malloc_trim(0)
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    pages = resident - shared  # those of libraries come and go as the system likes
    return {
        "megabytes": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 3),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "objects": len(gc.get_objects()),
    }


def command(task: str, folder: Path, steps: int) -> list[str]:
    """Writes images, labels and masks into a folder and returns the words of a run on them."""
    count = round(EPOCH * BATCH_SIZE / 0.9)  # a tenth is for validation
    images, labels, masks = make_shapes(count + TESTS, size=(SIDE, SIDE), seed=0)
    names = {"pretrain": ("y_train", "y_test"), "segmentation": ("masks_train", "masks_test")}
    known = labels if task == "pretrain" else masks
    arrays = {"x_train": images, names[task][0]: known}
    whole = {name: array[:count] for name, array in arrays.items()}
    tests = {"x_test": images[count:], names[task][1]: known[count:]}
    np.savez(folder / "shapes.npz", **whole, **tests)
    run = "pretrain" if task == "pretrain" else "finetune"
    return [
        f"--task={task}",
        f"--dataset=npz:{folder / 'shapes.npz'}",
        f"--{run}_save_path={folder / 'run'}",
        f"--batch_size={BATCH_SIZE}",
        f"--num_epochs={-(-steps // EPOCH)}",
        f"--max_steps={steps}",
        "--width_multiplier=0.0625",
        "--eval_every_epochs=1",
        "--val_fraction=0.1",
        "--init_weights=none",
        *(["--zdim=8"] if task == "pretrain" else []),
    ]


def slope(seen: list[dict[str, float]], name: str) -> float:
    """Returns the growth per 1,000 steps in the second half."""
    later = seen[len(seen) // 2 :]
    steps, values = ([row[key] for row in later] for key in ("step", name))
    return round(float(np.polyfit(steps, values, 1)[0]) * 1000, 3)


def draw(seen: list[dict[str, float]], path: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    memory, counts = figure.subplots(2, 1, sharex=True)
    steps = [row["step"] for row in seen]
    memory.plot(steps, [row["megabytes"] for row in seen])
    memory.set(ylabel="own resident memory, MB", title=title)
    for name in ("files", "threads"):
        counts.plot(steps, [row[name] for row in seen], label=name)
    counts.set(xlabel="step", ylabel="open")
    counts.legend()
    figure.savefig(path, dpi=120)


def write_set(kind: str, folder: Path, count: int) -> list[str]:
    """Writes random images into a folder and returns the flags that name them."""
    rng = np.random.default_rng(0)
    parts = range(0, count, 10_000)
    if kind == "npz":
        images = rng.integers(0, 256, (count, SET_SIDE, SET_SIDE, 3), np.uint8)
        np.savez(folder / "set.npz", x_train=images, y_train=np.arange(count) % LABELS)
        return [f"--dataset=npz:{folder / 'set.npz'}"]
    if kind == "folder":
        from PIL import Image

        for label in range(LABELS):
            (folder / str(label)).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (SET_SIDE, SET_SIDE, 3), np.uint8)
            path = folder / str(number % LABELS) / f"{number:07}.png"
            Image.fromarray(pixels).save(path, compress_level=0)
        return [f"--dataset=folder:{folder}", "--cache=true"]
    import tensorflow_datasets as tfds

    class Likeness(tfds.core.GeneratorBasedBuilder):
        name, VERSION = "likeness", tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            image = tfds.features.Image(shape=(SET_SIDE, SET_SIDE, 3))
            label = tfds.features.ClassLabel(num_classes=LABELS)
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"image": image, "label": label})
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for start in parts:
                shape = (min(10_000, count - start), SET_SIDE, SET_SIDE, 3)
                for number, image in enumerate(rng.integers(0, 256, shape, np.uint8), start):
                    yield number, {"image": image, "label": number % LABELS}

    Likeness(data_dir=str(folder)).download_and_prepare()
    return ["--dataset=tfds:likeness"]


def take_memory(kind: str, words: list[str]) -> None:
    """Runs a task in this process and prints the bytes that it holds at the end and at the most."""
    if kind == "tfds":
        import tensorflow_datasets as tfds

        folder = Path(os.environ["TFDS_DATA_DIR"])
        make = tfds.builder
        tfds.builder = lambda name, **options: (
            tfds.builder_from_directory(str(folder / name / "1.0.0"))
            if name == "likeness"
            else make(name, **options)
        )
    DEPTHS[18] = ((1, 1, 1, 1), False)
    seen: list[float] = []

    class Last(Progress):
        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            super().on_train_batch_end(batch, logs)
            seen.append(holdings()["megabytes"])

    loop.Progress = Last
    code = program.main(words)
    if code:
        raise SystemExit(code)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
    print(json.dumps({"held": seen[-1], "peak": peak}))


def measure_set(kind: str, megabytes: float) -> dict[str, Any]:
    """Returns what a set takes, over its size."""
    many = round(megabytes * 1e6 / (3 * SET_SIDE**2))
    told = []
    for count in (FEW, many):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "set").mkdir()
            words = [
                "--task=pretrain",
                *write_set(kind, folder / "set", count),
                f"--pretrain_save_path={folder / 'run'}",
                f"--batch_size={BATCH_SIZE}",
                "--max_steps=6",
                "--stem=imagenet",
                "--width_multiplier=0.0625",
                "--val_fraction=0.001" if count > FEW else "--val_fraction=0.1",
                "--zdim=8",
                "--init_weights=none",
            ]
            script = [sys.executable, __file__, f"--taking={kind}", *words]
            environment = os.environ | {"TFDS_DATA_DIR": str(folder / "set")}
            done = subprocess.run(script, capture_output=True, text=True, env=environment)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            told.append(json.loads(done.stdout.splitlines()[-1]))
    few, large = told
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "set": kind,
        "megabytes": megabytes,
        **{name: round((large[name] - few[name]) / megabytes, 2) for name in few},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--task", choices=TASKS, default="pretrain")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--set", choices=SETS)
    parser.add_argument("--megabytes", type=float, default=1000)
    parser.add_argument("--taking", choices=SETS, help="for the processes of --set")
    arguments, words = parser.parse_known_args()
    if arguments.taking:
        take_memory(arguments.taking, words)
        return
    if words:
        parser.error(f"unknown: {' '.join(words)}")
    if arguments.set:
        print(json.dumps(measure_set(arguments.set, arguments.megabytes), indent=1))
        return
    start = time.monotonic()
    DEPTHS[18] = ((1, 1, 1, 1), False)  # as small as the names of the stages allow
    loop.Progress = Gauge
    with tempfile.TemporaryDirectory() as name:
        code = program.main(command(arguments.task, Path(name), arguments.steps))
    if code:
        raise SystemExit(code)
    seen = Gauge.seen
    report = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "task": arguments.task,
        "steps": arguments.steps,
        "seconds": round(time.monotonic() - start, 1),
        "megabytes": [seen[0]["megabytes"], seen[-1]["megabytes"]],
        "megabytes_per_1000_steps": slope(seen, "megabytes"),
        "objects_per_1000_steps": slope(seen, "objects"),
        "files": [seen[len(seen) // 2]["files"], seen[-1]["files"]],
        "threads": [seen[len(seen) // 2]["threads"], seen[-1]["threads"]],
    }
    print(json.dumps(report, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps({**report, "seen": seen}, indent=1) + "\n")
    if arguments.plot:
        title = f"{arguments.task}: {report['megabytes_per_1000_steps']} MB per 1,000 steps"
        draw(seen, arguments.plot, title)


if __name__ == "__main__":
    main()
