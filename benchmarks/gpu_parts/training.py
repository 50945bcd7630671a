"""Training as the command line does it, fed by its own pipeline: seconds of each epoch."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import numpy as np
from processes import spread

from gpu_parts.serve import Report
from gpu_parts.timing import Memory

ROOT = Path(__file__).resolve().parents[2]


def measure(report: Report, options: dict[str, Any]) -> None:
    """Tells images per second of the epochs after the first, and peak device memory.

    Images are noise without labels: no look at the features takes time of training's.
    """
    network = options["network"]
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), options["steps"] * network["batch_size"]
        write_noise(folder / "noise.npz", count, network["size"])
        words = [
            f"--dataset=npz:{folder / 'noise.npz'}",
            *network_words(network),
            f"--num_epochs={1 + options['epochs']}",
            f"--precision={options['precision']}",
            f"--xla={options['xla']}",
            f"--augment_on={options['augment_on']}",
            "--eval_every_epochs=0",
            "--save_every_epochs=1000",
        ]
        results = pretrain(report, words, folder / "run", count, quick=options.get("quick", False))
    told = ("precision", "images_per_second", "loss", "device")
    report.tell(**{f"results_{name}": results[name] for name in told})


def follow_recipe(report: Report, options: dict[str, Any]) -> None:
    """Tells seconds per epoch and kNN accuracy of a few epochs of `configs/cifar10.yaml`."""
    quick = options.get("quick", False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = options["npz"] or folder / "shapes.npz"
        if not options["npz"]:
            _write_shapes(path, options["images"], side=16 if quick else 32)
        with np.load(path) as arrays:
            count = len(arrays["x_train"])
        of = path if options["npz"] else "the built-in shapes (no --npz was given)"
        report.tell(data=f"{count:,} images of {of}")
        words = [
            f"--config={ROOT / 'configs/cifar10.yaml'}",
            f"--dataset=npz:{path}",
            f"--num_epochs={options['epochs']}",
            *options.get("words", []),
        ]
        results = pretrain(report, words, folder / "run", count, quick=quick)
    told = ("knn_accuracy", "baselines", "images_per_second", "loss", "precision", "seconds")
    report.tell(epochs=options["epochs"], **{f"results_{name}": results[name] for name in told})


def network_words(network: dict[str, Any]) -> list[str]:
    """Returns the flags of a network and its batch."""
    return [
        f"--model={network['depth']}",
        f"--stem={network['stem']}",
        f"--width_multiplier={network['width_multiplier']}",
        f"--batch_size={network['batch_size']}",
    ]


def write_noise(path: Path, count: int, side: int) -> None:
    rng = np.random.default_rng(0)
    np.savez(path, x_train=rng.integers(0, 256, (count, side, side, 3), np.uint8))


def _write_shapes(path: Path, count: int, side: int) -> None:
    """Draws `count` training images and a fifth as many of test."""
    from simclr_tf.data.sets.shapes import make_shapes

    images, labels, _ = make_shapes(count + count // 5, size=(side, side), seed=0)
    train, test = slice(count), slice(count, None)
    arrays = {"x_train": images[train], "y_train": labels[train]}
    np.savez(path, **arrays, x_test=images[test], y_test=labels[test])


def pretrain(
    report: Report, words: list[str], run: Path, count: int, *, quick: bool
) -> dict[str, Any]:
    """Pre-trains by `main.main` in this process, telling each epoch; returns results.json.

    Args:
        report: Is told `epoch_seconds`, `images_per_second` and `peak_bytes` after every epoch.
        words: Flags of the run.
        run: Its folder.
        count: Images of the data set, for the rate.
        quick: Makes the encoder half as deep.

    Raises:
        RuntimeError: The run has not ended well.
    """
    import main as program
    from simclr_tf.models.resnet import DEPTHS
    from simclr_tf.training.callbacks import Progress
    from simclr_tf.workflow import loop

    memory: list[Memory] = []  # made within the run: it decides how TensorFlow starts
    ends: list[float] = []

    class Clock(Progress):
        """Also tells the seconds from one epoch's end to the next: all that training does."""

        def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
            memory.append(Memory())

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            float((logs or {})["loss"])  # until the last step is done
            ends.append(time.perf_counter())
            super().on_epoch_end(epoch, logs)
            taken = [after - before for before, after in zip(ends, ends[1:], strict=False)]
            report.tell(peak_bytes=memory[-1].peak())
            if taken:
                images = count // self.batch_size * self.batch_size
                report.tell(
                    epoch_seconds=spread(taken, 3),
                    images_per_second=spread([images / seconds for seconds in taken], 1),
                )

    if quick:
        DEPTHS[18] = ((1, 1, 1, 1), False)
    loop.Progress = Clock
    code = program.main(
        ["--task=pretrain", "--strategy=none", *words, f"--pretrain_save_path={run}"]
    )
    if code:
        raise RuntimeError(f"main.py ended with {code}.")
    return json.loads((run / "results.json").read_text())
