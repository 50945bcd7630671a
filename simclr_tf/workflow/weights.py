"""The weights a task begins with: which checkpoint is meant, and the settings it brings."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from simclr_tf.config.fields import read_all, show
from simclr_tf.config.settings import SETTINGS, Config, with_role
from simclr_tf.errors import UserError
from simclr_tf.interop import keras_applications
from simclr_tf.interop.torch_names import encoder_settings, find_encoder, to_torch
from simclr_tf.interop.weight_files import check_suffix, read_file
from simclr_tf.runs.checkpoints import Checkpoints, is_held
from simclr_tf.runs.folder import RunFolder
from simclr_tf.runs.format import OLDER
from simclr_tf.workflow.missing_run import (
    missing_pretraining,
    names_pretraining,
    spell_runs_near,
)
from simclr_tf.workflow.pixel_normalization import mean_std, normalization

OWN = "encoder/"  # what our checkpoints put before the names of an encoder's variables


def pretrained_source(config: Config) -> pathlib.Path | None:
    """Returns the checkpoint that `init_weights` means, or None for random weights.

    Raises:
        UserError: A path was given and holds no weights, or all that there are are damaged.
    """
    if config.init_weights == "none":
        return None
    if config.init_weights == "auto":
        return RunFolder(config.pretrain_save_path).checkpoints.newest_held()
    path = pathlib.Path(config.init_weights)
    if config.init_weights.startswith("keras:"):
        if config.init_weights != keras_applications.NAME:
            raise UserError(
                f"Expected {keras_applications.NAME}, the one ResNet of keras.applications with a "
                f"depth and blocks that --model has, got --init_weights={config.init_weights}. "
                "Pass that, or a file of weights."
            )
        return path
    if path.is_dir():
        found = RunFolder(path).checkpoints.newest_held()
        if found is None:
            raise UserError(
                f"Expected a run folder with checkpoints at --init_weights={path}, got none."
                f"{spell_runs_near(path)} Pass the folder of a pre-training run or a file of "
                "weights."
            )
        return found
    if not path.exists() and not is_held(path):
        raise UserError(
            f"Expected a file or run folder at --init_weights={path}, got nothing."
            f"{spell_runs_near(path)} Correct the path, or pass --init_weights=none to start from "
            "random weights."
        )
    check_suffix(path)
    return path


def initial_weights(config: Config, own: Checkpoints) -> pathlib.Path | None:
    """Returns the checkpoint that a run begins with, or None for random weights.

    A run that is resumed takes its own, which hold its encoder: those it began with may have been
    moved, or trained on, since.

    Raises:
        UserError: The user named a run that is not there, or weights that are not.
    """
    if config.resume:
        return own.newest_good()
    checkpoint = pretrained_source(config)
    if checkpoint is None and names_pretraining(config):
        raise missing_pretraining(config)
    return checkpoint


def required_source(config: Config) -> pathlib.Path | None:
    """Returns the checkpoint that `init_weights` means; None for random weights that are asked for.

    Raises:
        UserError: There is none.
    """
    checkpoint = pretrained_source(config)
    if checkpoint is None and config.init_weights != "none":
        raise missing_pretraining(config)
    return checkpoint


def adopt_encoder(config: Config, checkpoint: pathlib.Path) -> Config:
    """Returns the settings with the encoder's shape as the checkpoint has it.

    What the weights of others expect of the pixels is not written in most files: there the user's
    `normalize_input` counts.

    Raises:
        UserError: The user asked for another shape.
    """
    shape = _read_shape(config, checkpoint)
    for name, value in shape.items():
        wanted = getattr(config, name)
        same = wanted in (value, "auto")
        if name == "normalize_input":
            channels = shape["channels"]
            same = same or mean_std(wanted, channels) == mean_std(str(value), channels)
        if name in config.given and not same:
            raise UserError(
                f"Expected --{name}={value}, as the encoder in {checkpoint} was trained, got "
                f"{wanted}. Leave out --{name}, or pass --init_weights=none for a new encoder."
            )
    return config.replace(**shape)


def _read_shape(config: Config, checkpoint: pathlib.Path) -> dict[str, Any]:
    """Returns the settings of the role encoder that weights come with."""
    if str(checkpoint) == keras_applications.NAME:
        return keras_applications.SETTINGS
    folder = run_of(checkpoint)
    trained = folder.settings() if folder else None
    if folder and trained:
        trained = OLDER | trained
        there = {name: trained[name] for name in with_role("encoder") if name in trained}
        shape = read_all(SETTINGS, there, str(folder.path / "config.yaml"))
        return shape | {"normalize_input": normalization(shape["normalize_input"])}
    arrays, metadata = read_file(checkpoint)
    own = {n.removeprefix(OWN): a for n, a in arrays.items() if n.startswith(OWN)}
    if own:
        return _shape_of_own(own, str(checkpoint))
    shape = find_encoder(arrays, str(checkpoint)).settings
    if "normalize_input" in metadata:
        return shape | {"normalize_input": metadata["normalize_input"]}
    asked = config.normalize_input
    if asked == "auto":
        asked = "imagenet" if shape["channels"] == 3 else "none"
    return shape | {"normalize_input": asked}


def _shape_of_own(arrays: dict[str, np.ndarray], origin: str) -> dict[str, Any]:
    """Returns the settings that a checkpoint of ours outside its run shows in its arrays."""
    plain = {
        n: a for n, a in arrays.items() if "depthwise" not in n and not n.startswith("normalize")
    }
    if "stem_conv/kernel" not in plain:
        raise UserError(
            f"Expected the weights of an encoder in {origin}, got none of its stem. "
            "Pass a checkpoint of a run."
        )
    shape: dict[str, Any] = encoder_settings(to_torch(plain), origin)
    del shape["stride_in_1x1"]  # does not show
    shape["depthwise"] = any("depthwise" in name for name in arrays)
    shape["normalize_input"] = "none"
    if "normalize_input/mean" in arrays:
        numbers = [*arrays["normalize_input/mean"], *arrays["normalize_input/std"]]
        shape["normalize_input"] = " ".join(f"{number:.9g}" for number in numbers)
    return shape


def adopt_run(config: Config, checkpoint: pathlib.Path) -> Config:
    """Returns the settings with encoder, projection head, and, where no flag says otherwise, data
    and sizes of the checkpoint's run.

    Raises:
        UserError: The user asked for another encoder or projection head than the run's.
    """
    config = adopt_encoder(config, checkpoint)
    trained = settings_of(checkpoint)
    if trained is None:
        return config
    adopted: dict[str, Any] = {name: getattr(trained, name) for name in with_role("head")}
    for name, value in adopted.items():
        asked = config.task == "embed" and config.with_z and name in config.given
        if asked and getattr(config, name) != value:
            raise UserError(
                f"Expected --{name}={value}, as the projection head in {checkpoint} was trained, "
                f"got {getattr(config, name)}. Leave out --{name}."
            )
    same = all(getattr(config, name) == getattr(trained, name) for name in with_role("data"))
    if "seed" not in config.given and (same or config.given.isdisjoint(with_role("source"))):
        adopted["seed"] = trained.seed  # what is drawn, and what is held back, depends on it
    if config.given.isdisjoint(with_role("source")):
        _check_data(trained, checkpoint)
        # Its images may be asked for with other labels.
        there = set(with_role("data")) - config.given
        adopted |= {name: getattr(trained, name) for name in there}
        print(f"data: that of the run, {trained.data.removeprefix('list:')}", flush=True)
    return adopt_sizes(config.replace(**adopted), checkpoint)


def adopt_sizes(config: Config, checkpoint: pathlib.Path) -> Config:
    """Returns the settings with the sizes of the checkpoint's run, where no flag says otherwise."""
    sizes = _sizes_of(config, checkpoint)
    flags = [f"--{name}='{show(size)}'" for name, size in sizes.items() if size != (0, 0)]
    if flags:
        print(f"size: that of the run, {' '.join(flags)}", flush=True)
    return config.replace(**sizes)


def adopt_view_size(config: Config, checkpoint: pathlib.Path) -> Config:
    """Returns the settings with views of the size that the checkpoint's run had, where no flag says
    otherwise; images stay as they are.
    """
    sizes = _sizes_of(config, checkpoint)
    known = [size for size in (sizes.get("crop_size"), sizes.get("input_size")) if size]
    size = next((size for size in known if size != (0, 0)), None)
    if size is None:
        return config
    print(f"size of the views: that of the run, --crop_size='{show(size)}'", flush=True)
    return config.replace(crop_size=size)


def _sizes_of(config: Config, checkpoint: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Returns the sizes of the checkpoint's run; none where a flag gives one."""
    folder = run_of(checkpoint)
    trained = folder.settings() if folder else None
    if folder is None or trained is None or not config.given.isdisjoint(with_role("size")):
        return {}
    there = {name: trained[name] for name in with_role("size") if name in trained}
    return read_all(SETTINGS, there, str(folder.path / "config.yaml"))


def _check_data(trained: Config, checkpoint: pathlib.Path) -> None:
    """Raises UserError where the files that a run's settings name are not to be found from here."""
    kind, _, rest = trained.data.partition(":")
    if kind == "list":
        paths = {name: getattr(trained, name) for name in ("train_file_path", "val_file_path")}
        named = {f"--{name}={path}": path for name, path in paths.items() if path}
    else:
        named = {f"--dataset={trained.dataset}": rest} if kind in ("folder", "npz") else {}
    for flag, path in named.items():
        if not pathlib.Path(path).expanduser().exists():
            raise UserError(
                f"Expected the data of the pre-training run, {flag} as its settings "
                f"({checkpoint.parent.parent / 'config.yaml'}) have it, got nothing at "
                f"{pathlib.Path(path).expanduser().absolute()}. Paths are relative to the folder "
                "that a command is run in: run this one where the pre-training ran, or pass the "
                "data's flags."
            )


def check_apart(folder: pathlib.Path, checkpoint: pathlib.Path | None) -> None:
    """Raises UserError where writing to a folder would cost the weights that are read."""
    if checkpoint is not None and folder.resolve() in checkpoint.resolve().parents:
        raise UserError(
            f"Expected another folder to write to than the one of the weights, got {folder} for "
            "both. Pass another --finetune_save_path."
        )


def settings_of(checkpoint: pathlib.Path | None) -> Config | None:
    """Returns the settings of the run that a checkpoint lies in; None where it lies in none."""
    folder = None if checkpoint is None else run_of(checkpoint)
    return read_settings(folder.path / "config.yaml") if folder else None


def read_settings(path: pathlib.Path) -> Config:
    """Reads the `config.yaml` of a run; raises UserError where a setting is wrong."""
    config = Config.resolve(config=str(path))
    config.validate()
    return config


def run_of(checkpoint: pathlib.Path) -> RunFolder | None:
    """Returns the folder of the run that a checkpoint lies in; None where it lies in none."""
    path = checkpoint.parent.parent
    inside = checkpoint.parent.name == "checkpoints" and (path / "config.yaml").exists()
    return RunFolder(path) if inside else None
