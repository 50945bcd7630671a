"""The run that is predicted with: its settings, its weights, its network."""

from __future__ import annotations

import dataclasses
import pathlib

import keras
import numpy as np

from simclr_tf.config.settings import Config
from simclr_tf.errors import UserError
from simclr_tf.models.heads import classifier_head, take_up_scale
from simclr_tf.models.unet import decoder_variables, unet
from simclr_tf.runs.checkpoints import named_variables, read_arrays, restore
from simclr_tf.runs.folder import SIZE_FACTS, RunFolder
from simclr_tf.workflow.encoder import build_encoder
from simclr_tf.workflow.missing_run import spell_runs_near
from simclr_tf.workflow.start import task_of
from simclr_tf.workflow.weights import read_settings

TASKS = ("classification", "segmentation")
HEADS = {"classification": "classifier", "segmentation": "decoder"}  # names in checkpoints

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run that is predicted with.

    Attributes:
        path: Its folder.
        config: Its settings.
        checkpoint: The file of its weights: the best, else the newest.
        arrays: What that file holds.
        class_names: K names.
        view_size: (h, w) of the views it was trained with, or None where that is not known.
        trained_on: (height, width) of the images they were cut from, or None where those differ.
    """

    path: pathlib.Path
    config: Config
    checkpoint: pathlib.Path
    arrays: dict[str, np.ndarray]
    class_names: tuple[str, ...]
    view_size: Size | None = None
    trained_on: Size | None = None


def read_run(config: Config) -> Trained:
    """Reads the run that is named, up to its weights.

    Raises:
        UserError: There is none that classifies or segments.
    """
    path, file = _locate_run(config)
    folder = RunFolder(path)
    checkpoint = file or folder.checkpoints.best_or_newest()
    if checkpoint is None:
        raise UserError(
            f"Expected weights in {path / 'checkpoints'}, got none: the run did not come to its "
            f"first checkpoint. Go on with it by --config={path / 'config.yaml'}, or pass another "
            "run."
        )
    arrays = read_arrays(checkpoint)
    settings = read_settings(path / "config.yaml")
    count = _count_classes(arrays, HEADS[settings.task], checkpoint)
    facts = folder.facts()
    names = tuple(facts.get("class_names", map(str, range(count))))
    if len(names) != count:
        raise UserError(
            f"Expected the names of {count} classes in {path / 'model.json'}, got {len(names)}. "
            "Correct or remove the file."
        )
    sizes = (tuple(facts[key]) if facts.get(key) else None for key in SIZE_FACTS)
    return Trained(path, settings, checkpoint, arrays, names, *sizes)


def _locate_run(config: Config) -> tuple[pathlib.Path, pathlib.Path | None]:
    """Returns the folder of the run that is named and, where one was named, the file of weights.

    `--config=RUN/config.yaml` may bring the first weights of that very run as `init_weights`: these
    are no run that predicts.
    """
    task, given = None, config.init_weights
    for flag in ("init_weights", "finetune_save_path"):
        path = pathlib.Path(getattr(config, flag))
        if flag == "init_weights" and given in ("auto", "none"):
            continue
        file = path if path.is_file() else None
        path = path.parent.parent if file else path
        task = task_of(path)
        if task in TASKS:
            return path, file
        if task is None or not config.config:
            break
    found = (
        "no config.yaml of a run" if task is None else f"one of --task={task} in its config.yaml"
    )
    raise UserError(
        f"Expected a run of {' or '.join(TASKS)} in {path}, got {found}.{spell_runs_near(path)} "
        "Pass the folder of such a run as --finetune_save_path or --init_weights."
    )


def _count_classes(arrays: dict[str, np.ndarray], head: str, checkpoint: pathlib.Path) -> int:
    for name, array in arrays.items():
        if name.startswith(f"{head}/") and name.endswith("logits/bias"):
            return len(array)
    raise UserError(
        f"Expected weights of a {head} in {checkpoint}, got none. Pass the folder of a run of "
        f"{' or '.join(TASKS)}."
    )


def build_model(trained: Trained) -> keras.Model:
    """Builds the run's network with its weights: images -> logits."""
    config, count = trained.config, len(trained.class_names)
    encoder = build_encoder(config)
    if config.task == "segmentation":
        model = unet(encoder, count)
        head = decoder_variables(model, encoder)
    else:
        top = classifier_head(
            encoder.output_shape[-1],
            count,
            nonlinear=config.include_nonlinearity,
            normalize=config.freeze,
        )
        model, head = keras.Sequential([encoder, top], name="classifier"), top.variables
    variables = named_variables("encoder", encoder.variables)
    variables |= named_variables(HEADS[config.task], head)
    restore(variables, trained.arrays, str(trained.checkpoint))
    if config.task == "classification" and config.freeze:
        take_up_scale(top)
    return model
