"""What one prediction works with, whichever task it is of."""

from __future__ import annotations

import dataclasses

import keras

from simclr_tf.config.settings import Config
from simclr_tf.tasks.predict.output import OutputFolder
from simclr_tf.tasks.predict.tolerant import Tolerant
from simclr_tf.tasks.predict.trained import Trained


@dataclasses.dataclass(frozen=True)
class Work:
    """The images of one prediction, what predicts, and where it goes.

    Attributes:
        config: The settings of this prediction.
        trained: The run that is predicted with.
        model: Its network: images -> logits.
        source: The images.
        folder: Where predictions are written.
        names: What the files of each image are called.
    """

    config: Config
    trained: Trained
    model: keras.Model
    source: Tolerant
    folder: OutputFolder
    names: list[str]

    def path_of(self, index: int) -> str:
        """Returns an image as the table names it."""
        return self.source.paths[index] if self.source.paths else self.names[index]
