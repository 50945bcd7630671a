"""The streaming NT-Xent against the dense one: values, gradients, replicas, and what it holds."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tables import pairs
from tiny import loss_and_gradient

from simclr_tf.losses import contrastive, contrastive_streaming
from simclr_tf.losses.contrastive import NTXent, nt_xent

WIDTH = 8
SIZES = [(1, 4), (2, 3), (3, 8), (5, 1), (17, 8), (64, 48)]  # N, tile
CLOSE = 1e-5  # relative, in float32


@pytest.fixture
def tile(monkeypatch):
    monkeypatch.setattr(contrastive_streaming, "TILE", 4)


def rows(count, dtype="float32", seed=0, width=WIDTH):
    z = np.random.default_rng(seed).normal(0, 1.0, (2 * count, width))
    return tf.cast(z, dtype)


def assert_same(ours, theirs, tolerance=CLOSE):
    (contrast, gradient), (expected, slope) = ours, theirs
    np.testing.assert_allclose(contrast.loss, expected.loss, rtol=tolerance, atol=1e-6)
    np.testing.assert_allclose(contrast.accuracy, expected.accuracy, atol=1e-7)
    np.testing.assert_allclose(contrast.entropy, expected.entropy, rtol=tolerance, atol=1e-6)
    assert gradient.dtype == slope.dtype
    gradient, slope = (np.float64(tf.cast(g, tf.float32)) for g in (gradient, slope))
    assert np.abs(gradient - slope).max() <= tolerance * np.abs(slope).max()


@pairs(temperature=[0.01, 0.1, 1.0], similarity=["cosine", "dot"], count__side=SIZES)
def test_agrees_with_dense(monkeypatch, count, side, similarity, temperature):
    monkeypatch.setattr(contrastive_streaming, "TILE", side)
    arguments = {"temperature": temperature, "similarity": similarity}
    streaming = loss_and_gradient(rows(count), **arguments, streaming=True)
    assert_same(streaming, loss_and_gradient(rows(count), **arguments, streaming=False))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_gradient_has_the_dtype_of_the_projections(tile, dtype):
    z = rows(5, dtype)
    streaming = loss_and_gradient(z, temperature=0.1, streaming=True)
    assert streaming[1].dtype == z.dtype
    dense = loss_and_gradient(z, temperature=0.1, streaming=False)
    assert_same(streaming, dense, tolerance=2 * np.float64(tf.as_dtype(dtype).as_numpy_dtype(1e-3)))


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("gathered", [False, True])
def test_agrees_in_a_graph_and_under_xla(tile, gathered, compiled):
    z = rows(5)
    gather = (lambda x: (x, tf.range(10))) if gathered else None

    @tf.function(jit_compile=compiled)
    def run(x):
        return loss_and_gradient(x, temperature=0.2, gather=gather, streaming=True)

    assert_same(run(z), loss_and_gradient(z, temperature=0.2, streaming=False))


def test_batch_size_may_be_unknown_to_the_graph(tile):
    signature = [tf.TensorSpec([None, WIDTH])]

    @tf.function(input_signature=signature)
    def run(x):
        return loss_and_gradient(x, temperature=0.2, streaming=True)

    for count in (2, 5):
        z = rows(count)
        assert_same(run(z), loss_and_gradient(z, temperature=0.2, streaming=False))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_two_replicas_have_the_gradient_of_the_joint_batch(tile, similarity):
    z = rows(6)
    loss = NTXent(0.3, similarity=similarity, streaming=True)
    parts = []
    with tf.GradientTape() as tape:
        tape.watch(z)
        everyone = tf.math.l2_normalize(z, axis=-1) if similarity == "cosine" else z
        for first in (0, 3):  # images 0..2 and 3..5: their rows in both views
            own = tf.constant([*range(first, first + 3), *range(6 + first, 9 + first)])
            parts.append(loss(tf.gather(z, own), gather=lambda _, own=own: (everyone, own)))
        joint = contrastive.Contrast(*(sum(part) / 2 for part in zip(*parts, strict=True)))
    gradient = tape.gradient(joint.loss, z)
    dense = loss_and_gradient(z, temperature=0.3, similarity=similarity, streaming=False)
    assert_same((joint, gradient), dense)


def test_the_gradient_grows_with_the_scale_of_the_loss(tile):
    z = rows(5)
    with tf.GradientTape() as tape:
        tape.watch(z)
        scaled = 1024.0 * nt_xent(z, temperature=0.2, streaming=True).loss
    _, slope = loss_and_gradient(z, temperature=0.2, streaming=False)
    np.testing.assert_allclose(tape.gradient(scaled, z) / 1024.0, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("field", ["accuracy", "entropy"])
def test_only_the_loss_has_a_gradient(tile, field):
    z = rows(5)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = getattr(nt_xent(z, temperature=0.2, streaming=True), field)
    np.testing.assert_array_equal(
        tape.gradient(value, z, unconnected_gradients=tf.UnconnectedGradients.ZERO), 0.0
    )


@pytest.mark.parametrize("order", [[0] * 10, [0, 1, 0, 1, 2, 0, 1, 0, 1, 2], [3, 0, 0, 0, 1] * 2])
def test_of_equal_candidates_the_first_is_the_most_similar(tile, order):
    # An encoder that maps everything to one point is right once in 2N - 1 times, not always.
    z = tf.gather(tf.eye(4, WIDTH), order)
    dense, streaming = (nt_xent(z, temperature=0.1, streaming=s) for s in (False, True))
    assert streaming.accuracy == dense.accuracy < 0.8


@pairs(temperature=[0.01, 1.0], scale=[0.0, 1e-4, 1e3, 6e4], similarity=["cosine", "dot"])
def test_extreme_values_are_finite(tile, similarity, scale, temperature):
    z = np.random.default_rng(0).choice([-1.0, 1.0], (10, WIDTH)) * scale
    z[5] = -z[0]  # a positive at the other end of the sphere
    z = tf.cast(z, tf.float32)
    arguments = {"temperature": temperature, "similarity": similarity}
    streaming = loss_and_gradient(z, **arguments, streaming=True)
    assert all(np.isfinite(value).all() for value in tf.nest.flatten(streaming))
    assert_same(streaming, loss_and_gradient(z, **arguments, streaming=False))


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_huge_dot_products_do_not_bring_the_anchor_back_as_its_own_candidate(tile, temperature):
    z = tf.constant([[6e4] * WIDTH, [-6e4] * WIDTH])  # the positive is the only candidate
    contrast, gradient = loss_and_gradient(
        z, temperature=temperature, similarity="dot", streaming=True
    )
    np.testing.assert_allclose(contrast, [0.0, 1.0, 0.0], atol=1e-6)
    np.testing.assert_array_equal(gradient, 0.0)


def operations(function):
    """The operations of a concrete function and of all that it calls: {type: largest output}."""
    definition = function.graph.as_graph_def(add_shapes=True)
    nodes = list(definition.node)
    nodes += [node for called in definition.library.function for node in called.node_def]
    found = {}
    for node in nodes:
        sizes = [
            np.prod([dim.size for dim in shape.dim], initial=1)
            for shape in node.attr["_output_shapes"].list.shape
        ]
        found[node.op] = max([found.get(node.op, 0), *sizes])
    return found


@pytest.mark.parametrize("gathered", [False, True])
def test_nothing_in_the_graph_has_the_size_of_the_matrix(tile, gathered):
    z = rows(32, width=4)
    gather = (lambda x: (x, tf.range(64))) if gathered else None

    def run(x, streaming):
        return loss_and_gradient(x, temperature=0.2, gather=gather, streaming=streaming)

    dense, streaming = (
        operations(tf.function(run).get_concrete_function(z, s)) for s in (False, True)
    )
    assert max(dense.values()) == 64 * 64
    assert streaming["BatchMatMulV2" if "BatchMatMulV2" in streaming else "MatMul"] >= 4 * 4
    assert max(streaming.values()) <= 64 * 4
    # What a loop keeps of each round for its own gradient would add up to the matrix.
    assert not [name for name in streaming if "PushBack" in name]


@pytest.mark.parametrize(
    ("count", "asked", "streamed"),
    [(4, None, False), (5, None, True), (4, True, True), (5, False, False)],
)
def test_streaming_is_chosen_by_the_number_of_logits(monkeypatch, count, asked, streamed):
    calls = []

    def spy(*arguments, **settings):
        calls.append(settings)
        return tf.zeros([]), tf.zeros([]), tf.zeros([])

    monkeypatch.setattr(contrastive, "STREAMING_LOGITS", 10 * 10)
    monkeypatch.setattr(contrastive, "streaming_nt_xent", spy)
    NTXent(0.1, streaming=asked)(rows(count))
    assert bool(calls) == streamed


def test_an_unknown_number_of_logits_is_left_to_dense(monkeypatch):
    monkeypatch.setattr(contrastive, "STREAMING_LOGITS", 0)
    monkeypatch.setattr(contrastive, "streaming_nt_xent", None)  # would raise if called
    graph = tf.function(
        lambda z: nt_xent(z, temperature=0.1), input_signature=[tf.TensorSpec([None, 4])]
    )
    assert np.isfinite(graph(rows(2, width=4))).all()
