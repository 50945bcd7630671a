"""What the tasks share: from the settings to data, steps, optimiser, run folder and results."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import math
import os
import pathlib
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import simclr_tf
from simclr_tf import data
from simclr_tf.config import WITHOUT_CHECKPOINTS, Config
from simclr_tf.data.check import look_at
from simclr_tf.data.check_report import spell_problems
from simclr_tf.data.decode import limit_pixels
from simclr_tf.data.masks import MaskRules, read_colour_table
from simclr_tf.data.pipeline import Shard, own_size, steps_per_epoch
from simclr_tf.data.problems import ERROR, WARNING
from simclr_tf.errors import UserError
from simclr_tf.optimizers import make_optimizer
from simclr_tf.schedules import WarmupCosine, scale_learning_rate
from simclr_tf.tasks.disk import check_room, naming_the_way_on
from simclr_tf.tasks.encoders import normalization
from simclr_tf.tasks.same_images import Record, check_same_images, record_of
from simclr_tf.training import distribution
from simclr_tf.training.callbacks import Journal, Progress, SaveCheckpoints
from simclr_tf.training.checkpoints import (
    Variables,
    read_arrays,
    restore,
    step_of,
)
from simclr_tf.training.execution import Execution, choose_execution
from simclr_tf.training.finite import StopWhereNotFinite
from simclr_tf.training.fit import choose_steps_per_execution, fit_steps
from simclr_tf.training.folder_lock import hold_folder
from simclr_tf.training.run_folder import RunFolder
from simclr_tf.training.tensorboard import Profile, TensorBoardLog
from simclr_tf.training.tracking import Tracking

# A resumed run may change these without becoming another run.
FREE_ON_RESUME = (
    "resume",
    "overwrite",
    "max_steps",
    "pretrain_save_path",
    "finetune_save_path",
    "keep_checkpoints",
    "save_every_epochs",
    "eval_every_epochs",
    "log_every_steps",
    "data_service",
    "steps_per_execution",
    "strategy",
    "histograms",
    "profile",
    "tracker",
)
ShardBatches = Callable[[int, int, Shard], tf.data.Dataset]

PACKAGES = ("tensorflow", "keras", "numpy")
SLOW_SAVING = 0.02  # share of the training time from which that of checkpoints is named


@dataclasses.dataclass(frozen=True)
class Run:
    """A run under way: its settings, where they take effect, and its folder.

    With several workers each has a run; the leader's alone is printed and written.
    """

    config: Config
    execution: Execution
    folder: RunFolder
    started: float
    strategy: distribution.Strategy | None = None
    tracking: Tracking | None = None

    @property
    def leads(self) -> bool:
        """Whether this process prints, reads and writes."""
        return distribution.is_leader(self.strategy)

    def finish(self, **metrics: Any) -> dict[str, Any]:
        """Writes and returns the results: the task's metrics and what every task reports."""
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        skipped = self.folder.last_numbers().get("skipped_steps")
        results = {
            "task": self.config.task,
            "config": self.config.to_dict(),
            "versions": {"simclr_tf": simclr_tf.__version__, **versions},
            "device": self.execution.device,
            "replicas": distribution.count_replicas(self.strategy),
            "precision": self.execution.precision,
            "seconds": round(time.monotonic() - self.started, 2),
            **self._time_of_checkpoints(),
            **({} if skipped is None else {"skipped_steps": int(skipped)}),
            **metrics,
        }
        self.folder.write_results(results)
        if self.tracking is not None:
            self.tracking.report(results)
        if skipped:
            print(f"{int(skipped)} steps skipped (float16 overflow)")
        print(f"results in {self.folder.path / 'results.json'}", flush=True)
        return results

    def _time_of_checkpoints(self) -> dict[str, float | None]:
        if self.config.task in WITHOUT_CHECKPOINTS:
            return {}
        seconds = self.folder.checkpoints.seconds
        # A finished run that is resumed saves none.
        taken = round(seconds, 2) if seconds else self.folder.known("checkpoint_seconds")
        return {"checkpoint_seconds": taken}


@contextlib.contextmanager
def start_run(config: Config, *, strategies: Sequence[str] = ()) -> Iterator[Run]:
    """Meets the other workers, sets seed and number format, and makes the run folder ready.

    The block is the run's life: it holds the folder, so that no other run writes there; a lost
    worker ends it; a worker that follows runs it in silence; a disk that takes no more ends it with
    how to go on.

    The run's settings are those given, but for the run folder: where the default one holds a run of
    another task and nobody asked for it, the task takes a folder of its own beside it.

    Args:
        config: The settings.
        strategies: Those of "mirrored" and "multiworker" that the task can run under.

    Raises:
        UserError: The folder holds another run, or the settings ask for what there is not.
    """
    started = time.monotonic()
    limit_pixels(config.max_pixels)
    config = _where_it_was_moved(_with_own_folder(config))
    strategy = _make_strategy(config, strategies)
    with contextlib.ExitStack() as stack:
        stack.enter_context(distribution.watch_workers(strategy))
        execution = _set_up(config, strategy)
        if distribution.is_leader(strategy):
            folder = stack.enter_context(_open_folder(config))
        else:
            folder = stack.enter_context(_follow(config))
        tracking = None
        if config.tracker != "none" and distribution.is_leader(strategy):
            tracking = Tracking(config.tracker, folder.path)
            stack.enter_context(tracking.until_the_end())
        yield Run(config, execution, folder, started, strategy, tracking)


def _set_up(config: Config, strategy: distribution.Strategy | None) -> Execution:
    """Sets seed and number format."""
    keras.utils.set_random_seed(config.seed)
    replicas = distribution.count_replicas(strategy)
    execution = choose_execution(
        config.precision,
        config.xla,
        config.augment_on,
        replicas=replicas,
        deterministic=config.deterministic,
    )
    if strategy is not None:
        _check_rows(config, Shard(of=replicas).rows(config.batch_size), replicas)
        print(f"{replicas} replicas of {config.batch_size // replicas} images each", flush=True)
    return execution


@contextlib.contextmanager
def _open_folder(config: Config) -> Iterator[RunFolder]:
    """Holds the run folder for the length of the block and makes it ready."""
    folder = RunFolder(config.save_path, keep_checkpoints=config.keep_checkpoints)
    folder.task()  # one of another version of the format is left as it is
    with (
        hold_folder(folder.path, task=config.task, flag=config.save_flag),
        naming_the_way_on(config, folder),
    ):
        folder.begin(
            resume=config.resume,
            overwrite=config.overwrite,
            flag=config.save_flag,
            can_resume=config.task not in WITHOUT_CHECKPOINTS,
        )
        if config.resume:
            _check_resumed(config, folder, _decided(config))
        yield folder


def _decided(config: Config) -> list[str]:
    """Returns the settings given that no later step decides: of others the run's own weights would
    speak first, and give advice that does not count on a resumed run.
    """
    later = ("config", "normalize_input")  # the same numbers can be spelled in two ways
    return [n for n in config.given if n not in later and getattr(config, n) != "auto"]


@contextlib.contextmanager
def _follow(config: Config) -> Iterator[RunFolder]:
    """The block of a worker that follows: what it prints and writes is for nobody."""
    print("this worker follows the first one, which prints and writes", flush=True)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path,
        open(os.devnull, "w") as silence,
        contextlib.redirect_stdout(silence),
    ):
        folder = RunFolder(path, keep_checkpoints=config.keep_checkpoints)
        folder.begin(resume=False, overwrite=True, flag="")
        yield folder


def _with_own_folder(config: Config) -> Config:
    """Returns the settings with a default run folder that no other task's run lies in."""
    if config.task == "pretrain" or "finetune_save_path" in config.given:
        return config
    there = task_of(pathlib.Path(config.finetune_save_path))
    if there in (None, config.task):
        return config
    own = f"{config.finetune_save_path}_{config.task}"
    print(f"{config.finetune_save_path} holds a run of --task={there}: this one goes to {own}")
    return config.replace(finetune_save_path=own)


def _where_it_was_moved(config: Config) -> Config:
    """Returns the settings of a run that is resumed by its own `config.yaml` with the folder that
    this lies in, where the one it names holds no run: the run was moved.

    Raises:
        UserError: The folder it names holds one too, and no flag says which is meant.
    """
    here, there = pathlib.Path(config.config).parent, pathlib.Path(config.save_path)
    if not config.resume or not config.config or not RunFolder(here).checkpoints.files():
        return config
    if RunFolder(there).checkpoints.files():
        if not (os.path.samefile(here, there) or _chose_folder(config, here)):
            raise UserError(
                f"Expected one run to resume, got one in {here}, where --config lies, and another "
                f"in {there}, which that file names. Pass --{config.save_flag}={here} or "
                f"--{config.save_flag}={there}."
            )
        return config
    print(f"there is no run in {config.save_path}: goes on with that in {here}", flush=True)
    return config.replace(**{config.save_flag: str(here)})


def _chose_folder(config: Config, here: pathlib.Path) -> bool:
    """Tells whether a flag chose the run folder, or the run beside --config is another task's."""
    began = RunFolder(here).settings() or {}
    return (
        began.get("task") != config.task
        or began.get(config.save_flag) != config.save_path
        or any(word.partition("=")[0] == f"--{config.save_flag}" for word in config.words)
    )


def task_of(folder: pathlib.Path) -> str | None:
    """Returns the task of the run that lies in a folder; None where none does."""
    return RunFolder(folder).task()


def _make_strategy(config: Config, strategies: Sequence[str]) -> distribution.Strategy | None:
    """Makes the strategy of the settings; "auto" is one that the run fits, or none."""
    name = config.strategy
    if name == "auto":
        name = distribution.choose_strategy()
        misfit = _misfit(config, name, strategies)
        if misfit:
            print(f"trains on one device: {misfit}", flush=True)
            name = "none"
    if name not in ("none", *strategies):
        raise UserError(
            f"Expected --strategy={'|'.join(('none', *strategies))} for --task={config.task}, got "
            f"{name}. Leave the flag out."
        )
    return distribution.make_strategy(name)


def _misfit(config: Config, name: str, strategies: Sequence[str]) -> str:
    """Returns why a strategy that nobody asked for is not taken; '' where it is."""
    if name == "none":
        return ""
    if name not in strategies:
        return f"--task={config.task} does not run under --strategy={name} with these settings"
    if config.data_service:
        return "a service makes the views of one"
    devices = distribution.count_devices() if name == "mirrored" else 1
    if config.batch_size % devices:
        return f"{devices} do not divide --batch_size={config.batch_size}"
    if config.microbatch_size and config.batch_size // devices % config.microbatch_size:
        return f"--microbatch_size={config.microbatch_size} does not divide what each would have"
    return ""


def _check_rows(config: Config, rows: int, replicas: int) -> None:
    """Raises UserError where the microbatch does not divide the images of each replica."""
    microbatch = config.microbatch_size if config.task == "pretrain" else 0
    if microbatch and rows % microbatch:
        raise UserError(
            f"Expected --microbatch_size to divide the {rows} images that each of {replicas} "
            f"replicas has, got {microbatch}. Pass --microbatch_size={math.gcd(rows, microbatch)}, "
            "or 0 for all of them at once."
        )


def load_splits(
    config: Config,
    *,
    need_labels: bool = False,
    unlabelled: bool = True,
    some_labels: bool = False,
    masks: MaskRules | None = None,
) -> data.Splits:
    """Loads the data that the settings name, with labels or with masks where they are needed.

    Raises:
        UserError: The data is not there or not as it should be, or a sample of it does not decode.
    """
    splits = load_unseen(
        config,
        need_labels=need_labels,
        unlabelled=unlabelled,
        some_labels=some_labels,
        masks=masks,
    )
    problems = look_at(splits, view=asked_size(config), labels=need_labels)
    errors = [problem for problem in problems if problem.severity() == ERROR]
    if errors:
        raise UserError(
            f"Expected images that decode, got {len(errors)} in a sample that do not:\n"
            f"{spell_problems(errors)}\n--task=check reads all of them and lists every problem; "
            "--skip_bad_images goes on without such files."
        )
    warnings = [problem for problem in problems if problem.severity() == WARNING]
    if warnings:
        print(f"in a sample of the images:\n{spell_problems(warnings)}", flush=True)
    return splits


def load_unseen(
    config: Config,
    *,
    need_labels: bool = False,
    unlabelled: bool = True,
    some_labels: bool = False,
    masks: MaskRules | None = None,
) -> data.Splits:
    """Does as `load_splits`, but looks at no sample."""
    return data.load(
        config.dataset,
        train_file_path=config.train_file_path,
        val_file_path=config.val_file_path,
        label_pattern=config.label_pattern,
        input_size=config.input_size,
        val_fraction=config.val_fraction,
        seed=config.seed,
        cache=config.cache,
        skip_bad_images=config.skip_bad_images,
        need_labels=need_labels,
        unlabelled=unlabelled,
        some_labels=some_labels,
        num_classes=config.num_classes,
        channels=config.channels,
        masks=masks,
    )


def train_and_test(config: Config, splits: data.Splits) -> tuple[data.Source, data.Source]:
    """Returns the images with labels or masks to train on, a share where asked, and those reported.

    Raises:
        UserError: There are none to report on.
    """
    train, test = splits.train, splits.test
    if test is None:
        raise UserError(
            f"Expected images to report on beside {train.name}, got none with "
            f"--val_fraction={config.val_fraction}. Pass --val_fraction=0.1 or --val_file_path."
        )
    _name_shared(train, test)
    if config.label_fraction < 1.0:
        labels = np.zeros(len(train), np.int32) if train.labels is None else train.labels
        chosen, _ = data.stratified_split(labels, config.label_fraction, config.seed)
        train = dataclasses.replace(
            train.take(chosen), name=f"{train.name}, {config.label_fraction:.3g} of the labels"
        )
    return train, test


def _name_shared(train: data.Source, test: data.Source) -> None:
    """Warns of files that are trained on and reported on."""
    known = set(map(os.path.realpath, train.paths))
    shared = [path for path in test.paths if os.path.realpath(path) in known]
    if shared:
        print(
            f"warning: {len(shared)} of the {len(test)} images of {test.name} are trained on too, "
            f"the first {shared[0]}: what is reported on them tells little",
            flush=True,
        )


def mask_rules(config: Config) -> MaskRules:
    """Returns what masks may hold by the settings; raises UserError for a table that is wrong."""
    colours, names = read_colour_table(config.mask_colors) if config.mask_colors else (None, ())
    return MaskRules(config.num_classes, ignore_label(config), colours, names)


def ignore_label(config: Config) -> int | None:
    """Returns the value of the pixels in masks that do not count; None where all do."""
    return None if config.ignore_label < 0 else config.ignore_label


def name_unused(config: Config) -> None:
    """Prints the flags that were given but are of use in pre-training alone."""
    given = {
        "augment_on": config.augment_on == "device",
        "data_service": bool(config.data_service),
        "microbatch_size": bool(config.microbatch_size),
    }
    names = [f"--{name}" for name, is_given in given.items() if is_given]
    if names:
        print(f"for pre-training, not used here: {', '.join(names)}", flush=True)


def name_colour_limits(config: Config) -> None:
    """Prints which colour operations of the settings images of such channels do not take."""
    left_out = [
        name
        for name, is_on in (("saturation and hue", config.jitter), ("gray", config.colordrop))
        if is_on
    ]
    if config.channels != 3 and left_out:
        names = " and no ".join(left_out)
        print(f"{config.channels} channels are no red, green and blue: no {names}", flush=True)


def view_size(config: Config, source: data.Source) -> tuple[int, int]:
    """Returns (height, width) of what the encoder is given: crop_size, input_size, or the data's.

    Raises:
        UserError: None of them is known.
    """
    size = asked_size(config)
    return own_size(source) if size == (0, 0) else size


def asked_size(config: Config) -> tuple[int, int]:
    """Returns (height, width) of what the encoder is given by the settings; (0, 0): the data's."""
    return config.input_size if config.crop_size == (0, 0) else config.crop_size


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


def plan_steps(config: Config, source: data.Source) -> Plan:
    """Derives the steps and the schedule, and prints them."""
    epoch_steps = steps_per_epoch(source, config.batch_size)
    total = epoch_steps * config.num_epochs
    last = min(total, config.max_steps) if config.max_steps else total
    peak = scale_learning_rate(config.learning_rate, config.batch_size, config.lr_scaling)
    warmup = min(int(config.warmup_epochs * epoch_steps), total // 2)
    if warmup < int(config.warmup_epochs * epoch_steps):
        print(f"warm-up shortened to half of the run: {warmup} steps")
    print(
        f"{config.num_epochs} epochs of {epoch_steps} steps, {config.batch_size} images each; "
        f"{config.optimizer}, peak learning rate {peak:.4g} ({config.lr_scaling} scaling of "
        f"{config.learning_rate:g}), {warmup} steps of warm-up"
        + (f"; ends at step {last} (--max_steps)" if last < total else ""),
        flush=True,
    )
    schedule = WarmupCosine(peak, warmup_steps=warmup, total_steps=total)
    labels = config.task != "pretrain"
    images = record_of(source, steps_per_epoch=epoch_steps, labels=labels)
    return Plan(epoch_steps, last, schedule, images)


def steps_per_execution(run: Run, plan: Plan) -> int:
    """Returns the steps that run without coming back to Python; prints where fewer than asked."""
    asked = run.config.steps_per_execution
    if run.strategy is not None:  # its batches do not end, so the last execution would not either
        if asked > 1:
            print("1 step per execution: a strategy takes its steps one by one")
        return 1
    chosen = choose_steps_per_execution(asked, plan.steps_per_epoch)
    if chosen < asked:
        print(f"{chosen} steps per execution: no more up to {asked} divide {plan.steps_per_epoch}")
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


def begin_or_resume(
    run: Run,
    variables: Variables,
    *,
    plan: Plan | None = None,
    first_row: Callable[[], dict[str, float]] = dict,
) -> int:
    """Returns the step to go on from, with every variable restored where a run is resumed.

    Workers that follow get values and step from the leader, and need not see its disk.

    Args:
        run: The run, settings decided.
        variables: All that training changes.
        plan: The run's steps; workers whose steps differ have other images.
        first_row: Gives the journal's row of epoch 0, before training.

    Raises:
        UserError: There is nothing to resume that fits, or a worker runs something else.
    """
    step = _begin_or_resume(run, variables, plan, first_row) if run.leads else 0
    same = {k: v for k, v in run.config.to_dict().items() if k not in FREE_ON_RESUME}
    steps = plan.steps_per_epoch if plan else 0
    fingerprint = zlib.crc32(repr((sorted(same.items()), steps)).encode())
    return distribution.take_from_leader(run.strategy, variables, step, fingerprint)


def _begin_or_resume(
    run: Run, variables: Variables, plan: Plan | None, first_row: Callable[[], dict[str, float]]
) -> int:
    config, folder = run.config, run.folder
    if config.resume:
        _check_resumed(config, folder)
        if plan:
            check_same_images(folder.data(), plan.images, folder)
    if variables:
        check_room(config, folder, variables)
    if run.tracking is not None:
        run.tracking.begin(config.to_dict(), resumed=config.resume)
    if config.resume:
        step = _resume(folder, variables, plan)
    else:
        step = 0
        _begin(config, folder, plan, first_row)
    if run.tracking is not None:
        run.tracking.keep_name()
    return step


def _begin(
    config: Config,
    folder: RunFolder,
    plan: Plan | None,
    first_row: Callable[[], dict[str, float]],
) -> None:
    """Replaces what lay in the folder, and writes what is known before the first step."""
    if config.overwrite:
        folder.clear()
    # What is written must not, read back with --config, resume or overwrite by itself.
    text = config.replace(resume=False, overwrite=False).to_yaml()
    folder.write_config(text, data=plan.images if plan else None)
    row = first_row()
    if row:
        folder.add_row({"epoch": 0, "step": 0, **row})


def _resume(folder: RunFolder, variables: Variables, plan: Plan | None) -> int:
    """Restores the newest checkpoint that is whole; what was written after it is dropped."""
    newest = folder.checkpoints.newest_good()
    if newest is None:  # `RunFolder.begin` has seen one
        raise UserError(f"Expected a checkpoint in {folder.path}, got none. Leave out --resume.")
    step = step_of(newest)
    if plan and step > plan.last_step:
        raise UserError(
            f"Expected --max_steps of {step} or more, which the run in {folder.path} has reached, "
            f"got an end at step {plan.last_step}. Pass a later one, or leave --max_steps out."
        )
    restore(variables, read_arrays(newest), str(newest))
    folder.cut_back(step)
    print(f"resumed at step {step} from {newest}", flush=True)
    return step


def name_initial_weights(run: Run, checkpoint: pathlib.Path | None) -> str:
    """Returns where a run's first weights are from, as results.json and model.json name it.

    Args:
        run: The run.
        checkpoint: What `encoders.initial_weights` returned.
    """
    if run.config.resume:
        return str(run.folder.facts().get("initial_weights", "not known"))
    return str(checkpoint) if checkpoint else "random"


def train(
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


def _name_slow_saving(config: Config, saving: float, training: float) -> None:
    """Prints what checkpoints have cost where that is much."""
    if saving > SLOW_SAVING * training:
        print(
            f"checkpoints took {saving:.1f} of {training:.1f} seconds of training "
            f"({100 * saving / training:.0f} %): pass a larger --save_every_epochs than "
            f"{config.save_every_epochs}, or a run folder on a faster disk",
            flush=True,
        )


def _check_resumed(config: Config, folder: RunFolder, names: Iterable[str] | None = None) -> None:
    """Raises UserError where a resumed run would go on with other settings than it began with.

    Args:
        config: The settings.
        folder: The run's folder.
        names: Those of the settings that are compared; None: all.
    """
    began, now = folder.settings(), config.to_dict()
    if began is None:
        raise UserError(
            f"Expected the settings that the run began with in {folder.path / 'config.yaml'}, got "
            "no such file. Restore it, or pass --overwrite to begin again."
        )
    unknown = [str(name) for name in began if name not in now]
    if unknown:
        raise UserError(
            f"Expected settings that this version of simclr_tf knows in "
            f"{folder.path / 'config.yaml'}, got {', '.join(unknown)}. Go on with the version that "
            "the run began with."
        )
    began = {"channels": 3, "label_pattern": ""} | began  # of runs before there were these
    for each in (began, now):
        each["normalize_input"] = normalization(str(each.get("normalize_input", "auto")))
    changed = [
        f"--{name}={now[name]} (began with {began[name]})"
        for name in (now if names is None else names)
        if name in began and name not in FREE_ON_RESUME and now[name] != began[name]
    ]
    if changed:
        raise UserError(
            f"Expected the settings that the run in {folder.path} began with, got "
            f"{', '.join(changed)}. Pass --config={folder.path / 'config.yaml'} --resume to go on "
            "as it began, or --overwrite to begin again."
        )


def describe_data(*sources: data.Source | None) -> None:
    """Prints what was loaded, a line each."""
    for source in sources:
        if source is None:
            continue
        size = (
            "several sizes" if source.image_size is None else "x".join(map(str, source.image_size))
        )
        if source.has_masks:
            classes = f", masks of {source.num_classes} classes"
        elif source.labels is not None:
            classes = f", {source.num_classes} classes"
        else:
            classes = ", no labels"
        left_out = f", {source.skipped} bad images left out" if source.skipped else ""
        print(f"{source.name}: {len(source)} images, {size}{classes}{left_out}", flush=True)


def peak_memory_bytes() -> int:
    """Returns the largest resident size the process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def rounded(value: float, digits: int = 4) -> float | None:
    """Returns a number as it is reported; None, which JSON can hold, for nan."""
    return None if math.isnan(value) else round(float(value), digits)
