"""`SimCLR` in `fit`: it learns, and its step is the same plain, cached, compiled and in 16 bits."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import norms, policy, shallow_encoders, tiny_encoder, tiny_simclr, tiny_views

from simclr_tf.augment import Recipe, draw_views, make_views
from simclr_tf.losses.contrastive import NTXent
from simclr_tf.models import ProjectionHead, resnet
from simclr_tf.optimizers import make_optimizer
from simclr_tf.training.gradient_caching import cached_gradients
from simclr_tf.training.model import SimCLR

COUNT = 8  # images in a batch


class CountingNTXent(NTXent):
    """Counts how often Python runs it: once a trace."""

    calls = 0

    def __call__(self, z, gather=None):
        self.calls += 1
        return super().__call__(z, gather)


def batches(views, steps=1):
    """The same batch, `steps` times, with static shapes."""
    return tf.data.Dataset.from_tensors(views).repeat(steps)


def all_norms(model):
    return norms([*model.encoder.layers, *model.head.stack.layers])


def compiled(*, rate=0.1, temperature=0.5, microbatch_size=0, optimizer=None, **arguments):
    model = tiny_simclr(microbatch_size=microbatch_size)
    model.compile(optimizer or keras.optimizers.SGD(rate), CountingNTXent(temperature), **arguments)
    return model


def weights_after(model, views, steps=1):
    model.fit(batches(views, steps), verbose=0)
    return [v.numpy() for v in model.variables]


@pytest.fixture(scope="module")
def views():
    return tiny_views(COUNT)


# --- fit ---


@pytest.mark.parametrize("name", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_training_lowers_the_loss_of_a_fixed_set(views, name):
    with policy(name):
        model = compiled(temperature=0.2)
        history = model.fit(batches(views, 10), epochs=5, verbose=0).history
    assert set(history) == {"loss", "contrastive_accuracy"}
    assert history["loss"][-1] < history["loss"][0] - 0.2
    assert history["contrastive_accuracy"][-1] >= history["contrastive_accuracy"][0]
    assert np.isfinite(history["loss"]).all()


def test_a_real_encoder_learns_with_lars(views):
    keras.utils.set_random_seed(0)
    model = SimCLR(resnet(18, stem="small", width_multiplier=0.125), ProjectionHead(8, layers=3))
    optimizer = make_optimizer(
        "lars", learning_rate=1.0, weight_decay=1e-4, variables=model.trainable_variables
    )
    loss = NTXent(0.2)
    model.compile(optimizer, loss)
    history = model.fit(batches(views, 10), epochs=4, verbose=0).history["loss"]
    assert history[-1] < 0.7 * loss.start(COUNT)


def test_training_traces_once_over_epochs_and_validation_once(views):
    model = compiled()
    counts = []

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            counts.append(model.contrastive_loss.calls)
            assert {"loss", "val_loss", "val_contrastive_accuracy"} <= set(logs)

    model.fit(
        batches(views, 3), validation_data=batches(views), epochs=3, verbose=0, callbacks=[Count()]
    )
    model.fit(batches(views, 3), verbose=0)
    assert counts[0] == counts[-1] == model.contrastive_loss.calls


def test_the_step_makes_the_loss_and_gradient_of_the_joint_batch(views):
    model = compiled(rate=0.5)
    before = [v.numpy() for v in model.trainable_variables]
    twin = tiny_simclr()
    with tf.GradientTape() as tape:
        contrast = NTXent(0.5)(twin(tf.concat(views, axis=0), training=True))
    gradients = tape.gradient(contrast.loss, [v.value for v in twin.trainable_variables])
    logs = model.fit(batches(views), verbose=0).history
    np.testing.assert_allclose(logs["loss"][0], contrast.loss, rtol=1e-5)
    np.testing.assert_allclose(logs["contrastive_accuracy"][0], contrast.accuracy)
    for variable, value, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose(variable.numpy(), value - 0.5 * gradient, rtol=1e-4, atol=1e-6)


def test_evaluation_changes_no_weight_and_uses_the_running_statistics(views):
    model = compiled()
    model.fit(batches(views, 3), verbose=0)
    before = [v.numpy() for v in (*model.weights, *model.optimizer.variables)]
    logs = model.evaluate(batches(views, 2), verbose=0, return_dict=True)
    for variable, value in zip((*model.weights, *model.optimizer.variables), before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    z = model(tf.concat(views, axis=0), training=False)
    np.testing.assert_allclose(logs["loss"], NTXent(0.5)(z).loss, rtol=1e-5)


def test_same_start_same_weights(views):
    first, second = (weights_after(compiled(), views, 3) for _ in range(2))
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("microbatch_size", [0, 4])
def test_compiled_by_xla_it_makes_the_same_step(views, microbatch_size):
    plain, xla = (
        weights_after(compiled(microbatch_size=microbatch_size, jit_compile=jit), views, 2)
        for jit in (False, True)
    )
    for ours, theirs in zip(xla, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def moves_of_a_real_step(views, name, microbatch_size, jit_compile):
    """Returns the loss of a first step of a ResNet by LARS and how far each weight moved."""
    with policy(name), shallow_encoders():  # XLA needs 10 s for a whole one
        model = small_resnet(microbatch_size)
        optimizer = make_optimizer(
            "lars", learning_rate=1.0, weight_decay=1e-4, variables=model.trainable_variables
        )
        model.compile(optimizer, NTXent(0.5), jit_compile=jit_compile)
        if name == "mixed_float16":
            model.optimizer.dynamic_scale.assign(256.0)  # the first step is not to overflow
        before = [v.numpy() for v in model.trainable_variables]
        (loss,) = model.fit(batches(views), verbose=0).history["loss"]
    assert int(model.optimizer.iterations) == 1
    return loss, [v.numpy() - w for v, w in zip(model.trainable_variables, before, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "microbatch_size"),
    [("float32", 0), ("mixed_bfloat16", 4), ("mixed_float16", 4)],
)
def test_the_whole_step_of_a_real_encoder_compiles_by_xla(views, name, microbatch_size):
    (loss, plain), (xla_loss, by_xla) = (
        moves_of_a_real_step(views, name, microbatch_size, jit) for jit in (False, True)
    )
    assert all(np.isfinite(move).all() and move.any() for move in by_xla)
    # XLA sums in another order. In float32 a dozen norms make 5e-5 of that, and a ReLU whose input
    # is within rounding of 0 may fall to the other side, which the layers below it feel; in the
    # short formats a gradient at the first layer keeps only its size: the loss is compared.
    exact = name == "float32"
    np.testing.assert_allclose(xla_loss, loss, rtol=1e-4 if exact else 0.05)
    if exact:
        differences = [
            np.abs(ours - theirs).max() / np.abs(theirs).max()
            for ours, theirs in zip(by_xla, plain, strict=True)
        ]
        assert np.median(differences) < 1e-3
        assert max(differences) < 0.2


# --- Gradient caching ---


def freeze_norms(model, views):
    """Norms with statistics of their own that no step moves."""
    for _ in range(3):
        model(tf.concat(views, axis=0), training=True)
    for norm in all_norms(model):
        norm.trainable = False


@pytest.mark.parametrize("microbatch_size", [1, 2, 4])
def test_cached_gradients_are_those_of_the_whole_batch(views, microbatch_size):
    model = compiled(run_eagerly=True)
    freeze_norms(model, views)
    before = [v.numpy() for v in model.variables]
    with tf.GradientTape() as tape:
        plain = model.contrastive_loss(model(tf.concat(views, axis=0), training=True))
    expected = tape.gradient(plain.loss, [v.value for v in model.trainable_variables])
    tensors = tuple(tf.constant(view) for view in views)
    contrast, gradients = cached_gradients(model, tensors, microbatch_size)

    np.testing.assert_allclose(contrast, plain, rtol=1e-5)
    assert max(np.abs(g).max() for g in expected) > 1e-2
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def small_resnet(microbatch_size=0):
    """A narrow ResNet-18 and its head, with no scale at 0, where half of the gradients would be."""
    keras.utils.set_random_seed(0)
    encoder = resnet(18, stem="small", width_multiplier=0.125)
    model = SimCLR(encoder, ProjectionHead(8), microbatch_size=microbatch_size)
    rng = np.random.default_rng(0)
    for norm in all_norms(model):
        norm.gamma.assign(rng.uniform(0.5, 1.5, norm.gamma.shape))
    return model


def test_cached_gradients_of_a_real_encoder_are_those_of_the_whole_batch(views):
    model = small_resnet()
    model.compile(keras.optimizers.SGD(0.1), NTXent(0.5))
    freeze_norms(model, views)
    tensors = tuple(tf.constant(view) for view in views)

    @tf.function
    def plain():
        with tf.GradientTape() as tape:
            contrast = model.contrastive_loss(model(tf.concat(tensors, axis=0), training=True))
        return tape.gradient(contrast.loss, model.trainable_variables)

    @tf.function
    def cached():
        return cached_gradients(model, tensors, 2)[1]

    assert len(model.trainable_variables) == 22  # 20 convolutions, 2 layers of the head
    for ours, theirs in zip(cached(), plain(), strict=True):
        largest = np.abs(theirs).max()
        assert largest > 1e-4
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest)


def drawing_encoder():
    """Layers of Keras' own that draw, and that keep statistics, when they train."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((9, 9, 3)),
            layers.GaussianNoise(0.1, seed=1),
            layers.Conv2D(6, 3, strides=2),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.5, seed=2),
            layers.GlobalAveragePooling2D(),
        ]
    )


@pytest.mark.parametrize("run", [tf.function, lambda function: function], ids=["graph", "eager"])
def test_both_passes_draw_the_same_and_each_microbatch_its_own(views, run):
    keras.utils.set_random_seed(0)
    model = SimCLR(drawing_encoder(), ProjectionHead(5))
    model.compile(keras.optimizers.SGD(0.1), NTXent(0.5), run_eagerly=True)
    start = [v.numpy() for v in model.variables]
    tensors, size = tuple(map(tf.constant, views)), 4
    contrast, gradients = run(lambda: cached_gradients(model, tensors, size))()
    moved = {v.path: v.numpy() for v in model.non_trainable_variables}

    for variable, value in zip(model.variables, start, strict=True):
        variable.assign(value)
    with tf.GradientTape() as tape:  # one pass over the microbatches, each with the next draws
        parts = [
            model(tf.concat([view[i : i + size] for view in tensors], axis=0), training=True)
            for i in range(0, COUNT, size)
        ]
        halves = [tf.concat([tf.split(z, 2)[i] for z in parts], axis=0) for i in range(2)]
        whole = model.contrastive_loss(tf.concat(halves, axis=0))
    expected = tape.gradient(whole.loss, model.trainable_variables)
    np.testing.assert_allclose(contrast, whole, rtol=1e-5)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    counters = [v for v in model.non_trainable_variables if v.dtype == "int64"]
    assert len(counters) == 2
    for variable in counters:  # the next step draws anew
        np.testing.assert_array_equal(moved[variable.path], variable.numpy())


def test_cached_training_is_plain_training_where_norms_are_frozen(views):
    after = []
    for microbatch_size in (0, 2):
        model = tiny_simclr(microbatch_size=microbatch_size)
        freeze_norms(model, views)
        model.compile(keras.optimizers.SGD(0.1), NTXent(0.5))
        after.append(weights_after(model, views, 3))
    for ours, theirs in zip(*after, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_running_statistics_move_once_by_the_mean_over_microbatches(views):
    size = 2
    cached, twin = compiled(rate=0.0, microbatch_size=size), tiny_simclr()
    weights_after(cached, views)
    start = twin.get_weights()
    moved = []
    for first in range(0, COUNT, size):
        twin.set_weights(start)
        part = [view[first : first + size] for view in views]
        twin(tf.concat(part, axis=0), training=True)
        moved.append([v.numpy() for v in twin.non_trainable_weights])
    for variable, *values in zip(cached.non_trainable_weights, *moved, strict=True):
        np.testing.assert_allclose(variable.numpy(), np.mean(values, axis=0), rtol=1e-4, atol=1e-6)


def test_a_microbatch_as_large_as_the_batch_is_the_plain_step(views):
    plain, whole = (weights_after(compiled(microbatch_size=m), views) for m in (0, COUNT))
    for ours, theirs in zip(whole, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_microbatch_must_divide_the_batch(views):
    model = compiled(run_eagerly=True)
    with pytest.raises(ValueError, match="microbatch_size=3 divides, got 8"):
        cached_gradients(model, tuple(map(tf.constant, views)), 3)


@pytest.mark.parametrize("microbatch_size", [2, 3, 8])
def test_evaluation_by_microbatches_is_that_of_the_whole_batch(views, microbatch_size):
    whole, parts = (compiled(microbatch_size=m) for m in (0, microbatch_size))
    expected, found = (model.evaluate(batches(views), verbose=0) for model in (whole, parts))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# --- float16 ---


@pytest.mark.parametrize("microbatch_size", [0, 4])
def test_float16_scales_the_loss_and_takes_the_same_step(views, microbatch_size):
    exact = compiled(microbatch_size=microbatch_size)
    before = exact.get_weights()
    exact_after = weights_after(exact, views)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=128.0)
    with policy("mixed_float16"):
        model = compiled(microbatch_size=microbatch_size, optimizer=scaled)
        after = weights_after(model, views)
    assert int(model.optimizer.iterations) == 1
    moved = 0.0
    for ours, theirs, start in zip(after, exact_after, before, strict=False):
        step = np.abs(theirs - start).max()
        np.testing.assert_allclose(ours, theirs, atol=0.05 * step + 2e-3)
        moved = max(moved, step)
    assert moved > 0.01


def test_float16_leaves_out_a_step_that_overflows(views):
    with policy("mixed_float16"):
        model = compiled()
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        model.optimizer.dynamic_scale.assign(2.0**120)
        before = [v.numpy() for v in model.trainable_variables]
        model.fit(batches(views), verbose=0)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert float(model.optimizer.dynamic_scale) < 2.0**120


# --- Configuration ---


def test_config_round_trip(views):
    model = tiny_simclr(microbatch_size=2, name="pair")
    again = SimCLR.from_config(model.get_config())
    assert (again.name, again.microbatch_size, again.head.width) == ("pair", 2, 5)
    assert [v.path for v in again.weights] == [v.path for v in model.weights]
    again.set_weights(model.get_weights())
    images = tf.concat(views, axis=0)
    np.testing.assert_array_equal(again(images), model(images))


def test_model_survives_a_file(views, tmp_path):
    model = tiny_simclr()
    images = tf.concat(views, axis=0)
    model(images, training=True)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images), model(images))


def test_weights_exist_before_the_first_call():
    model = SimCLR(tiny_encoder(), ProjectionHead(5))
    assert len(model.trainable_variables) == 3 + 5  # conv, gamma, beta; 2 kernels, 2 gammas, beta


# --- Views made within the step ---


@pytest.mark.parametrize("compiled_by_xla", [False, True])
@pytest.mark.parametrize("microbatch_size", [0, 4])
def test_a_step_that_makes_its_views_is_the_step_on_those_views(compiled_by_xla, microbatch_size):
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 12, 12, 3), np.uint8)
    recipe, size = Recipe(blur=True, noise=True, rotate=True, cutout=True), (9, 9)
    draw = draw_views(recipe, 2 * COUNT, seed=0, step=0, size=size)
    make = functools.partial(make_views, size=size)

    def after(data, augment):
        model = tiny_simclr(microbatch_size=microbatch_size, augment=augment)
        model.compile(keras.optimizers.SGD(0.1), NTXent(0.5), jit_compile=compiled_by_xla)
        return weights_after(model, data)

    ours = after((images, draw), make)
    theirs = after(make(tf.constant(images), draw), None)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
