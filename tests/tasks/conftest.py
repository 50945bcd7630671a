"""Pictures, and tiny runs on them that are made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import shallow_encoders, write_colour_classes
from tiny_runs import (
    CLASSES,
    THREE_EPOCHS,
    pretrain,
)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of 3 classes of 12 JPEGs, 16 pixels each, class by colour."""
    root = tmp_path_factory.mktemp("pictures")
    write_colour_classes(root, CLASSES, np.random.default_rng(0), file="{:02d}.jpg")
    return root


@pytest.fixture
def lists(pictures, tmp_path) -> tuple[Path, Path]:
    """Two list files, for training and validation, with labels."""
    lines = [
        f"{path},{label}"
        for label, name in enumerate(CLASSES)
        for path in sorted((pictures / name).iterdir())
    ]
    train, val = tmp_path / "train.txt", tmp_path / "val.txt"
    train.write_text("# images\n" + "\n".join(lines[::2]) + "\n\n")
    val.write_text("\n".join(lines[1::2]))
    return train, val


@pytest.fixture(scope="session")
def pretrained(pictures, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "pretrain"
    with shallow_encoders():
        assert pretrain(folder, pictures, "--val_fraction=0.25", "--eval_every_epochs=1") == 0
    return folder


@pytest.fixture(scope="session")
def whole(pictures, tmp_path_factory) -> Path:
    """A run that nobody stops."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with shallow_encoders():
        assert pretrain(folder, pictures, *THREE_EPOCHS) == 0
    return folder
