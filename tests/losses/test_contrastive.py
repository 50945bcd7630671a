"""NT-Xent against algorithm 1 of the paper, its closed forms, and its arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import tensorflow as tf
from tables import pairs
from tiny import loss_and_gradient, policy, tiny_simclr, tiny_views

from simclr_tf.losses.contrastive import NTXent, nt_xent

SHAPES = [(1, 2), (2, 3), (4, 8), (7, 5)]  # N, D
TOLERANCE = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1e-2}


def rows(count, width, dtype="float32", seed=0):
    z = np.random.default_rng(seed).normal(0, 1.5, (2 * count, width))
    return tf.cast(z, dtype)


@pairs(
    dtype=TOLERANCE, similarity=["cosine", "dot"], temperature=[0.07, 0.5, 1.0], count__width=SHAPES
)
def test_agrees_with_the_papers_loop(count, width, temperature, similarity, dtype):
    z = rows(count, width, dtype)
    contrast, gradient = loss_and_gradient(z, temperature=temperature, similarity=similarity)
    exact = np.float64(tf.cast(z, tf.float32))
    loss, accuracy, entropy = reference.nt_xent(exact, temperature, similarity)
    slope = reference.nt_xent_gradient(exact, temperature, similarity)

    assert [field.dtype for field in contrast] == [tf.float32] * 3
    np.testing.assert_allclose(contrast.loss, loss, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(contrast.accuracy, accuracy, atol=1e-6)
    np.testing.assert_allclose(contrast.entropy, entropy, rtol=1e-4, atol=1e-5)
    assert gradient.dtype == z.dtype
    difference = np.abs(np.float64(tf.cast(gradient, tf.float32)) - slope).max()
    assert difference <= TOLERANCE[dtype] * max(np.abs(slope).max(), 0.1)


@pytest.mark.parametrize("name", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_agrees_with_the_papers_loop_under_every_policy(name):
    with policy(name):
        model = tiny_simclr()
        z = model(tf.concat(tiny_views(3), axis=0), training=True)
    assert z.dtype == {"float32": tf.float32}.get(name, name.removeprefix("mixed_"))
    contrast, gradient = loss_and_gradient(z, temperature=0.2)
    exact = np.float64(tf.cast(z, tf.float32))
    np.testing.assert_allclose(contrast.loss, reference.nt_xent(exact, 0.2)[0], rtol=1e-5)
    slope = reference.nt_xent_gradient(exact, 0.2)
    difference = np.abs(np.float64(tf.cast(gradient, tf.float32)) - slope).max()
    assert difference <= TOLERANCE[z.dtype.name] * np.abs(slope).max()


def test_the_scale_of_each_row_does_not_matter():
    z = rows(4, 6)
    scales = np.float32([[1e-3], [1], [1e4], [7], [0.1], [300], [1e-2], [1e8]])
    plain, scaled = (nt_xent(x, temperature=0.1) for x in (z, z * scales))
    np.testing.assert_allclose(plain, scaled, rtol=1e-5)


def test_a_dot_product_does_depend_on_scale():
    z = rows(4, 6)
    plain, scaled = (nt_xent(x, temperature=0.5, similarity="dot").loss for x in (z, 2 * z))
    assert abs(plain - scaled) > 0.01


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_starts_at_the_log_of_the_candidates(count, temperature):
    loss = NTXent(temperature)
    assert loss.start(count) == math.log(2 * count - 1)
    same, orthogonal = tf.ones([2 * count, 16]), tf.eye(2 * count, 16)
    for z in (same, orthogonal):
        contrast = loss(z)
        np.testing.assert_allclose(contrast.loss, loss.start(count), atol=1e-5)
        np.testing.assert_allclose(contrast.entropy, loss.start(count), atol=1e-5)


def test_starts_near_the_log_of_the_candidates_for_random_rows():
    # In many dimensions random rows are nearly orthogonal.
    z = np.random.default_rng(0).normal(size=(128, 4096)).astype(np.float32)
    loss = NTXent(0.5)
    np.testing.assert_allclose(loss(tf.constant(z)).loss, loss.start(64), atol=0.01)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("count", [2, 8])
def test_floor_for_equal_positives_and_orthogonal_negatives(count, temperature):
    loss = NTXent(temperature)
    contrast = loss(tf.tile(tf.eye(count), [2, 1]))
    rest = (2 * count - 2) * math.exp(-1 / temperature)
    p = 1 / (1 + rest)
    entropy = -p * math.log(p) - (1 - p) * math.log((1 - p) / (2 * count - 2))
    np.testing.assert_allclose(loss.floor(count), math.log(1 + rest), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(contrast.loss, loss.floor(count), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(contrast.entropy, entropy, rtol=1e-4, atol=1e-6)
    assert contrast.accuracy == 1.0


def test_floors_of_the_published_table():
    # shared knowledge: N, temperature -> floor
    table = {(128, 0.1): 0.011, (256, 0.2): 1.490, (512, 0.5): 4.937, (1024, 0.1): 0.089}
    for (count, temperature), floor in table.items():
        assert round(NTXent(temperature).floor(count), 3) == floor


def test_accuracy_counts_the_anchors_whose_positive_is_nearest():
    eye = tf.eye(4)
    swapped = tf.concat([eye, tf.roll(eye, 1, axis=0)], axis=0)  # nearest: another image's view
    assert nt_xent(swapped, temperature=0.1).accuracy == 0.0
    half = tf.concat([eye, tf.gather(eye, [0, 1, 3, 2])], axis=0)
    assert nt_xent(half, temperature=0.1).accuracy == 0.5


@pairs(dtype=["float16", "bfloat16", "float32"], temperature=[0.01, 0.1], scale=[1e-4, 6e4])
def test_finite_at_low_temperature_and_extreme_values(dtype, temperature, scale):
    z = np.random.default_rng(0).choice([-1.0, 1.0], (6, 32)) * scale
    z[3] = -z[0]  # a positive at the other end of the sphere
    contrast, gradient = loss_and_gradient(tf.cast(z, dtype), temperature=temperature)
    assert np.isfinite(contrast).all()
    assert np.isfinite(tf.cast(gradient, tf.float32)).all()
    np.testing.assert_allclose(contrast.loss, reference.nt_xent(z, temperature)[0], rtol=1e-3)


def test_a_far_off_positive_still_has_a_gradient():
    # Where probabilities are clipped, the worst anchors stop learning.
    z = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.02], [0.0, 1.0]])
    _, gradient = loss_and_gradient(z, temperature=0.01)
    assert np.abs(gradient[0]).max() > 1.0


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_huge_dot_products_do_not_bring_the_anchor_back_as_its_own_candidate(temperature):
    z = np.float64([[6e4] * 64, [-6e4] * 64])  # one image: its positive is the only candidate
    contrast, gradient = loss_and_gradient(
        tf.cast(z, tf.float16), temperature=temperature, similarity="dot"
    )
    np.testing.assert_allclose(contrast, [0.0, 1.0, 0.0], atol=1e-6)
    assert np.isfinite(gradient).all()


def test_rows_of_zeros_are_finite():
    contrast, gradient = loss_and_gradient(tf.zeros([6, 4]), temperature=0.1)
    assert np.isfinite(contrast).all()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_eager_graph_and_xla_agree(similarity):
    z = rows(5, 8)

    def run(x):
        contrast, gradient = loss_and_gradient(x, temperature=0.2, similarity=similarity)
        return (*contrast, gradient)

    eager = run(z)
    for compiled in (tf.function(run), tf.function(run, jit_compile=True)):
        for ours, theirs in zip(compiled(z), eager, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_batch_size_may_be_unknown_to_the_graph():
    graph = tf.function(
        lambda z: nt_xent(z, temperature=0.1), input_signature=[tf.TensorSpec([None, 4])]
    )
    for count in (2, 5):
        z = rows(count, 4)
        np.testing.assert_allclose(graph(z), nt_xent(z, temperature=0.1), rtol=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_two_replicas_with_gathered_rows_are_one_joint_batch(similarity):
    z = rows(6, 5)
    unit = tf.math.l2_normalize(z, axis=-1) if similarity == "cosine" else z
    loss = NTXent(0.3, similarity=similarity)
    parts = []
    for first in (0, 3):  # images 0..2 and 3..5: their rows in both views
        own = tf.constant([*range(first, first + 3), *range(6 + first, 9 + first)])
        local = tf.gather(z, own)
        seen = []

        def gather(x, own=own, seen=seen):
            seen.append(x)
            return unit, own

        parts.append(loss(local, gather=gather))
        np.testing.assert_allclose(seen[0], tf.gather(unit, own), rtol=1e-6)
    np.testing.assert_allclose(np.mean(parts, axis=0), loss(z), rtol=1e-5)


def test_local_rows_alone_would_be_another_loss():
    z = rows(6, 5)
    own = [0, 1, 2, 6, 7, 8]
    alone = nt_xent(tf.gather(z, own), temperature=0.3).loss
    assert abs(alone - nt_xent(z, temperature=0.3).loss) > 0.1


@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan])
def test_temperature_must_be_above_zero(temperature):
    with pytest.raises(ValueError, match="temperature above 0"):
        NTXent(temperature)


def test_unknown_similarity_names_the_choices():
    with pytest.raises(ValueError, match="'cosine' or 'dot', got 'euclid'"):
        NTXent(0.1, similarity="euclid")
