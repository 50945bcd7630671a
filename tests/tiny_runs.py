"""Tiny runs of pre-training and classification, and what they leave."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

import main
from simclr_tf.runs.checkpoints import Checkpoints, read_arrays

CLASSES = ("blue", "green", "red")


# As small as the contract allows: 4 channels, 16 pixels, 8 images a step.
TINY = ["--width_multiplier=0.0625", "--zdim=8", "--batch_size=8", "--precision=float32"]


def pretrain(folder: Path, pictures: Path, *flags: str) -> int:
    return main.main(
        [
            "--task=pretrain",
            f"--dataset=folder:{pictures}",
            f"--pretrain_save_path={folder}",
            "--num_epochs=2",
            *TINY,
            *flags,
        ]
    )


def classify(folder: Path, pretrained: Path, pictures: Path, *flags: str) -> int:
    return main.main(
        [
            "--task=classification",
            f"--dataset=folder:{pictures}",
            f"--pretrain_save_path={pretrained}",
            f"--finetune_save_path={folder}",
            "--num_epochs=2",
            "--batch_size=8",
            "--precision=float32",
            *flags,
        ]
    )


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def final_arrays(folder: Path) -> dict[str, np.ndarray]:
    return read_arrays(Checkpoints(folder / "checkpoints").newest())


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = final_arrays(first), final_arrays(second)
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def journal_of(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without their times."""
    with open(folder / "metrics.csv") as file:
        return [dict(row, images_per_second="") for row in csv.DictReader(file)]


THREE_EPOCHS = ("--num_epochs=3", "--val_fraction=0.25", "--eval_every_epochs=1")  # of 3 steps
