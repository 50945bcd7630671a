"""The segmenter: sizes, where each pixel comes from, what is shared with the encoder."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tables import pairs
from tiny import norms, policy

from simclr_tf.models import decoder_variables, resnet, unet
from simclr_tf.models.resnet import DEPTHS, STAGES, STEMS
from simclr_tf.models.unet import CutToSize, RepeatedKernel

SMALL = 0.0625  # width multiplier of the encoders that are run
CLASSES = 5
ENCODERS = list(itertools.product(DEPTHS, STEMS, [False, True]))


def small_encoder(stem="small", depth=18, **arguments):
    return resnet(depth, stem=stem, width_multiplier=SMALL, **arguments)


def random_images(*shape):
    return np.random.default_rng(0).uniform(size=(*shape, 3)).astype(np.float32)


def random_masks(*shape):
    return np.random.default_rng(1).integers(0, CLASSES, shape)


# --- Shapes and names ---


@pytest.mark.parametrize(("depth", "stem", "depthwise"), ENCODERS)
def test_logits_are_as_large_as_the_image(depth, stem, depthwise):
    model = unet(small_encoder(stem, depth, depthwise=depthwise), CLASSES)
    assert model.output_shape == (None, None, None, CLASSES)
    sizes = [(33, 47), (32, 32), (17, 64), (31, 65)]
    for size in sizes if depth == 18 else sizes[:1]:
        logits = model(random_images(2, *size))
        assert (logits.shape, logits.dtype) == ((2, *size, CLASSES), tf.float32)


@pytest.mark.parametrize("stem", STEMS)
def test_sizes_that_the_graph_does_not_know_down_to_a_pixel(stem):
    model = unet(small_encoder(stem), CLASSES)
    unknown = tf.TensorSpec([None, None, None, 3])
    compiled = tf.function(lambda x: model(x), input_signature=[unknown])
    for size in [(1, 1), (1, 6), (2, 3), (5, 4), (33, 47)]:
        images = random_images(2, *size)
        logits = compiled(images)
        assert logits.shape == (2, *size, CLASSES)
        np.testing.assert_allclose(logits, model(images), rtol=1e-4, atol=1e-5)


def test_known_sizes_stay_known():
    # The filter gradient by products asks for them.
    cut = tf.function(CutToSize())
    x, other = tf.TensorSpec([None, 8, 6, 2]), tf.TensorSpec([None, 7, 5, 3])
    assert cut.get_concrete_function([x, other]).output_shapes == (None, 7, 5, 2)


@pytest.mark.parametrize("stem", STEMS)
def test_paths_are_unique_and_the_same_at_each_call(stem):
    first, second = (unet(small_encoder(stem), CLASSES) for _ in range(2))
    paths = [v.path for v in first.variables]
    assert len(set(paths)) == len(paths)
    assert paths == [v.path for v in second.variables]
    assert first.name == "unet"


@pytest.mark.parametrize("stem", STEMS)
def test_decoder_variables_are_the_rest(stem):
    encoder = small_encoder(stem)
    model = unet(encoder, CLASSES)
    decoder = decoder_variables(model, encoder)
    paths = [v.path for v in decoder]
    assert all(path.startswith(("decoder_", "logits/")) for path in paths)
    assert {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"} == {
        path.rsplit("/", 1)[-1] for path in paths
    }
    assert [p for p in paths if p.endswith("bias")] == ["logits/bias"]
    assert len(encoder.variables) + len(decoder) == len(model.variables)
    assert not any(v.path.startswith(("decoder_", "logits/")) for v in encoder.variables)


@pytest.mark.parametrize(
    ("stem", "width_multiplier", "expected"),
    [
        ("small", 1.0, [256, 128, 64, 32]),
        ("imagenet", 1.0, [256, 128, 64, 32, 16]),
        ("small", 0.25, [64, 32, 16, 16]),
        ("imagenet", 0.25, [64, 32, 16, 8, 16]),
    ],
)
def test_channels_halve_from_level_to_level(stem, width_multiplier, expected):
    model = unet(resnet(18, stem=stem, width_multiplier=width_multiplier), CLASSES)
    outputs = [f"decoder_{name}_relu2" for name in ("stage3", "stage2", "stage1", "stem")]
    outputs += ["decoder_image_relu"] * (stem == "imagenet")
    assert [model.get_layer(name).output.shape[-1] for name in outputs] == expected
    assert model.get_layer("logits").input.shape[-1] == expected[-1]


def multiply_adds(model, height, width):
    """Those of all convolutions for one image: (the encoder's, the decoder's)."""
    kinds = (keras.layers.Conv2D, keras.layers.Conv2DTranspose, keras.layers.DepthwiseConv2D)
    layers = [layer for layer in model.layers if isinstance(layer, kinds)]
    outputs = keras.Model(model.input, [layer.output for layer in layers])
    shapes = outputs.compute_output_shape((1, height, width, 3))
    totals = [0, 0]
    for layer, (_, rows, columns, _) in zip(layers, shapes, strict=True):
        positions = rows * columns
        if isinstance(layer, keras.layers.Conv2DTranspose):  # a window per position of the input
            positions //= np.prod(layer.strides)
        part = layer.name.startswith(("decoder_", "logits"))
        totals[part] += positions * np.prod(layer.kernel.shape)
    return totals


@pytest.mark.parametrize("width_multiplier", [0.25, 1.0])
@pytest.mark.parametrize(("stem", "size"), [("small", (32, 32)), ("imagenet", (240, 180))])
def test_the_decoder_costs_no_more_than_the_encoder(stem, size, width_multiplier):
    model = unet(resnet(18, stem=stem, width_multiplier=width_multiplier), 11)
    encoder, decoder = multiply_adds(model, *size)
    assert 0.6 * encoder < decoder < 0.9 * encoder


# --- Where a pixel comes from ---


def subsampling_encoder(halved):
    """Its maps are the image's own pixels, every 2nd, 4th, ... row and column from the first on."""
    images = keras.Input((None, None, 3), name="images")
    convolution = keras.layers.Conv2D(3, 1, strides=2 if halved else 1, name="stem_conv")
    x = keras.layers.Activation("linear", name="stem")(convolution(images))
    for stage in range(1, 5):
        stride = 1 if stage == 1 and not halved else 2
        x = keras.layers.MaxPooling2D(1, strides=stride, name=f"stage{stage}")(x)
    convolution.set_weights([np.eye(3, dtype=np.float32)[None, None], np.zeros(3)])
    return keras.Model(images, keras.layers.GlobalAveragePooling2D(name="pooled")(x))


def let_through(model, source):
    """Sets the decoder's kernels so that the first 3 channels of one map reach the logits."""

    def identity(layer, offset=0):
        kernel = np.zeros(layer.kernel.shape, np.float32)
        middle = kernel.shape[0] // 2
        for channel in range(3):
            kernel[middle, middle, offset + channel, channel] = 1.0
        layer.kernel.assign(kernel)

    for layer in model.layers:
        if layer.name.endswith("_image_up"):
            kernel = np.zeros(layer.kernel.shape, np.float32)  # [2, 2, out, in]
            kernel[:, :, range(3), range(3)] = 1.0
            layer.kernel.assign(kernel)
        elif layer.name.endswith("_conv1"):
            level = layer.name.removeprefix("decoder_").removesuffix("_conv1")
            # Beside what comes from below stand the 3 channels of the skip.
            identity(layer, layer.kernel.shape[2] - 3 if level == source else 0)
        elif layer.name.startswith(("decoder_", "logits")) and hasattr(layer, "kernel"):
            identity(layer)


@pairs(size=[(32, 64), (33, 47), (19, 50), (63, 2)], halved=[False, True], source=STAGES)
def test_every_pixel_sees_the_place_where_it_lies(source, halved, size):
    model = unet(subsampling_encoder(halved), 3)
    let_through(model, source)
    images = random_images(2, *size)
    step = dict(zip(STAGES, [2, 4, 8, 16, 32] if halved else [1, 1, 2, 4, 8], strict=True))[source]
    rows, columns = (np.arange(side) // step * step for side in size)
    # A norm that has seen nothing divides by sqrt(1 + 1e-5); there are at most 10.
    np.testing.assert_allclose(model(images), images[:, rows][:, :, columns], rtol=1e-4)


# --- Training ---


@pytest.mark.parametrize(("stem", "size"), [("small", (17, 22)), ("imagenet", (33, 47))])
def test_the_gradient_reaches_every_variable(stem, size):
    model = unet(small_encoder(stem), CLASSES)
    for norm in norms(model.layers):
        norm.gamma.assign(tf.ones_like(norm.gamma.value))  # let the residual branches speak
    values = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        logits = model(random_images(2, *size), training=True)
        loss = tf.reduce_mean(logits * tf.one_hot(random_masks(2, *size), CLASSES))
    gradients = tape.gradient(loss, values)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0.0, variable.path


def fitted(encoder):
    """Trains a segmenter for two steps: (model, its variables before)."""
    model = unet(encoder, CLASSES)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    before = {v.path: v.numpy() for v in model.variables}
    model.fit(random_images(4, 9, 7), random_masks(4, 9, 7), batch_size=2, epochs=1, verbose=0)
    return model, before


def changed(variables, before):
    return {v.path for v in variables if (v.numpy() != before[v.path]).any()}


def test_a_frozen_encoder_keeps_weights_and_statistics_through_fit():
    encoder = small_encoder()
    encoder.trainable = False
    model, before = fitted(encoder)
    assert not changed(encoder.variables, before)
    decoder = decoder_variables(model, encoder)
    assert changed(decoder, before) == {v.path for v in decoder}
    assert {v.path for v in model.trainable_variables} == {v.path for v in decoder if v.trainable}


def test_an_encoder_is_trained_through_the_segmenter():
    encoder = small_encoder()
    _, before = fitted(encoder)
    moved = changed(encoder.variables, before)
    assert {"stem_conv/kernel", "stem_conv_norm/moving_mean"} <= moved


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
def test_under_a_mixed_policy_weights_statistics_and_logits_are_float32(name):
    stem = "imagenet"  # it has every kind of layer
    keras.utils.set_random_seed(0)
    exact = unet(small_encoder(stem), CLASSES)
    with policy(name):
        mixed = unet(small_encoder(stem), CLASSES)
    mixed.set_weights(exact.get_weights())
    images = random_images(2, 33, 21)
    assert {v.dtype for v in mixed.variables} == {"float32"}
    compute = {x.compute_dtype for x in mixed.layers if x.name.startswith("decoder_")}
    assert compute == {name.removeprefix("mixed_")}
    logits = mixed(images)
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(logits, exact(images), atol=0.03)
    assert np.isfinite(mixed(images, training=True)).all()


@pytest.mark.slow
def test_under_xla_logits_gradients_and_statistics_agree_with_eager():
    keras.utils.set_random_seed(0)
    model = unet(subsampling_encoder(halved=True), CLASSES)
    images, masks = random_images(2, 19, 34), random_masks(2, 19, 34)
    before = model.get_weights()

    def step(images):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(masks, logits)
            loss = tf.reduce_mean(losses)
        return logits, tape.gradient(loss, [v.value for v in model.trainable_variables])

    results = []
    for run in (step, tf.function(step, jit_compile=True)):
        model.set_weights(before)
        logits, gradients = run(images)
        statistics = [v.numpy() for v in model.non_trainable_variables]
        results.append([logits.numpy(), *(g.numpy() for g in gradients), *statistics])
    for eager, compiled in zip(*results, strict=True):
        # A bias before a normalisation has a gradient of nothing but rounding.
        atol = max(1e-4 * np.abs(eager).max(), 1e-7)
        np.testing.assert_allclose(compiled, eager, rtol=1e-3, atol=atol)


# --- First weights ---


def test_the_decoder_begins_alike_however_large_the_encoders_maps_are():
    encoder = subsampling_encoder(halved=True)
    model, images = unet(encoder, CLASSES), random_images(2, 64, 64)
    first = model(images, training=True)
    kernel, bias = encoder.get_layer("stem_conv").get_weights()
    encoder.get_layer("stem_conv").set_weights([10.0 * kernel, bias])
    np.testing.assert_allclose(model(images, training=True), first, atol=0.01 * np.std(first))


def test_an_up_convolution_begins_as_repeated_pixels_and_learns_each_place_apart():
    model = unet(small_encoder("imagenet"), CLASSES)
    layer = model.get_layer("decoder_image_up")
    x = random_images(1, 5, 6)[..., :1] * np.ones(layer.input.shape[-1], np.float32)
    y = np.asarray(layer(x))
    for row, column in ((0, 1), (1, 0), (1, 1)):
        np.testing.assert_array_equal(y[:, row::2, column::2], y[:, ::2, ::2])
    # The spread is that of a 1x1 convolution of as many inputs.
    kernel = np.asarray(RepeatedKernel(seed=1)((2, 2, 400, 50)))
    assert kernel.std() == pytest.approx(50**-0.5, rel=0.02)
    again = RepeatedKernel.from_config(RepeatedKernel(seed=1).get_config())
    np.testing.assert_array_equal(again((2, 2, 400, 50)), kernel)


# --- Files ---


def test_the_segmenter_survives_a_file(tmp_path):
    model = unet(small_encoder("imagenet"), CLASSES)
    images = random_images(2, 17, 22)
    model(images, training=True)  # running statistics that are not the initial ones
    model.save(tmp_path / "segmenter.keras")
    again = keras.models.load_model(tmp_path / "segmenter.keras")
    np.testing.assert_array_equal(again(images), model(images))
    assert [v.path for v in again.variables] == [v.path for v in model.variables]
    other = random_images(1, 30, 9)
    np.testing.assert_array_equal(again(other), model(other))


def test_a_cut_is_known_to_keras():
    cut = CutToSize(name="cut")
    again = CutToSize.from_config(cut.get_config())
    x = random_images(1, 4, 6)
    np.testing.assert_array_equal(again([x, x[:, :3, :5]]), x[:, :3, :5])
    assert (again.name, cut.compute_output_shape([(None, 4, 6, 3), (None, 3, 5, 9)])) == (
        "cut",
        (None, 3, 5, 3),
    )
