"""The settings: how one is declared, all of them, and what tasks and data sets preset."""

from simclr_tf.config.settings import Config as Config

__all__ = ["Config"]
