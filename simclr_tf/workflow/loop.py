"""The training of a run, with all that its folder is given: journal, TensorBoard, checkpoints."""

from __future__ import annotations

import time

import keras
import tensorflow as tf

from simclr_tf.config.settings import Config
from simclr_tf.training import distribution
from simclr_tf.training.callbacks import Journal, Progress, SaveCheckpoints
from simclr_tf.training.callbacks.finite import StopWhereNotFinite
from simclr_tf.training.callbacks.tensorboard import Profile, TensorBoardLog
from simclr_tf.training.fit import fit_steps
from simclr_tf.workflow.network import Network
from simclr_tf.workflow.plan import Plan
from simclr_tf.workflow.run import Run

GPU_MINUTES = 1.0  # between checkpoints there, if nothing else was asked for
SLOW_SAVING = 0.02  # share of the training time from which that of checkpoints is named,
SHORT_TRAINING = 60.0  # where that is as many seconds: of less, nobody minds it


def train_model(run: Run, network: Network, plan: Plan, first_step: int) -> float | None:
    """Trains with progress, journal, TensorBoard and checkpoints; returns images per second.

    Where nothing is left to train they are those that the run wrote before, None if not known.

    Args:
        run: The run.
        network: What is trained, and on what.
        plan: The run's steps.
        first_step: The step to go on from.
    """
    config = run.config
    progress = Progress(
        last_step=plan.last_step, batch_size=config.batch_size, every_steps=config.log_every_steps
    )
    finite = StopWhereNotFinite(every_steps=config.log_every_steps)
    save = SaveCheckpoints(
        run.folder,
        network.variables if run.leads else {},
        every_epochs=config.save_every_epochs,
        every_minutes=_minutes_between_checkpoints(config),
        steps_per_epoch=plan.steps_per_epoch,
        check=finite.check,
    )
    started = time.monotonic()
    try:
        fit_steps(
            network.model,
            lambda first, last: distribution.distribute(
                run.strategy, lambda shard: network.batches.steps(first, last, shard)
            ),
            first_step=first_step,
            last_step=plan.last_step,
            steps_per_epoch=plan.steps_per_epoch,
            callbacks=[
                finite,
                progress,
                *network.callbacks,
                *_journals(run, first_step),
                save,
            ],
            **network.validation,
        )
    finally:
        save.restore_handlers()
    _name_slow_saving(config, run.folder.checkpoints.seconds, time.monotonic() - started)
    if first_step >= plan.last_step:
        return run.folder.known("images_per_second")
    return round(progress.images_per_second, 1)


def _journals(run: Run, first_step: int) -> list[keras.callbacks.Callback]:
    """Returns what writes down the numbers of each epoch, in the order they are written in."""
    config, tracking = run.config, run.tracking
    events = TensorBoardLog(
        run.folder,
        histogram_epochs=max(config.eval_every_epochs, 1) if config.histograms else 0,
    )
    return [
        *([] if tracking is None else [tracking.callback(first_step)]),
        *([Profile(run.folder)] if config.profile else []),
        Journal(run.folder),
        events,
    ]


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
