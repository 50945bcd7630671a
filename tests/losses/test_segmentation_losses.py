"""The loss of segmentation against loops over pixels, and what Keras makes of it."""

from __future__ import annotations

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from tables import pairs

from simclr_tf.losses.segmentation import PixelLoss, balanced_weights, pixel_loss

CLASSES = 4
WEIGHTS = (0.5, 2.0, 1.0, 3.5)
SHAPE = (2, 3, 5)  # N, H, W


def reference_loss(masks, logits, *, ignore_label=None, class_weights=None, dice_weight=0.0):
    """The definition, pixel by pixel: (value, gradient [N, H, W, K]), both float64."""
    masks, logits = masks.astype(int), np.asarray(logits, np.float64)
    num_classes = logits.shape[-1]
    weights = [1.0] * num_classes if class_weights is None else class_weights
    total = weight_sum = 0.0
    gradient = np.zeros(logits.shape)
    probabilities = {}
    for pixel in itertools.product(*map(range, masks.shape)):
        label = masks[pixel]
        if label == ignore_label:
            continue
        exponentials = [math.exp(value - logits[pixel].max()) for value in logits[pixel]]
        p = probabilities[pixel] = [e / sum(exponentials) for e in exponentials]
        total -= weights[label] * math.log(p[label])
        weight_sum += weights[label]
        for k in range(num_classes):
            gradient[pixel][k] = weights[label] * (p[k] - (k == label))
    value = total / weight_sum if weight_sum else 0.0
    gradient = gradient / weight_sum if weight_sum else gradient
    if dice_weight and probabilities:
        value_of_dice, gradient_of_dice = reference_dice(masks, probabilities, logits.shape)
        value += dice_weight * value_of_dice
        gradient += dice_weight * gradient_of_dice
    return value, gradient


def reference_dice(masks, probabilities, shape):
    """1 - mean of 2 sum p g / (sum p + sum g) over the classes there are, and its gradient."""
    classes = sorted({masks[pixel] for pixel in probabilities})
    value, by_probability = 1.0, np.zeros(shape)
    for k in classes:
        both = sum(p[k] for pixel, p in probabilities.items() if masks[pixel] == k)
        predicted = sum(p[k] for p in probabilities.values())
        truth = sum(masks[pixel] == k for pixel in probabilities)
        value -= 2.0 * both / (predicted + truth) / len(classes)
        for pixel in probabilities:
            of_both = 2.0 * (masks[pixel] == k) / (predicted + truth)
            of_sums = 2.0 * both / (predicted + truth) ** 2
            by_probability[pixel][k] = -(of_both - of_sums) / len(classes)
    gradient = np.zeros(shape)
    for pixel, p in probabilities.items():  # through the softmax
        mean = sum(p[k] * by_probability[pixel][k] for k in range(shape[-1]))
        for k in range(shape[-1]):
            gradient[pixel][k] = p[k] * (by_probability[pixel][k] - mean)
    return value, gradient


def value_and_gradient(loss, masks, logits):
    logits = tf.convert_to_tensor(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(masks, logits)
    return value, tape.gradient(value, logits)


def pixels(ignored=(), *, classes=CLASSES, seed=0):
    """Masks and logits; the first pixels have the values to ignore, if any."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, classes, SHAPE).astype(np.uint8)
    masks.reshape(-1)[: len(ignored)] = ignored
    return masks, rng.normal(0, 3, (*SHAPE, CLASSES)).astype(np.float32)


SETTINGS = [
    {"class_weights": weights, "dice_weight": dice}
    for weights, dice in itertools.product((None, WEIGHTS), (0.0, 0.7))
]


# --- Values and gradients ---


def test_the_reference_gradient_is_that_of_its_value():
    masks, logits = pixels((255, 255))
    settings = {"ignore_label": 255, "class_weights": WEIGHTS, "dice_weight": 0.7}
    _, gradient = reference_loss(masks, logits, **settings)
    rng = np.random.default_rng(5)
    for _ in range(3):
        direction = rng.normal(size=logits.shape)
        ahead, behind = (
            reference_loss(masks, logits + sign * 1e-5 * direction, **settings)[0]
            for sign in (1, -1)
        )
        np.testing.assert_allclose((ahead - behind) / 2e-5, (gradient * direction).sum(), rtol=1e-6)


@pairs(
    settings=SETTINGS,
    ignore_label__ignored=[
        (None, ()),
        (255, (255, 255, 255)),
        (CLASSES, (CLASSES,)),
        (0, (0,)),  # a class that exists for the logits, but is not learnt
        (2, (2, 2)),
        (255, ()),  # nothing to ignore
        (255, (255,) * math.prod(SHAPE)),
    ],
    compiled=[False, True],
)
def test_agrees_with_the_reference(compiled, ignore_label, ignored, settings):
    masks, logits = pixels(ignored)
    loss = PixelLoss(CLASSES, ignore_label=ignore_label, **settings)

    def run(masks, logits):
        return value_and_gradient(loss, masks, logits)

    run = tf.function(run, jit_compile=True) if compiled else run
    value, gradient = run(tf.constant(masks), tf.constant(logits))
    expected = reference_loss(masks, logits, ignore_label=ignore_label, **settings)
    assert (value.shape, value.dtype) == ((), tf.float32)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("settings", SETTINGS)
def test_where_nothing_counts_it_is_zero_without_a_slope(settings):
    masks, logits = pixels((255,) * math.prod(SHAPE))
    loss = PixelLoss(CLASSES, ignore_label=255, **settings)
    value, gradient = value_and_gradient(loss, masks, logits)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
def test_what_is_ignored_does_not_matter(settings, compiled):
    masks, logits = pixels((255, 255, 255, 255))
    loss = PixelLoss(CLASSES, ignore_label=255, **settings)
    run = tf.function(loss, jit_compile=compiled)
    other = logits.copy()
    other[masks == 255] = 50.0 * np.random.default_rng(1).normal(size=(4, CLASSES))
    assert float(run(masks, logits)) == float(run(masks, other))


@pytest.mark.parametrize("settings", SETTINGS)
def test_classes_that_do_not_occur_are_no_part_of_dice(settings):
    masks, logits = pixels(classes=2)  # of four
    value = PixelLoss(CLASSES, **settings)(masks, logits)
    np.testing.assert_allclose(value, reference_loss(masks, logits, **settings)[0], rtol=1e-5)


def test_right_and_sure_is_nearly_zero_and_wrong_and_sure_is_finite():
    masks, _ = pixels()
    right = 100.0 * np.eye(CLASSES, dtype=np.float32)[masks]
    loss = PixelLoss(CLASSES, dice_weight=1.0)
    assert float(loss(masks, right)) < 1e-6
    value, gradient = value_and_gradient(loss, masks, 1e4 * np.float32(right == 0.0))
    assert float(value) > 100.0
    assert np.isfinite(gradient).all()


def test_a_class_of_weight_zero_has_no_slope():
    masks, logits = pixels()
    loss = PixelLoss(CLASSES, class_weights=(1, 0, 1, 1))
    _, gradient = value_and_gradient(loss, masks, logits)
    assert np.abs(gradient.numpy()[masks == 1]).max() == 0.0
    only = np.full(SHAPE, 1, np.uint8)
    assert [float(np.abs(part).max()) for part in value_and_gradient(loss, only, logits)] == [0, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_masks_of_any_integer_type(dtype):
    masks, logits = pixels((255,))
    value = pixel_loss(tf.constant(masks.astype(dtype)), logits, ignore_label=255)
    expected, _ = reference_loss(masks, logits, ignore_label=255)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_arithmetic_is_float32_whatever_the_logits(settings, dtype):
    masks, logits = pixels((255,))
    rounded = tf.cast(logits, dtype)
    value = PixelLoss(CLASSES, ignore_label=255, **settings)(masks, rounded)
    assert value.dtype == tf.float32
    expected = reference_loss(masks, tf.cast(rounded, tf.float64), ignore_label=255, **settings)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)


def test_many_pixels_are_added_up_exactly_enough():
    # In bfloat16, or one by one in float32, such a sum would stop growing.
    masks = np.zeros((1, 2048, 2048), np.uint8)
    value = PixelLoss(2, dice_weight=1.0)(masks, np.zeros((1, 2048, 2048, 2), np.float32))
    # Dice of the one class that occurs: 2 (n / 2) / (n / 2 + n).
    np.testing.assert_allclose(value, math.log(2.0) + 1.0 - 2.0 / 3.0, rtol=1e-5)


# --- In Keras ---


class Pixels(keras.Model):
    """Logits that are variables of their own: shows what gradient arrives."""

    def __init__(self, logits):
        super().__init__()
        self.logits = self.add_weight(shape=logits.shape, initializer="zeros", name="logits")
        self.logits.assign(logits)

    def call(self, images):
        return self.logits.value + 0.0 * images[..., :1]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_keras_neither_averages_nor_rescales(jit_compile):
    masks, logits = pixels((255, 255))
    settings = {"ignore_label": 255, "class_weights": WEIGHTS, "dice_weight": 0.7}
    loss = PixelLoss(CLASSES, **settings)
    model = Pixels(logits)
    model.compile(keras.optimizers.SGD(1.0), loss, jit_compile=jit_compile)
    expected, gradient = reference_loss(masks, logits, **settings)
    images = np.zeros((*SHAPE, 3), np.float32)
    assert model.evaluate(images, masks, batch_size=SHAPE[0], verbose=0) == pytest.approx(expected)
    history = model.fit(images, masks, batch_size=SHAPE[0], shuffle=False, verbose=0).history
    assert history["loss"] == [pytest.approx(expected)]
    np.testing.assert_allclose(logits - model.logits.numpy(), gradient, rtol=1e-3, atol=1e-6)


def test_replicas_share_the_gradient(monkeypatch):
    # Replicas add up their gradients: each one's loss has to come as its part of the whole.
    masks, logits = pixels()
    loss = PixelLoss(CLASSES, dice_weight=0.5)
    whole = float(loss(masks, logits))

    class Two:
        num_replicas_in_sync = 2

    monkeypatch.setattr(tf.distribute, "get_strategy", Two)
    assert float(loss(masks, logits)) == pytest.approx(whole / 2)


def test_config_round_trip():
    loss = PixelLoss(CLASSES, ignore_label=255, class_weights=WEIGHTS, dice_weight=0.5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is PixelLoss
    assert again.get_config() == loss.get_config()
    masks, logits = pixels((255,))
    assert float(again(masks, logits)) == float(loss(masks, logits))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "4 class weights"),
        ({"class_weights": [1.0, 2.0, -1.0, 1.0]}, "at least 0"),
        ({"class_weights": [1.0, 2.0, math.nan, 1.0]}, "at least 0"),
        ({"dice_weight": -0.1}, "dice_weight of at least 0, got -0.1"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PixelLoss(CLASSES, **arguments)


def test_logits_of_another_number_of_classes_are_refused():
    masks, logits = pixels()
    with pytest.raises(ValueError, match="Expected 3 logits, got 4"):
        PixelLoss(3)(masks, logits)


# --- Class weights ---


def test_balanced_weights_by_hand():
    # Frequencies 0.5, 0.1, 0.4; their median is 0.4.
    np.testing.assert_allclose(balanced_weights(np.array([50, 10, 40])), [0.8, 4.0, 1.0])
    # A class that never occurs counts neither in the median nor against the others.
    np.testing.assert_allclose(balanced_weights(np.array([50, 0, 10, 40])), [0.8, 1.0, 4.0, 1.0])
    # An even number: the mean of the two in the middle, 25.
    np.testing.assert_allclose(balanced_weights(np.array([10, 40])), [2.5, 0.625])


def test_balanced_weights_do_not_depend_on_the_number_of_images():
    counts = np.array([7, 0, 1000, 31], np.int64)
    np.testing.assert_allclose(balanced_weights(counts * 10**9), balanced_weights(counts))


def test_balanced_weights_of_nothing_are_one():
    np.testing.assert_array_equal(balanced_weights(np.zeros(3, np.int64)), np.ones(3))


def test_balanced_classes_weigh_the_same_together():
    masks, logits = pixels()
    counts = np.bincount(masks.ravel(), minlength=CLASSES)
    balanced = PixelLoss(CLASSES, class_weights=balanced_weights(counts))(masks, logits)
    of_each = [reference_loss(masks[masks == k], logits[masks == k])[0] for k in range(CLASSES)]
    np.testing.assert_allclose(balanced, np.mean(of_each), rtol=1e-5)
