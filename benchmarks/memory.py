"""Whether a long pre-training grows: memory, open files and threads over its steps.

    python benchmarks/memory.py --steps=2000 --json=memory.json --plot=memory.png

Trains a tiny encoder on drawn shapes through the task's own path (`main.main`), with a validation,
a look at the features, a checkpoint and a line of the journal every 50 steps, and takes the memory
of its own, the open file handles and the threads of the process every 25, after the collectors of
Python and of the C library have run. `megabytes_per_1000_steps` is the slope of a line fitted to
the memory in the second half: pools and caches fill first. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import gc
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import checkout  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from processes import processor

import main as program
from simclr_tf.data.shapes import make_shapes
from simclr_tf.models.resnet import DEPTHS
from simclr_tf.tasks import fitting
from simclr_tf.training.callbacks import Progress

EPOCH, BATCH_SIZE, SIDE, TESTS = 50, 8, 16, 64
TASKS = ("pretrain", "segmentation")


class Gauge(Progress):
    """Also takes what the process holds, every few steps."""

    every = 25
    seen: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        if self.model.trained_steps % self.every == 0:
            self.seen.append({"step": self.model.trained_steps, **holdings()})


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--task", choices=TASKS, default="pretrain")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    start = time.monotonic()
    DEPTHS[18] = ((1, 1, 1, 1), False)  # as small as the names of the stages allow
    fitting.Progress = Gauge
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
