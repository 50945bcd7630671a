"""The encoder a task begins with: built anew, or with the weights of a checkpoint."""

from __future__ import annotations

import os
import pathlib
import sys

import keras

from simclr_tf.config.settings import Config, without_flags
from simclr_tf.counting import spell_number
from simclr_tf.errors import UserError
from simclr_tf.interop import keras_applications
from simclr_tf.interop.torch_names import find_encoder, from_torch
from simclr_tf.interop.weight_files import read_file
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.resnet import choose_stem, resnet
from simclr_tf.runs.checkpoints import named_variables, read_arrays, restore
from simclr_tf.workflow.missing_run import (
    spell_runs_near,
    what_is_there,
)
from simclr_tf.workflow.pixel_normalization import mean_std
from simclr_tf.workflow.weights import OWN, adopt_encoder, pretrained_source, run_of


def with_stem(config: Config, size: tuple[int, int]) -> Config:
    """Returns the settings with `stem=auto` decided by the size of the images."""
    if config.stem != "auto":
        return config
    return config.replace(stem=choose_stem(size))


def load_encoder(source: str | os.PathLike[str], *, include_rescaling: bool = False) -> keras.Model:
    """Loads a trained encoder: images float [N, H, W, C] in [0, 1] -> features float32 [N, F].

    Example:
        >>> encoder = load_encoder("logs/pretrain")
        >>> features = encoder.predict(images / 255.0)

    Args:
        source: The folder of a run of any task that trains, a checkpoint, a file of weights in
            torchvision's or timm's names, or "keras:ResNet50".
        include_rescaling: Take pixels in 0..255, uint8 or float.

    Raises:
        UserError: There are no weights of an encoder.
    """
    try:
        config = Config.resolve(task="embed", init_weights=os.fspath(source))
        checkpoint = pretrained_source(config)
        if checkpoint is None:
            raise UserError(
                f"Expected the folder of a run or a file of weights, got {source}. Pass one."
            )
        encoder = build_encoder(
            adopt_encoder(config, checkpoint), include_rescaling=include_rescaling
        )
        load_encoder_weights(encoder, checkpoint)
    except UserError as error:
        raise UserError(without_flags(str(error))) from error
    return encoder


def build_encoder(config: Config, *, include_rescaling: bool = False) -> keras.Model:
    """Builds the encoder of the settings, with random weights."""
    return resnet(
        config.model,
        stem=config.stem,
        width_multiplier=config.width_multiplier,
        depthwise=config.depthwise,
        stride_in_1x1=config.stride_in_1x1,
        channels=config.channels,
        mean_std=mean_std(config.normalize_input, config.channels),
        include_rescaling=include_rescaling,
    )


def untrained_encoder(config: Config) -> keras.Model:
    """Builds the encoder as a run of the settings begins, with weights drawn from the seed.

    It is the one that every task compares with: other draws give other accuracies.
    """
    keras.utils.set_random_seed(config.seed)
    return build_encoder(config)


def prepare_encoder(config: Config, checkpoint: pathlib.Path | None) -> keras.Model:
    """Builds the encoder that a head is trained on, prints where its weights are from; frozen if so
    set.
    """
    encoder = build_encoder(config)
    if checkpoint is None:
        _name_random_weights(config)
    else:
        load_encoder_weights(encoder, checkpoint)
        folder = None if config.resume else run_of(checkpoint)
        task = folder.task() if folder else None
        other = "" if task in (None, "pretrain") else f", a run of --task={task}"
        print(f"encoder: weights of {checkpoint}{other}", flush=True)
    # Frozen layers run their BatchNorm on its running statistics and leave those alone.
    encoder.trainable = not config.freeze
    return encoder


def _name_random_weights(config: Config) -> None:
    """Prints that the encoder has random weights; warns of frozen ones that nobody asked for."""
    if config.init_weights == "none":
        print("encoder: random weights, as --init_weights=none asks", flush=True)
        return
    print("encoder: random weights (no pre-training run was given or found)", flush=True)
    if config.freeze:
        path = pathlib.Path(config.pretrain_save_path)
        print(
            f"warning: a random encoder is frozen: expected a pre-training run in {path}, got "
            f"{what_is_there(path)}.{spell_runs_near(path)} Run --task=pretrain first, or pass "
            "--init_weights=none to ask for it",
            file=sys.stderr,
            flush=True,
        )


def load_encoder_weights(encoder: keras.Model, checkpoint: pathlib.Path) -> None:
    """Gives the encoder the weights of a checkpoint, of ours or of others.

    Raises:
        UserError: They do not fit; all that does not is listed, up to a screen.
    """
    origin = str(checkpoint)
    # The weights of others know no such layer: it keeps what the settings gave it.
    foreign = {v.path: v for v in encoder.variables if not v.path.startswith("normalize_input/")}
    if origin == keras_applications.NAME:
        restore(foreign, keras_applications.load_weights(), origin)
        return
    inside = run_of(checkpoint) is not None
    arrays = read_arrays(checkpoint) if inside else read_file(checkpoint)[0]
    if inside or any(name.startswith(OWN) for name in arrays):
        restore(named_variables("encoder", encoder.variables), arrays, origin)
        return
    found = find_encoder(arrays, origin)
    shapes = {path: tuple(variable.shape) for path, variable in foreign.items()}
    restore(foreign, from_torch(found.arrays, shapes, origin), origin)
    print(
        f"{origin}: {spell_number(len(found.arrays), 'array')} of a "
        f"ResNet-{found.settings['model']} in torchvision's names"
        f"{f' after {found.prefix!r}' if found.prefix else ''}, "
        f"{spell_number(found.left_aside, 'other')} left aside",
        flush=True,
    )
    if found.settings["stem"] == "small":
        print("note: the small stem pads by 1 pixel; where the source padded by 2, features differ")


def load_projection_head(
    config: Config, features: int, checkpoint: pathlib.Path | None
) -> ProjectionHead:
    """Builds the projection head of pre-training with its weights.

    Raises:
        UserError: The checkpoint has none.
    """
    readable = checkpoint is not None and checkpoint.suffix == ".safetensors"
    arrays = read_arrays(checkpoint) if checkpoint is not None and readable else {}
    if not any(name.startswith("head/") for name in arrays):
        raise UserError(
            f"Expected a projection head for --with_z in {checkpoint or 'a checkpoint'}, got none. "
            "Pass the folder of a pre-training run as --init_weights, or leave the flag out."
        )
    head = ProjectionHead(
        config.zdim, layers=config.projection_layers, hidden=config.projection_hidden
    )
    head.build((None, features))
    restore(named_variables("head", head.variables), arrays, str(checkpoint))
    return head
