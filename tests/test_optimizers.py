"""LARS against a written-out reference, and one contract for every optimiser."""

from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from tables import for_each

from simclr_tf.models import ProjectionHead, classifier_head, resnet
from simclr_tf.optimizers import LARS, NAMES, is_norm_or_bias, make_optimizer
from simclr_tf.schedules import WarmupCosine


def layer_variables():
    """A kernel, a norm's scale and a bias, none of them at zero."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 4), "gamma": (4,), "bias": (4,)}
    return [
        keras.Variable(rng.normal(1, 0.5, s).astype("float32"), name=n) for n, s in shapes.items()
    ]


def values(variables):
    return [variable.numpy() for variable in variables]


# --- LARS ---


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_lars_agrees_with_the_reference_over_a_schedule(decay):
    schedule = {"peak": 5.0, "warmup_steps": 3, "total_steps": 8}
    lars = LARS(WarmupCosine(**schedule), weight_decay=decay)
    variables = layer_variables()
    expected = [(np.float64(w), np.zeros(w.shape)) for w in values(variables)]
    rng = np.random.default_rng(1)
    for step in range(8):
        gradients = [rng.normal(size=v.shape) for v in variables]
        lars.apply([tf.constant(g, tf.float32) for g in gradients], variables)
        rate = reference.warmup_cosine(step, **schedule)
        expected = [
            reference.lars_step(
                w, g, v, rate=rate, momentum=0.9, decay=decay, trust=0.001, excluded=w.ndim <= 1
            )
            for (w, v), g in zip(expected, gradients, strict=True)
        ]
        for ours, (w, _) in zip(values(variables), expected, strict=True):
            np.testing.assert_allclose(ours, w, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("weight", "gradient", "expected"),
    [
        (0.0, 2.0, 0.0 - 0.1 * 2.0),  # no weight yet: ratio 1, so that it can leave zero
        (3.0, 0.0, 3.0),  # no gradient: nothing to scale
        (3.0, 2.0, 3.0 - 0.1 * (0.001 * 3 / 2) * 2.0),
    ],
)
def test_lars_ratio_is_one_where_a_norm_is_zero(weight, gradient, expected):
    variable = keras.Variable(np.full((2, 2), weight, np.float32))
    LARS(0.1).apply([tf.fill([2, 2], gradient)], [variable])
    np.testing.assert_allclose(variable.numpy(), np.full((2, 2), expected), rtol=1e-6)


def test_lars_step_does_not_depend_on_the_gradients_length():
    after = []
    for scale in (1e-3, 1.0, 1e3):
        variable = keras.Variable(np.float32([[1, 2], [3, 4]]))
        LARS(0.5).apply([scale * tf.constant([[1.0, -1], [2, 0]])], [variable])
        after.append(variable.numpy())
    np.testing.assert_allclose(after[0], after[1], rtol=1e-5)
    np.testing.assert_allclose(after[2], after[1], rtol=1e-5)


def test_lars_excludes_what_it_is_told():
    kernel = keras.Variable(np.ones((2, 2), np.float32))
    LARS(0.1, weight_decay=0.5, exclude=lambda v: True).apply([tf.ones([2, 2])], [kernel])
    np.testing.assert_allclose(kernel.numpy(), np.full((2, 2), 0.9), rtol=1e-6)  # plain momentum


@keras.saving.register_keras_serializable("tests")
def is_square(variable):
    return len(set(variable.shape)) == 1


@pytest.mark.parametrize("factors", [None, (1.0, 1.0)])
def test_what_lars_excludes_survives_a_config_that_is_text(factors):
    made = type(make_optimizer("lars", learning_rate=0.1, weight_decay=0.0, variables=[]))
    lars = LARS(0.1, weight_decay=0.5, exclude=is_square)
    if factors:
        lars = made(0.1, weight_decay=0.5, exclude=is_square, rate_factors=factors)
    again = keras.optimizers.deserialize(json.loads(json.dumps(keras.optimizers.serialize(lars))))
    square, wide = (keras.Variable(np.ones(shape, np.float32)) for shape in ((2, 2), (2, 3)))
    again.apply([tf.ones([2, 2]), tf.ones([2, 3])], [square, wide])
    np.testing.assert_allclose(square.numpy(), np.full((2, 2), 0.9), rtol=1e-6)  # plain momentum
    assert (wide.numpy() > 0.99).all()  # the ratio is 0.001 x 1 / 1.5


def test_an_exclusion_that_cannot_be_saved_is_not_lost_in_silence():
    def unknown(variable):
        return True

    config = LARS(0.1, exclude=unknown).get_config()
    with pytest.raises((TypeError, ValueError), match="unknown"):
        LARS.from_config(config)


@pytest.fixture(scope="module")
def network():
    encoder = resnet(50, stem="imagenet", width_multiplier=0.0625, depthwise=True)
    head = ProjectionHead(8, layers=3)
    head.build((None, encoder.output_shape[-1]))
    classifier = classifier_head(encoder.output_shape[-1], 10, nonlinear=True)
    return encoder, head, classifier


def test_exclusion_is_exactly_the_norms_and_the_biases(network):
    variables = [v for part in network for v in part.trainable_variables]
    excluded = [v for v in variables if is_norm_or_bias(v)]
    kinds = {v.path.rsplit("/", 1)[-1] for v in excluded}
    kept = {v.path.rsplit("/", 1)[-1] for v in variables if not is_norm_or_bias(v)}
    assert kinds == {"gamma", "beta", "bias"}
    assert kept == {"kernel"}

    counts = [len([v for v in part.trainable_variables if is_norm_or_bias(v)]) for part in network]
    # ResNet-50 has 53 convolutions, each with gamma and beta; the head's last norm has no beta; a
    # classifier has two biases. The depth-wise form puts a norm where the 3x3 had one.
    assert counts == [2 * 53, 2 * 3 - 1, 2]


# --- The contract ---

PEAK = {"lars": 1.5, "sgd": 0.05, "nesterov": 0.05}  # the others: 0.1


def parabola(name, variables, *, steps=300, wrap=lambda optimizer: optimizer):
    """Minimises |w - 2|^2 / 2: returns (optimizer, traces, losses)."""
    schedule = WarmupCosine(PEAK.get(name, 0.1), warmup_steps=5, total_steps=steps)
    made = make_optimizer(name, learning_rate=schedule, weight_decay=0.0, variables=variables)
    optimizer = wrap(made)
    traces = []

    @tf.function
    def step():
        traces.append(None)
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum((v - 2.0) ** 2) / 2 for v in variables])
            scaled = optimizer.scale_loss(loss)
        optimizer.apply(tape.gradient(scaled, [v.value for v in variables]), variables)
        return loss

    losses = [float(step()) for _ in range(steps)]
    return optimizer, len(traces), losses


@for_each("name", NAMES)
def test_converges_and_does_not_retrace(name):
    variables = layer_variables()
    optimizer, traces, losses = parabola(name, variables)
    assert losses[-1] < 0.01 * losses[0]
    assert traces == 1
    assert int(optimizer.iterations) == len(losses)


@for_each("name", NAMES)
def test_decays_kernels_but_no_norms_and_no_biases(name):
    variables = layer_variables()
    before = values(variables)
    optimizer = make_optimizer(name, learning_rate=0.1, weight_decay=0.01, variables=variables)
    for _ in range(3):
        optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
    kernel, *others = values(variables)
    assert np.linalg.norm(kernel) < np.linalg.norm(before[0])
    for ours, theirs in zip(others, before[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@for_each("name", NAMES)
def test_without_decay_a_zero_gradient_moves_nothing(name):
    variables = layer_variables()
    before = values(variables)
    optimizer = make_optimizer(name, learning_rate=0.1, weight_decay=0.0, variables=variables)
    optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
    for ours, theirs in zip(values(variables), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@for_each("name", NAMES)
def test_works_under_loss_scaling(name):
    variables = layer_variables()
    optimizer, _, losses = parabola(
        name,
        variables,
        wrap=lambda o: keras.optimizers.LossScaleOptimizer(o, initial_scale=2.0**10),
    )
    assert losses[-1] < 0.01 * losses[0]
    before = values(variables)
    optimizer.apply([tf.fill(v.shape, math.inf) for v in variables], variables)
    for ours, theirs in zip(values(variables), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)  # an overflow is left out


@for_each("name", NAMES)
def test_decays_the_same_under_loss_scaling(name):
    after = []
    for scaled in (False, True):
        variables = layer_variables()
        optimizer = make_optimizer(name, learning_rate=0.1, weight_decay=0.01, variables=variables)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
        gradients = [tf.fill(v.shape, 8.0 if scaled else 1.0) for v in variables]
        optimizer.apply(gradients, variables)
        after.append(values(variables))
    for plain, scaled in zip(*after, strict=True):
        np.testing.assert_allclose(scaled, plain, rtol=1e-6)


@for_each("name", NAMES)
def test_variables_come_in_a_stable_order_and_none_is_added_later(name):
    # Checkpoints name an optimiser's variables by position.
    def made():
        variables = layer_variables()
        return variables, make_optimizer(
            name, learning_rate=0.1, weight_decay=0.1, variables=variables
        )

    def kinds(optimizer):
        # Nadam's last one is numbered by Keras ("variable_7"); the rest have names of their own.
        names = [v.name if len(v.shape) else "scalar" for v in optimizer.variables]
        return [
            (n, tuple(v.shape), v.dtype) for n, v in zip(names, optimizer.variables, strict=True)
        ]

    (_, first), (variables, second) = made(), made()
    assert kinds(first) == kinds(second)
    second.apply([tf.ones(v.shape) for v in variables], variables)
    assert kinds(first) == kinds(second)


@for_each("name", NAMES)
def test_config_round_trip(name):
    gradients = [np.random.default_rng(2).normal(size=v.shape) for v in layer_variables()[:1]]
    after = []
    for again in (False, True):
        variables = layer_variables()[:1]
        optimizer = make_optimizer(
            name,
            learning_rate=WarmupCosine(0.1, warmup_steps=1, total_steps=9),
            weight_decay=0.01,
            variables=variables,
        )
        if again:
            optimizer = type(optimizer).from_config(optimizer.get_config())
        for _ in range(3):
            optimizer.apply([tf.constant(g, tf.float32) for g in gradients], variables)
        after.append(variables[0].numpy())
    np.testing.assert_allclose(after[1], after[0], rtol=1e-6)


@for_each("name", NAMES)
def test_our_optimizers_are_known_to_keras(name):
    made = make_optimizer(name, learning_rate=0.1, weight_decay=0.1, variables=layer_variables())
    again = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert type(again) is type(made)
    assert again.get_config() == made.get_config()


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "nadam", "lars"])
def test_coupled_decay_is_the_gradient_of_an_l2_term(name):
    """decay |w|^2 / 2 in the loss, on the kernel alone, gives the same steps."""
    after = []
    for decay in (0.0, 0.3):
        variables = layer_variables()
        optimizer = make_optimizer(name, learning_rate=0.1, weight_decay=decay, variables=variables)
        for step in range(3):
            gradients = [tf.fill(v.shape, 0.1 * (step - 1.0)) for v in variables]
            if not decay:
                gradients[0] += 0.3 * variables[0].value
            optimizer.apply(gradients, variables)
        after.append(values(variables))
    for term, coupled in zip(*after, strict=True):
        np.testing.assert_allclose(coupled, term, rtol=1e-5, atol=1e-7)


def test_adamw_decays_by_the_learning_rate_alone():
    kernel = layer_variables()[0]
    before = kernel.numpy()
    optimizer = make_optimizer("adamw", learning_rate=0.1, weight_decay=0.2, variables=[kernel])
    optimizer.apply([tf.zeros(kernel.shape)], [kernel])
    np.testing.assert_allclose(kernel.numpy(), before * (1 - 0.1 * 0.2), rtol=1e-6)


# --- A rate for each variable ---

DECAY = 0.03


def after_steps(name, rate, *, factors=None, decay=DECAY, scale=None, compiled=False):
    """The layer's values after four steps of the same gradients, made of the values."""
    variables = layer_variables()
    optimizer = make_optimizer(
        name,
        learning_rate=rate,
        weight_decay=decay,
        variables=variables,
        rate_factors=None if factors is None else lambda v: factors[v.name],
    )
    if scale is not None:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)
    rng = np.random.default_rng(3)

    def step(*gradients):
        # Each gradient depends on its own variable alone: runs can be compared part by part.
        pulled = [g + 0.1 * v.value for g, v in zip(gradients, variables, strict=True)]
        optimizer.apply([(scale or 1.0) * g for g in pulled], variables)

    run = tf.function(step, jit_compile=True) if compiled else step
    for _ in range(4):
        run(*(tf.constant(rng.normal(size=v.shape), tf.float32) for v in variables))
    return values(variables)


def scaled_schedule(factor):
    return WarmupCosine(factor * 0.2, warmup_steps=2, total_steps=7)


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("make_rate", [lambda factor: 0.2 * factor, scaled_schedule])
@for_each("name", NAMES)
def test_a_factor_is_a_rate_of_its_own(name, make_rate, decay):
    start = values(layer_variables())
    plain = after_steps(name, make_rate(1.0), decay=decay)
    tenth = after_steps(name, make_rate(0.1), decay=decay)
    factors = {"kernel": 0.1, "gamma": 1.0, "bias": 0.0}
    mixed = after_steps(name, make_rate(1.0), factors=factors, decay=decay)
    np.testing.assert_allclose(mixed[0], tenth[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(mixed[1], plain[1], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(mixed[2], start[2])
    assert np.abs(plain[0] - tenth[0]).max() > 1e-4  # the comparison can tell them apart
    assert (plain[2] != start[2]).any()
    whole = {"kernel": 0.0, "gamma": 0.1, "bias": 1.0}
    mixed = after_steps(name, make_rate(1.0), factors=whole, decay=decay)
    np.testing.assert_array_equal(mixed[0], start[0])  # no decay either
    np.testing.assert_allclose(mixed[1], tenth[1], rtol=1e-5, atol=1e-7)


@for_each("name", NAMES)
def test_factors_of_one_change_nothing(name):
    factors = {"kernel": 1.0, "gamma": 1.0, "bias": 1.0}
    for ours, plain in zip(
        after_steps(name, 0.2, factors=factors), after_steps(name, 0.2), strict=True
    ):
        np.testing.assert_allclose(ours, plain, rtol=1e-6)


@for_each("name", NAMES)
def test_factors_hold_under_loss_scaling_and_under_xla(name):
    factors = {"kernel": 0.1, "gamma": 0.5, "bias": 0.0}
    expected = after_steps(name, 0.2, factors=factors)
    for arguments in ({"scale": 8.0}, {"compiled": True}):
        for ours, eager in zip(
            after_steps(name, 0.2, factors=factors, **arguments), expected, strict=True
        ):
            np.testing.assert_allclose(ours, eager, rtol=1e-5, atol=1e-6)


@for_each("name", NAMES)
def test_factors_add_no_variables_and_survive_a_config(name):
    def made(factors):
        variables = layer_variables()
        optimizer = make_optimizer(
            name,
            learning_rate=0.1,
            weight_decay=0.1,
            variables=variables,
            rate_factors=factors,
        )
        return optimizer, [(v.name, tuple(v.shape)) for v in optimizer.variables]

    (_, plain), (optimizer, factored) = made(None), made(lambda v: 0.5)
    assert [shape for _, shape in plain] == [shape for _, shape in factored]
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert tuple(again.rate_factors) == (0.5, 0.5, 0.5)


def test_a_factor_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"at least 0, got -0\.1"):
        make_optimizer(
            "sgd",
            learning_rate=0.1,
            weight_decay=0.0,
            variables=layer_variables(),
            rate_factors=lambda v: -0.1,
        )


def test_unknown_optimizer_names_the_choices():
    with pytest.raises(ValueError, match=r"'lars', 'sgd'.*got 'adagrad'"):
        make_optimizer("adagrad", learning_rate=0.1, weight_decay=0.0, variables=[])
