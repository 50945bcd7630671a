"""Two views of each image as a Keras layer, for who trains with Keras' own `fit`."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from simclr_tf.augment.recipe import Recipe
from simclr_tf.augment.resampling import Size
from simclr_tf.augment.views import draw_views, make_views


@keras.saving.register_keras_serializable("simclr_tf")
class RandomViews(keras.layers.Layer):
    """Makes two random views of each image: `SimCLR(encoder, head, augment=RandomViews(recipe))`.

    Then `model.fit(images)` trains. The draws are a function of the seed and of the layer's own
    step, which is saved with the model. On a CPU leave `jit_compile` to Keras: the stages of a view
    compile themselves, and are slower in one piece with the step.

    Example:
        >>> first, second = RandomViews(Recipe(strength=0.5), size=(96, 96))(images)

    Args:
        recipe: The operations and their strengths.
        size: (h, w) of the views in pixels; None: that of the images.
        seed: Of all draws.
    """

    def __init__(
        self, recipe: Recipe | None = None, *, size: Size | None = None, seed: int = 0, **more: Any
    ) -> None:
        super().__init__(**more)
        self.recipe = recipe or Recipe()
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.seed = seed
        self.step = self.add_weight(
            name="step",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        self.built = True

    def call(self, images: tf.Tensor, training: bool = True) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws two views of each image.

        Args:
            images: uint8 [N, H, W, C].
            training: Draw others at each call; False: always the same ones, for validation.

        Returns:
            The first and the second view of each image, float32 [N, h, w, C] in [0, 1].

        Raises:
            ValueError: The images are no uint8.
        """
        if tf.as_dtype(images.dtype) != tf.uint8:
            raise ValueError(
                f"Expected uint8 images [N, H, W, C] in 0..255, got {images.dtype} "
                f"{list(images.shape)}. Pass them as they were read."
            )
        height, width = images.shape[1:3]
        size = self.size or (height, width)
        step = tf.zeros([], tf.int64)
        if training:
            step = tf.convert_to_tensor(self.step)
            self.step.assign_add(1)
        replica = tf.distribute.get_replica_context()
        replicas = 1 if replica is None else replica.num_replicas_in_sync
        own = 0 if replica is None else replica.replica_id_in_sync_group
        draw = draw_views(
            self.recipe,
            2 * tf.shape(images)[0],
            seed=self.seed,
            step=step * replicas + tf.cast(own, tf.int64),
            size=size,
            aspect=width / height,
            stream="views" if training else "validation",
        )
        return make_views(images, draw, size)

    def compute_output_shape(self, input_shape: tuple) -> tuple[tuple, tuple]:
        shape = (input_shape[0], *(self.size or input_shape[1:3]), input_shape[3])
        return shape, shape

    def get_config(self) -> dict:
        recipe = dataclasses.asdict(self.recipe)
        return {**super().get_config(), "recipe": recipe, "size": self.size, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict) -> RandomViews:
        return cls(**{**config, "recipe": Recipe(**config["recipe"])})
