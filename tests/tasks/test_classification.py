"""Classification from end to end, as the command line calls it: `main.main([...])`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import (
    assert_same_weights,
    classify,
    final_arrays,
    journal_of,
    pretrain,
    results_of,
)

import main
from simclr_tf.evaluation.preparation import mean_and_deviation
from simclr_tf.tasks import classification

pytestmark = pytest.mark.usefixtures("shallow")


def test_a_frozen_classifier_takes_the_encoder_as_it_was_trained(pretrained, pictures, tmp_path):
    assert classify(tmp_path, pretrained, pictures, "--freeze=True") == 0
    results = results_of(tmp_path)
    assert results["config"]["width_multiplier"] == 0.0625
    assert "step-000000006" in results["initial_weights"]
    assert results["num_train"] + results["num_test"] == 36
    assert np.sum(results["confusion_matrix"]) == results["num_test"]
    assert {"accuracy", "f1_macro"} <= results.keys()
    features = 32  # 512 x 0.0625
    assert results["trainable_parameters"] == features * 3 + 3
    encoder = {n: a for n, a in final_arrays(pretrained).items() if n.startswith("encoder/")}
    after = final_arrays(tmp_path)
    for name, array in encoder.items():  # running statistics of BatchNorm included
        np.testing.assert_array_equal(array, after[name], err_msg=name)


def test_a_frozen_encoder_keeps_its_statistics_with_augmentation(pretrained, pictures, tmp_path):
    assert classify(tmp_path, pretrained, pictures, "--freeze=True", "--flip=True") == 0
    before, after = final_arrays(pretrained), final_arrays(tmp_path)
    for name in (n for n in before if n.startswith("encoder/")):
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory) -> Path:
    """A folder of 2 classes of pictures of several sizes, and a run on them at 24x16 pixels."""
    root, rng = tmp_path_factory.mktemp("sizes"), np.random.default_rng(0)
    for name in ("dim", "bright"):
        (root / "pictures" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 200, (26 + i, 20 + i, 3), np.uint8) + 50 * (name == "bright")
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"pictures/{name}/{i}.png")
    assert pretrain(root / "run", root / "pictures", "--input_size=24 16", "--max_steps=1") == 0
    return root


def test_a_classifier_takes_the_size_of_the_run_it_begins_with(sizes, tmp_path, capsys):
    command = ["--task=classification", f"--dataset=folder:{sizes / 'pictures'}", "--freeze"]
    command += [f"--init_weights={sizes / 'run'}", "--precision=float32", "--num_epochs=2"]
    out = f"--finetune_save_path={tmp_path / 'out'}"
    capsys.readouterr()
    assert main.main([*command, out, "--max_steps=1"]) == 0
    assert "size: that of the run, --input_size='24 16'\n" in capsys.readouterr().out
    assert results_of(tmp_path / "out")["config"]["input_size"] == "24 16"
    assert main.main([*command, out, "--resume"]) == 0
    other = ["--input_size=16", f"--finetune_save_path={tmp_path / 'other'}"]
    assert main.main([*command, *other]) == 0
    assert results_of(tmp_path / "other")["config"]["input_size"] == "16 16"
    assert main.main([*command, "--overwrite", out, "--init_weights=none"]) == 2
    assert "Expected images of one size" in capsys.readouterr().err


def test_fine_tuning_changes_the_encoder(pretrained, pictures, tmp_path):
    assert classify(tmp_path, pretrained, pictures) == 0
    name = "encoder/stem_conv/kernel"
    assert not np.array_equal(final_arrays(pretrained)[name], final_arrays(tmp_path)[name])
    assert results_of(tmp_path)["trainable_parameters"] > 1000
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {
        "accuracy.png",
        "confusion_matrix.png",
        "loss.png",
    }


@pytest.fixture
def silent(monkeypatch):
    """Has feature 0 be 0 in training and 0.5 in the test images of a frozen encoder."""

    def embed(encoder, batches):
        first = not found
        found.append(classification_embed(encoder, batches))
        found[-1][:, 0] = 0.0 if first else 0.5
        return found[-1]

    found: list[np.ndarray] = []
    classification_embed = classification.embed
    monkeypatch.setattr(classification, "embed", embed)
    return found


def printed_test_loss(capsys) -> float:
    """The last one that was printed."""
    return float(re.findall(r"test loss (\S+)", capsys.readouterr().out)[-1])


def variance_of(folder: Path) -> np.ndarray:
    (name,) = (name for name in final_arrays(folder) if name.endswith("normalize/variance"))
    return final_arrays(folder)[name]


def test_a_feature_that_was_silent_in_training_is_not_blown_up(
    pretrained, pictures, tmp_path, silent, capsys
):
    flags = ("--freeze=True", "--eval_every_epochs=1")
    assert classify(tmp_path, pretrained, pictures, *flags) == 0
    mean, deviation = mean_and_deviation(silent[0])
    np.testing.assert_allclose(variance_of(tmp_path), deviation**2, rtol=1e-6)
    assert variance_of(tmp_path)[0] == 1.0
    assert np.abs((silent[1] - mean) / deviation).max() < 50.0
    assert printed_test_loss(capsys) < 10.0


def test_a_run_of_0_1_0_goes_on_without_dividing_by_nothing(
    pretrained, pictures, tmp_path, silent, monkeypatch, capsys
):
    flags = ("--freeze=True", "--eval_every_epochs=1")
    with monkeypatch.context() as older:
        older.setattr(classification, "take_up_scale", lambda head: None)
        older.setattr(
            classification,
            "set_scale",
            lambda head, mean, deviation: head.get_layer("normalize").adapt(silent[0]),
        )
        assert classify(tmp_path, pretrained, pictures, *flags, "--max_steps=3") == 0
    assert variance_of(tmp_path)[0] == 0.0
    scales = variance_of(tmp_path)
    silent.clear()
    assert classify(tmp_path, pretrained, pictures, *flags, "--resume") == 0
    assert variance_of(tmp_path)[0] == 1.0
    kept = np.where(scales > 0.0, scales, 1.0)  # what it was begun with
    np.testing.assert_array_equal(variance_of(tmp_path), kept)
    assert printed_test_loss(capsys) < 10.0


def test_a_share_of_the_labels_is_drawn_class_by_class(pretrained, pictures, tmp_path):
    flags = ("--freeze=True", "--label_fraction=0.3", "--include_nonlinearity")
    assert classify(tmp_path, pretrained, pictures, *flags) == 0
    assert results_of(tmp_path)["num_train"] == 3 * round(0.3 * 11)


def test_from_scratch(pretrained, pictures, tmp_path):
    flags = ("--init_weights=none", "--width_multiplier=0.125")
    assert classify(tmp_path, pretrained, pictures, *flags) == 0
    results = results_of(tmp_path)
    assert results["initial_weights"] == "random"
    assert results["config"]["width_multiplier"] == 0.125


def test_another_encoder_than_the_trained_one_is_an_error(pretrained, pictures, tmp_path, capsys):
    assert classify(tmp_path, pretrained, pictures, "--model=34") == 2
    assert "Expected --model=18" in capsys.readouterr().err


@pytest.mark.parametrize("freeze", ["--freeze=False", "--freeze=True"])
def test_a_resumed_classification_equals_one_that_was_not_stopped(
    pretrained, pictures, tmp_path, freeze
):
    """Also where the pre-training is no longer where it was: the run's own weights do."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert classify(whole, pretrained, pictures, freeze) == 0
    flags = (freeze, "--max_steps=3", "--steps_per_execution=2")
    assert classify(parts, pretrained, pictures, *flags) == 0
    assert classify(parts, tmp_path / "nowhere", pictures, freeze, "--resume") == 0
    assert_same_weights(whole, parts)
    assert results_of(whole)["initial_weights"] == results_of(parts)["initial_weights"]
    assert journal_of(parts) == journal_of(whole)
