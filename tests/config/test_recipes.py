"""The recipes in configs, run as their headers say on a few images laid out like the real sets."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tables import for_each
from tiny import tiny_encoder

import main
from simclr_tf.cli import parse
from simclr_tf.config.settings import Config
from simclr_tf.data import Source
from simclr_tf.models.resnet import DEPTHS, resnet
from simclr_tf.tasks.evaluate.held_back import note_on_test
from simclr_tf.workflow import encoder, weights
from simclr_tf.workflow.weights import adopt_run, pretrained_source

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
IMAGES = 8  # in each split
# All that is changed of a recipe, beside its network: one convolution is left, not compiled.
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

    label, text = tfds.features.ClassLabel(num_classes=2), tfds.features.Text()

    def store(name, version, shape, splits=("train", "test"), config="", **others):
        """Stores a set; `others` are its further features and their one value."""

        def examples(labelled):
            for i, image in enumerate(colours(*shape)):
                further = {name: value for name, (_, value) in others.items()}
                yield i, {"image": image, "label": i % 2 if labelled else -1} | further

        features = {"image": tfds.features.Image(shape=(None, None, shape[-1])), "label": label}
        features |= {name: feature for name, (feature, _) in others.items()}
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            config=tfds.core.BuilderConfig(name=config, version=version) if config else None,
            data_dir=str(folder),
            split_datasets={split: examples(split != "unlabelled") for split in splits},
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    store("cifar10", "3.0.2", (32, 32, 3), id=(text, "train_1"))
    store("cifar100", "3.0.2", (32, 32, 3), id=(text, "train_1"), coarse_label=(label, 0))
    store("stl10", "1.0.0", (96, 96, 3), ("train", "test", "unlabelled"))
    store("fashion_mnist", "3.0.1", (28, 28, 1))
    store("imagenette", "1.0.0", (160, 213, 3), ("train", "validation"), "160px-v2")
    return tfds


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a command where the sets lie, once; returns what was asked for and its results."""
    place = tmp_path_factory.mktemp("recipes")
    date = "20170109142408075"
    # The sixth lacks a field, as some of the real set's do.
    people = ["7_0_0", "26_0_1", "26_1_2", "31_1_3", "35_0_4", "61_1", "110_1_0", "38_0_0"]
    write_jpegs(place / "UTKFace", [f"{fields}_{date}.jpg.chip.jpg" for fields in people], 200, 200)
    for split in ("train", "val"):
        for side, name in ((240, "n01440764"), (260, "n02102040")):
            names = [f"{name}_{i}.JPEG" for i in range(IMAGES // 2)]
            write_jpegs(place / "imagenet" / split / name, names, side, 320)
    for name in ("cat", "dog"):
        write_jpegs(place / "PATH" / name, [f"{i}.jpg" for i in range(IMAGES // 2)], 32, 32)
    (place / "configs").symlink_to(ROOT / "configs")
    ran: dict[tuple[str, ...], tuple[Config, dict]] = {}

    def run(words: list[str]) -> tuple[Config, dict]:
        asked = parse(words)
        if tuple(words) not in ran:
            short = list(SHORT)
            if asked.save_path == "logs/pretrain":  # of several recipes
                short.append(f"--pretrain_save_path=logs/{len(ran)}")
            assert main.main([*words, *short]) == 0
            folder = Path(parse([*words, *short]).save_path)
            ran[tuple(words)] = asked, json.loads((folder / "results.json").read_text())
        return ran[tuple(words)]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        tfds = prepare_tfds(place / "tfds")
        builder = tfds.builder
        patch.setattr(tfds, "builder", lambda name: builder(name, data_dir=place / "tfds"))
        patch.setattr(encoder, "resnet", make_tiny_encoder)
        tf.config.run_functions_eagerly(True)  # compiling the views would take most of the time
        yield run
        tf.config.run_functions_eagerly(False)


def make_tiny_encoder(depth: int, **arguments) -> keras.Model:
    """Stands for `resnet`, whose arguments it must be able to take."""
    inspect.signature(resnet).bind(depth, **arguments)
    assert depth in DEPTHS and arguments["stem"] in ("small", "imagenet")
    return tiny_encoder()


def own_command(recipe: Path) -> list[str]:
    """Returns the first of its commands that reads the recipe itself."""
    return next(
        words for words in commands_of(recipe) if f"--config=configs/{recipe.name}" in words
    )


def sizes_of(results: dict) -> tuple[int, int]:
    return results["num_train"], results["num_test"]


@for_each("recipe", RECIPES)
def test_a_recipe_runs_as_its_header_says(recipe, run):
    commands, own = commands_of(recipe), own_command(recipe)
    for words in commands[: commands.index(own)]:
        run(words)
    asked, results = run(own)
    changed = {word[2:].partition("=")[0] for word in SHORT}
    kept = asked.given - changed - {"config", "pretrain_save_path"}
    assert len(kept) > 4
    assert {name: results["config"][name] for name in kept} == {
        name: asked.to_dict()[name] for name in kept
    }
    if asked.task == "pretrain":
        assert results["steps"] == 2
        assert results["loss"] > 0
    else:  # it goes on from what it says that it goes on from
        assert results["initial_weights"].startswith(f"{asked.pretrain_save_path}/checkpoints/")


@for_each("recipe", RECIPES)
def test_the_commands_of_a_header_are_settings(recipe, run):
    for words in commands_of(recipe):
        parse(words).validate()


def test_faces_have_the_classes_of_their_names(run):
    _, age = run(own_command(ROOT / "configs" / "utkface_age.yaml"))
    assert age["class_names"] == ["0", "2", "3", "6", "11"] and sizes_of(age) == (6, 2)
    _, gender = run(own_command(ROOT / "configs" / "utkface_gender.yaml"))
    assert gender["class_names"] == ["0", "1"] and sizes_of(gender) == (6, 2)
    _, ethnicity = run(own_command(ROOT / "configs" / "utkface_ethnicity.yaml"))
    assert ethnicity["class_names"] == ["0", "1", "2", "3", "4"]
    assert sizes_of(ethnicity) == (6, 1)  # 7 of 8: one says none


def test_the_images_of_a_run_may_be_asked_for_with_other_labels(run):
    pretrained, _ = run(own_command(ROOT / "configs" / "utkface.yaml"))
    checkpoint = pretrained_source(pretrained.replace(init_weights="logs/utkface"))
    trained = weights.settings_of(checkpoint)
    same = adopt_run(Config.resolve(task="evaluate"), checkpoint)
    assert same.label_pattern == pretrained.label_pattern
    asked = Config.resolve(task="evaluate", label_pattern="^(.)", val_fraction=0.1)
    other = adopt_run(asked, checkpoint)
    assert (other.dataset, other.label_pattern) == ("folder:UTKFace", "^(.)")
    held = Source("folder:UTKFace, held back")
    assert "the pre-training saw them" in note_on_test(other, trained, held)
    # Class by class is another draw where the classes are others.
    before = trained.replace(val_fraction=0.1, seed=other.seed)
    assert "others than by the pre-training" in note_on_test(other, before, held)
