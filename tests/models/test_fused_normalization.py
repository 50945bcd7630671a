"""Batch normalisation against float64, of means far from 0, by kernels and compiled by XLA."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tables import pairs

from simclr_tf.models import BatchNormalization, cross_replica
from simclr_tf.models.fused_normalization import compiled_by_xla
from simclr_tf.models.normalization import EPSILON, MOMENTUM

SHAPE = (16, 16, 16, 4)
AXES = (0, 1, 2)
GAMMA, BETA = np.float32([1.0, 0.5, -2.0, 1.5]), np.float32([0.0, 1.0, -1.0, 0.5])
# Of the largest value: how a number is rounded, and what is left of float32 at a mean of 1,000.
ROUNDING = {"float32": 1e-5, "bfloat16": 2.0**-8, "float16": 2.0**-10}
KERNEL = 2e-3

CASES = [(0.0, 1.0), (10.0, 0.01), (1000.0, 1.0), (-3000.0, 3.0)]


def layer_of(dtype):
    norm = BatchNormalization(dtype=dtype if dtype == "float32" else f"mixed_{dtype}")
    norm.build(SHAPE)
    norm.gamma.assign(GAMMA)
    norm.beta.assign(BETA)
    return norm


def draw(mean, std, dtype):
    """Inputs and the gradient of outputs, rounded to the dtype, and both in float64."""
    rng = np.random.default_rng(0)
    drawn = [tf.cast(rng.normal(*how, SHAPE), dtype) for how in ((mean, std), (0.0, 1.0))]
    return drawn, [tf.cast(each, tf.float64).numpy() for each in drawn]


def exact(x, dy, mean, variance, *, training):
    """Output and gradients with respect to x, gamma and beta: float64."""
    scale = 1.0 / np.sqrt(variance + EPSILON)
    x_hat = (x - mean) * scale
    dx = dy
    if training:
        dx = dy - dy.mean(AXES) - x_hat * (dy * x_hat).mean(AXES)
    return x_hat * GAMMA + BETA, GAMMA * scale * dx, (dy * x_hat).sum(AXES), dy.sum(AXES)


def value_and_gradients(norm_of, x, dy, weights):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = norm_of(x)
    return y, *tape.gradient(y, [x, *weights], output_gradients=dy)


def assert_close(found, expected, share):
    """Compares with `share` of the largest expected value, for each channel."""
    found = tf.cast(found, tf.float64).numpy()
    rows = tuple(range(found.ndim - 1))
    most = np.abs(expected).max(axis=rows, keepdims=True)
    assert np.all(np.abs(found - expected) <= share * most), np.abs(found - expected).max(rows)


@pairs(xla=[False, True], dtype=ROUNDING, mean__std=CASES)
def test_training_with_a_mean_far_from_0(mean, std, dtype, xla):
    norm = layer_of(dtype)
    (x, dy), (x64, dy64) = draw(mean, std, dtype)
    weights = [norm.gamma.value, norm.beta.value]
    step = tf.function(
        lambda x, dy: value_and_gradients(lambda x: norm(x, training=True), x, dy, weights),
        jit_compile=xla,
    )
    found = step(x, dy)
    variance = x64.var(AXES)
    expected = exact(x64, dy64, x64.mean(AXES), variance, training=True)
    of_kernel = KERNEL if mean and not xla else 0.0
    for mine, theirs, share in zip(
        found,
        expected,
        # Weights' gradients are float32 sums; the kernel's are of what its mean is off by.
        (ROUNDING[dtype], ROUNDING[dtype], 1e-4 + 5 * of_kernel, 1e-5),
        strict=True,
    ):
        assert_close(mine, theirs, share + of_kernel)
    share = 1.0 - MOMENTUM
    count = x64[..., 0].size
    running = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    np.testing.assert_allclose(running[0], share * x64.mean(AXES), rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(
        running[1], MOMENTUM + share * variance * count / (count - 1), rtol=2e-4
    )


@pytest.mark.parametrize("xla", [False, True], ids=["kernel", "xla"])
@pytest.mark.parametrize(
    ("mean", "std", "dtype"),
    [*((*case, dtype) for case in CASES for dtype in ROUNDING), (1e5, 1.0, "float32")],
)
def test_fixed_statistics_with_a_mean_far_from_0(mean, std, dtype, xla):
    norm = layer_of(dtype)
    (x, dy), (x64, dy64) = draw(mean, std, dtype)
    norm.moving_mean.assign(x64.mean(AXES))
    norm.moving_variance.assign(x64.var(AXES))
    fixed = [np.float64(v.numpy()) for v in (norm.moving_mean, norm.moving_variance)]
    weights = [norm.gamma.value, norm.beta.value]
    step = tf.function(lambda x, dy: value_and_gradients(norm, x, dy, weights), jit_compile=xla)
    expected = exact(x64, dy64, *fixed, training=False)
    for mine, theirs in zip(step(x, dy), expected, strict=True):
        assert_close(mine, theirs, ROUNDING[dtype])


@pytest.mark.parametrize("value", [0.7, 1000.1234])
def test_a_million_equal_pixels_have_no_variance_under_xla(value):
    """A plain sum of them is off in the third digit, which would make a variance below 0."""
    norm = BatchNormalization()
    x = tf.fill([64, 128, 128, 1], np.float32(value))
    y = tf.function(lambda x: norm(x, training=True), jit_compile=True)(x)
    np.testing.assert_allclose(y, 0.0, atol=1e-5)
    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.1 * value, rtol=1e-6)
    np.testing.assert_allclose(norm.moving_variance.numpy(), MOMENTUM, rtol=1e-6)


@pytest.mark.parametrize("xla", [False, True], ids=["kernel", "xla"])
@pytest.mark.parametrize("shape", [SHAPE, (1024, 32, 32, 4)])
def test_the_norm_over_replicas_with_a_mean_far_from_0(monkeypatch, shape, xla):
    """Of one replica, as XLA compiles no exchange on a CPU; more of them: `test_distribution`."""
    alone = types.SimpleNamespace(
        num_replicas_in_sync=1, replica_id_in_sync_group=0, all_reduce=lambda how, value: value
    )
    monkeypatch.setattr(tf.distribute, "get_replica_context", lambda: alone)
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(mean, 1.0, shape).astype(np.float32) for mean in (1000.0, 0.0))

    def step(x, dy, gamma, beta):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y, *statistics = cross_replica.normalize_over_replicas(x, gamma, beta, epsilon=EPSILON)
        return statistics, (y, *tape.gradient(y, [x, gamma, beta], output_gradients=dy))

    arrays = (tf.constant(each) for each in (x, dy, GAMMA, BETA))
    statistics, found = tf.function(step, jit_compile=xla)(*arrays)
    x64 = x.astype(np.float64)
    mean, variance, count = x64.mean(AXES), x64.var(AXES), x[..., 0].size
    np.testing.assert_allclose(statistics[0], mean, rtol=2e-7)
    np.testing.assert_allclose(statistics[1], variance * count / (count - 1), rtol=1e-3)
    expected = exact(x64, dy.astype(np.float64), mean, variance, training=True)
    for mine, theirs in zip(found[:2], expected[:2], strict=True):
        assert_close(mine, theirs, 1e-3)


@pytest.mark.parametrize("xla", [False, True])
def test_what_xla_compiles_is_known_within_loops_and_functions_too(xla):
    seen = []

    @tf.function
    def inner(x):
        seen.append(compiled_by_xla())
        return x

    tf.function(lambda x: tf.map_fn(inner, x), jit_compile=xla)(tf.zeros([2, 3]))
    assert seen == [xla]
    assert not compiled_by_xla()


@pytest.mark.parametrize("xla", [False, True])
def test_a_step_of_keras_tells_its_layers_of_xla(xla):
    """What several steps an execution, a loop around the compiled step, must not hide."""
    seen = []

    class Asked(keras.layers.Layer):
        def call(self, x):
            seen.append(compiled_by_xla())
            return x

    model = keras.Sequential([Asked(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=xla, steps_per_execution=2)
    x, y = np.zeros((8, 3), np.float32), np.zeros((8, 1), np.float32)
    model.fit(x, y, batch_size=2, epochs=1, verbose=0)
    trained = len(seen)
    model.predict(x, batch_size=2, verbose=0)
    assert set(seen[1:trained]) == set(seen[trained:]) == {xla}  # the first built the model
