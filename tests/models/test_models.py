"""Encoders, heads and the norm: counts, shapes, arithmetic, and what a frozen layer keeps."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from tables import pairs
from tiny import norms, policy, tiny_encoder, tiny_simclr, tiny_views

from simclr_tf.losses.contrastive import NTXent
from simclr_tf.models import BatchNormalization, ProjectionHead, classifier_head, resnet
from simclr_tf.models.heads import set_scale, take_up_scale
from simclr_tf.models.resnet import DEPTHS, STAGES, STEMS, choose_stem

# Trainable parameters without a head, as published (torchvision's less the classifier).
PUBLISHED = {
    (18, "imagenet"): 11_176_512,
    (34, "imagenet"): 21_284_672,
    (50, "imagenet"): 23_508_032,
    (18, "small"): 11_176_512 - 7_680,
    (34, "small"): 21_284_672 - 7_680,
    (50, "small"): 23_508_032 - 7_680,
}
NORMALIZE_WEIGHTS = ("mean", "variance", "count")  # names in checkpoints since 0.1.0
SMALL = 0.0625  # width multiplier of the encoders that are run


def trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.fixture(scope="module")
def encoder():
    keras.utils.set_random_seed(0)
    return resnet(18, stem="small", width_multiplier=SMALL)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=(4, 17, 22, 3)).astype(np.float32)


# --- Encoders ---


def test_the_table_holds_every_encoder():
    assert set(PUBLISHED) == set(itertools.product(DEPTHS, STEMS))


@pytest.mark.parametrize(("depth", "stem"), PUBLISHED)
def test_published_parameter_counts(depth, stem):
    assert reference.resnet_parameters(depth, stem=stem) == PUBLISHED[depth, stem]
    assert trainable(resnet(depth, stem=stem)) == PUBLISHED[depth, stem]


@pairs(
    width_multiplier=[0.125, 0.25, 0.5],
    depthwise=[False, True],
    depth__stem=[(18, "small"), (34, "imagenet"), (50, "small")],
)
def test_parameter_counts_of_other_widths(depth, stem, depthwise, width_multiplier):
    arguments = {"stem": stem, "width_multiplier": width_multiplier, "depthwise": depthwise}
    model = resnet(depth, **arguments)
    assert trainable(model) == reference.resnet_parameters(depth, **arguments)
    assert model.output_shape == (None, (2048 if depth == 50 else 512) * width_multiplier)


def test_parameter_count_of_a_wide_encoder():
    model = resnet(18, stem="small", width_multiplier=2)
    assert trainable(model) == reference.resnet_parameters(18, stem="small", width_multiplier=2)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_stages_and_strides_for_any_image_size(depth, stem):
    model = resnet(depth, stem=stem, width_multiplier=SMALL)
    stages = keras.Model(model.input, [model.get_layer(s).output for s in STAGES] + [model.output])
    strides = [1, 1, 2, 4, 8] if stem == "small" else [2, 4, 8, 16, 32]
    widths = [4, 4, 8, 16, 32] if depth != 50 else [4, 16, 32, 64, 128]
    for height, width in [(32, 64), (37, 45)]:
        *maps, h = stages(np.zeros((2, height, width, 3), np.float32))
        for stage, stride, channels in zip(maps, strides, widths, strict=True):
            assert stage.shape == (2, -(-height // stride), -(-width // stride), channels)
        assert h.shape == (2, widths[-1])


@pytest.mark.parametrize("side", [1, 2, 5])
@pytest.mark.parametrize("stem", STEMS)
def test_the_smallest_images_go_through(stem, side):
    model = resnet(18, stem=stem, width_multiplier=SMALL)
    assert np.isfinite(model(np.ones((2, side, side, 3), np.float32))).all()


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(("stem", "stage"), [("small", "stage2"), ("imagenet", "stage1")])
def test_a_larger_image_does_not_shift_what_is_seen(stem, stage, depthwise):
    # "same" padding with a stride begins at another pixel for odd sides than for even ones.
    model = resnet(18, stem=stem, width_multiplier=SMALL, depthwise=depthwise)
    for norm in norms(model.layers):
        norm.gamma.assign(tf.ones_like(norm.gamma.value))  # let the residual branches speak
    seen = keras.Model(model.input, model.get_layer(stage).output)
    image = np.random.default_rng(0).uniform(size=(1, 61, 61, 3)).astype(np.float32)
    corners = [seen(image[:, :side, :side])[:, :3, :3] for side in (60, 61)]
    assert np.max(corners[0]) > 0.0
    np.testing.assert_allclose(*corners, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "stem"),
    [((32, 32), "small"), ((64, 200), "small"), ((65, 65), "imagenet"), ((224, 224), "imagenet")],
)
def test_the_stem_is_chosen_by_the_shorter_side(size, stem):
    assert choose_stem(size) == stem


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("depth", "depthwise"), [(18, False), (18, True), (50, False)])
def test_every_residual_block_starts_as_the_identity(depth, depthwise, training, images):
    model = resnet(depth, stem="small", width_multiplier=SMALL, depthwise=depthwise)
    ends = [layer for layer in model.layers if layer.name.endswith("_add")]
    assert len(ends) == sum(DEPTHS[depth][0])
    sums = keras.Model(model.input, [[add.input[0], add.output] for add in ends])
    for shortcut, total in sums(images, training=training):
        np.testing.assert_array_equal(shortcut, total)


def test_no_convolution_has_a_bias_and_every_one_has_a_norm(encoder):
    convolutions = [x for x in encoder.layers if isinstance(x, keras.layers.Conv2D)]
    assert not any(layer.use_bias for layer in convolutions)
    assert len(convolutions) == len(norms(encoder.layers)) == 20


def test_unknown_depth_and_stem_name_the_choices():
    with pytest.raises(ValueError, match=r"\[18, 34, 50\], got 19"):
        resnet(19, stem="small")
    with pytest.raises(ValueError, match=r"\('small', 'imagenet'\), got 'cifar'"):
        resnet(18, stem="cifar")


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
def test_under_a_mixed_policy_weights_statistics_and_features_are_float32(name, images):
    with policy(name):
        model = resnet(18, stem="small", width_multiplier=SMALL)
    assert {v.dtype for v in model.variables} == {"float32"}
    assert model.get_layer("stem_conv").compute_dtype == name.removeprefix("mixed_")
    h = model(images, training=True)
    assert h.dtype == tf.float32
    norm = model.get_layer("stem_conv_norm")
    assert norm.moving_variance.dtype == "float32"
    # bfloat16 has 8 bits: a running mean kept in it would have at most 8.
    mean = norm.moving_mean.value
    assert (mean != tf.cast(tf.cast(mean, name.removeprefix("mixed_")), tf.float32)).numpy().any()


def test_encoder_survives_a_file(encoder, images, tmp_path):
    encoder(images, training=True)  # running statistics that are not the initial ones
    encoder.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(again(images), encoder(images))
    assert [v.path for v in again.variables] == [v.path for v in encoder.variables]


def test_encoder_config_round_trip(encoder, images):
    again = keras.Model.from_config(encoder.get_config())
    again.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(again(images), encoder(images))


# --- Heads ---


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_projection_head_has_norms_and_no_biases(layers):
    head = ProjectionHead(5, layers=layers, hidden=7)
    z = head(np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), training=True)
    assert z.shape == (6, 5)
    widths = [4] + [7] * (layers - 1) + [5]
    kernels = [tuple(v.shape) for v in head.trainable_variables if v.name == "kernel"]
    assert kernels == list(itertools.pairwise(widths))
    assert "bias" not in {v.name for v in head.variables}
    assert [norm.beta is not None for norm in norms(head.stack.layers)] == [True] * (layers - 1) + [
        False
    ]
    assert all(not norm.zero_gamma for norm in norms(head.stack.layers))
    # The last norm's output is centred: no offset, and no ReLU after it.
    np.testing.assert_allclose(np.mean(z, axis=0), 0.0, atol=1e-6)
    assert np.min(z) < 0.0


def test_projection_head_is_as_wide_as_the_features_by_default():
    head = ProjectionHead(5, layers=2)
    head.build((None, 9))
    assert [tuple(v.shape) for v in head.trainable_variables if v.name == "kernel"] == [
        (9, 9),
        (9, 5),
    ]


def test_projection_head_starts_small():
    head = ProjectionHead(200, layers=2)
    head.build((None, 300))
    for kernel in (v for v in head.trainable_variables if v.name == "kernel"):
        np.testing.assert_allclose(np.std(kernel.numpy()), 0.01, rtol=0.05)


def test_projection_head_needs_a_layer():
    with pytest.raises(ValueError, match="at least 1 layer.*got 0"):
        ProjectionHead(5, layers=0)


def test_projection_head_keeps_its_own_policy():
    head = ProjectionHead(5, layers=2, dtype="mixed_bfloat16")
    head.build((None, 4))
    assert {layer.compute_dtype for layer in head.stack.layers} == {"bfloat16"}


def test_projection_head_config_round_trip():
    head = ProjectionHead(5, layers=3, hidden=7, name="g")
    again = ProjectionHead.from_config(head.get_config())
    assert (again.width, again.layers, again.hidden, again.name) == (5, 3, 7, "g")


@pytest.mark.parametrize("nonlinear", [False, True])
def test_classifier_head(nonlinear):
    features = np.random.default_rng(0).normal(3, 5, (50, 6)).astype(np.float32)
    with policy("mixed_bfloat16"):
        head = classifier_head(6, 4, nonlinear=nonlinear, normalize=True)
    set_scale(head, features.mean(axis=0), features.std(axis=0))
    logits = head(features)
    assert (logits.shape, logits.dtype) == ((50, 4), tf.float32)
    assert trainable(head) == (6 * 6 + 6 if nonlinear else 0) + 6 * 4 + 4
    shifted = head.get_layer("normalize")(features)
    np.testing.assert_allclose(np.mean(shifted, axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.std(shifted, axis=0), 1.0, atol=1e-4)


def test_a_head_of_an_older_run_takes_silent_features_as_they_are():
    """Variance 0 was divided by 1e-7; the checkpoint's names and other values stay."""
    head = classifier_head(3, 2, normalize=True)
    layer = head.get_layer("normalize")
    assert [v.path.split("/")[-2:] for v in layer.variables] == [
        ["normalize", name] for name in NORMALIZE_WEIGHTS
    ]
    for variable, value in zip(layer.variables, ([1.0, 0.0, 2.0], [4.0, 0.0, 1.0], 0), strict=True):
        variable.assign(value)  # as a checkpoint is read
    take_up_scale(head)
    np.testing.assert_allclose(layer(np.float32([[3.0, 0.5, 2.5]])), [[1.0, 0.5, 0.5]])
    np.testing.assert_array_equal(layer.variance, [[4.0, 1.0, 1.0]])
    assert layer.get_weights()[1].tolist() == [4.0, 1.0, 1.0]


# --- BatchNormalization ---


def both_norms(shape, **arguments):
    """Our norm and Keras' own, with the same scales and offsets."""
    ours = BatchNormalization(**arguments)
    theirs = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **arguments)
    rng = np.random.default_rng(1)
    for layer in (ours, theirs):
        layer.build(shape)
    for mine, their in zip(ours.trainable_variables, theirs.trainable_variables, strict=True):
        values = rng.normal(1, 0.3, shape[-1])
        mine.assign(values)
        their.assign(values)
    return ours, theirs


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("shape", [(12, 5), (3, 4, 6, 5)])
def test_norm_agrees_with_keras(shape, center):
    ours, theirs = both_norms(shape, center=center)
    rng = np.random.default_rng(2)
    for _ in range(3):  # training: outputs, gradients, running statistics
        x = tf.constant(rng.normal(2, 3, shape), tf.float32)
        target = tf.constant(rng.normal(size=shape), tf.float32)
        results = []
        for layer in (ours, theirs):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
                loss = tf.reduce_sum(y * target)
            sources = [x, *(v.value for v in layer.trainable_variables)]
            results.append([y, *tape.gradient(loss, sources)])
        for mine, their in zip(*results, strict=True):
            np.testing.assert_allclose(mine, their, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(ours.moving_mean.numpy(), theirs.moving_mean.numpy(), rtol=1e-5)

    # Keras stores the biased variance, ours (like PyTorch) the unbiased one: n / (n - 1) of it.
    count = np.prod(shape[:-1])
    start = 0.9**3  # share of the initial variance, 1, that is left
    biased = theirs.moving_variance.numpy() - start
    np.testing.assert_allclose(
        ours.moving_variance.numpy() - start, biased * count / (count - 1), rtol=1e-4
    )

    theirs.moving_variance.assign(ours.moving_variance)
    x = rng.normal(2, 3, shape).astype(np.float32)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_norm_of_a_single_row_is_finite():
    norm = BatchNormalization()
    assert np.isfinite(norm(np.ones((1, 3), np.float32), training=True)).all()
    assert np.isfinite(norm.moving_variance.numpy()).all()


@pytest.mark.parametrize("shape", [(8, 3), (2, 4, 4, 3)])
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_norm_computes_statistics_in_float32(dtype, shape):
    x = tf.cast(np.random.default_rng(0).normal(1000, 1, shape), dtype.removeprefix("mixed_"))
    mixed, exact = BatchNormalization(dtype=dtype), BatchNormalization(dtype="float32")
    assert mixed(x, training=True).dtype == x.dtype
    exact(tf.cast(x, tf.float32), training=True)
    for ours, theirs in zip(mixed.variables, exact.variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5)


def test_norm_config_round_trip():
    norm = BatchNormalization(center=False, zero_gamma=True, name="n")
    again = BatchNormalization.from_config(norm.get_config())
    assert (again.center, again.zero_gamma, again.name) == (False, True, "n")


def test_norm_under_xla_agrees_with_eager():
    norm = BatchNormalization()
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    norm.build(x.shape)
    compiled = tf.function(lambda x: norm(x, training=True), jit_compile=True)(x)
    after = norm.moving_variance.numpy()
    norm.moving_variance.assign(tf.ones(3))
    np.testing.assert_allclose(compiled, norm(x, training=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.numpy(), after, rtol=1e-5)


# --- Statistics of whole models ---


def test_a_frozen_encoder_keeps_weights_and_statistics_through_fit(images):
    encoder = tiny_encoder()
    encoder(images, training=True)
    encoder.trainable = False
    model = keras.Sequential([encoder, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [v.numpy() for v in encoder.variables]
    head = model.layers[-1].kernel.numpy()
    model.fit(images, np.int32([0, 1, 2, 0]), epochs=2, verbose=0)
    for variable, value in zip(encoder.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert (model.layers[-1].kernel.numpy() != head).any()
    # Frozen, `training=True` changes nothing.
    np.testing.assert_array_equal(encoder(images, training=True), encoder(images))


def test_an_unfrozen_encoder_moves_its_statistics_through_fit(images):
    encoder = tiny_encoder()
    model = keras.Sequential([encoder, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = encoder.get_layer("norm").moving_mean.numpy()
    model.fit(images, np.int32([0, 1, 2, 0]), epochs=1, verbose=0)
    assert (encoder.get_layer("norm").moving_mean.numpy() != before).all()


def test_both_views_are_normalised_together():
    """One forward pass of 2N: the statistics are those of both views, and move once a step."""
    first, second = tiny_views(6)
    second = second * 0.3  # views whose own statistics differ much
    model = tiny_simclr()
    model.compile(keras.optimizers.SGD(0.0), NTXent(0.5), run_eagerly=True)
    joint = keras.models.clone_model(model.encoder)
    joint.set_weights(model.encoder.get_weights())
    logs = model.train_step((first, second))

    h = joint(tf.concat([first, second], axis=0), training=True)
    seen, expected = (m.get_layer("norm").moving_mean.numpy() for m in (model.encoder, joint))
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    z = tiny_simclr().head(h, training=True)
    np.testing.assert_allclose(logs["loss"], reference.nt_xent(z, 0.5)[0], rtol=1e-4)

    apart = tf.concat([tiny_simclr().encoder(v, training=True) for v in (first, second)], axis=0)
    assert np.abs(apart - h).max() > 0.05
