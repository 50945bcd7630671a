"""Our convolution against TensorFlow's: the same values, and gradients by whichever way."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from simclr_tf.models import convolution
from simclr_tf.models.convolution import Conv2D, convolve, filter_gradient

# side, kernel, stride, padding: those of a ResNet, and odd sides.
CASES = [
    (8, 3, 1, "same"),
    (5, 3, 1, "same"),
    (10, 3, 2, "valid"),
    (9, 3, 2, "valid"),
    (8, 1, 1, "same"),
    (8, 1, 2, "same"),
    (7, 1, 2, "same"),
    (8, 5, 1, "same"),
    (3, 3, 1, "same"),
    (1, 3, 1, "same"),
    (14, 3, 1, "valid"),
    (9, 3, 3, "valid"),
]


def draw(side, k, dtype="float32"):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, side, side, 4))
    return tf.cast(x, dtype), tf.cast(rng.normal(size=(k, k, 4, 5)) / k, dtype)


def value_and_gradients(convolution_of, x, kernel):
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = convolution_of(x, kernel)
        # A gradient that differs from place to place.
        loss = tf.reduce_sum(
            y * tf.cast(tf.reshape(tf.range(tf.size(y)) % 7, tf.shape(y)), y.dtype)
        )
    return y, *tape.gradient(loss, [x, kernel])


def tensorflows(stride, padding):
    """Never its own strided 1x1: oneDNN's filter gradient of that writes beyond its memory."""

    def convolution_of(x, kernel):
        strided = kernel.shape[0] > 1
        seen = x if strided else x[:, ::stride, ::stride]
        return tf.nn.conv2d(seen, kernel, stride if strided else 1, padding.upper())

    return convolution_of


def ours(stride, padding):
    return lambda x, kernel: convolve(x, kernel, stride, padding)


@pytest.mark.parametrize("most", [0, convolution.PRODUCT_POSITIONS], ids=["kernel", "products"])
@pytest.mark.parametrize(("side", "k", "stride", "padding"), CASES)
def test_agrees_with_tensorflow(monkeypatch, side, k, stride, padding, most):
    monkeypatch.setattr(convolution, "PRODUCT_POSITIONS", most)
    x, kernel = draw(side, k)
    expected = value_and_gradients(tensorflows(stride, padding), x, kernel)
    for way in (ours(stride, padding), tf.function(ours(stride, padding))):
        found = value_and_gradients(way, x, kernel)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("channels", [4, 8])
def test_few_channels_of_large_images_do_not_end_the_process(channels):
    """TensorFlow's own filter gradient of this convolution writes where it must not."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 56, 56, channels)).astype(np.float32)
    dy = rng.normal(size=(8, 28, 28, 2 * channels)).astype(np.float32)
    kernel = tf.zeros([1, 1, channels, 2 * channels])
    expected = np.einsum("nhwc,nhwd->cd", x[:, ::2, ::2], dy)
    for _ in range(4):  # not every time
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            y = convolve(tf.constant(x), kernel, 2, "valid")
        found = tape.gradient(y, kernel, output_gradients=tf.constant(dy))
        np.testing.assert_allclose(found[0, 0], expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("k", "stride"), [(3, 1), (1, 2)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_agrees_in_16_bits(dtype, k, stride):
    x, kernel = draw(8, k, dtype)
    exact = value_and_gradients(
        tensorflows(stride, "same"), tf.cast(x, tf.float32), tf.cast(kernel, tf.float32)
    )
    found = value_and_gradients(ours(stride, "same"), x, kernel)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == dtype
        error = np.abs(np.float32(tf.cast(a, tf.float32)) - b).max()
        assert error <= 0.01 * np.abs(b).max()


@pytest.mark.parametrize("k", [3, 1])
def test_agrees_when_compiled_by_xla(k):
    x, kernel = draw(10, k)
    compiled = tf.function(
        lambda x, kernel: value_and_gradients(ours(2, "valid"), x, kernel), jit_compile=True
    )
    expected = value_and_gradients(tensorflows(2, "valid"), x, kernel)
    for a, b in zip(compiled(x, kernel), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_strided_1x1_convolution_takes_pixels_as_they_are(dtype, stride):
    """Bit for bit: what brings the pixels together must not round them."""
    x, kernel = draw(9, 1, dtype)
    seen = x[:, ::stride, ::stride]
    taken = value_and_gradients(ours(1, "same"), seen, kernel)
    found = value_and_gradients(ours(stride, "same"), x, kernel)
    dx = np.zeros(x.shape, np.float32)
    dx[:, ::stride, ::stride] = tf.cast(taken[1], tf.float32)
    for a, b in zip(found, (taken[0], dx, taken[2]), strict=True):
        np.testing.assert_array_equal(tf.cast(a, tf.float32), tf.cast(b, tf.float32))


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("gpus", [[], ["/physical_device:GPU:0"]], ids=["cpu", "gpu"])
def test_only_a_cpu_takes_the_stride_from_a_1x1_convolution(monkeypatch, gpus, stride):
    """With a GPU its own kernels are given the convolution as it is; the values are the same."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: gpus)
    x, kernel = draw(9, 1)
    # By XLA, as the kernel of this machine's CPU is the one that is not to be run.
    graph = tf.function(
        lambda x, kernel: value_and_gradients(ours(stride, "same"), x, kernel), jit_compile=True
    ).get_concrete_function(x, kernel)
    operations = graph.graph.get_operations()
    strides = {tuple(op.get_attr("strides")) for op in operations if "Conv2D" in op.type}
    pooled = {op.type for op in operations if "AvgPool" in op.type}
    assert pooled == (set() if gpus else {"AvgPool", "AvgPoolGrad"})
    assert strides == ({(1, stride, stride, 1)} if gpus else {(1, 1, 1, 1)})
    assert ("MatMul" in {op.type for op in operations}) == (not gpus)
    expected = value_and_gradients(tensorflows(stride, "same"), x, kernel)
    for a, b in zip(graph(x, kernel), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_small_images_go_by_products_and_large_ones_do_not(monkeypatch):
    sides = []

    def counted(x, *rest):
        sides.append(x.shape[1])
        return filter_gradient(x, *rest)

    monkeypatch.setattr(convolution, "filter_gradient", counted)
    for side in (4, 8, 12, 13, 32):
        value_and_gradients(ours(1, "same"), *draw(side, 3))
    assert sides == [4, 8, 12]


@pytest.mark.parametrize(("k", "stride"), [(3, 1), (1, 2)])
def test_any_size_of_image_where_the_graph_does_not_know_it(k, stride):
    signature = [tf.TensorSpec([None, None, None, 4]), tf.TensorSpec([k, k, 4, 5])]
    graph = tf.function(
        lambda x, kernel: value_and_gradients(ours(stride, "same"), x, kernel),
        input_signature=signature,
    )
    for side in (4, 7):
        x, kernel = draw(side, k)
        expected = value_and_gradients(tensorflows(stride, "same"), x, kernel)
        for a, b in zip(graph(x, kernel), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_a_batch_of_unknown_size_goes_by_products_too():
    signature = [tf.TensorSpec([None, 8, 8, 4]), tf.TensorSpec([3, 3, 4, 5])]
    graph = tf.function(
        lambda x, kernel: value_and_gradients(ours(1, "same"), x, kernel),
        input_signature=signature,
    ).get_concrete_function()
    names = {op.type for op in graph.graph.get_operations()}
    assert "MatMul" in names
    assert "Conv2DBackpropFilter" not in names


def test_the_layer_is_keras_layer_and_survives_its_config():
    keras.utils.set_random_seed(0)
    layer = Conv2D(5, 3, padding="same", use_bias=True)
    x, _ = draw(8, 3)
    y = layer(x)
    theirs = keras.layers.Conv2D(5, 3, padding="same")
    theirs.build(x.shape)
    theirs.set_weights(layer.get_weights())
    np.testing.assert_allclose(y, theirs(x), rtol=1e-5, atol=1e-5)
    again = Conv2D.from_config(layer.get_config())
    again.build(x.shape)
    assert [w.path for w in again.weights] == [w.path for w in layer.weights]
