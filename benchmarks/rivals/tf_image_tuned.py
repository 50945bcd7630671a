"""The chain of `tf.image` calls as `tf_image` builds it, with its two worst costs taken out.

It crops before it converts to float, and blurs the images that drew a blur, each with a width of
its own. Batches come in any order.
"""

from __future__ import annotations

import tensorflow as tf

from rivals import tf_image
from rivals.side import ASPECT, SIGMA, Job, Views
from rivals.tf_image import jitter, sometimes, to_gray

VERSIONS: dict[str, str] = {}
DIFFERS = tf_image.DIFFERS.replace("has one width a batch, ", "")


def open_views(job: Job) -> Views:
    with tf.device("/CPU:0"):
        images = tf.constant(job.images)

    def two(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = images[index]
        return make_view(image, job), make_view(image, job)

    count = len(job.images)
    options = tf.data.Options()
    options.deterministic = False
    batches = (
        tf.data.Dataset.range(count)
        .shuffle(count)
        .repeat()
        .map(two, tf.data.AUTOTUNE)
        .batch(job.batch_size, drop_remainder=True)
        .prefetch(2)
        .with_options(options)
    )
    return Views(iter(batches), lambda view: view.numpy())


def make_view(image: tf.Tensor, job: Job) -> tf.Tensor:
    """Makes one view, float32 [S, S, 3] in [0, 1], of a uint8 image."""
    recipe, size = job.recipe, job.size
    # Cropping before the conversion to float gives the same and is cheaper.
    image = crop(image, recipe["crop_area_min"])
    image = tf.image.resize(image, [size, size], "bicubic") * (1.0 / 255.0)
    if recipe["flip"]:
        image = tf.image.random_flip_left_right(image)
    if recipe["jitter"]:
        image = sometimes(recipe["jitter_prob"], lambda: jitter(image, job), image)
    if recipe["colordrop"]:
        image = sometimes(recipe["color_prob"], lambda: to_gray(image), image)
    if recipe["blur"]:
        image = sometimes(recipe["blur_prob"], lambda: blur(image, job.blur_radius), image)
    return tf.ensure_shape(tf.clip_by_value(image, 0.0, 1.0), [size, size, 3])


def crop(image: tf.Tensor, area_min: float) -> tf.Tensor:
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.1,
        aspect_ratio_range=ASPECT,
        area_range=(area_min, 1.0),
        max_attempts=100,
    )
    return tf.slice(image, begin, extent)


def blur(image: tf.Tensor, radius: int) -> tf.Tensor:
    position = tf.range(-radius, radius + 1, dtype=tf.float32)
    weights = tf.exp(-0.5 * tf.square(position / tf.random.uniform([], *SIGMA)))
    weights = tf.tile((weights / tf.reduce_sum(weights))[:, tf.newaxis], [1, 3])  # [k, 3]
    down, across = weights[:, tf.newaxis, :, tf.newaxis], weights[tf.newaxis, :, :, tf.newaxis]
    image = tf.nn.depthwise_conv2d(image[tf.newaxis], down, [1, 1, 1, 1], "SAME")
    return tf.nn.depthwise_conv2d(image, across, [1, 1, 1, 1], "SAME")[0]
