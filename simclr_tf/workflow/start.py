"""The beginning of a run: its device and its folder, held for the length of its life."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from simclr_tf.config.settings import SETTINGS, TRAINING, WITHOUT_CHECKPOINTS, Config
from simclr_tf.data.batches.order import Shard
from simclr_tf.data.batches.tensors import one_thread_an_operation
from simclr_tf.data.images import limit_pixels
from simclr_tf.errors import UserError
from simclr_tf.runs.folder import RunFolder
from simclr_tf.runs.lock import lock_folder
from simclr_tf.training import distribution
from simclr_tf.training.callbacks.tracking import Tracking
from simclr_tf.training.execution import (
    Execution,
    check_deterministic_depthwise,
    choose_execution,
    failure_of_xla,
    print_execution,
)
from simclr_tf.workflow.disk import naming_the_way_on
from simclr_tf.workflow.resume import check_resumed, decide_precision
from simclr_tf.workflow.run import Run

Resolve = Callable[[Config, RunFolder, distribution.Strategy | None], Config]


@contextlib.contextmanager
def start_run(
    config: Config,
    *,
    strategies: Callable[[Config], Sequence[str]] = lambda config: (),
    resolve: Resolve = lambda config, folder, strategy: config,
) -> Iterator[Run]:
    """Meets the other workers, sets seed and number format, and makes the run folder ready.

    The block is the run's life: it holds the folder, so that no other run writes there; a lost
    worker ends it; a worker that follows runs it in silence; a disk that takes no more ends it with
    how to go on.

    The run's settings are resolved before it is there, and stay as they are: where the default run
    folder holds a run of another task and nobody asked for it, the task takes a folder of its own
    beside it; `precision` is decided, by the run that is resumed or by the device; and `resolve`
    decides the rest.

    Args:
        config: The settings.
        strategies: Of settings whose precision is decided, those of "mirrored" and "multiworker"
            that the task can run under.
        resolve: (settings, the run's folder, strategy) -> the settings with what weights and images
            decide.

    Raises:
        UserError: The folder holds another run, or the settings ask for what there is not.
    """
    started = time.monotonic()
    if config.resume and config.task in WITHOUT_CHECKPOINTS:
        raise UserError(
            f"Expected --task={config.task} from its beginning, got --resume. Pass --overwrite to "
            "replace what lies in the folder."
        )
    limit_pixels(config.max_pixels)
    config = _where_it_was_moved(_with_own_folder(config))
    config = decide_precision(config)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and config.task not in WITHOUT_CHECKPOINTS:  # it trains: the host makes views alone
        one_thread_an_operation()
    xla = config.xla if config.task in TRAINING else "false"
    if not config.deterministic:
        failure_of_xla(xla)  # tried before a strategy takes the GPU
    strategy = _make_strategy(config, strategies(config))
    with contextlib.ExitStack() as stack:
        stack.enter_context(distribution.watch_workers(strategy))
        execution = _set_up(config, strategy, xla)
        if distribution.is_leader(strategy):
            folder = stack.enter_context(_open_folder(config))
        else:
            folder = stack.enter_context(_follow(config))
        tracking = None
        if config.tracker != "none" and distribution.is_leader(strategy):
            tracking = Tracking(config.tracker, folder.path)
            stack.enter_context(tracking.until_the_end())
        config = resolve(config, folder, strategy)
        yield Run(config, execution, folder, started, strategy, tracking)


def _set_up(config: Config, strategy: distribution.Strategy | None, xla: str) -> Execution:
    """Sets seed and number format."""
    keras.utils.set_random_seed(config.seed)
    replicas = distribution.count_replicas(strategy)
    execution = choose_execution(
        config.precision,
        xla,
        config.augment_on,
        replicas=replicas,
        deterministic=config.deterministic,
    )
    print_execution(execution)
    if config.deterministic and config.depthwise:
        check_deterministic_depthwise()
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
        lock_folder(folder.path, task=config.task, flag=config.save_flag),
        naming_the_way_on(config, folder),
    ):
        folder.begin(
            config.task,
            resume=config.resume,
            overwrite=config.overwrite,
            flag=config.save_flag,
            can_resume=config.task not in WITHOUT_CHECKPOINTS,
        )
        if config.resume:
            check_resumed(config, folder, _decided(config))
        yield folder


def _decided(config: Config) -> list[str]:
    """Returns the settings given that no later step decides: of others the run's own weights would
    speak first, and give advice that does not count on a resumed run.
    """
    later = ("config", "normalize_input")  # the same numbers can be spelled in two ways
    given = [name for name in SETTINGS if name in config.given and name not in later]
    return [name for name in given if getattr(config, name) != "auto"]


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
        folder.begin(config.task, resume=False, overwrite=True, flag="")
        yield folder


def _with_own_folder(config: Config) -> Config:
    """Returns the settings with a default run folder that no other task's run lies in."""
    if config.save_flag != "finetune_save_path" or config.save_flag in config.given:
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
        or config.save_flag in config.typed
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
        if misfit and config.task in TRAINING:
            print(f"trains on one device: {misfit}", flush=True)
        name = "none" if misfit else name
    if name not in ("none", *strategies):
        raise UserError(
            f"Expected --strategy={'|'.join(('none', *strategies))} for --task={config.task}, got "
            f"{name}. Leave the flag out."
        )
    if name == "none":
        _keep_to_one_gpu(strategies)
    return distribution.make_strategy(name)


def _keep_to_one_gpu(strategies: Sequence[str]) -> None:
    """Leaves all GPUs but the first to others, and says how to train on all of them."""
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) < 2:
        return
    with contextlib.suppress(RuntimeError):  # TensorFlow has begun, and has the memory of all
        tf.config.set_visible_devices(gpus[0], "GPU")
    hint = "--strategy=mirrored trains on all of them" if "mirrored" in strategies else ""
    print(f"uses the first of {len(gpus)} GPUs{hint and f'; {hint}'}", flush=True)


def _misfit(config: Config, name: str, strategies: Sequence[str]) -> str:
    """Returns why a strategy that nobody asked for is not taken; '' where it is."""
    if name == "none":
        return ""
    if name not in strategies:
        return f"--task={config.task} does not run under --strategy={name} with these settings"
    return "a service makes the views of one" if config.data_service else ""


def _check_rows(config: Config, rows: int, replicas: int) -> None:
    """Raises UserError where the microbatch does not divide the images of each replica."""
    microbatch = config.microbatch_size if config.task == "pretrain" else 0
    if microbatch and rows % microbatch:
        raise UserError(
            f"Expected --microbatch_size to divide the {rows} images that each of {replicas} "
            f"replicas has, got {microbatch}. Pass --microbatch_size={math.gcd(rows, microbatch)}, "
            "or 0 for all of them at once."
        )
