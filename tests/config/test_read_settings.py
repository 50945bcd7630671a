"""Which task reads which setting: what is declared is what is read, and the rest is named.

Each task runs once or a few times, small, with settings that record what is read of them. A value
that the task itself put in the place of the user's (`Config.replace`) does not count.
"""

from __future__ import annotations

import dataclasses
import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny import write_colour_classes

from simclr_tf.augment.recipe import Recipe
from simclr_tf.augment.views import draw_views
from simclr_tf.cli import parse
from simclr_tf.config.settings import SETTINGS, TASKS, Config, tasks_of
from simclr_tf.tasks import TASKS as MODULES

pytestmark = pytest.mark.usefixtures("shallow")

RESOLVED = {"task", "config", "cifar10"}  # what they say is in other settings once they are read
# Told to every task as its run begins, and without effect beyond the tasks that are declared.
IDLE = {
    "augment_on": {"classification", "segmentation", "evaluate", "embed", "predict", "check"},
    "keep_checkpoints": {"evaluate", "embed", "predict", "check"},  # which save none
}

read: set[str] = set()
_quiet: list[str] = []  # the machinery that goes through all settings, while it does
_changed: dict[int, tuple[Config, frozenset[str]]] = {}  # by id; held, so that ids stay theirs


class Recorded(Config):
    """Settings that record which of them are read."""

    def __getattribute__(self, name):
        if name in SETTINGS and not _quiet and name not in changed_of(self):
            read.add(name)
        return object.__getattribute__(self, name)

    def replace(self, **changes):
        new = quietly(Config.replace, self, **changes)
        _changed[id(new)] = new, changed_of(self) | set(changes)
        return new

    def to_dict(self):
        return quietly(Config.to_dict, self)

    def to_yaml(self):
        return quietly(Config.to_yaml, self)

    def validate(self):
        return quietly(Config.validate, self)


def changed_of(config: Config) -> frozenset[str]:
    return _changed[id(config)][1] if id(config) in _changed else frozenset()


def quietly(function, *arguments, **named):
    _quiet.append(function.__name__)
    try:
        return function(*arguments, **named)
    finally:
        _quiet.pop()


def run_recorded(*words: str) -> set[str]:
    """Runs a task and returns what it read."""
    config = Recorded(**vars(parse(words)))
    read.clear()
    _changed.clear()
    importlib.import_module(MODULES[config.task]).run(config)
    return set(read)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with pictures of classes in `pictures` and images with masks in `scenes`."""
    root, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    write_colour_classes(root / "pictures", ("blue", "green", "red"), rng)
    for name in ("images", "masks"):
        (root / "scenes" / name).mkdir(parents=True)
    for i in range(12):
        image, mask = rng.integers(0, 256, (16, 16, 3), np.uint8), rng.integers(0, 2, (16, 16))
        Image.fromarray(image).save(root / f"scenes/images/{i}.png")
        Image.fromarray(mask.astype(np.uint8)).save(root / f"scenes/masks/{i}.png")
    return root


TINY = ("--width_multiplier=0.0625", "--batch_size=4", "--precision=float32", "--num_epochs=1")
PICTURES = ("--dataset=folder:pictures", "--input_size=16", "--crop_size=16")
SCENES = ("--dataset=folder:scenes", "--finetune_save_path=segmented")
HEAD = ("--zdim=8", "--projection_layers=2", "--projection_hidden=0")
# In an order in which each finds what it begins with.
RUNS: dict[str, list[tuple[str, ...]]] = {
    "pretrain": [(*PICTURES, *TINY, "--zdim=8")],
    "classification": [(*PICTURES, *TINY, "--finetune_save_path=classified")],
    "segmentation": [(*SCENES, *TINY)],
    "evaluate": [
        (*PICTURES, *TINY, "--finetune_save_path=one", "--protocols=knn"),
        (
            *(*PICTURES, *TINY, "--finetune_save_path=two", "--protocols=supervised,health"),
            *("--init_weights=none", "--label_fractions=0.5"),
        ),
    ],
    "embed": [(*PICTURES, *HEAD, "--with_z", "--index", "--projector", "--finetune_save_path=h")],
    "predict": [
        ("--dataset=folder:pictures", "--finetune_save_path=classified"),
        SCENES,
        # Of an older run, which has not written down at what size it sees images.
        (*PICTURES[:2], "--finetune_save_path=older"),
    ],
    "export": [
        ("--input_size=16",),
        ("--input_size=16", "--overwrite"),
        ("--export_of=model", "--finetune_save_path=classified", "--export_path=exported"),
    ],
    "check": [(*PICTURES[:2], "--preview", "--finetune_save_path=checked")],
}


@pytest.fixture(scope="module")
def reads(place, shallow) -> dict[str, set[str]]:
    """What each task read of its settings."""
    found: dict[str, set[str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for task, runs in RUNS.items():
            if task == "predict":
                shutil.copytree("classified", "older")
                Path("older/model.json").unlink()
                config = Path("older/config.yaml")
                text = config.read_text()
                for name in ("input_size", "crop_size"):
                    text = text.replace(f"{name}: 16 16", f"{name}: 0 0")
                config.write_text(text)
            for words in runs:
                found.setdefault(task, set()).update(run_recorded(f"--task={task}", *words))
                tf.keras.config.set_dtype_policy("float32")
    return found


@pytest.mark.parametrize("task", TASKS)
def test_what_is_declared_for_a_task_is_what_it_reads(reads, task):
    names = set(SETTINGS) - RESOLVED
    declared = {name for name in names if task in tasks_of(SETTINGS[name])}
    idle = {name for name, tasks in IDLE.items() if task in tasks}
    assert idle <= reads[task], "no longer idle: take it out of IDLE"
    found = (reads[task] & names) - idle
    assert sorted(declared - found) == [], "declared for the task, and it does not read them"
    assert sorted(found - declared) == [], "read by the task, and not declared for it"


def test_the_record_tells_the_users_values_from_the_tasks_own():
    config = Recorded(**vars(parse(["--freeze"])))
    read.clear()
    other = config.replace(freeze=False).replace(seed=3)
    other.to_dict(), other.validate(), other.to_yaml()
    assert (other.freeze, other.seed, read) == (False, 3, set())
    assert config.freeze and other.zdim == 128 and read == {"freeze", "zdim"}
    read.clear()
    assert other.recipe().strength == Recipe.strength
    assert {"strength", "blur_prob"} <= read


NEEDY = [name for name, field in SETTINGS.items() if field.metadata["needs"]]
OTHER = {"max_rotation": 90.0}  # than the default


@pytest.mark.parametrize("name", NEEDY)
def test_without_its_switch_a_setting_changes_nothing(name):
    needs = SETTINGS[name].metadata["needs"]

    def draws(switch: bool) -> list[list[np.ndarray]]:
        values = (getattr(Recipe, name), OTHER.get(name, 0.99))
        recipes = [dataclasses.replace(Recipe(), **{needs: switch, name: v}) for v in values]
        draw = [draw_views(recipe, 64, seed=0, step=0, size=(8, 8)) for recipe in recipes]
        return [[np.asarray(x) for x in tf.nest.flatten(d) if x is not None] for d in draw]

    def same(switch: bool) -> bool:
        one, other = draws(switch)
        return len(one) == len(other) and all(map(np.array_equal, one, other))

    assert same(False) and not same(True)


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        (
            "--task=classification --class_weights=balanced --dice_weight=1 --ignore_label=0",
            ["--ignore_label", "--dice_weight", "--class_weights"],
        ),
        ("--task=pretrain --freeze --preview", ["--freeze", "--preview"]),
        (
            "--task=segmentation --microbatch_size=8 --temperature 0.5",
            ["--temperature", "--microbatch_size"],
        ),
        ("--task=embed --tile_size=64 --no-freeze", ["--freeze", "--tile_size"]),
        ("--task=pretrain --max_rotation=90", ["--max_rotation (without --rotate)"]),
        ("--task=pretrain --max_rotation=90 --rotate --blur_prob=1", []),
        ("--task=pretrain --no-blur --blur_prob=1", ["--blur_prob (without --blur)"]),
        ("--task=classification --strength=1", ["--strength (without --jitter)"]),
        (
            "--task=classification --freeze --crop_area_min=0.5",
            ["--crop_area_min (without --crop)"],
        ),
        ("--task=classification --freeze --crop_area_min=0.5 --crop", []),
        ("--task=classification --freeze --num_epochs=3 --cifar10", []),
    ],
)
def test_flags_that_do_nothing_are_named(words, unused):
    assert parse(words.split()).unused() == unused


def test_what_a_file_gives_is_for_several_tasks(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("temperature: 0.5\nbatch_size: 64\n")
    words = ["--task=classification", f"--config={file}"]
    assert parse(words).unused() == []
    assert parse([*words, "--temperature=0.5", "--no-preview"]).unused() == [
        "--temperature",
        "--preview",
    ]
