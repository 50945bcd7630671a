"""Training with all that a run's folder is given: optimiser, batches, journal, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from simclr_tf import data
from simclr_tf.config.settings import Config
from simclr_tf.data.batches.order import Shard
from simclr_tf.optimizers import make_optimizer
from simclr_tf.runs.checkpoints import Variables
from simclr_tf.training import distribution
from simclr_tf.training.callbacks import Journal, Progress, SaveCheckpoints
from simclr_tf.training.callbacks.finite import StopWhereNotFinite
from simclr_tf.training.callbacks.tensorboard import Profile, TensorBoardLog
from simclr_tf.training.fit import fit_steps
from simclr_tf.workflow.plan import Plan
from simclr_tf.workflow.run import Run

ShardBatches = Callable[[int, int, Shard], tf.data.Dataset]

GPU_MINUTES = 1.0  # between checkpoints there, if nothing else was asked for
SLOW_SAVING = 0.02  # share of the training time from which that of checkpoints is named,
SHORT_TRAINING = 60.0  # where that is as many seconds: of less, nobody minds it


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


def batches_by_step(
    make: Callable[..., tf.data.Dataset],
    source: data.Source,
    config: Config,
    *,
    size: tuple[int, int],
    **arguments: Any,
) -> ShardBatches:
    """Returns what makes the batches of any steps, as `train` wants them.

    Args:
        make: A function of `data.pipeline` that makes batches of drawn views.
        source: The images.
        config: The settings.
        size: (h, w) of the views.
        **arguments: Further arguments of `make`.
    """

    def batches(first: int, last: int, shard: Shard) -> tf.data.Dataset:
        return make(
            source,
            batch_size=config.batch_size,
            recipe=config.recipe(),
            seed=config.seed,
            size=size,
            first_step=first,
            last_step=last,
            shard=shard,
            **arguments,
        )

    return batches


def train_model(
    run: Run,
    model: keras.Model,
    batches: ShardBatches,
    *,
    plan: Plan,
    first_step: int,
    variables: Variables,
    callbacks: list[keras.callbacks.Callback],
    **fit_arguments: Any,
) -> float | None:
    """Trains with progress, journal, TensorBoard and checkpoints; returns images per second.

    Where nothing is left to train they are those that the run wrote before, None if not known.

    Args:
        run: The run, settings decided.
        model: Compiled.
        batches: (first, last, shard) -> the batches of those steps.
        plan: The run's steps.
        first_step: The step to go on from.
        variables: All that training changes, saved in checkpoints.
        callbacks: The task's own; what they add to an epoch's logs is written down too.
        **fit_arguments: Further arguments of `model.fit`.
    """
    config = run.config
    progress = Progress(
        last_step=plan.last_step, batch_size=config.batch_size, every_steps=config.log_every_steps
    )
    finite = StopWhereNotFinite(every_steps=config.log_every_steps)
    save = SaveCheckpoints(
        run.folder,
        variables if run.leads else {},
        every_epochs=config.save_every_epochs,
        every_minutes=_minutes_between_checkpoints(config),
        steps_per_epoch=plan.steps_per_epoch,
        check=finite.check,
    )
    events = TensorBoardLog(
        run.folder,
        first_epoch=first_step // plan.steps_per_epoch,
        histogram_epochs=max(config.eval_every_epochs, 1) if config.histograms else 0,
    )
    write = [Journal(run.folder), events, save]
    if config.profile:
        write.insert(0, Profile(run.folder))
    if run.tracking is not None:
        write.insert(0, run.tracking.callback(first_step))
    started = time.monotonic()
    try:
        fit_steps(
            model,
            lambda first, last: distribution.distribute(
                run.strategy, lambda shard: batches(first, last, shard)
            ),
            first_step=first_step,
            last_step=plan.last_step,
            steps_per_epoch=plan.steps_per_epoch,
            callbacks=[finite, progress, *callbacks, *write],
            **fit_arguments,
        )
    finally:
        save.restore_handlers()
    _name_slow_saving(config, run.folder.checkpoints.seconds, time.monotonic() - started)
    if first_step >= plan.last_step:
        return run.folder.known("images_per_second")
    return round(progress.images_per_second, 1)


def _minutes_between_checkpoints(config: Config) -> float:
    """Returns the least minutes between two epochs' checkpoints: on a GPU an epoch may be short."""
    chosen = (
        bool(tf.config.list_physical_devices("GPU")) and "save_every_epochs" not in config.given
    )
    return config.save_every_minutes or (GPU_MINUTES if chosen else 0.0)


def _name_slow_saving(config: Config, saving: float, training: float) -> None:
    """Prints what checkpoints have cost where that is much."""
    if training >= SHORT_TRAINING and saving > SLOW_SAVING * training:
        print(
            f"checkpoints took {saving:.1f} of {training:.1f} seconds of training "
            f"({100 * saving / training:.0f} %): pass a larger --save_every_epochs than "
            f"{config.save_every_epochs}, or a run folder on a faster disk",
            flush=True,
        )
