"""The loss of segmentation: cross-entropy over pixels, and Dice; and weights of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf


def pixel_loss(
    masks: tf.Tensor,
    logits: tf.Tensor,
    *,
    ignore_label: int | None = None,
    class_weights: Sequence[float] | None = None,
    dice_weight: float = 0.0,
) -> tf.Tensor:
    """Judges the logits of a batch's pixels, all pixels together.

    The cross-entropy is sum of w_y (-log softmax_y) / sum of w_y over the counted pixels, y being a
    pixel's class. All arithmetic is float32, whatever the dtype of `logits`.

    Args:
        masks: The class of each pixel, 0 to K - 1, integers of any dtype [N, H, W]. Pixels of
            another value are not counted.
        logits: float [N, H, W, K].
        ignore_label: The value of pixels that are not counted, also where it is below K.
        class_weights: w, [K]; None: 1 for each class.
        dice_weight: Factor of the soft Dice loss that is added, see `soft_dice`; 0: none.

    Returns:
        float32 scalar; 0, as is its gradient, where no pixel counts.
    """
    logits = tf.cast(logits, tf.float32)
    labels = tf.cast(masks, tf.int32)
    num_classes = logits.shape[-1]
    counted = (labels >= 0) & (labels < num_classes)
    if ignore_label is not None:
        counted &= labels != ignore_label
    labels = tf.where(counted, labels, 0)  # nothing below is indexed with a value that is no class
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)  # [N, H, W]
    weights = tf.cast(counted, tf.float32)
    if class_weights is not None:
        weights *= tf.gather(tf.constant(class_weights, tf.float32), labels)
    loss = tf.math.divide_no_nan(tf.reduce_sum(weights * losses), tf.reduce_sum(weights))
    if dice_weight:
        loss += dice_weight * soft_dice(labels, logits, counted)
    return loss


def soft_dice(labels: tf.Tensor, logits: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    """Returns 1 less the mean Dice coefficient of the classes that occur in the batch.

    That of a class is 2 sum p g / (sum p + sum g) over the batch's counted pixels: p the softmax of
    the class, g 1 on its pixels. (arXiv 1606.04797 squares p and g in the denominator.)

    Args:
        labels: int32 [N, H, W] in 0..K-1.
        logits: float32 [N, H, W, K].
        counted: bool [N, H, W]: the pixels that count.

    Returns:
        float32 scalar in 0..1; 0 where no pixel counts.
    """
    counts = tf.cast(counted, tf.float32)[..., tf.newaxis]
    truth = tf.one_hot(labels, logits.shape[-1]) * counts  # [N, H, W, K]
    predicted = tf.nn.softmax(logits) * counts
    pixels = [0, 1, 2]
    of_truth = tf.reduce_sum(truth, pixels)  # [K]
    both = of_truth + tf.reduce_sum(predicted, pixels)
    dice = tf.math.divide_no_nan(2.0 * tf.reduce_sum(truth * predicted, pixels), both)
    occurs = of_truth > 0.0
    number = tf.reduce_sum(tf.cast(occurs, tf.float32))
    return tf.math.divide_no_nan(tf.reduce_sum(tf.where(occurs, 1.0 - dice, 0.0)), number)


@keras.saving.register_keras_serializable("simclr_tf")
class PixelLoss(keras.losses.Loss):
    """`pixel_loss` with its settings: `model.compile(loss=PixelLoss(11, ignore_label=255))`.

    Called with masks [N, H, W] and logits [N, H, W, K] it returns one float32 for the batch, over
    all its counted pixels: an image counts by how many it has. On several devices it is the mean
    of their values.

    Args:
        num_classes: K.
        ignore_label: See `pixel_loss`.
        class_weights: K numbers of at least 0, such as `balanced_weights`.
        dice_weight: See `pixel_loss`.

    Raises:
        ValueError: Weights that do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_label: int | None = None,
        class_weights: Sequence[float] | None = None,
        dice_weight: float = 0.0,
        name: str = "pixel_loss",
    ) -> None:
        super().__init__(name=name, dtype="float32")
        if class_weights is not None:
            class_weights = tuple(float(weight) for weight in class_weights)
            if len(class_weights) != num_classes or not all(w >= 0.0 for w in class_weights):
                raise ValueError(
                    f"Expected {num_classes} class weights of at least 0, got {class_weights}."
                )
        if not dice_weight >= 0.0:
            raise ValueError(f"Expected a dice_weight of at least 0, got {dice_weight}.")
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.class_weights = class_weights
        self.dice_weight = dice_weight

    def call(self, masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Returns the loss as float32 [1]; calling the object itself gives the scalar."""
        if logits.shape[-1] != self.num_classes:
            raise ValueError(f"Expected {self.num_classes} logits, got {logits.shape[-1]}.")
        loss = pixel_loss(
            masks,
            logits,
            ignore_label=self.ignore_label,
            class_weights=self.class_weights,
            dice_weight=self.dice_weight,
        )
        # Keras takes the mean of what comes, and shares it out among a strategy's replicas, whose
        # gradients are added up. A scalar it would leave as it is: R times the gradient.
        return loss[tf.newaxis]

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "ignore_label": self.ignore_label,
            "class_weights": self.class_weights,
            "dice_weight": self.dice_weight,
        }


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Returns class weights by median frequency balancing (arXiv 1411.4734).

    The weight of a class is the median of the frequencies of the classes that occur, over its own
    frequency: classes rarer than the median weigh more than 1, more frequent ones less. (The paper
    takes a class's frequency in the images that show it, here it is that in all images.) A common
    factor would change nothing: `pixel_loss` divides by the sum of the weights.

    Args:
        counts: Pixels of each class, int [K].

    Returns:
        float64 [K]; 1 for a class that never occurs.
    """
    counts = np.asarray(counts, np.float64)
    occurs = counts > 0
    weights = np.ones(len(counts))
    if occurs.any():
        weights[occurs] = np.median(counts[occurs]) / counts[occurs]
    return weights
