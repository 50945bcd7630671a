"""From the settings to trained weights: steps, learning rate, optimiser, training."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from simclr_tf import data
from simclr_tf.config.settings import Config
from simclr_tf.counting import spell_number
from simclr_tf.data.batches.order import Shard, steps_per_epoch
from simclr_tf.optimizers import make_optimizer
from simclr_tf.runs.checkpoints import Variables
from simclr_tf.schedules import WarmupCosine, scale_learning_rate
from simclr_tf.tasks.same_images import Record, record_of
from simclr_tf.training import distribution
from simclr_tf.training.callbacks import Journal, Progress, SaveCheckpoints
from simclr_tf.training.callbacks.finite import StopWhereNotFinite
from simclr_tf.training.callbacks.tensorboard import Profile, TensorBoardLog
from simclr_tf.training.fit import choose_steps_per_execution, fit_steps

if TYPE_CHECKING:  # for annotations alone
    from simclr_tf.tasks import assembly

ShardBatches = Callable[[int, int, Shard], tf.data.Dataset]

GPU_MINUTES = 1.0  # between checkpoints there, if nothing else was asked for
HIGH_LARS_RATE = 5.0  # the SimCLR paper's for a batch of 4,096 is 4.8
SLOW_SAVING = 0.02  # share of the training time from which that of checkpoints is named,
SHORT_TRAINING = 60.0  # where that is as many seconds: of less, nobody minds it
MUCH_LEFT_OUT = 0.05  # share of the images from which those left out of each epoch are named


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of a run and its learning rate, derived once from the settings and the data.

    `images` tells the training images from others.
    """

    steps_per_epoch: int
    last_step: int
    schedule: WarmupCosine
    images: Record

    @property
    def epochs(self) -> float:
        """Epochs the run takes, a fraction where it ends within one."""
        return self.last_step / self.steps_per_epoch


def fit_batch(run: assembly.Run, config: Config, source: data.Source) -> Config:
    """Returns the settings with a batch that the images fill, where nobody chose one: as large as
    half of them, so that an epoch has two steps, in powers of 2.

    A run that is resumed goes by the images that it began with.

    Args:
        run: The run.
        config: Its settings by now.
        source: The images that are trained on.
    """
    count = len(source)
    if config.resume:
        count = int((run.folder.data() or {}).get("images", count))
    # What the replicas, and each one's microbatches, divide.
    unit = distribution.count_replicas(run.strategy)
    if config.task == "pretrain":
        unit *= config.microbatch_size or 1
    least = unit if unit > 1 else 2
    if "batch_size" in config.given or config.batch_size <= count or count < least:
        return config
    doublings = int(math.log2(max(count // 2, least) / unit))
    batch_size = unit * 2**doublings
    print(
        f"batches of {spell_number(batch_size, 'image')}: there are {count}, fewer than the "
        f"{config.batch_size} of the default --batch_size",
        flush=True,
    )
    return config.replace(batch_size=batch_size)


def plan_steps(config: Config, source: data.Source) -> Plan:
    """Derives the steps and the schedule, and prints them."""
    epoch_steps = steps_per_epoch(source, config.batch_size)
    total = epoch_steps * config.num_epochs
    last = min(total, config.max_steps) if config.max_steps else total
    peak = scale_learning_rate(config.learning_rate, config.batch_size, config.lr_scaling)
    warmup = min(int(config.warmup_epochs * epoch_steps), total // 2)
    if warmup < int(config.warmup_epochs * epoch_steps):
        print(f"warm-up shortened to half of the run: {spell_number(warmup, 'step')}")
    scaled = ""
    if config.lr_scaling != "none":
        scaled = f" ({config.lr_scaling} scaling of {config.learning_rate:g})"
    print(
        f"{spell_number(config.num_epochs, 'epoch')} of {spell_number(epoch_steps, 'step')}, "
        f"{spell_number(config.batch_size, 'image')} each; {config.optimizer}, "
        f"peak learning rate {peak:.4g}{scaled}, {spell_number(warmup, 'step')} of warm-up"
        + (f"; ends at step {last} (--max_steps)" if last < total else ""),
        flush=True,
    )
    if config.optimizer == "lars" and peak > HIGH_LARS_RATE:
        _warn_of_high_rate(config.batch_size, peak)
    taken = epoch_steps * config.batch_size
    name_left_out(len(source), taken, "each epoch", when=", others each time")
    schedule = WarmupCosine(peak, warmup_steps=warmup, total_steps=total)
    labels = config.task != "pretrain"
    images = record_of(source, steps_per_epoch=epoch_steps, labels=labels)
    return Plan(epoch_steps, last, schedule, images)


def _warn_of_high_rate(batch_size: int, peak: float) -> None:
    linear, root = (
        f"{scale_learning_rate(rate, batch_size, scaling):.3g}"
        for rate, scaling in ((0.3, "linear"), (0.075, "sqrt"))
    )
    print(
        f"warning: a peak learning rate of {peak:.4g} is high for LARS. The SimCLR paper's for "
        f"--batch_size={batch_size} are {linear} (--learning_rate=0.3 --lr_scaling=linear) and "
        f"{root} (--learning_rate=0.075 --lr_scaling=sqrt)",
        file=sys.stderr,
        flush=True,
    )


def judged_epochs(config: Config) -> list[int]:
    """Returns the epochs, counted from 1, after which a run is judged: every few, and the last."""
    last = config.num_epochs
    every = config.eval_every_epochs or max(last, 1)
    return sorted({*range(every, last, every), last})


def name_left_out(count: int, taken: int, what: str, *, when: str = "") -> None:
    """Prints how many of the images whole batches have no place for, where these are many.

    Args:
        count: Of the images.
        taken: How many of them come in whole batches.
        what: Takes whole batches alone, "each epoch" for instance.
        when: Whether it is always the same images.
    """
    left = count - taken
    if left >= MUCH_LEFT_OUT * count:
        print(f"{what} leaves out {left:,} of {count:,} images{when}: they fill no batch")


def steps_per_execution(run: assembly.Run, plan: Plan) -> int:
    """Returns the steps that run without coming back to Python; prints them where several."""
    asked = run.config.steps_per_execution
    if run.strategy is not None:  # its batches do not end, so the last execution would not either
        if asked > 1:
            print("1 step per execution: a strategy takes its steps one by one")
        return 1
    chosen = choose_steps_per_execution(asked, plan.steps_per_epoch)
    if chosen > 1:
        rest = plan.steps_per_epoch % chosen
        last = f", {rest} in the last of an epoch" if rest else ""
        print(f"{spell_number(chosen, 'step')} per execution{last}")
    return chosen


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


def train(
    run: assembly.Run,
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
