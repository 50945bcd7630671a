"""Keras 3's own preprocessing layers on whole batches, or on small groups, in a tf.data map."""

from __future__ import annotations

import keras
import tensorflow as tf

from rivals.side import SIGMA, Job, Views, fastest

VERSIONS = {"keras": keras.__version__, "tensorflow": tf.__version__}
DIFFERS = (
    "no random resized crop: a shift and a zoom instead (RandomTranslation, RandomZoom), bilinear "
    "without antialias, aspect kept, mirrored beyond the edge; no probability of the jitter: every "
    "image gets it; brightness is added, contrast goes by channel, saturation and hue by HSV; one "
    "blur width per batch, a 2-D kernel over every image, of 3 sigma at the most"
)
_LAYERS = ("RandomColorJitter", "RandomGrayscale", "RandomGaussianBlur")
_missing = [name for name in _LAYERS if not hasattr(keras.layers, name)]
if _missing:
    raise ImportError(f"Keras {keras.__version__} has no {', '.join(_missing)}.")


def open_views(job: Job) -> Views:
    """Keeps the faster of whole batches and groups of 8 images, which stay in the cache."""
    return fastest(job, [lambda: in_groups(job, job.batch_size), lambda: in_groups(job, 8)])


def in_groups(job: Job, group: int) -> Views:
    pipeline = layers_of(job)
    with tf.device("/CPU:0"):
        images = tf.constant(job.images)

    def two(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        chosen = tf.cast(tf.gather(images, index), tf.float32) * (1.0 / 255.0)
        both = pipeline(tf.concat([chosen, chosen], axis=0), training=True)
        return both[:group], both[group:]

    count = len(job.images)
    views = (
        tf.data.Dataset.range(count)
        .shuffle(count)
        .repeat()
        .batch(group, drop_remainder=True)
        .map(two, tf.data.AUTOTUNE, deterministic=False)
    )
    if group != job.batch_size:
        views = views.unbatch().batch(job.batch_size, drop_remainder=True)
    return Views(iter(views.prefetch(2)), lambda view: view.numpy(), f"layers on {group} images")


def layers_of(job: Job) -> keras.layers.Pipeline:
    recipe, layers = job.recipe, keras.layers
    low, high = job.factors
    # A zoom of z shows a window of z times the side, whose centre may lie (1 - z) / 2 off the
    # image's: half of that at the smallest window, so that larger ones stay near the image too.
    smallest = recipe["crop_area_min"] ** 0.5
    shift = (1 - smallest) / 4
    chain = [layers.RandomTranslation(shift, shift), layers.RandomZoom((smallest - 1, 0.0))]
    if recipe["flip"]:
        chain.append(layers.RandomFlip("horizontal"))
    if recipe["jitter"]:
        chain.append(
            layers.RandomColorJitter(
                value_range=(0, 1),
                brightness_factor=high - 1,
                contrast_factor=1 - low,
                # A factor f multiplies the saturation by f / (1 - f).
                saturation_factor=(low / (1 + low), high / (1 + high)),
                hue_factor=2 * job.max_hue,  # in shares of half a turn
            )
        )
    if recipe["colordrop"]:
        chain.append(layers.RandomGrayscale(recipe["color_prob"]))
    if recipe["blur"]:
        radius = min(round(3 * SIGMA[1]), job.blur_radius)
        prob = recipe["blur_prob"]
        chain.append(
            layers.RandomGaussianBlur(
                factor=(prob, prob), kernel_size=2 * radius + 1, sigma=SIGMA, value_range=(0, 1)
            )
        )
    return layers.Pipeline(chain)
