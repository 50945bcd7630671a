"""What a run tells experiment trackers and TensorBoard, through `main.main([...])`.

The trackers are stood in for by modules that write down what they are asked; where the real ones
are installed they are run too, against files of their own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main
from simclr_tf.training.callbacks.tensorboard import Profile
from simclr_tf.training.callbacks.tracking import Tracking, _numbers_in

STEPS, EPOCHS = 7, 4  # 28 steps: a profile of 10 to 20 begins and ends within an epoch


def pretrain(data: Path, folder: Path, *flags: str) -> int:
    return main.main(
        [
            "--task=pretrain",
            f"--dataset=npz:{data}",
            f"--pretrain_save_path={folder}",
            "--width_multiplier=0.0625",
            "--batch_size=4",
            f"--num_epochs={EPOCHS}",
            "--precision=float32",
            "--blur=False",
            "--eval_every_epochs=2",
            *flags,
        ]
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    images = rng.integers(0, 256, (4 * STEPS + 8, 8, 8, 3), np.uint8)
    labels = np.arange(len(images)) % 2
    np.savez(
        path,
        x_train=images[:-8],
        y_train=labels[:-8],
        x_test=images[-8:],
        y_test=labels[-8:],
    )
    return path


class Notes(keras.callbacks.Callback):
    """A tracker's callback: keeps the epochs it saw and what it was told of them."""

    def __init__(self, told: list) -> None:
        super().__init__()
        self.told = told

    def on_epoch_end(self, epoch, logs=None):
        self.told.append(("epoch", epoch, float(logs["loss"]), sorted(logs)))


@pytest.fixture
def wandb(monkeypatch) -> list:
    """Stands in for Weights & Biases; returns the list of what it is told."""
    told: list = []

    def init(**arguments):
        told.append(("init", arguments))
        return SimpleNamespace(
            id=arguments["id"] or "a1",
            summary=SimpleNamespace(update=lambda found: told.append(("summary", found))),
            finish=lambda exit_code: told.append(("finish", exit_code)),
        )

    parts = {
        "wandb": {"init": init},
        "wandb.integration": {},
        "wandb.integration.keras": {
            "WandbMetricsLogger": lambda initial_global_step: (
                told.append(("step", initial_global_step)) or Notes(told)
            )
        },
    }
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return told


def kinds(told: list) -> list[str]:
    return [entry[0] for entry in told]


def test_a_run_and_its_resumption_are_one_run_of_the_tracker(data, tmp_path, wandb, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    folder = tmp_path / "run"
    assert pretrain(data, folder, "--tracker=wandb", f"--max_steps={2 * STEPS}") == 0
    assert kinds(wandb) == ["init", "step", "epoch", "epoch", "summary", "finish"]
    begun = wandb[0][1]
    assert begun["id"] is None and begun["project"] == "simclr_tf" and begun["name"] == "run"
    assert begun["config"]["batch_size"] == 4 and begun["config"]["stem"] == "small"
    results = json.loads((folder / "results.json").read_text())
    summary = wandb[-2][1]
    assert summary["knn_accuracy"] == results["knn_accuracy"]
    assert summary["baselines.raw_pixels"] == results["baselines"]["raw_pixels"]
    assert wandb[-1] == ("finish", 0)
    assert {"loss", "contrastive_accuracy", "knn_accuracy"} <= set(wandb[3][3])  # of epoch 2
    assert not histograms_of(folder) and not profiles_of(folder)  # nobody asked

    del wandb[:]
    assert pretrain(data, folder, "--tracker=wandb", "--resume") == 0
    assert wandb[0][1]["id"] == "a1" and wandb[0][1]["resume"] == "allow"
    assert wandb[1] == ("step", 2 * STEPS)
    assert [entry[1] for entry in wandb if entry[0] == "epoch"] == [2, 3]

    del wandb[:]
    Tracking("wandb", folder).begin({}, resumed=False)  # from the beginning: another run
    assert wandb[0][1]["id"] is None


def test_a_run_that_breaks_off_is_closed_as_such(data, tmp_path, wandb, monkeypatch):
    def stop(self, epoch, logs=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Notes, "on_epoch_end", stop)
    assert pretrain(data, tmp_path / "run", "--tracker=wandb") == 130
    assert kinds(wandb) == ["init", "step", "finish"] and wandb[-1] == ("finish", 1)


def test_a_tracker_that_does_not_take_the_run_is_named_and_costs_no_earlier_one(
    data, tmp_path, wandb, monkeypatch, capsys
):
    def refuse(**arguments):
        raise RuntimeError("no API key configured")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("checkpoints/step-000000001.safetensors", "results.json"):
        (folder / name).write_text("an earlier run's")
    (folder / "config.yaml").write_text("task: pretrain\n")
    assert pretrain(data, folder, "--tracker=wandb", "--overwrite") == 2
    error = capsys.readouterr().err
    assert "--tracker=wandb" in error and "no API key configured" in error
    assert "WANDB_MODE=offline" in error and "Traceback" not in error
    assert (folder / "checkpoints/step-000000001.safetensors").exists()
    assert (folder / "results.json").read_text() == "an earlier run's"


def test_what_fails_later_costs_the_run_nothing(tmp_path, wandb, capsys):
    tracking = Tracking("wandb", tmp_path)
    tracking.begin({}, resumed=False)

    def fail(*_):
        raise ConnectionError("the server is gone")

    tracking._tracker.report = fail
    tracking._tracker.end = lambda finished: fail()
    with tracking.until_the_end():
        tracking.report({"config": {}, "accuracy": 0.5})
    said = capsys.readouterr().out
    assert said.count("`tracker=wandb` failed: the server is gone") == 2


def begun_and_resumed(folder, monkeypatch):
    """A run's two lives as MLflow is told of them."""
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    for resumed in (False, True):
        tracking = Tracking("mlflow", folder)
        with tracking.until_the_end():
            tracking.begin({"batch_size": 4}, resumed=resumed)
            tracking.keep_name()
            yield tracking


def train_told(tracking, first_step):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = tracking.callback(first_step=first_step)
    model.fit(np.zeros((4, 2)), np.zeros(4), callbacks=[callback], verbose=0)
    tracking.report({"config": {}, "accuracy": 0.5})


def test_mlflow_is_told_settings_once_and_names_that_it_takes(tmp_path, monkeypatch):
    told = []

    def note(kind):
        return lambda *found, **named: (
            told.append((kind, *found, named)) or SimpleNamespace(info=SimpleNamespace(run_id="r1"))
        )

    names = ("set_experiment", "start_run", "log_params", "log_metrics", "end_run")
    for module, content in (
        ("mlflow", {name: note(name) for name in names}),
        ("mlflow.keras", {"MlflowCallback": lambda: "callback"}),
    ):
        made = ModuleType(module)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, module, made)
    for tracking in begun_and_resumed(tmp_path, monkeypatch):
        assert tracking.callback(0) == "callback"
        tracking.report({"config": {}, "classes": {"tench, Tinca tinca": 3}})
    begun = [entry[-1] for entry in told if entry[0] == "start_run"]
    assert [found["run_id"] for found in begun] == [None, "r1"]
    assert [entry[1] for entry in told if entry[0] == "log_params"] == [{"flag.batch_size": 4}]
    assert ("log_metrics", {"final.classes.tench_ Tinca tinca": 3.0}, {}) in told
    assert [entry[1] for entry in told if entry[0] == "end_run"] == ["FINISHED"] * 2


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_done(
    name, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, name, None)
    assert pretrain(data, tmp_path / "run", f"--tracker={name}") == 2
    assert f"pip install {name}" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_numbers_within_others_are_told_by_both_names():
    found = {"a": 1, "b": {"0.1": {"mean": 0.5, "name": "x"}}, "c": [1], "d": True, "e": None}
    assert dict(_numbers_in(found)) == {"a": 1.0, "b.0.1.mean": 0.5}


def test_mlflow_has_settings_epochs_and_results(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.chdir(tmp_path)  # where its artifacts go
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for first_step, tracking in enumerate(begun_and_resumed(tmp_path, monkeypatch)):
        train_told(tracking, first_step)
    name = json.loads((tmp_path / "tracker.json").read_text())["mlflow"]
    run = mlflow.MlflowClient().get_run(name)
    assert run.info.status == "FINISHED" and run.data.params["flag.batch_size"] == "4"
    assert run.data.metrics["final.accuracy"] == 0.5 and "loss" in run.data.metrics


def test_wandb_has_settings_epochs_and_results(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)  # where its files go
    tracking = Tracking("wandb", tmp_path)
    with tracking.until_the_end():
        tracking.begin({"batch_size": 4}, resumed=False)
        train_told(tracking, 0)
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def read_events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def histograms_of(folder: Path) -> list[str]:
    tags = read_events(folder / "tensorboard" / "train").Tags()["tensors"]
    return [tag for tag in tags if tag.startswith("weights/")]


def profiles_of(folder: Path) -> list[Path]:
    return list((folder / "tensorboard").rglob("*.xplane.pb"))


@pytest.mark.parametrize(("together", "first", "last"), [(1, 10, 20), (10, 10, 20), (4, 12, 20)])
def test_a_profile_is_of_the_steps_10_to_20(together, first, last, tmp_path, monkeypatch):
    told = []
    profiler = SimpleNamespace(
        start=lambda path: told.append(profile.step),
        stop=lambda: told.append(profile.step),
    )
    monkeypatch.setattr(tf.profiler, "experimental", profiler)
    profile = Profile(SimpleNamespace(tensorboard=tmp_path))
    for steps in (4, 4, 30):  # `fit` may be called for each part of a run
        profile.set_params({"first_step": profile.step or 100, "steps": steps * together})
        profile.on_train_begin()
        profile.on_epoch_begin(0)
        for batch in range(steps):
            profile.on_train_batch_end((batch + 1) * together - 1)
    assert told == [100 + first, 100 + last]


def test_tensorboard_has_views_numbers_histograms_and_a_profile(data, tmp_path):
    folder = tmp_path / "run"
    assert pretrain(data, folder, "--profile", "--histograms") == 0
    pictures = read_events(folder / "tensorboard" / "pictures")
    assert pictures.Tags()["tensors"] == ["views"]
    train = read_events(folder / "tensorboard" / "train")
    assert len(train.Tensors("epoch_loss")) == EPOCHS
    histograms = histograms_of(folder)
    assert any("kernel" in tag and "head" in tag for tag in histograms)
    assert any("kernel" in tag and "head" not in tag for tag in histograms)
    assert len(train.Tensors(histograms[0])) == EPOCHS // 2
    assert len(profiles_of(folder)) == 1
