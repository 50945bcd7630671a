"""The steps of a run and its learning rate, derived from the settings and the data."""

from __future__ import annotations

import dataclasses
import math
import sys

from simclr_tf import data
from simclr_tf.config.settings import Config
from simclr_tf.counting import spell_number
from simclr_tf.data.batches.order import steps_per_epoch
from simclr_tf.schedules import WarmupCosine, scale_learning_rate
from simclr_tf.training.fit import choose_steps_per_execution
from simclr_tf.workflow.fingerprint import Record, record_of
from simclr_tf.workflow.run import Run

HIGH_LARS_RATE = 5.0  # the SimCLR paper's for a batch of 4,096 is 4.8
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


def fit_batch(config: Config, source: data.Source, *, began: int | None, replicas: int) -> Config:
    """Returns the settings with a batch that the images fill, where nobody chose one: as large as
    half of them, so that an epoch has two steps, in powers of 2.

    Args:
        config: The settings.
        source: The images that are trained on.
        began: How many there were as a run that is resumed began: it goes by these.
        replicas: R, what a batch is shared out to.
    """
    count = len(source) if began is None else began
    # What the replicas, and each one's microbatches, divide.
    unit = replicas
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


def steps_per_execution(run: Run, plan: Plan) -> int:
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
