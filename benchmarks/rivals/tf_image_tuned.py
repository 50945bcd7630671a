"""The chain of `tf.image` calls as `tf_image` builds it, with its two worst costs taken out.

It crops before it converts to float, and blurs the images that drew a blur, each with a width of
its own. Batches come in any order, and operations have one thread each, as ours have.
"""

from __future__ import annotations

import tensorflow as tf

from rivals import tf_image
from rivals.side import Job, Views
from rivals.tf_image import blur, draw_window, jitter, sometimes, to_gray

tf.config.threading.set_intra_op_parallelism_threads(1)  # before TensorFlow computes anything

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
    image = tf.slice(image, *draw_window(image, recipe["crop_area_min"]))
    image = tf.image.resize(image, [size, size], "bicubic") * (1.0 / 255.0)
    if recipe["flip"]:
        image = tf.image.random_flip_left_right(image)
    if recipe["jitter"]:
        image = sometimes(recipe["jitter_prob"], lambda: jitter(image, job), image)
    if recipe["colordrop"]:
        image = sometimes(recipe["color_prob"], lambda: to_gray(image), image)
    if recipe["blur"]:
        image = sometimes(
            recipe["blur_prob"], lambda: blur(image[tf.newaxis], job.blur_radius)[0], image
        )
    return tf.ensure_shape(tf.clip_by_value(image, 0.0, 1.0), [size, size, 3])
