"""`--task=evaluate` from end to end, as the command line calls it."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function

import main
from simclr_tf.augment import Recipe
from simclr_tf.config.settings import Config
from simclr_tf.data import Source, hold_back, load
from simclr_tf.data.batches.evaluation import plain_batches, view_batches
from simclr_tf.evaluation import logistic
from simclr_tf.tasks.evaluate import probes
from simclr_tf.tasks.evaluate.baselines import _principal
from simclr_tf.tasks.evaluate.held_back import adopt_held_back, note_on_test
from simclr_tf.tasks.evaluate.subject import Features
from simclr_tf.training.callbacks.knn_monitor import NEIGHBOURS, TEMPERATURE

pytestmark = pytest.mark.usefixtures("shallow")


@pytest.fixture(scope="module", autouse=True)
def _few_iterations():
    """Of each fit among which a penalty is chosen: `test_probes` judges what is chosen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logistic, "CHOICE_ITERATIONS", 5)
        yield


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
def arrays_hard(tmp_path_factory) -> Path:
    """90 + 90 pictures of 3 classes that hardly differ: each encoder tells others apart."""
    path = tmp_path_factory.mktemp("data") / "hard.npz"
    rng = np.random.default_rng(0)
    labels = np.arange(180) % 3
    images = rng.integers(0, 200, (180, 16, 16, 3), np.uint8)
    images[np.arange(180), :, :, labels] += 12
    np.savez(path, x_train=images[:90], y_train=labels[:90], x_test=images[90:], y_test=labels[90:])
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


def run_on(pretrained: Path, folder: Path, **changes: object) -> Path:
    """The run with other settings, as if it had been trained so."""
    shutil.copytree(pretrained, folder)
    config = Config.resolve(config=str(pretrained / "config.yaml"))
    (folder / "config.yaml").write_text(config.replace(**changes).to_yaml())
    return folder


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
    assert results["notes"] == [] and results["labelled"]
    command = shlex.split(results["command"])
    assert command[:3] == ["python", "main.py", "--task=evaluate"]
    assert command[-1] == "--num_seeds=2" and len(command) == 8
    plots = {path.name for path in (evaluated / "plots").iterdir()}
    assert set(results["pictures"]) == plots
    assert {"tsne.png", "neighbours.png", "confusion_matrix_knn.png", "loss.png"} <= plots


def test_the_report_holds_all_of_it(evaluated):
    html = (evaluated / "report.html").read_text(encoding="utf-8")
    results = results_of(evaluated)
    assert html.count("data:image/png") == len(results["pictures"])
    assert f"{100 * results['logistic_regression']:.1f}" in html
    assert "not measured" in html.lower()  # fine-tuning was not asked for


def test_an_untrained_encoder_is_the_same_wherever_it_is_compared(
    tmp_path, arrays_hard, monkeypatch, capsys
):
    """Before training, as a baseline of pre-training, and of an evaluation by other seeds."""
    folder = tmp_path / "pretrain"
    flags = [f"--dataset=npz:{arrays_hard}", f"--pretrain_save_path={folder}", "--max_steps=1"]
    assert main.main(["--task=pretrain", *flags, *TINY, "--seed=3"]) == 0
    said = capsys.readouterr().out
    with open(folder / "metrics.csv", newline="") as file:
        before = float(next(csv.DictReader(file))["knn_accuracy"])
    reported = results_of(folder)["baselines"]["random_encoder"]
    assert f"before training: kNN accuracy {before:.3f} (k 20, temperature 0.1)" in said
    assert f"(random encoder {before:.3f}, " in said
    same = probes.choose_knn(np.eye(4), np.arange(4), seed=0, num_classes=4)._replace(
        k=NEIGHBOURS, temperature=TEMPERATURE
    )
    monkeypatch.setattr(probes, "choose_knn", lambda *args, **options: same)
    assert evaluate(tmp_path / "e", folder, "--protocols=baselines", "--seed=5") == 0
    evaluated = results_of(tmp_path / "e")["baselines"]["random_encoder"]
    assert [reported, evaluated] == pytest.approx([before, before], abs=1e-4)
    assert 0.15 < before < 0.95  # other draws give other numbers
    assert re.search(
        r"knn random encoder +0\.\d+ +\(k 20, temperature 0\.1\)", capsys.readouterr().out
    )


@pytest.mark.slow
def test_many_short_runs_are_not_taken_for_retracing(pretrained, tmp_path, caplog, monkeypatch):
    """Of five networks: TensorFlow warns where five of ten calls of a function have traced it."""
    fresh = polymorphic_function._FrequentTracingDetectorManager()
    monkeypatch.setattr(polymorphic_function, "_frequent_tracing_detector_manager", fresh)
    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    flags = ("--protocols=finetune", "--label_fractions=0.2", "--num_epochs=2")
    assert evaluate(tmp_path, pretrained, *flags, "--num_seeds=5") == 0
    assert len(list((tmp_path / "fine_tuning").iterdir())) == 5
    assert "retracing" not in caplog.text


def test_fine_tuning_and_its_twin(pretrained, tmp_path):
    protocols = "--protocols=finetune,supervised,knn,logreg,mlp"
    flags = (protocols, "--label_fractions=0.5", "--num_epochs=1", "--num_classes=7")
    assert evaluate(tmp_path, pretrained, *flags) == 0
    results = results_of(tmp_path)
    # All are judged over as many classes as are asked for, though three occur.
    assert results["class_names"] == [str(number) for number in range(7)]
    assert len(results["protocols"]) == 5
    for name, protocol in results["protocols"].items():
        assert np.shape(protocol["confusion_matrix"]) == (7, 7), name
    for name in ("logistic_regression", "mlp"):
        assert results["protocols"][name]["top5"] >= results[name]
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


def test_images_without_labels_are_measured_by_what_needs_none(
    arrays, pretrained, tmp_path, capsys
):
    np.savez(tmp_path / "bare.npz", x_train=np.load(arrays)["x_train"])
    run = run_on(
        pretrained, tmp_path / "run", dataset=f"npz:{tmp_path / 'bare.npz'}", val_fraction=0.25
    )
    out = tmp_path / "out"
    assert evaluate(out, run, "--protocols=knn") == 2
    assert "Expected labels" in capsys.readouterr().err
    assert evaluate(out, run) == 0
    printed = capsys.readouterr().out
    results = results_of(out)
    assert not results["labelled"] and results["class_names"] == []
    assert (results["num_train"], results["num_test"]) == (45, 15)  # as the pre-training held back
    assert results["health"]["width"] == 32
    assert {"knn", "protocols", "baselines", "finetune", "z"}.isdisjoint(results)
    assert {"tsne.png", "neighbours.png"} <= set(results["pictures"])
    html = (out / "report.html").read_text(encoding="utf-8")
    assert len(results["notes"]) == 2
    for note, part in zip(results["notes"], ("which it never saw", "label"), strict=True):
        assert part in note and note in printed and note in html


HELD = {"dataset": "npz:a.npz", "val_fraction": 0.25, "seed": 3}


@pytest.mark.parametrize(
    ("trained", "flags", "share", "said"),
    [
        (HELD, {}, 0.25, "which it never saw"),
        (HELD, {"val_fraction": 0.2}, 0.2, "--val_fraction=0.25 --seed=3"),
        (HELD, {"seed": 4}, 0.1, "saw some of them"),
        (HELD, {"skip_bad_images": True}, 0.1, "saw some of them"),
        (HELD, {"max_pixels": 99}, 0.1, "saw some of them"),
        (HELD, {"dataset": "npz:b.npz"}, 0.1, None),
        ({**HELD, "val_fraction": 0.0}, {}, 0.1, "saw them, without their labels"),
        (None, {}, 0.1, None),
    ],
)
def test_what_the_pre_training_held_back_is_held_back_again(trained, flags, share, said):
    before = None if trained is None else Config.resolve(**trained)
    config = Config.resolve(**{"task": "evaluate", "dataset": "npz:a.npz", "seed": 3, **flags})
    config = adopt_held_back(config, before)
    assert config.val_fraction == share
    held = Source("npz:a.npz, held back", np.zeros((2, 8, 8, 3), np.uint8))
    note = note_on_test(config, before, held)
    assert note is None if said is None else said in note
    assert note_on_test(config, before, Source("npz:a.npz (test)", held.images)) is None


def test_the_images_held_back_are_those_of_the_pre_training(arrays, tmp_path):
    with np.load(arrays) as file:
        np.savez(tmp_path / "whole.npz", x_train=file["x_train"], y_train=file["y_train"])
    name = f"npz:{tmp_path / 'whole.npz'}"
    before = Config.resolve(dataset=name, val_fraction=0.3, seed=5)
    config = adopt_held_back(Config.resolve(task="evaluate", dataset=name, seed=5), before)
    ours = load(name, val_fraction=config.val_fraction, seed=config.seed, need_labels=True)
    _, theirs = hold_back(load(name).train, before.val_fraction, before.seed)
    np.testing.assert_array_equal(ours.test.images, theirs.images)


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
    own.mkdir()
    (own / "report.html").write_text("mine")
    assert evaluate(own, pretrained, "--protocols=knn") == 2
    assert "report.html of other origin" in capsys.readouterr().err
    assert (own / "report.html").read_text() == "mine"
    (own / "report.html").unlink()
    assert evaluate(own, pretrained, "--protocols=knn") == 0
    assert evaluate(own, pretrained, "--protocols=knn") == 2
    assert "--resume" not in capsys.readouterr().err
    (own / "plots/old.png").write_bytes(b"from a run that was interrupted")
    assert evaluate(own, pretrained, "--protocols=knn", "--overwrite") == 0
    assert not (own / "plots/old.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--protocols=knn,magic"], "magic"),
        (["--label_fractions=0.1,2"], "--label_fractions"),
        (["--resume"], "--overwrite"),
        (["--compare=one"], "at least two"),
        (["--compare=one,two"], "results.json"),
        (["--pretrain_save_path=nowhere"], "--task=pretrain first"),
        (["--num_classes=2"], "--num_classes=3"),
    ],
)
def test_mistakes_are_named(pretrained, tmp_path, capsys, flags, message):
    assert evaluate(tmp_path, pretrained, *flags) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize(
    "settings", [{"dataset": "folder:gone/away"}, {"train_file_path": "gone/away"}]
)
def test_data_of_the_run_that_is_not_here_is_said_to_be_the_runs(
    pretrained, tmp_path, capsys, monkeypatch, settings
):
    run = run_on(pretrained, tmp_path / "run", **settings)
    monkeypatch.chdir(tmp_path)
    assert evaluate(tmp_path / "out", run, "--protocols=knn") == 2
    error = capsys.readouterr().err
    assert str(run / "config.yaml") in error and str(tmp_path / "gone/away") in error
    for part in ("data of the pre-training run", "gone/away as its settings", "where the pre-t"):
        assert part in error
    assert evaluate(tmp_path / "out", run, "--protocols=knn", "--dataset=folder:else") == 2
    assert "pre-training run" not in capsys.readouterr().err


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


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), (0.995, 0.002)])
def test_components_of_near_white_pages_keep_their_spread(mean, std):
    """PCA of float32 computes E[x x'] - E[x] E[x'] of many rows, which white pages cancel."""
    rng = np.random.default_rng(0)
    spread = std * np.linspace(1.0, 0.05, 48)
    pixels = rng.normal(mean, spread, (1500, 48)).astype(np.float32)
    reduced = _principal(Features(pixels, pixels[:40]), 16, seed=0)
    centred = pixels - pixels.mean(axis=0, dtype=np.float64)
    exact = np.linalg.svd(centred, compute_uv=False)[:16] / np.sqrt(len(pixels))
    np.testing.assert_allclose(reduced.train.std(axis=0, dtype=np.float64), exact, rtol=1e-3)
    np.testing.assert_allclose(reduced.test, reduced.train[:40], atol=1e-5)
