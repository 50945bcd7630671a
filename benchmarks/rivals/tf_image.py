"""The chain of `tf.image` calls, image by image in a tf.data map, as SimCLR's own code builds it.

Facts from its data_util.py and model.py: float first, then
crop, bicubic resize, flip, and the colour operations one `tf.cond` within another; the two views
side by side as six channels; blur on whole batches, one width a batch, of which each image keeps
its own or the blurred version.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rivals.side import ASPECT, SIGMA, Job, Views

VERSIONS = {"tensorflow": tf.__version__}
DIFFERS = (
    "bicubic without antialias; crops cover at least 10 % of the image; the colour operations come "
    "in random order with a clip after each; the blur's kernel spans a tenth of the side, has one "
    "width a batch, with zeros beyond the edge"
)


def open_views(job: Job) -> Views:
    with tf.device("/CPU:0"):
        images = tf.constant(job.images)

    def six_channels(index: tf.Tensor) -> tf.Tensor:
        image = tf.image.convert_image_dtype(images[index], tf.float32)
        return tf.concat([make_view(image, job), make_view(image, job)], axis=-1)

    def two(batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        views = tf.split(batch, 2, axis=-1)
        return tuple(blur_some(view, job) if job.recipe["blur"] else view for view in views)

    batches = (
        tf.data.Dataset.range(len(job.images))
        .shuffle(len(job.images))
        .repeat()
        .map(six_channels, tf.data.AUTOTUNE)
        .batch(job.batch_size, drop_remainder=True)
        .map(two, tf.data.AUTOTUNE)  # the original blurs in the step, on the device
        .prefetch(2)
    )
    return Views(iter(batches), lambda view: view.numpy())


def make_view(image: tf.Tensor, job: Job) -> tf.Tensor:
    """Makes one view, float32 [S, S, 3] in [0, 1], of a float32 image in [0, 1]."""
    recipe, size = job.recipe, job.size
    image = crop(image, recipe["crop_area_min"])
    image = tf.image.resize(image, [size, size], "bicubic")
    if recipe["flip"]:
        image = tf.image.random_flip_left_right(image)
    if recipe["jitter"]:
        image = sometimes(recipe["jitter_prob"], lambda: jitter(image, job), image)
    if recipe["colordrop"]:
        image = sometimes(recipe["color_prob"], lambda: to_gray(image), image)
    return tf.clip_by_value(tf.ensure_shape(image, [size, size, 3]), 0.0, 1.0)


def crop(image: tf.Tensor, area_min: float) -> tf.Tensor:
    begin, extent = draw_window(image, area_min)
    top, left, _ = tf.unstack(begin)
    height, width, _ = tf.unstack(extent)
    return tf.image.crop_to_bounding_box(image, top, left, height, width)


def draw_window(image: tf.Tensor, area_min: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns first corner and extent of a random window, int32 [3] each."""
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.1,
        aspect_ratio_range=ASPECT,
        area_range=(area_min, 1.0),
        max_attempts=100,
    )
    return begin, extent


def jitter(image: tf.Tensor, job: Job) -> tf.Tensor:
    low, high = job.factors

    def one(number: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            number < 2,
            lambda: tf.cond(
                number < 1,
                lambda: x * tf.random.uniform([], low, high),
                lambda: tf.image.random_contrast(x, low, high),
            ),
            lambda: tf.cond(
                number < 3,
                lambda: tf.image.random_saturation(x, low, high),
                lambda: tf.image.random_hue(x, job.max_hue),
            ),
        )

    order = tf.random.shuffle(tf.range(4))
    for place in range(4):
        image = tf.clip_by_value(one(order[place], image), 0.0, 1.0)
    return image


def to_gray(image: tf.Tensor) -> tf.Tensor:
    return tf.tile(tf.image.rgb_to_grayscale(image), [1, 1, 3])


def blur_some(images: tf.Tensor, job: Job) -> tf.Tensor:
    blurred = blur(images, job.blur_radius)
    drawn = tf.random.uniform([job.batch_size, 1, 1, 1]) < job.recipe["blur_prob"]
    drawn = tf.cast(drawn, tf.float32)
    return tf.clip_by_value(blurred * drawn + images * (1.0 - drawn), 0.0, 1.0)


def blur(images: tf.Tensor, radius: int) -> tf.Tensor:
    """Blurs images [N, S, S, 3], all with one random width."""
    position = tf.range(-radius, radius + 1, dtype=tf.float32)
    weights = tf.exp(-0.5 * tf.square(position / tf.random.uniform([], *SIGMA)))
    weights = tf.tile((weights / tf.reduce_sum(weights))[:, tf.newaxis], [1, 3])  # [k, 3]
    down, across = weights[:, tf.newaxis, :, tf.newaxis], weights[tf.newaxis, :, :, tf.newaxis]
    images = tf.nn.depthwise_conv2d(images, down, [1, 1, 1, 1], "SAME")
    return tf.nn.depthwise_conv2d(images, across, [1, 1, 1, 1], "SAME")


def sometimes(prob: float, change: Callable[[], tf.Tensor], image: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.random.uniform([]) < prob, change, lambda: image)
