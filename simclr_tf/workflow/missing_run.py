"""The run that a setting names and that is not there: what lies in its place, and what is near."""

from __future__ import annotations

import difflib
import os
import pathlib

from simclr_tf.config.settings import SETTINGS, Config
from simclr_tf.errors import UserError
from simclr_tf.runs.folder import RunFolder

MOST_NAMED = 3  # runs in a message
MOST_MISSING = 2  # folders of a path that are looked for under other names


def names_pretraining(config: Config) -> bool:
    """Tells whether the user named the pre-training run that a task begins with.

    The `config.yaml` of a run has every setting: there the default's path was named by nobody.
    """
    if config.init_weights != "auto" or "pretrain_save_path" not in config.given:
        return False
    return (
        "pretrain_save_path" in config.typed
        or config.pretrain_save_path != SETTINGS["pretrain_save_path"].default
    )


def what_is_there(path: pathlib.Path) -> str:
    """Returns what a message says to be in the place of a run with checkpoints."""
    if path.is_file():
        return f"a file (--init_weights={path} takes one of weights)"
    if not path.exists():
        return "nothing"
    task = RunFolder(path).task()
    if task is None:
        return "no checkpoint there"
    return f"no checkpoint there: a run of --task={task} that " + (
        "was ended before its first" if task == "pretrain" else "has none"
    )


def spell_runs_near(path: pathlib.Path) -> str:
    """Returns a sentence, with a space before it, on the runs near a path; '' where none are."""
    near = runs_near(path)
    return f" Runs near it: {', '.join(near)}." if near else ""


def runs_near(path: pathlib.Path) -> list[str]:
    """Returns folders with checkpoints beside a path, or beside the first of its folders that is
    not there, the nearest spelling first.
    """
    known = path.parent
    while not known.is_dir() and known != known.parent:
        known = known.parent
    missing = path.relative_to(known).parts
    if len(missing) > MOST_MISSING or ".." in missing:
        return []
    try:
        beside = [p for p in known.glob("/".join("*" * len(missing))) if p != path and p.is_dir()]
        found = [str(p) for p in beside if RunFolder(p).checkpoints.newest() is not None]
    except OSError:  # a folder that may not be read holds none that can be taken
        return []
    return sorted(found, key=lambda name: (-_likeness(name, str(path)), name))[:MOST_NAMED]


def missing_pretraining(config: Config) -> UserError:
    """Returns the error of a task that begins with a pre-training run where there is none."""
    path = pathlib.Path(config.pretrain_save_path)
    return UserError(
        f"Expected a pre-training run in {path}, got {what_is_there(path)}.{spell_runs_near(path)} "
        "Run --task=pretrain first, or pass --init_weights=none for a random encoder."
    )


def _likeness(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, os.path.normpath(name), os.path.normpath(other)).ratio()
