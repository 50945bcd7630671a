"""Export: a trained encoder, or a classifier or segmenter, for use without this library."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import tempfile
from typing import Any

import simclr_tf
from simclr_tf.config.settings import SETTINGS, Config, tasks_of, with_role
from simclr_tf.errors import UserError
from simclr_tf.interop import model_card
from simclr_tf.interop.export_formats import NAMES, Exported, save
from simclr_tf.interop.stock_layers import folded_head
from simclr_tf.runs.folder import RunFolder
from simclr_tf.runs.lock import lock_folder
from simclr_tf.tasks import predict
from simclr_tf.training.execution import choose_execution, print_execution
from simclr_tf.workflow.disk import naming_the_way_on
from simclr_tf.workflow.encoder import build_encoder, load_encoder_weights
from simclr_tf.workflow.missing_run import spell_runs_near
from simclr_tf.workflow.pixel_normalization import mean_std, normalization
from simclr_tf.workflow.weights import (
    adopt_encoder,
    pretrained_source,
    settings_of,
)

CARD = "README.md"
PARTIAL = ".simclr_tf-export-"  # how the name of the folder begins that an export is written in
METRICS = (
    "loss",
    "contrastive_accuracy",
    "knn_accuracy",
    "steps",
    "epochs",
    "accuracy",
    "f1_macro",
    "top5",
    "mean_iou",
    "pixel_accuracy",
    "num_train",
    "num_test",
)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where an export's weights come from.

    Attributes:
        weights: The checkpoint.
        run: The folder of its run, or None where it lies in none.
        config: The settings that its network is built by.
        class_names: Of a model with a head.
    """

    weights: pathlib.Path
    run: pathlib.Path | None
    config: Config
    class_names: tuple[str, ...] = ()


def run(config: Config) -> dict[str, Any]:
    """Writes a model in a format of others, with a model card, and returns where and how.

    Raises:
        UserError: There are no such weights, the format cannot hold them, or the folder is not
            free.
    """
    if config.resume:
        raise UserError(
            "Expected an export from its beginning, got --resume. Pass --overwrite to replace "
            "what lies in the folder."
        )
    # Weights are float32 in every checkpoint, whatever precision they were trained in.
    print_execution(choose_execution("float32", "false"))
    exported, origin = _load_model(config) if config.export_of == "model" else _load_encoder(config)
    folder = _folder(config, origin)
    with (
        lock_folder(folder, task=config.task, flag="export_path"),
        naming_the_way_on(config, RunFolder(folder)),
    ):
        name = _write(config, exported, origin, folder)
    print(f"{folder / name}: {exported.output} of {origin.weights}", flush=True)
    return {
        "task": config.task,
        "format": config.format,
        "path": str(folder / name),
        "weights": str(origin.weights),
        "input_shape": exported.input_shape(config.format),
        "output": exported.output,
    }


def _write(config: Config, exported: Exported, origin: Origin, folder: pathlib.Path) -> str:
    """Writes the export and gives it its name once it is whole; returns that."""
    _check_free(folder, config)
    for left in folder.glob(f"{PARTIAL}*"):  # by an export that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=folder, prefix=PARTIAL) as name:
        partial = pathlib.Path(name)
        file = save(exported, config.format, partial, _metadata(origin.config))
        text = _card(config, exported, origin, file)
        (partial / CARD).write_text(text, encoding="utf-8")
        _move(partial, folder)
    return file


def _load_encoder(config: Config) -> tuple[Exported, Origin]:
    """Builds the encoder of `init_weights`."""
    checkpoint = pretrained_source(config)
    if checkpoint is None:
        path = pathlib.Path(config.pretrain_save_path)
        raise UserError(
            f"Expected a trained encoder to export, got none in {path}.{spell_runs_near(path)} "
            "Run --task=pretrain first, pass a run or a file of "
            "weights as --init_weights, or --export_of=model for a classification or segmentation."
        )
    trained = settings_of(checkpoint)
    config = adopt_encoder(config, checkpoint)
    run_folder = None if trained is None else checkpoint.parent.parent
    size = _size(config, trained, run_folder)
    if trained is not None:
        shape = {name: getattr(config, name) for name in with_role("encoder")}
        config = trained.replace(**shape)
    encoder = build_encoder(config)
    load_encoder_weights(encoder, checkpoint)
    return Exported(encoder, size=size), Origin(checkpoint, run_folder, config)


def _load_model(config: Config) -> tuple[Exported, Origin]:
    """Builds encoder and head of the classification or segmentation that is named."""
    trained = predict.read_run(config)
    model = predict.build_model(trained)
    size = config.input_size if "input_size" in config.given else trained.view_size
    origin = Origin(trained.checkpoint, trained.path, trained.config, trained.class_names)
    if trained.config.task == "segmentation":
        return Exported(model, size=size), origin
    encoder, head = model.layers
    return Exported(encoder, folded_head(head), size=size), origin


def _size(
    config: Config, trained: Config | None, folder: pathlib.Path | None
) -> tuple[int, int] | None:
    """Returns the size of the images that the encoder was trained on, or the one asked for."""
    if "input_size" in config.given and config.input_size != (0, 0):
        return config.input_size
    if trained is None or folder is None:
        return None
    known = RunFolder(folder).facts().get("view_size")
    sizes = (tuple(known) if known else (0, 0), trained.crop_size, trained.input_size)
    return next((size for size in sizes if size != (0, 0)), None)


def _folder(config: Config, origin: Origin) -> pathlib.Path:
    if config.export_path:
        return pathlib.Path(config.export_path)
    if origin.run is None:
        raise UserError(
            f"Expected --export_path for weights that lie in no run, {origin.weights}, got none. "
            "Pass a folder."
        )
    return origin.run / "export" / config.format


def _check_free(folder: pathlib.Path, config: Config) -> None:
    """Raises UserError where something lies that is not ours, or that may not be replaced."""
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"Expected a folder for --export_path, got the file {folder}. Pass another."
        )
    there = [name for name in (NAMES[config.format], CARD) if (folder / name).exists()]
    if there and not config.overwrite:
        raise UserError(
            f"Expected no export in {folder}, got {' and '.join(there)} there. Pass --overwrite to "
            "replace it, or another --export_path."
        )
    ours = model_card.MARK in _read(folder / CARD)
    if there and not ours:
        raise UserError(
            f"Expected an export in {folder} for --overwrite to replace, got {' and '.join(there)} "
            "that no export wrote. Pass another --export_path."
        )


def _read(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _move(partial: pathlib.Path, folder: pathlib.Path) -> None:
    """Puts what was written in place of what was there, the card last."""
    for path in sorted(partial.iterdir(), key=lambda path: path.name == CARD):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)


def _metadata(config: Config) -> dict[str, str]:
    """Returns what a safetensors file says of itself, for `--init_weights` to read."""
    normalized = normalization(config.normalize_input)
    return {"simclr_tf": simclr_tf.__version__, "normalize_input": normalized}


def _card(config: Config, exported: Exported, origin: Origin, name: str) -> str:
    trained = origin.config
    kind = {"features": "encoder"}.get(exported.output, trained.task)
    title = f"ResNet-{trained.model}, {kind}"
    notes = _notes(config, exported, origin)
    if config.format == "safetensors":
        takes = (
            f"as `x` below: float32 [N, {trained.channels}, H, W]{_colours(trained)}, any size; "
            "torch's own layout."
        )
        code = _torch_code(exported, trained, name)
    else:
        takes = _takes(config, exported, trained)
        code = model_card.load_code(config.format, name, exported.output)
        if exported.size and not exported.segments and trained.channels == 3:
            code = f"{model_card.read_code(exported.size)}\n{code}"
            notes.append(_note_on_precision(trained))
    return model_card.model_card(
        title=title,
        licence=config.export_license,
        format=config.format,
        file=name,
        takes=takes,
        gives=_gives(exported, origin),
        code=code,
        facts=_facts(origin),
        metrics=_metrics(origin.run),
        notes=notes,
    )


def _colours(trained: Config) -> str:
    return ", RGB" if trained.channels == 3 else ""


def _takes(config: Config, exported: Exported, trained: Config) -> str:
    shape = ", ".join(
        "N" if i == 0 else "any" if side is None else str(side)
        for i, side in enumerate(exported.input_shape(config.format))
    )
    text = f"`images`, uint8 [{shape}]{_colours(trained)}, 0 to 255; they are scaled inside."
    if exported.resizes(config.format) and exported.size:
        height, width = exported.size
        return (
            f"{text} Other sizes than {height}x{width} are cut (whole pixels) to that aspect about "
            "their centre and resized inside, antialiased."
        )
    multiple = exported.multiple(config.format)
    if multiple > 1:
        text += f" Height and width must be multiples of {multiple}."
    if exported.size and not exported.segments:
        text += " Others are brought to that size first, as `read` does below."
    return text


def _gives(exported: Exported, origin: Origin) -> str:
    if exported.output == "features":
        return f"`features`, float32 [N, {exported.body.output_shape[-1]}]."
    pixels = "N, H, W" if exported.segments else "N"
    names = ", ".join(origin.class_names)
    return (
        f"`logits`, float32 [{pixels}, {len(origin.class_names)}]; a softmax gives probabilities. "
        f"Classes: {names}."
    )


def _notes(config: Config, exported: Exported, origin: Origin) -> list[str]:
    notes = []
    if exported.segments and exported.size is not None:
        height, width = exported.size
        notes.append(f"Trained on views of {height}x{width} pixels: show objects at that scale.")
    factor = origin.config.width_multiplier
    if config.format == "safetensors" and factor != 1.0:
        notes.append(
            f"Its channels are {factor:g} times torchvision's: the names are torchvision's, the "
            "class must be your own."
        )
    return notes


def _note_on_precision(trained: Config) -> str:
    task = "predict" if trained.task == "classification" else "embed"
    return (
        f"It computes in float32, as `--task={task} --precision=float32` does. The default "
        "precision there may be of 16 bits, whose third digits differ."
    )


def _torch_code(exported: Exported, trained: Config, name: str) -> str:
    widths = [] if exported.head is None else [layer.units for layer in exported.head.layers]
    features = exported.body.output_shape[-1]
    return model_card.torch_code(
        name,
        depth=trained.model,
        width=trained.width_multiplier,
        small=trained.stem == "small",
        fc=(features, *widths) if widths else (),
        channels=trained.channels,
        mean_std=mean_std(trained.normalize_input, trained.channels),
    )


def _facts(origin: Origin) -> dict[str, Any]:
    config = origin.config
    names = with_role("encoder")
    facts: dict[str, Any] = {"weights": origin.weights.name}
    if origin.run is not None:
        kind, _, rest = config.data.partition(":")
        own = rest if kind == "tfds" else pathlib.PurePath(rest).name
        facts["data"] = "a list of files" if kind == "list" else f"{kind}:{own}".rstrip(":")
        # Paths stay out of it: a card is for others.
        recipe = {name: tasks_of(SETTINGS[name]) for name in with_role("recipe")}
        names = tuple(name for name, tasks in recipe.items() if config.task in tasks)
    return facts | {name: getattr(config, name) for name in names}


def _metrics(folder: pathlib.Path | None) -> dict[str, Any]:
    results = {} if folder is None else RunFolder(folder).results()
    return {n: results[n] for n in METRICS if results.get(n) is not None}
