"""Where a run begins: at its first step, or where another process left it."""

from __future__ import annotations

import contextlib
import pathlib
import zlib
from collections.abc import Callable, Iterable

from simclr_tf.config.settings import Config, fixed_on_resume
from simclr_tf.errors import UserError
from simclr_tf.runs.checkpoints import Variables, read_arrays, restore, step_of
from simclr_tf.runs.folder import RunFolder
from simclr_tf.runs.format import OLDER
from simclr_tf.training import distribution
from simclr_tf.training.execution import choose_precision
from simclr_tf.workflow.disk import check_room
from simclr_tf.workflow.fingerprint import check_same_images
from simclr_tf.workflow.pixel_normalization import normalization
from simclr_tf.workflow.plan import Plan
from simclr_tf.workflow.run import Run


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
    same = {k: v for k, v in run.config.to_dict().items() if k in fixed_on_resume()}
    steps = plan.steps_per_epoch if plan else 0
    fingerprint = zlib.crc32(repr((sorted(same.items()), steps)).encode())
    return distribution.take_from_leader(run.strategy, variables, step, fingerprint)


def _begin_or_resume(
    run: Run,
    variables: Variables,
    plan: Plan | None,
    first_row: Callable[[], dict[str, float]],
) -> int:
    config, folder = run.config, run.folder
    if config.resume:
        check_resumed(config, folder)
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


def decide_precision(config: Config) -> Config:
    """Returns the settings with `precision` decided: that of the run that is resumed, else what the
    device does best. It is printed where the two differ.

    Raises:
        UserError: The run did not write its own down, and it was none that this device chooses.
    """
    chosen = choose_precision(config.precision)
    if config.resume and config.precision == "auto":
        folder = RunFolder(config.save_path)
        began = _precision_of(folder)
        if began == "auto" and chosen == "mixed_float16":
            raise UserError(
                f"Expected the precision that the run in {folder.path} began with, which it did "
                "not write down, got --precision=auto, which is mixed_float16 on this device and "
                "was not there. Pass --precision=mixed_bfloat16, what GPUs of compute capability 8 "
                "and up and some CPUs choose, or --precision=float32."
            )
        if began not in ("auto", chosen):
            print(f"goes on in {began}, as the run began; this device would choose {chosen}")
            chosen = began
    return config.replace(precision=chosen)


def _precision_of(folder: RunFolder) -> str:
    """Returns the precision that a run computes in, "auto" where it cannot be told.

    Version 0.1.0 wrote its choice into results.json alone, once it was finished. A journal tells
    loss scaling, and so float16, by a column of its own.
    """
    settings = folder.settings() or {}
    precision = str(settings.get("precision", "auto"))
    if precision != "auto":
        return precision
    with contextlib.suppress(UserError):  # a broken file tells nothing; it is written anew
        precision = str(folder.results().get("precision", "auto"))
    scaled = precision == "auto" and "skipped_steps" in folder.journal_columns()
    return "mixed_float16" if scaled else precision


def name_initial_weights(run: Run, checkpoint: pathlib.Path | None) -> str:
    """Returns where a run's first weights are from, as results.json and model.json name it.

    Args:
        run: The run.
        checkpoint: What `weights.initial_weights` returned.
    """
    if run.config.resume:
        return str(run.folder.facts().get("initial_weights", "not known"))
    return str(checkpoint) if checkpoint else "random"


def check_resumed(config: Config, folder: RunFolder, names: Iterable[str] | None = None) -> None:
    """Raises UserError where a resumed run would go on with other settings than it began with.

    Args:
        config: The settings.
        folder: The run's folder.
        names: Those of the settings that are compared; None: all.
    """
    began, now = folder.settings() or {}, config.to_dict()
    unknown = [str(name) for name in began if name not in now]
    if unknown:
        raise UserError(
            f"Expected settings that this version of simclr_tf knows in "
            f"{folder.path / 'config.yaml'}, got {', '.join(unknown)}. Go on with the version that "
            "the run began with."
        )
    began = OLDER | began
    if began["precision"] == "auto":  # version 0.1.0 did not write down what it meant
        began["precision"] = now["precision"]
    for each in (began, now):
        each["normalize_input"] = normalization(str(each["normalize_input"]))
    changed = [
        f"--{name}={now[name]} (began with {began[name]})"
        for name in (now if names is None else names)
        if name in began and name in fixed_on_resume() and now[name] != began[name]
    ]
    if changed:
        raise UserError(
            f"Expected the settings that the run in {folder.path} began with, got "
            f"{', '.join(changed)}. Pass --config={folder.path / 'config.yaml'} --resume to go on "
            "as it began, or --overwrite to begin again."
        )
