"""What pre-training says of its features: it warns where they collapsed, once, and not before."""

from __future__ import annotations

import functools
import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import tiny_views

import main
from simclr_tf.data import from_arrays
from simclr_tf.losses.contrastive import NTXent
from simclr_tf.models import ProjectionHead
from simclr_tf.training.callbacks import HealthLine, KNNMonitor
from simclr_tf.training.fit import fit_steps
from simclr_tf.training.model import SimCLR

HEALTHY = {"loss": 3.0, "contrastive_accuracy": 0.5, "feature_spread": 0.05, "feature_rank": 4.0}


def line(similarity="cosine"):
    loss = NTXent(0.1, similarity=similarity)
    health = HealthLine(loss=loss, batch_size=256, monitor=KNNMonitor(None, None))
    optimizer = types.SimpleNamespace(iterations=keras.Variable(0))
    health.set_model(types.SimpleNamespace(optimizer=optimizer))
    return health


def said(health, capsys, *, steps=0, **logs):
    """What is printed after an epoch, but for its own line."""
    health.model.optimizer.iterations.assign(steps)
    health.on_epoch_end(0, {**HEALTHY, **logs})
    return capsys.readouterr().out.splitlines()[1:]


@pytest.mark.parametrize(
    ("logs", "word"),
    [({"feature_spread": 0.001}, "nearly the same"), ({"feature_rank": 1.05}, "nearly on a line")],
)
def test_a_collapse_is_told_once_with_its_causes_and_its_end(capsys, logs, word):
    health = line()
    assert said(health, capsys) == []
    (warning,) = said(health, capsys, **logs)
    assert "warning: collapse" in warning and word in warning and "`learning_rate`" in warning
    assert said(health, capsys, **logs) == []
    (over,) = said(health, capsys)
    assert over.startswith("over: ") and word in over
    assert len(said(health, capsys, **logs)) == 1


def test_epochs_without_a_look_say_nothing_of_the_features(capsys):
    health = line()
    assert said(health, capsys, feature_spread=0.001)
    logs = {name: HEALTHY[name] for name in ("loss", "contrastive_accuracy")}
    health.on_epoch_end(1, logs)
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert said(health, capsys, feature_spread=0.001) == []


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_loss_that_stays_where_nothing_is_told_apart_is_told_after_some_steps(capsys, similarity):
    health, stuck = line(similarity), np.log(511) - 0.05
    assert said(health, capsys, steps=499, loss=stuck) == []
    (warning,) = said(health, capsys, steps=500, loss=stuck)
    assert "the loss is 6.24" in warning
    assert said(health, capsys, steps=600, loss=stuck - 0.5)[0].startswith("over")
    assert said(health, capsys, steps=700, loss=stuck + 2.0) == []  # bad, but not the same


def test_the_features_of_a_constant_encoder_are_a_collapse_and_those_of_a_random_one_not(
    rng, capsys
):
    images = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
    monitor = KNNMonitor(from_arrays(images), from_arrays(images))
    inputs = keras.Input((8, 8, 3))
    features = keras.layers.Dense(5, activation="relu")(keras.layers.Flatten()(inputs))
    encoder = keras.Model(inputs, features)
    assert said(line(), capsys, **monitor.measure(encoder)) == []
    kernel, bias = encoder.layers[-1].weights
    kernel.assign(np.zeros(kernel.shape))
    bias.assign([1, 2, 3, 4, 5])
    found = monitor.measure(encoder)
    assert found == {"feature_spread": pytest.approx(0.0, abs=1e-6), "feature_rank": 1.0}
    assert len(said(line(), capsys, **found)) == 2
    kernel.assign(rng.uniform(size=(kernel.shape[0], 1)) * np.ones(5))
    found = monitor.measure(encoder)
    assert found["feature_rank"] == pytest.approx(1.0, abs=0.01) and len(
        said(line(), capsys, **found)
    )


@pytest.mark.parametrize("collapses", [False, True])
def test_a_training_that_collapses_is_told_so_a_healthy_one_is_not(capsys, rng, collapses):
    """A decay that takes all of the kernel at each step leaves the bias: one answer to all."""
    keras.utils.set_random_seed(3)
    answer = keras.layers.Dense(6, bias_initializer="ones")
    encoder = keras.Sequential([keras.Input((9, 9, 3)), keras.layers.Flatten(), answer])
    model, loss = SimCLR(encoder, ProjectionHead(5, layers=2)), NTXent(0.5)
    optimizer = keras.optimizers.SGD(0.01)
    if collapses:
        optimizer = keras.optimizers.SGD(1e-9, weight_decay=1e9)
        optimizer.exclude_from_weight_decay([answer.bias, *model.head.trainable_variables])
    model.compile(optimizer, loss)
    views = tf.data.Dataset.from_tensors(tiny_views())
    images = from_arrays(rng.integers(0, 256, (40, 9, 9, 3), np.uint8))
    monitor = KNNMonitor(images, images)
    fit_steps(
        model,
        lambda first, last: views.repeat(last - first),
        first_step=0,
        last_step=8,
        steps_per_epoch=4,
        callbacks=[monitor, HealthLine(loss=loss, batch_size=8, monitor=monitor)],
    )
    assert ("warning: collapse: the features of all" in capsys.readouterr().out) == collapses


def test_the_steps_that_float16_skips_are_printed_and_in_the_results(tmp_path, monkeypatch, capsys):
    scaled = keras.optimizers.LossScaleOptimizer.__init__
    too_large = functools.partialmethod(scaled, initial_scale=2.0**24)
    monkeypatch.setattr(keras.optimizers.LossScaleOptimizer, "__init__", too_large)
    images = np.random.default_rng(0).integers(0, 256, (72, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "set.npz", x_train=images, y_train=np.arange(72) % 2)
    flags = [f"--dataset=npz:{tmp_path / 'set.npz'}", "--init_weights=none", "--freeze"]
    flags += ["--width_multiplier=0.0625", "--batch_size=8", "--num_epochs=3"]
    flags += [
        "--include_nonlinearity",
        "--precision=mixed_float16",
        f"--finetune_save_path={tmp_path / 'run'}",
    ]
    assert main.main(["--task=classification", *flags]) == 0
    skipped = json.loads((tmp_path / "run/results.json").read_text())["skipped_steps"]
    assert 0 < skipped < 24
    assert f"\n{skipped} steps skipped (float16 overflow)\n" in capsys.readouterr().out


def test_the_accuracy_alone_is_that_of_a_look(rng):
    images, labels = rng.integers(0, 256, (70, 4, 4, 3), np.uint8), rng.integers(0, 2, 70)
    monitor = KNNMonitor(*(from_arrays(images[s], labels[s]) for s in (slice(40), slice(40, 70))))
    encoder = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    for limit in (10, 100):
        accuracy = monitor.measure_accuracy(encoder, limit=limit)
        assert accuracy == monitor.measure(encoder, limit=limit)["knn_accuracy"]
    assert 0 < accuracy < 1
