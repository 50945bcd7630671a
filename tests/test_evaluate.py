"""`--task=evaluate` from end to end, as the command line calls it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import main
from simclr_tf.augment import Recipe
from simclr_tf.data import Source
from simclr_tf.data.pipeline import plain_batches, view_batches

TINY = ["--width_multiplier=0.0625", "--zdim=8", "--batch_size=8", "--precision=float32"]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> Path:
    """60 + 24 pictures of 3 classes, class by colour."""
    path = tmp_path_factory.mktemp("data") / "colours.npz"
    rng = np.random.default_rng(0)
    labels = np.arange(84) % 3
    images = rng.integers(0, 100, (84, 16, 16, 3), np.uint8)
    images[np.arange(84), :, :, labels] += 120
    np.savez(path, x_train=images[:60], y_train=labels[:60], x_test=images[60:], y_test=labels[60:])
    return path


@pytest.fixture(scope="module")
def pretrained(arrays, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "pretrain"
    flags = [f"--dataset=npz:{arrays}", f"--pretrain_save_path={folder}", "--num_epochs=1"]
    assert main.main(["--task=pretrain", *flags, *TINY]) == 0
    return folder


def evaluate(folder: Path, pretrained: Path, *flags: str) -> int:
    return main.main(
        [
            "--task=evaluate",
            f"--pretrain_save_path={pretrained}",
            f"--finetune_save_path={folder}",
            "--precision=float32",
            *flags,
        ]
    )


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def evaluated(pretrained, tmp_path_factory) -> Path:
    """Everything but what trains the network."""
    folder = tmp_path_factory.mktemp("run") / "evaluation"
    protocols = "--protocols=knn,logreg,linear,mlp,baselines,health"
    assert evaluate(folder, pretrained, protocols, "--num_seeds=2") == 0
    return folder


def test_an_evaluation_leaves_what_the_contract_names(evaluated):
    results = results_of(evaluated)
    for name in ("knn", "logistic_regression", "linear_probe", "mlp"):
        assert 0.0 <= results[name] <= 1.0
        protocol = results["protocols"][name]
        assert len(protocol["accuracy"]) == 2
        assert protocol["mean"] == pytest.approx(np.mean(protocol["accuracy"]), abs=1e-3)
        assert np.sum(protocol["confusion_matrix"]) == 2 * 24  # of both seeds
        assert "training images" in protocol["settings"]["chosen_on"]
        assert protocol["top5"] is None  # of three classes
    assert set(results["baselines"]) == {"raw_pixels", "pca", "random_encoder"}
    assert results["baselines"]["raw_pixels"] == 1.0  # the class is the colour
    health = results["health"]
    assert health["width"] == 32 and 1.0 <= health["effective_rank"] <= 32.0
    assert 0.0 <= health["alignment"] <= 4.0 and len(health["per_dimension_spread"]) == 32
    assert set(results["z"]) == {"knn", "logistic_regression"}
    assert (results["num_train"], results["num_test"]) == (60, 24)
    plots = {path.name for path in (evaluated / "plots").iterdir()}
    assert set(results["pictures"]) == plots
    assert {"tsne.png", "neighbours.png", "confusion_matrix_knn.png", "loss.png"} <= plots


def test_the_report_holds_all_of_it(evaluated):
    html = (evaluated / "report.html").read_text(encoding="utf-8")
    results = results_of(evaluated)
    assert html.count("data:image/png") == len(results["pictures"])
    assert f"{100 * results['logistic_regression']:.1f}" in html
    assert "not measured" in html.lower()  # fine-tuning was not asked for


def test_fine_tuning_and_its_twin(pretrained, tmp_path):
    flags = ("--protocols=finetune,supervised", "--label_fractions=0.5", "--num_epochs=1")
    assert evaluate(tmp_path, pretrained, *flags) == 0
    results = results_of(tmp_path)
    assert set(results["finetune"]) == set(results["supervised"]) == {"0.5"}
    runs = tmp_path / "fine_tuning"
    assert not list(runs.rglob("*.safetensors"))
    twins = [results_of(runs / f"{name}_0.5_0") for name in ("finetune", "supervised")]
    assert [twin["accuracy"] for twin in twins] == [
        results["finetune"]["0.5"],
        results["supervised"]["0.5"],
    ]
    assert str(pretrained) in twins[0]["initial_weights"]
    assert twins[1]["initial_weights"] == "random"
    for key in ("num_train", "num_test", "trainable_parameters"):
        assert twins[0][key] == twins[1][key], key
    one, other = ({**twin["config"]} for twin in twins)
    for name in ("init_weights", "finetune_save_path"):
        assert one.pop(name) != other.pop(name)
    assert one == other  # nothing else differs
    assert (tmp_path / "plots/fractions.png").exists()
    assert "knn" not in results


def test_runs_are_put_side_by_side(evaluated, pretrained, tmp_path):
    other = tmp_path / "other"
    assert evaluate(other, pretrained, "--protocols=knn", "--init_weights=none") == 0
    assert results_of(other)["checkpoint"] == "random" and "z" not in results_of(other)
    both = tmp_path / "both"
    assert evaluate(both, pretrained, f"--compare={evaluated},{other}") == 0
    html = (both / "report.html").read_text(encoding="utf-8")
    assert "evaluation" in html and "other" in html and "init_weights" in html


def test_what_is_chosen_does_not_depend_on_the_test_images(arrays, pretrained, tmp_path):
    held = dict(np.load(arrays))
    rng = np.random.default_rng(1)
    held["x_test"] = rng.permutation(held["x_test"])
    held["y_test"] = rng.permutation(held["y_test"])
    np.savez(tmp_path / "other.npz", **held)
    chosen = []
    for name, path in (("one", arrays), ("two", tmp_path / "other.npz")):
        flags = (f"--dataset=npz:{path}", "--protocols=knn,logreg,linear,mlp", "--seed=0")
        assert evaluate(tmp_path / name, pretrained, *flags) == 0
        protocols = results_of(tmp_path / name)["protocols"]
        chosen.append({key: value["settings"] for key, value in protocols.items()})
    assert chosen[0] == chosen[1] and set(chosen[0]) >= {"knn", "mlp"}


def test_the_run_that_is_evaluated_and_files_of_the_user_are_left_alone(
    pretrained, tmp_path, capsys
):
    before = sorted(pretrained.rglob("*"))
    flags = (f"--finetune_save_path={pretrained}", "--protocols=knn", "--overwrite")
    assert evaluate(tmp_path, pretrained, *flags) == 2
    assert "Expected another folder" in capsys.readouterr().err
    assert sorted(pretrained.rglob("*")) == before
    own = tmp_path / "own"
    (own / "plots").mkdir(parents=True)
    (own / "report.html").write_text("mine")
    assert evaluate(own, pretrained, "--protocols=knn") == 2
    assert (own / "report.html").read_text() == "mine"
    (own / "report.html").unlink()
    (own / "plots/holiday.png").write_bytes(b"mine")
    os.utime(own / "plots/holiday.png", (1e9, 1e9))
    assert evaluate(own, pretrained, "--protocols=knn") == 0
    assert "holiday.png" not in results_of(own)["pictures"]
    assert evaluate(own, pretrained, "--protocols=knn") == 2
    assert "--resume" not in capsys.readouterr().err
    assert evaluate(own, pretrained, "--protocols=knn", "--overwrite") == 0
    assert (own / "plots/holiday.png").exists() is False  # plots/ is a folder of the run


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--protocols=knn,magic"], "magic"),
        (["--label_fractions=0.1,2"], "--label_fractions"),
        (["--resume"], "--overwrite"),
        (["--compare=one"], "at least two"),
        (["--compare=one,two"], "results.json"),
        (["--pretrain_save_path=nowhere"], "--task=pretrain first"),
    ],
)
def test_mistakes_are_named(pretrained, tmp_path, capsys, flags, message):
    assert evaluate(tmp_path, pretrained, *flags) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_views_of_all_images_come_in_their_order(rng):
    images = np.repeat(rng.integers(0, 256, (7, 1, 1, 3), np.uint8), 12, axis=1).repeat(12, axis=2)
    source = Source("array", images)
    recipe = Recipe(jitter=False, colordrop=False)

    def views(view: int) -> np.ndarray:
        batches = view_batches(source, batch_size=3, recipe=recipe, seed=1, size=(8, 8), view=view)
        return np.concatenate([batch.numpy() for batch in batches])

    plain = np.concatenate([b.numpy() for b in plain_batches(source, batch_size=3, size=(8, 8))])
    np.testing.assert_allclose(views(1), plain, atol=1e-2)  # a crop of one colour is that colour
    noise = Source("noise", rng.integers(0, 256, (7, 12, 12, 3), np.uint8))
    source = noise
    assert np.abs(views(1) - views(2)).mean() > 0.01
    np.testing.assert_array_equal(views(1), views(1))
