"""Training: the one order in which every task that trains goes from its settings to its results."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from simclr_tf import data
from simclr_tf.config.settings import Config
from simclr_tf.runs.checkpoints import Checkpoints
from simclr_tf.runs.folder import RunFolder
from simclr_tf.training import distribution
from simclr_tf.workflow import datasets
from simclr_tf.workflow.encoder import with_stem
from simclr_tf.workflow.loop import train_model
from simclr_tf.workflow.network import Network
from simclr_tf.workflow.plan import Plan, fit_batch, plan_steps
from simclr_tf.workflow.refusals import Refusals, told_together
from simclr_tf.workflow.resume import begin_or_resume, name_initial_weights
from simclr_tf.workflow.run import Run, peak_memory_bytes
from simclr_tf.workflow.start import start_run
from simclr_tf.workflow.weights import adopt_encoder, initial_weights


@dataclasses.dataclass(frozen=True)
class Parts:
    """The images of a training by what they are for.

    Attributes:
        train: Trained on.
        validation: Held back from training, or None.
        test: Reported on, or None; chooses nothing.
    """

    train: data.Source
    validation: data.Source | None = None
    test: data.Source | None = None

    @property
    def judged(self) -> data.Source:
        """The test images, of a task that needs some."""
        if self.test is None:
            raise ValueError("Expected images to report on, got none.")
        return self.test


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a training is about, known before its run begins.

    Attributes:
        checkpoint: What the encoder begins with; None: random weights.
        splits: The images as they were loaded.
        parts: The same, by what they are for.
        size: (h, w) of the views.
    """

    checkpoint: pathlib.Path | None
    splits: data.Splits
    parts: Parts
    size: tuple[int, int]


class Trainer(abc.ABC):
    """What differs between the tasks that train; `run_training` calls it, in this order.

    A task is a subclass: what it needs again it keeps from `build` on.
    """

    need_labels = False  # whether it learns from an image's label

    def strategies(self, config: Config) -> Sequence[str]:
        """Returns those of "mirrored" and "multiworker" that it can train under."""
        return ()

    def first_weights(self, config: Config, own: Checkpoints) -> pathlib.Path | None:
        """Returns what the encoder begins with; `own` are the checkpoints of a resumed run."""
        return initial_weights(config, own)

    def adopt(self, config: Config, checkpoint: pathlib.Path) -> Config:
        """Returns the settings with what the first weights decide."""
        return adopt_encoder(config, checkpoint)

    @abc.abstractmethod
    def load(self, config: Config, *, look: bool = True) -> data.Splits:
        """Loads the images, with a look at a sample of them."""

    @abc.abstractmethod
    def share_out(self, config: Config, splits: data.Splits) -> Parts:
        """Shares the images out by what they are for."""

    def settle(self, config: Config, checkpoint: pathlib.Path | None, train: data.Source) -> Config:
        """Returns the settings with what else the images decide."""
        return config

    @abc.abstractmethod
    def build(self, run: Run, subject: Subject, plan: Plan) -> Network:
        """Builds what is trained, compiled; refuses here what can still be refused."""

    def around_training(
        self, run: Run, subject: Subject, step: int
    ) -> contextlib.AbstractContextManager[Any]:
        """Returns the context of the training, which begins, or goes on, at `step`."""
        return contextlib.nullcontext()

    @abc.abstractmethod
    def report(self, run: Run, subject: Subject, plan: Plan, network: Network) -> dict[str, Any]:
        """Judges and draws what was trained; returns its part of results.json."""


def run_training(config: Config, trainer: Trainer) -> dict[str, Any]:
    """Runs a task that trains and returns what results.json holds.

    Writes the run folder of the settings; on interruption it can be resumed.

    Args:
        config: The settings as they were given.
        trainer: The task.

    Raises:
        UserError: The run cannot begin; all reasons against it are told together.
    """
    subjects: list[Subject] = []

    def settle(config: Config, folder: RunFolder, strategy: distribution.Strategy | None) -> Config:
        config, subject = resolve(
            config,
            trainer,
            own=folder.checkpoints,
            began=(folder.data() or {}).get("images") if config.resume else None,
            replicas=distribution.count_replicas(strategy),
        )
        subjects.append(subject)
        return config

    with (
        told_together(config, lambda config: look_ahead(config, trainer)) as begun,
        start_run(config, strategies=trainer.strategies, resolve=settle) as run,
    ):
        return train_run(run, trainer, subjects[0], begun)


def resolve(
    config: Config,
    trainer: Trainer,
    *,
    own: Checkpoints,
    began: int | None = None,
    replicas: int = 1,
    splits: data.Splits | None = None,
) -> tuple[Config, Subject]:
    """Returns the settings with all that weights and images decide, and what it was decided by.

    Args:
        config: The settings as they were given.
        trainer: The task.
        own: The checkpoints of the run that is resumed.
        began: How many images that run began with.
        replicas: R, what a batch is shared out to.
        splits: The images, where they are loaded already.
    """
    checkpoint = trainer.first_weights(config, own)
    if checkpoint is not None:
        config = trainer.adopt(config, checkpoint)
    splits = splits or trainer.load(config)
    parts = trainer.share_out(config, splits)
    config = trainer.settle(config, checkpoint, parts.train)
    size = datasets.view_size(config, parts.train)
    config = fit_batch(with_stem(config, size), parts.train, began=began, replicas=replicas)
    return config, Subject(checkpoint, splits, parts, size)


def train_run(
    run: Run, trainer: Trainer, subject: Subject, begun: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Trains within a run that is open; returns what results.json holds.

    Args:
        run: The run, whose settings are resolved.
        trainer: The task.
        subject: What the settings were resolved by.
        begun: Called once nothing more can be refused.
    """
    parts = subject.parts
    datasets.describe_data(parts.train, parts.validation, parts.test)
    datasets.name_colour_limits(run.config)
    plan = plan_steps(run.config, parts.train)
    network = trainer.build(run, subject, plan)
    begun()
    # From here on a run that lay in the folder is gone: what can be refused has been.
    step = begin_or_resume(run, network.variables, plan=plan, first_row=network.first_row)
    origin = name_initial_weights(run, subject.checkpoint)
    run.folder.write_model(**network.facts, view_size=subject.size, initial_weights=origin)
    with trainer.around_training(run, subject, step):
        rate = train_model(run, network, plan, step)
    if not run.leads:  # what the leader does from here on must need no other worker
        return {}
    return run.finish(
        **trainer.report(run, subject, plan, network),
        initial_weights=origin,
        images_per_second=rate,
        peak_memory_bytes=peak_memory_bytes(),
    )


def look_ahead(config: Config, trainer: Trainer) -> Refusals:
    """Returns what keeps a run with these settings from its first step, without beginning it."""
    refusals = Refusals()
    own = RunFolder(config.save_path).checkpoints
    checkpoint = refusals.attempt(trainer.first_weights, config, own)
    if checkpoint is not None:
        config = refusals.attempt(trainer.adopt, config, checkpoint) or config
    refusals.of_images(
        config,
        lambda config: trainer.load(config, look=False),
        lambda config, splits: trainer.share_out(config, splits).train,
        need_labels=trainer.need_labels,
    )
    return refusals
