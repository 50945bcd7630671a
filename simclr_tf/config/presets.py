"""Defaults of a task, or of a task on a data set, where they differ from the settings' own."""

from __future__ import annotations

from typing import Any

# The fields' own defaults are those of pre-training; here stands what each task changes.
_SUPERVISED: dict[str, Any] = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "lr_scaling": "none",
    "weight_decay": 0.0,
    "warmup_epochs": 0.0,
}
_CROP_AND_FLIP = {"jitter": False, "colordrop": False, "blur": False}
PRESETS: dict[str, dict[str, Any]] = {
    "pretrain": {},
    "classification": _SUPERVISED | _CROP_AND_FLIP | {"val_fraction": 0.1},
    "segmentation": _SUPERVISED
    | {
        "colordrop": False,
        "blur": False,
        "strength": 0.25,
        "crop_area_min": 0.25,
        "batch_size": 16,
        "num_epochs": 50,
        "val_fraction": 0.1,
        "eval_every_epochs": 1,
    },
    "evaluate": _SUPERVISED | {"num_epochs": 20, "val_fraction": 0.1},
    "check": {"finetune_save_path": "logs/check", "val_fraction": 0.1},  # as the tasks it is for
}

# (task, data set) -> changes on top of the task's. "list" stands for --train_file_path.
DATA_PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("pretrain", "shapes"): {
        "width_multiplier": 0.25,
        "crop_area_min": 0.3,
        "learning_rate": 2.0,
        "warmup_epochs": 1.0,
        "num_epochs": 32,
    },
    ("classification", "shapes"): {
        "width_multiplier": 0.25,
        "crop_area_min": 0.3,
        "num_epochs": 20,
    },
    ("segmentation", "shapes"): {
        "width_multiplier": 0.25,
        "crop_area_min": 0.5,
        "batch_size": 32,
        "learning_rate": 3e-3,
        "num_epochs": 12,
    },
    ("evaluate", "shapes"): {"width_multiplier": 0.25},
    ("check", "shapes"): {"crop_area_min": 0.3},  # it shows what pre-training sees
}

# Classification on a frozen encoder, on top of those: its features are normalised and cheap.
FROZEN_PRESET: dict[str, Any] = {"learning_rate": 0.01, "num_epochs": 100}
