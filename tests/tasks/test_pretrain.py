"""Pre-training from end to end, as the command line calls it: `main.main([...])`."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tensorflow as tf
from tiny_runs import (
    THREE_EPOCHS,
    assert_same_weights,
    final_arrays,
    pretrain,
    results_of,
)

import main
from simclr_tf.config.settings import Config
from simclr_tf.data import from_arrays
from simclr_tf.errors import UserError
from simclr_tf.training import execution
from simclr_tf.workflow import start
from simclr_tf.workflow.plan import plan_steps
from simclr_tf.workflow.start import start_run

pytestmark = pytest.mark.usefixtures("shallow")


def test_images_that_fill_no_batch_are_named_where_they_are_many(pictures, tmp_path, capsys):
    flags = ("--val_fraction=0.25", "--max_steps=1")
    assert pretrain(tmp_path / "some", pictures, *flags) == 0
    said = capsys.readouterr().out
    assert "each epoch leaves out 3 of 27 images, others each time: they fill no batch" in said
    assert "the validation loss leaves out 1 of 9 images: they fill no batch" in said
    assert pretrain(tmp_path / "none", pictures, *flags, "--batch_size=9") == 0
    assert "leaves out" not in capsys.readouterr().out


@pytest.mark.parametrize("batch_size", [49, 32, 31])
def test_a_few_images_that_fill_no_batch_are_not_named(batch_size, capsys):
    """1 of 99, 3 of 99, 6 of 99."""
    config = Config.resolve(task="pretrain", batch_size=batch_size)
    plan_steps(config, from_arrays(np.zeros((99, 4, 4, 3), np.uint8)))
    assert ("leaves out" in capsys.readouterr().out) == (batch_size == 31)


def test_pretraining_leaves_what_the_contract_names(pretrained):
    results = results_of(pretrained)
    common = {"task", "config", "versions", "device", "seconds", "images_per_second"}
    own = {
        "loss",
        "contrastive_accuracy",
        "knn_accuracy",
        "steps",
        "epochs",
        "peak_memory_bytes",
        "baselines",
        "val_loss",
    }
    assert common | own <= results.keys()
    assert results["steps"] == 2 * (27 // 8)
    assert results["epochs"] == 2
    assert results["config"]["stem"] == "small"
    for name in ("config.yaml", "metrics.csv", "tensorboard/train", "checkpoints"):
        assert (pretrained / name).exists(), name
    plots = {path.name for path in (pretrained / "plots").iterdir()}
    assert plots == {"loss.png", "accuracy.png", "views.png"}
    with open(pretrained / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert float(rows[-1]["loss"]) == pytest.approx(results["loss"], abs=1e-3)
    assert rows[-1]["val_loss"]


@pytest.mark.parametrize(
    ("optimizer", "flags"),
    [
        ("sgd", ("--precision=mixed_bfloat16",)),
        ("nesterov", ("--precision=mixed_float16",)),
        ("adam", ("--similarity=dot", "--temperature=1")),
        (
            "adamw",
            ("--depthwise", "--stem=imagenet", "--projection_layers=3", "--projection_hidden=16"),
        ),
        ("nadam", ("--no-crop", "--no-flip", "--no-jitter", "--no-colordrop")),
        ("lamb", ("--noise", "--rotate", "--cutout", "--blur", "--crop_size=12 20")),
        ("lars", ("--cache=false",)),
        ("lars", ("--lr_scaling=sqrt", "--warmup_epochs=0", "--save_every_epochs=2")),
    ],
    ids=lambda words: words if isinstance(words, str) else " ".join(words),
)
def test_choices_and_every_optimizer_pretrain(pictures, tmp_path, optimizer, flags):
    rate = () if optimizer == "lars" else ("--learning_rate=0.01",)
    flags = (f"--optimizer={optimizer}", *rate, *flags)
    assert pretrain(tmp_path, pictures, "--max_steps=2", *flags) == 0


@pytest.mark.slow
@pytest.mark.parametrize("xla", ["true", "false"])
def test_views_made_on_the_device_train_as_those_of_the_host(pictures, tmp_path, xla):
    flags = ("--max_steps=3", "--blur", "--noise", "--rotate", "--cutout", f"--xla={xla}")
    for place in ("host", "device"):
        assert pretrain(tmp_path / place, pictures, f"--augment_on={place}", *flags) == 0
    host, device = (final_arrays(tmp_path / place) for place in ("host", "device"))
    for name, values in host.items():
        np.testing.assert_allclose(device[name], values, rtol=1e-2, atol=1e-3, err_msg=name)


def test_views_are_made_on_the_device_only_of_images_in_memory(pictures, tmp_path, capsys):
    assert pretrain(tmp_path, pictures, "--augment_on=device", "--cache=false") == 2
    assert "--cache=true" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--xla=true",), ("--model=34",), ("--model=50",)], ids=" ".join)
def test_choices_that_take_long_to_compile(pictures, tmp_path, flags):
    assert pretrain(tmp_path, pictures, "--max_steps=2", *flags) == 0


@pytest.mark.slow
def test_pretraining_teaches_the_shapes(full_depth, tmp_path):
    """A few epochs lift the kNN accuracy well over that of the untrained encoder."""
    run = f"--pretrain_save_path={tmp_path}"
    assert main.main(["--task=pretrain", run, "--max_steps=80"]) == 0
    results = results_of(tmp_path)
    assert results["knn_accuracy"] > results["baselines"]["random_encoder"] + 0.1


def test_every_operation_may_be_asked_to_be_deterministic(whole, pictures, tmp_path):
    from tensorflow.python.framework.config import (
        disable_op_determinism,
        is_op_determinism_enabled,
    )

    assert not is_op_determinism_enabled()
    try:
        assert pretrain(tmp_path, pictures, *THREE_EPOCHS, "--deterministic") == 0
        assert is_op_determinism_enabled()
    finally:
        disable_op_determinism()
    assert_same_weights(whole, tmp_path)  # the CPU needs no other kernels for it


def test_the_pace_is_known_after_a_few_steps(pictures, tmp_path):
    assert pretrain(tmp_path, pictures, "--max_steps=1") == 0
    assert results_of(tmp_path)["images_per_second"] > 0


@pytest.mark.parametrize(
    ("gpus", "task", "threads"),
    [(0, "pretrain", 0), (1, "pretrain", 1), (1, "evaluate", 0), (1, "embed", 0)],
)
def test_beside_a_gpu_that_trains_the_hosts_operations_have_one_thread_each(
    monkeypatch, gpus, task, threads
):
    done = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * gpus)
    monkeypatch.setattr(start, "one_thread_an_operation", lambda: done.append("threads"))

    def stop(*_):
        done.append("strategy")
        raise UserError("far enough")

    monkeypatch.setattr(start, "_make_strategy", stop)
    monkeypatch.setattr(execution, "xla_failure", lambda gpu: "")
    monkeypatch.setattr(execution, "_describe", str)
    monkeypatch.setattr(execution, "_gpu_precision", lambda gpu: "float32")
    with pytest.raises(UserError, match="far enough"), start_run(Config(task=task)):
        pass
    assert done == ["threads"] * threads + ["strategy"]  # before any device is set up
