"""What only a GPU can show: its numbers are those of the CPU, and the command line trains on it.

`make test-gpu` runs these, in one process; `make test` never does. Without a GPU that ends with an
error, unless SIMCLR_TF_GPU_TESTS_ON_CPU=1 has the CPU stand for it: then the tests show that their
own code works, and nothing about GPUs.
"""

from __future__ import annotations

import json
import math
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import loss_and_gradient, policy, tiny_views

import main
from simclr_tf.augment import Recipe, draw_views, make_views
from simclr_tf.losses import contrastive_streaming
from simclr_tf.losses.contrastive import NTXent
from simclr_tf.models import BatchNormalization, ProjectionHead, resnet
from simclr_tf.optimizers import make_optimizer
from simclr_tf.runs.checkpoints import Checkpoints, read_arrays
from simclr_tf.training.model import SimCLR

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("shallow")]

CPU = "/CPU:0"
XLA = pytest.mark.parametrize("xla", [False, True], ids=["plain", "xla"])
STEPS = 6
EVERYTHING = Recipe(blur=True, noise=True, rotate=True, cutout=True)
TINY = ["--width_multiplier=0.0625", "--zdim=8", "--batch_size=16", "--num_epochs=2"]


@pytest.fixture(scope="module")
def device() -> str:
    """The GPU, or the CPU where that was asked to stand for it."""
    return "/GPU:0" if tf.config.list_logical_devices("GPU") else CPU


@pytest.fixture(autouse=True)
def _whole_float32():
    """Without TensorFloat-32, in which a GPU multiplies numbers of 10 bits as float32."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(before)


# --- Training ---


def losses(device: str, name: str, xla: bool, microbatch_size: int = 0) -> list[float]:
    """Trains a small ResNet on one batch, from the same weights at each call."""
    with tf.device(device), policy(name):
        keras.utils.set_random_seed(0)
        model = SimCLR(
            resnet(18, stem="small", width_multiplier=0.125),
            ProjectionHead(16, layers=2),
            microbatch_size=microbatch_size,
        )
        optimizer = make_optimizer(
            "lars", learning_rate=0.05, weight_decay=1e-4, variables=model.trainable_variables
        )
        model.compile(optimizer, NTXent(0.2), jit_compile=xla)
        if name == "mixed_float16":
            model.optimizer.dynamic_scale.assign(256.0)  # the first step is not to overflow
        step = tf.function(model.train_step, jit_compile=xla)
        views = tuple(map(tf.constant, tiny_views(16, side=16)))  # 2 of [16, 16, 16, 3]
        history = []
        for _ in range(STEPS):
            model.reset_metrics()
            history.append(float(step(views)["loss"]))
    assert np.isfinite(history).all()
    assert history[-1] < history[0]
    return history


@XLA
@pytest.mark.parametrize("microbatch_size", [0, 8])
def test_float32_trains_as_on_the_cpu(device, xla, microbatch_size):
    ours = losses(device, "float32", xla, microbatch_size)
    np.testing.assert_allclose(ours, losses(CPU, "float32", False, microbatch_size), rtol=2e-3)


@XLA
@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
def test_16_bits_train_as_float32_on_the_cpu(device, name, xla):
    """In float16 with loss scaling, which Keras adds when it compiles."""
    np.testing.assert_allclose(losses(device, name, xla), losses(CPU, "float32", False), rtol=5e-2)


@XLA
def test_a_step_that_overflows_in_float16_is_left_out(device, xla):
    with tf.device(device), policy("mixed_float16"):
        model = SimCLR(resnet(18, stem="small", width_multiplier=0.125), ProjectionHead(16))
        optimizer = make_optimizer(
            "lars", learning_rate=0.5, weight_decay=0.0, variables=model.trainable_variables
        )
        model.compile(optimizer, NTXent(0.2), jit_compile=xla)
        model.optimizer.dynamic_scale.assign(2.0**120)
        before = [v.numpy() for v in model.trainable_variables]
        step = tf.function(model.train_step, jit_compile=xla)
        step(tuple(map(tf.constant, tiny_views(16, side=16))))
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert float(model.optimizer.dynamic_scale) == 2.0**119


@XLA
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_norm_of_values_far_from_zero(device, dtype, xla):
    """A mean of 1,000 deviations: the mean of squares less the square of the mean would cancel."""
    rng = np.random.default_rng(0)
    x = (10.0 + 0.01 * rng.normal(size=(32, 8, 8, 4))).astype(dtype)
    exact = np.float64(x)
    expected = exact - exact.mean(axis=(0, 1, 2))
    expected /= np.sqrt(exact.var(axis=(0, 1, 2)) + 1e-5)
    with tf.device(device):
        norm = BatchNormalization(dtype="float32" if dtype == "float32" else "mixed_float16")
        norm.build(x.shape)
        ours = tf.function(lambda x: norm(x, training=True), jit_compile=xla)(tf.constant(x))
    np.testing.assert_allclose(np.float64(ours), expected, atol=0.01)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * exact.mean(axis=(0, 1, 2)), rtol=1e-5)


# --- Views ---


def made(device: str, size: int, mode: str, dtype: str) -> list[np.ndarray]:
    """Draws and makes two views of each of 8 images on the device: float32 [8, size, size, 3]."""
    recipe = Recipe(**{**vars(EVERYTHING), "jitter_mode": mode})
    images = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), np.uint8)

    @tf.function
    def make(images, step):
        draw = draw_views(recipe, 16, seed=1, step=step, size=(size, size))
        return make_views(images, draw, (size, size), dtype)

    with tf.device(device):
        return [np.float32(tf.cast(view, tf.float32)) for view in make(tf.constant(images), 3)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["fused", "reference"])
@pytest.mark.parametrize("size", [32, 96])
def test_views_are_those_of_the_host(device, size, mode, dtype):
    for ours, theirs in zip(
        made(device, size, mode, dtype), made(CPU, size, mode, "float32"), strict=True
    ):
        difference = np.abs(ours - theirs)
        # Where a hue or a pixel's place is on an edge, rounding decides: few pixels.
        assert np.mean(difference > 2.5 / 255) < (1e-3 if dtype == "float32" else 1e-2)
        assert difference.mean() < (1e-4 if dtype == "float32" else 1 / 255)


# --- NT-Xent ---


@XLA
@pytest.mark.parametrize("streaming", [False, True], ids=["dense", "streaming"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nt_xent_and_its_gradient(device, streaming, dtype, xla, monkeypatch):
    monkeypatch.setattr(contrastive_streaming, "TILE", 48)
    z = np.random.default_rng(0).normal(0, 1.0, (200, 16))

    def computed(device, streaming, xla):
        run = tf.function(
            lambda z: loss_and_gradient(z, temperature=0.1, streaming=streaming), jit_compile=xla
        )
        with tf.device(device):
            return run(tf.cast(tf.constant(z), dtype))

    contrast, gradient = computed(device, streaming, xla)
    expected, slope = computed(CPU, False, False)
    np.testing.assert_allclose(contrast.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(contrast.accuracy, expected.accuracy, atol=0.006)  # one near tie
    np.testing.assert_allclose(contrast.entropy, expected.entropy, rtol=1e-4)
    gradient, slope = (np.float32(tf.cast(g, tf.float32)) for g in (gradient, slope))
    tolerance = 1e-4 if dtype == "float32" else 1e-2
    assert np.abs(gradient - slope).max() <= tolerance * np.abs(slope).max()


# --- The command line ---


def results_of(folder: pathlib.Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def pretrain(folder: pathlib.Path, *flags: str) -> dict:
    code = main.main(["--task=pretrain", f"--pretrain_save_path={folder}", *TINY, *flags])
    assert code == 0
    return results_of(folder)


@pytest.mark.parametrize(
    ("precision", "views", "xla"),
    [
        ("float32", "host", False),
        ("float32", "device", True),
        ("mixed_bfloat16", "host", True),
        ("mixed_bfloat16", "device", False),
        ("mixed_float16", "host", False),
        ("mixed_float16", "device", True),
    ],
)
def test_pretraining_by_the_command_line(tmp_path, precision, views, xla):
    results = pretrain(
        tmp_path / "run",
        f"--precision={precision}",
        f"--augment_on={views}",
        f"--xla={str(xla).lower()}",
        "--max_steps=7",  # no multiple of the steps that are run at a time
        "--steps_per_execution=3",
    )
    assert results["steps"] == 7
    assert math.isfinite(results["loss"])


def test_every_task_by_the_command_line(tmp_path):
    """With what the device chooses by itself: precision, XLA, steps at a time."""
    encoder, saved = tmp_path / "pretrain", f"--pretrain_save_path={tmp_path / 'pretrain'}"
    pretrain(encoder, "--max_steps=4", "--augment_on=device")
    for task in ("classification", "segmentation", "evaluate", "embed", "predict"):
        folder = tmp_path / ("segmentation" if task == "predict" else task)
        flags = ["--batch_size=16", "--num_epochs=1", "--max_steps=4"]
        if task in ("evaluate", "embed", "predict"):
            flags = ["--overwrite"] if task == "predict" else []
        assert main.main([f"--task={task}", saved, f"--finetune_save_path={folder}", *flags]) == 0


def test_deterministic_makes_the_same_bits_twice(tmp_path):
    """In processes of their own: TensorFlow has no way back from deterministic operations."""
    arrays = []
    for name in ("first", "second"):
        command = ["--task=pretrain", f"--pretrain_save_path={tmp_path / name}", *TINY]
        command += ["--deterministic", "--max_steps=8", "--augment_on=device"]
        command = [sys.executable, main.__file__, *command]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        arrays.append(read_arrays(Checkpoints(tmp_path / name / "checkpoints").newest()))
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name], err_msg=name)
