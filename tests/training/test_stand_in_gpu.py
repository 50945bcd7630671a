"""Every task with a CPU that poses as one GPU, as the command line calls it: `main.main([...])`."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from stand_in_gpu import NAME, stand_in_gpu
from tensorflow.python.framework.config import disable_op_determinism

import main
from simclr_tf.runs.checkpoints import Checkpoints, read_arrays
from simclr_tf.training.execution import choose_execution
from simclr_tf.training.fit import choose_steps_per_execution

pytestmark = pytest.mark.usefixtures("shallow")

SIDE, TRAIN, TEST = 16, 24, 16
PRECISIONS = {(6, 1): "float32", (7, 5): "mixed_float16", (9, 0): "mixed_bfloat16"}
SHORT = ["--batch_size=8", "--num_epochs=2"]
TINY = ["--width_multiplier=0.0625", "--zdim=8", *SHORT]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """The flag of a file of images of 3 colours, with labels and masks of 2 classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(TRAIN + TEST) % 3
    images = rng.integers(0, 100, (TRAIN + TEST, SIDE, SIDE, 3), np.uint8)
    images[np.arange(len(images)), ..., labels] += 120
    masks = (images[..., 0] > 100).astype(np.uint8)
    file = tmp_path_factory.mktemp("data") / "data.npz"
    arrays = {"x": images, "y": labels, "masks": masks}
    train = {f"{name}_train": array[:TRAIN] for name, array in arrays.items()}
    test = {f"{name}_test": array[TRAIN:] for name, array in arrays.items()}
    np.savez(file, **train, **test)
    return f"--dataset=npz:{file}"


class Fitted(NamedTuple):
    """How a model was fitted."""

    xla: bool
    steps_at_a_time: int
    prefetched: bool


ON_A_GPU = Fitted(xla=True, steps_at_a_time=TRAIN // 8, prefetched=True)


class Fits:
    """Stands before `Model.fit` and before what copies batches to the device, and notes both."""

    def __init__(self) -> None:
        self.seen: list[Fitted] = []
        self._prefetched = 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        fit, prefetch = keras.Model.fit, tf.data.experimental.prefetch_to_device

        def noted_fit(model, *args, **kwargs):
            prefetched, self._prefetched = bool(self._prefetched), 0
            self.seen.append(Fitted(model.jit_compile, model.steps_per_execution, prefetched))
            return fit(model, *args, **kwargs)

        def noted_prefetch(*args, **kwargs):
            self._prefetched += 1
            return prefetch(*args, **kwargs)

        with (
            mock.patch.object(keras.Model, "fit", noted_fit),
            mock.patch.object(tf.data.experimental, "prefetch_to_device", noted_prefetch),
        ):
            yield


def run_on_a_gpu(*words: str, capability=(6, 1)) -> list[Fitted]:
    """Runs a command to its end and returns how each of its models was fitted."""
    fits = Fits()
    with stand_in_gpu(capability), fits.watched():
        assert main.main(list(words)) == 0
    return fits.seen


def pretrain(folder: Path, data: str, *flags: str, **arguments) -> list[Fitted]:
    path = f"--pretrain_save_path={folder}"
    return run_on_a_gpu("--task=pretrain", data, path, *TINY, *flags, **arguments)


def follow(task: str, folder: Path, *flags: str, **arguments) -> list[Fitted]:
    """Runs a task that goes on from the weights of another."""
    flags = (f"--task={task}", f"--finetune_save_path={folder}", *flags)
    return run_on_a_gpu(*flags, **arguments)


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def last_arrays(folder: Path) -> dict[str, np.ndarray]:
    return read_arrays(Checkpoints(folder / "checkpoints").newest())


def journal_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv") as file:
        return [dict(row, images_per_second="") for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def pretrained(shallow, data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "pretrain"
    assert pretrain(folder, data) == [ON_A_GPU]
    return folder


@pytest.fixture(scope="module")
def from_it(data, pretrained) -> tuple[str, ...]:
    """The flags of a task that goes on from `pretrained`."""
    return (data, f"--pretrain_save_path={pretrained}")


@pytest.fixture(scope="module")
def classified(from_it, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "classified"
    seen = follow("classification", folder, *from_it, *SHORT, capability=(9, 0))
    assert seen == [ON_A_GPU]
    return folder


@pytest.fixture(scope="module")
def segmented(from_it, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "segmented"
    seen = follow("segmentation", folder, *from_it, *SHORT, "--dice_weight=1")
    assert seen == [ON_A_GPU._replace(steps_at_a_time=2)]  # a tenth is held back for validation
    return folder


def assert_done(folder: Path, capability: tuple[int, int] = (6, 1)) -> dict:
    """Checks what a run on the stand-in says of itself, and returns its results."""
    results = results_of(folder)
    assert results["device"] == NAME
    assert results["precision"] == PRECISIONS[capability]
    return results


# --- What the stand-in is ---


def test_within_the_block_alone_the_cpu_is_a_gpu():
    cpus, gpus = (tf.config.list_physical_devices(kind) for kind in ("CPU", "GPU"))
    with stand_in_gpu((7, 5)):
        assert tf.config.list_physical_devices("GPU") == cpus[:1]
        assert tf.config.list_physical_devices("CPU") == cpus
        assert len(tf.config.list_logical_devices("GPU")) == 1
        chosen = choose_execution("auto", "auto")
        assert (chosen.precision, chosen.xla, chosen.device) == ("mixed_float16", True, NAME)
        assert (chosen.views, chosen.augment_on_device) == ("float32", False)
        assert choose_execution("auto", "auto", "device").augment_on_device
        assert choose_steps_per_execution(0, 20) > 1
    keras.config.set_dtype_policy("float32")
    assert tf.config.list_physical_devices("GPU") == gpus


# --- Pre-training ---


def test_pretraining_on_the_oldest_gpu(pretrained):
    results = assert_done(pretrained)
    assert results["steps"] == 6 and np.isfinite(results["loss"])
    assert [row["epoch"] for row in journal_of(pretrained)] == ["0", "1", "2"]


def test_microbatches_and_their_validation_on_a_new_gpu(data, tmp_path):
    flags = ("--microbatch_size=4", "--val_fraction=0.3", "--eval_every_epochs=1")
    assert pretrain(tmp_path, data, *flags, capability=(9, 0)) == [
        ON_A_GPU._replace(steps_at_a_time=2)
    ]
    assert np.isfinite(assert_done(tmp_path, (9, 0))["val_loss"])


def test_views_made_within_the_step_are_those_of_the_host(pretrained, data, tmp_path):
    assert pretrain(tmp_path, data, "--augment_on=device") == [ON_A_GPU]
    assert_done(tmp_path)
    of_host, of_device = (float(journal_of(path)[1]["loss"]) for path in (pretrained, tmp_path))
    assert of_device == pytest.approx(of_host, rel=0.02)


def test_all_that_views_can_be_and_loss_scaling_within_what_is_compiled(data, tmp_path):
    flags = ("--augment_on=device", "--blur", "--noise", "--rotate", "--cutout")
    assert pretrain(tmp_path, data, *flags, capability=(7, 5)) == [ON_A_GPU]
    results = assert_done(tmp_path, (7, 5))
    # The scale begins high and is halved at each step that overflows, which is skipped.
    assert 0 <= results["skipped_steps"] <= results["steps"] and np.isfinite(results["loss"])


def test_a_deterministic_run_that_is_resumed_is_the_run_that_was_not_stopped(data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    uncompiled = ON_A_GPU._replace(xla=False)
    try:
        assert pretrain(whole, data, "--deterministic") == [uncompiled]
        assert pretrain(parts, data, "--deterministic", "--max_steps=5")
        assert pretrain(parts, data, "--deterministic", "--resume")
    finally:
        disable_op_determinism()
    assert journal_of(whole) == journal_of(parts)
    before, after = last_arrays(whole), last_arrays(parts)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


# --- The tasks that follow ---


def test_a_frozen_classifier_and_its_resumption(from_it, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = (*from_it, *SHORT, "--freeze=True")
    assert follow("classification", whole, *flags) == [ON_A_GPU]
    assert follow("classification", parts, *flags, "--max_steps=4")
    assert follow("classification", parts, *flags, "--resume")
    assert journal_of(whole) == journal_of(parts)
    assert assert_done(whole)["accuracy"] == assert_done(parts)["accuracy"]


def test_a_classifier_that_is_fine_tuned(classified):
    assert 0.0 <= assert_done(classified, (9, 0))["accuracy"] <= 1.0


def test_a_segmentation(segmented):
    assert 0.0 <= assert_done(segmented)["mean_iou"] <= 1.0


def test_evaluation(from_it, tmp_path):
    flags = ("--protocols=knn,logreg,linear,mlp,baselines,health", "--num_epochs=1")
    assert follow("evaluate", tmp_path, *from_it, *flags) == []
    assert {"knn", "logistic_regression", "linear_probe"} <= assert_done(tmp_path).keys()


def test_embedding(from_it, tmp_path):
    assert follow("embed", tmp_path, *from_it, "--with_z", "--index") == []
    assert_done(tmp_path)
    with np.load(tmp_path / "features.npz") as features:
        assert len(features["h"]) == len(features["z"]) == TRAIN + TEST


def test_prediction(data, classified, segmented):
    for folder in (classified, segmented):
        assert follow("predict", folder, data) == []
        assert_done(folder / "predictions")


def test_an_export(pretrained):
    assert run_on_a_gpu("--task=export", f"--pretrain_save_path={pretrained}") == []
    assert (pretrained / "export/keras/model.keras").exists()


def test_a_check_of_the_data(data, tmp_path):
    assert follow("check", tmp_path, data, "--preview") == []
    assert_done(tmp_path)
