"""The optimiser of a run, from the settings."""

from __future__ import annotations

import keras

from simclr_tf.config.settings import Config
from simclr_tf.optimizers import make_optimizer
from simclr_tf.workflow.plan import Plan


def build_optimizer(
    config: Config,
    plan: Plan,
    variables: list[keras.Variable],
    *,
    encoder: keras.Model | None = None,
) -> keras.optimizers.Optimizer:
    """Builds the optimiser of the settings for `variables`.

    Args:
        config: The settings.
        plan: The run's steps and learning rate.
        variables: What is trained.
        encoder: The part of it whose learning rate is `encoder_learning_rate`, where that is set.
    """
    factors = None
    if encoder is not None and config.encoder_learning_rate:
        slower = {id(v) for v in encoder.trainable_variables}
        ratio = config.encoder_learning_rate / config.learning_rate

        def factors(variable: keras.Variable) -> float:
            return ratio if id(variable) in slower else 1.0

    return make_optimizer(
        config.optimizer,
        learning_rate=plan.schedule,
        weight_decay=config.weight_decay,
        variables=variables,
        rate_factors=factors,
    )
