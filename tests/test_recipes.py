"""The recipes in configs, run as their headers say on a few images laid out like the real sets."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
from simclr_tf.cli import parse
from simclr_tf.config import Config

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
IMAGES = 8  # in each split
# All that is changed of a recipe: 4 channels, the smallest depth, 4 images a step, 2 steps.
SMALL = ("--width_multiplier=0.0625", "--model=18", "--zdim=8")
SHORT = ("--batch_size=4", "--max_steps=2", "--precision=float32")


def commands_of(recipe: Path) -> list[list[str]]:
    """Returns the words after main.py of each command in a recipe's header."""
    found = re.findall(r"^#   python main\.py (.+)$", recipe.read_text(), re.MULTILINE)
    return [shlex.split(command) for command in found]


def colours(height: int, width: int, channels: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, channels), np.uint8) for _ in range(IMAGES)]


def write_jpegs(folder: Path, names: list[str], height: int, width: int) -> None:
    folder.mkdir(parents=True)
    for name, image in zip(names, colours(height, width), strict=False):
        Image.fromarray(image).save(folder / name, "JPEG")


def prepare_tfds(folder: Path):
    """Writes the sets as `download_and_prepare` leaves them; returns the package."""
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.disable_progress_bar()

    def store(name, version, shape, splits=("train", "test"), config="", **others):
        def examples(labelled):
            for i, image in enumerate(colours(*shape)):
                yield i, {"image": image, "label": i % 2 if labelled else -1} | others

        features = {"image": tfds.features.Image(shape=(None, None, shape[-1]))}
        features |= {other: tfds.features.ClassLabel(num_classes=2) for other in ("label", *others)}
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            config=tfds.core.BuilderConfig(name=config, version=version) if config else None,
            data_dir=str(folder),
            split_datasets={split: examples(split != "unlabelled") for split in splits},
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    store("cifar10", "3.0.2", (32, 32, 3))
    store("cifar100", "3.0.2", (32, 32, 3), coarse_label=0)
    store("stl10", "1.0.0", (96, 96, 3), ("train", "test", "unlabelled"))
    store("fashion_mnist", "3.0.1", (28, 28, 1))
    store("imagenette", "1.0.0", (160, 213, 3), ("train", "validation"), "160px-v2")
    return tfds


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a command, once, where the sets lie; returns the settings and what came of it."""
    place = tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch:
        tfds = prepare_tfds(place / "tfds")
        builder = tfds.builder
        patch.setattr(tfds, "builder", lambda name: builder(name, data_dir=place / "tfds"))
        patch.chdir(place)
        (place / "configs").symlink_to(ROOT / "configs")
        date = "20170109142408075"
        ages = ["7_0_0", "26_0_1", "26_1_2", "31_1_3", "35_0_4", "110_1_0", "61_1", "38_0_0"]
        write_jpegs(place / "UTKFace", [f"{a}_{date}.jpg.chip.jpg" for a in ages], 200, 200)
        for split in ("train", "val"):
            for n, wnid in enumerate(("n01440764", "n02102040")):
                names = [f"{wnid}_{i}.JPEG" for i in range(IMAGES // 2)]
                write_jpegs(place / "imagenet" / split / wnid, names, 240 + 20 * n, 320)
        for name in ("cat", "dog"):
            write_jpegs(place / "PATH" / name, [f"{i}.png" for i in range(4)], 32, 32)
        known: dict[tuple[str, ...], tuple[Config, dict]] = {}

        def once(words: list[str]) -> tuple[Config, dict]:
            key = tuple(words)
            if key not in known:
                asked = parse(words)
                folder = f"--{asked.save_flag}=logs/{len(known)}"
                own = [folder] if asked.save_path == "logs/pretrain" else []
                smaller = SMALL if asked.task == "pretrain" else ()
                assert main.main([*words, *own, *smaller, *SHORT]) == 0
                known[key] = asked, json.loads(Path(parse([*words, *own]).save_path, "results.json").read_text())
            return known[key]

        yield once


def own_command(recipe: Path) -> list[str]:
    return next(words for words in commands_of(recipe) if f"--config=configs/{recipe.name}" in words)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_runs_as_its_header_says(recipe, run):
    for words in commands_of(recipe):
        parse(words).validate()
    commands = commands_of(recipe)
    last = commands.index(own_command(recipe))
    for words in commands[:last]:
        run(words)
    asked, results = run(commands[last])
    changed = {name.partition("=")[0].removeprefix("--") for name in (*SMALL, *SHORT)}
    for name in asked.given - changed - {"config"}:
        assert results["config"][name] is not None
    print(results)
