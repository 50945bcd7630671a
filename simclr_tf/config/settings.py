"""Every setting of the command line, in one flat frozen dataclass, and where its value comes from.

Defaults < task preset < data set preset < `--config FILE.yaml` < flags. This module imports no
TensorFlow, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import yaml

from simclr_tf.augment.recipe import JITTER_MODES, OPERATIONS, Recipe
from simclr_tf.config.fields import check_bounds, read, read_all, setting, show
from simclr_tf.config.presets import DATA_PRESETS, FROZEN_PRESET, PRESETS
from simclr_tf.errors import UserError
from simclr_tf.runs.format import take_settings
from simclr_tf.strict_yaml import load_yaml

TASKS = (
    "pretrain",
    "classification",
    "segmentation",
    "evaluate",
    "embed",
    "predict",
    "export",
    "check",
)
WITHOUT_CHECKPOINTS = ("check", "predict", "embed", "evaluate", "export")  # cannot be resumed
DATASETS = (
    "shapes",
    "cifar10",
    "cifar100",
    "stl10",
    "tfds:NAME",
    "folder:PATH",
    "tfrecord:PATTERN",
    "npz:FILE",
)
OPTIMIZERS = ("lars", "sgd", "nesterov", "adam", "adamw", "nadam", "lamb")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
SWITCHES = ("auto", "true", "false")
TRACKERS = ("none", "wandb", "mlflow")
FORMATS = ("keras", "saved_model", "safetensors", "onnx", "tflite")

# The tasks that read the settings of a group, where a setting does not say otherwise.
LEARNING = ("pretrain", "classification", "segmentation")
WITH_LABELS = ("classification", "segmentation", "evaluate")
TRAINING = ("pretrain", *WITH_LABELS)  # an evaluation trains classifiers
READ_BY: dict[str, tuple[str, ...]] = {
    "task": TASKS,
    "data": tuple(task for task in TASKS if task != "export"),
    "model": (*TRAINING, "embed", "export"),
    "loss": ("pretrain",),
    "optimiser": TRAINING,
    "augmentation": (*TRAINING, "check"),
    "execution": (*TRAINING, "embed", "predict", "check"),
    "run": LEARNING,
    "evaluation": ("evaluate",),
    "prediction": ("predict",),
    "export": ("export",),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run; each field is a flag and a YAML key, described by its declaration.

    `Config.resolve` makes one with presets and a YAML file, as the command line does; the bare
    constructor knows the defaults only.

    Attributes:
        given: The names the user set, by YAML or by flag; neither a flag nor in YAML.
        typed: Those among them that were given by flag, not by a YAML file.
    """

    # -- task --
    task: str = setting("task", "pretrain", "What to do.", choices=TASKS, roles=("recipe",))
    config: str = setting("task", "", "YAML file with settings; flags win over it.", compare=False)
    seed: int = setting(
        "task",
        0,
        "Root of everything random: data, draws, weights.",
        bounds="[0, 2147483647]",
        tasks=READ_BY["data"],
        roles=("drawn from", "recipe"),
    )

    # -- data --
    dataset: str = setting(
        "data",
        "shapes",
        "The images: shapes are drawn by the library; tfds:NAME comes from TensorFlow Datasets, "
        "tfds:NAME:TRAIN:TEST with the splits that are trained and reported on (:TEST may be left "
        "out), such as tfds:dtd:train+validation; folder:PATH holds pictures, in class folders "
        "where there are labels, and may be a .zip or .tar of such a folder; tfrecord:PATTERN "
        "names files of tf.train.Example; npz:FILE arrays.",
        choices=DATASETS,
        roles=("source", "data", "drawn from"),
    )
    cifar10: bool = setting(
        "data", False, "Short for --dataset=cifar10.", roles=("source", "data", "drawn from")
    )
    train_file_path: str = setting(
        "data",
        "",
        "List of training images, instead of --dataset: one path a line, then a comma and the "
        "label (classification) or the mask's path (segmentation).",
        roles=("source", "data", "drawn from"),
    )
    val_file_path: str = setting(
        "data", "", "List of images to report results on.", roles=("source", "data", "drawn from")
    )
    label_pattern: str = setting(
        "data",
        "",
        "Regular expression whose one group, found in a file's name, is the image's class, instead "
        "of its folder or the label in a list; an empty group is class 0. Numbers sort as such.",
        roles=("data", "drawn from"),
    )
    input_size: tuple[int, int] = setting(
        "data",
        (0, 0),
        "Height and width images are read at; 0: the data set's own.",
        tasks=TASKS,
        roles=("size",),
    )
    crop_size: tuple[int, int] = setting(
        "data",
        (0, 0),
        "Height and width of the views the encoder sees; 0: the same as input_size.",
        roles=("size",),
    )
    num_classes: int = setting(
        "data",
        0,
        "Number of classes; 0: counted in the data.",
        bounds="[0, 1000000]",
        tasks=(*TRAINING, "embed", "check"),
    )
    label_fraction: float = setting(
        "data",
        1.0,
        "Share of the labels to train on, drawn class by class.",
        bounds="(0, 1]",
        tasks=WITH_LABELS,
        roles=("recipe",),
    )
    val_fraction: float = setting(
        "data",
        0.0,
        "Share of the training images held back for validation.",
        bounds="[0, 1)",
        tasks=(*TRAINING, "embed", "check"),
    )
    channels: int = setting(
        "data",
        3,
        "Channels of the images: 3, colour; 1, gray; others of npz:FILE alone, and then of each "
        "pixel's colours brightness and contrast are jittered.",
        bounds="[1, 1024]",
        tasks=(*TRAINING, "embed", "export", "check"),
        roles=("encoder", "recipe"),
    )
    cache: str = setting(
        "data",
        "auto",
        "Keep decoded images in memory; auto: where they fit.",
        choices=SWITCHES,
        tasks=(*TRAINING, "embed"),
    )
    skip_bad_images: bool = setting(
        "data",
        False,
        "Leave out and count images that do not decode, or lack the label_pattern, instead of "
        "stopping.",
        roles=("drawn from",),
    )
    max_pixels: int = setting(
        "data",
        0,
        "Most pixels that an image file may have, by its header; a larger one counts as bad. 0: "
        "Pillow's limit, about 89 million.",
        bounds="[0, inf)",
        roles=("drawn from",),
    )
    ignore_label: int = setting(
        "data",
        -1,
        "Value of the pixels in masks that do not count; -1: all do.",
        bounds="[-1, 255]",
        tasks=("segmentation", "check"),
    )
    mask_colors: str = setting(
        "data",
        "",
        "Table of the colours in colour-coded masks: a line a class, `red green blue name`; the "
        "first line is class 0.",
        tasks=("segmentation", "check"),
    )

    # -- model --
    model: int = setting(
        "model",
        18,
        "Depth of the ResNet encoder.",
        choices=(18, 34, 50),
        roles=("encoder", "recipe"),
    )
    width_multiplier: float = setting(
        "model",
        1.0,
        "Factor on the number of channels.",
        bounds="[0.0625, 8]",
        roles=("encoder", "recipe"),
    )
    depthwise: bool = setting(
        "model",
        False,
        "Make the 3x3 convolutions depth-wise separable.",
        roles=("encoder", "recipe"),
    )
    stem: str = setting(
        "model",
        "auto",
        "First layers: small (3x3, for small images) or imagenet (7x7 and pooling); auto: by size.",
        choices=("auto", "small", "imagenet"),
        roles=("encoder", "recipe"),
    )
    zdim: int = setting(
        "model",
        128,
        "Width of the projection z.",
        bounds="[1, inf)",
        tasks=("pretrain", "embed"),
        roles=("head", "recipe"),
    )
    projection_hidden: int = setting(
        "model",
        0,
        "Width of the projection head's hidden layers; 0: the encoder's.",
        bounds="[0, inf)",
        tasks=("pretrain", "embed"),
        roles=("head",),
    )
    projection_layers: int = setting(
        "model",
        2,
        "Layers of the projection head.",
        bounds="[1, 4]",
        tasks=("pretrain", "embed"),
        roles=("head", "recipe"),
    )
    init_weights: str = setting(
        "model",
        "auto",
        "First weights of the encoder: none (random); auto (the newest checkpoint in "
        "pretrain_save_path, else random); the PATH of a run, or of a .safetensors or .npz file "
        "with torchvision's and timm's names; or keras:ResNet50, keras.applications' for ImageNet.",
        tasks=(*READ_BY["model"], "predict"),
        roles=("path",),
    )
    normalize_input: str = setting(
        "model",
        "auto",
        "What the encoder does first to pixels in [0, 1]: none; imagenet, ImageNet's mean and "
        "deviation; or six numbers, mean and deviation of red, green and blue. auto: what the "
        "weights were trained with, imagenet where a file of others does not say.",
        roles=("encoder", "recipe"),
    )
    stride_in_1x1: bool = setting(
        "model",
        False,
        "Let the bottlenecks of --model=50 halve the map in their first 1x1 convolution, as Keras' "
        "ResNet50 does; off: in the 3x3.",
        roles=("encoder", "recipe"),
    )
    freeze: bool = setting(
        "model",
        False,
        "Train the head only, on fixed features.",
        tasks=("classification", "segmentation"),
        roles=("recipe",),
    )
    include_nonlinearity: bool = setting(
        "model",
        False,
        "Put a hidden layer into the classification head; off: it is linear.",
        tasks=("classification", "evaluate"),
        roles=("recipe",),
    )

    # -- loss --
    temperature: float = setting(
        "loss", 0.1, "Temperature of NT-Xent.", bounds="(0, inf)", roles=("recipe",)
    )
    similarity: str = setting(
        "loss",
        "cosine",
        "How two projections are compared.",
        choices=("cosine", "dot"),
        roles=("recipe",),
    )
    dice_weight: float = setting(
        "loss",
        0.0,
        "Weight of the Dice loss beside the cross-entropy of pixels.",
        bounds="[0, inf)",
        tasks=("segmentation",),
        roles=("recipe",),
    )
    class_weights: str = setting(
        "loss",
        "none",
        "Weights of the classes in the cross-entropy of pixels: none, balanced (rare classes count "
        "more), or K numbers with commas between.",
        tasks=("segmentation",),
        roles=("recipe",),
    )

    # -- optimiser --
    optimizer: str = setting(
        "optimiser", "lars", "Update rule.", choices=OPTIMIZERS, roles=("recipe",)
    )
    learning_rate: float = setting(
        "optimiser",
        1.0,
        "Peak learning rate, before lr_scaling.",
        bounds="[0, inf)",
        roles=("recipe",),
    )
    encoder_learning_rate: float = setting(
        "optimiser",
        0.0,
        "Peak learning rate of the encoder where a task trains it with a head; 0: learning_rate.",
        bounds="[0, inf)",
        tasks=WITH_LABELS,
    )
    lr_scaling: str = setting(
        "optimiser",
        "linear",
        "Growth of the learning rate with the batch: linear, times batch_size / 256; sqrt, times "
        "the root of batch_size.",
        choices=("none", "linear", "sqrt"),
        roles=("recipe",),
    )
    weight_decay: float = setting(
        "optimiser", 1e-4, "Weight decay.", bounds="[0, inf)", roles=("recipe",)
    )
    warmup_epochs: float = setting(
        "optimiser",
        10.0,
        "Epochs of linear warm-up; the rest is a cosine.",
        bounds="[0, inf)",
        roles=("recipe",),
    )
    num_epochs: int = setting(
        "optimiser", 100, "Passes over the data.", bounds="[0, inf)", roles=("recipe",)
    )
    batch_size: int = setting(
        "optimiser", 256, "Images per step.", bounds="[2, inf)", roles=("recipe",)
    )
    microbatch_size: int = setting(
        "optimiser",
        0,
        "Images in memory at a time, a divisor of batch_size; 0: the whole batch.",
        bounds="[0, inf)",
        tasks=("pretrain",),
    )

    # -- augmentation: the defaults stand in augment/recipe.py --
    crop: bool = setting("augmentation", Recipe.crop, "Random resized crop.")
    flip: bool = setting("augmentation", Recipe.flip, "Mirror left and right.")
    jitter: bool = setting(
        "augmentation", Recipe.jitter, "Change brightness, contrast, saturation and hue."
    )
    colordrop: bool = setting("augmentation", Recipe.colordrop, "Turn the image gray.")
    blur: bool | None = setting(
        "augmentation", Recipe.blur, "Gaussian blur; auto: from 64 pixels up."
    )
    noise: bool = setting("augmentation", Recipe.noise, "Add Gaussian noise.")
    rotate: bool = setting("augmentation", Recipe.rotate, "Turn about the centre.")
    cutout: bool = setting("augmentation", Recipe.cutout, "Gray out a square.")
    flip_prob: float = setting(
        "augmentation", Recipe.flip_prob, "Share of images mirrored.", needs="flip"
    )
    jitter_prob: float = setting(
        "augmentation", Recipe.jitter_prob, "Share of images jittered.", needs="jitter"
    )
    color_prob: float = setting(
        "augmentation", Recipe.color_prob, "Share of images turned gray.", needs="colordrop"
    )
    blur_prob: float = setting(
        "augmentation", Recipe.blur_prob, "Share of images blurred.", needs="blur"
    )
    noise_prob: float = setting(
        "augmentation", Recipe.noise_prob, "Share of images with noise.", needs="noise"
    )
    rotate_prob: float = setting(
        "augmentation", Recipe.rotate_prob, "Share of images turned.", needs="rotate"
    )
    cutout_prob: float = setting(
        "augmentation", Recipe.cutout_prob, "Share of images with a square cut out.", needs="cutout"
    )
    strength: float = setting(
        "augmentation",
        Recipe.strength,
        "Colour strength s: brightness, contrast, saturation 0.8 s, hue 0.2 s.",
        needs="jitter",
        roles=("recipe",),
    )
    max_rotation: float = setting(
        "augmentation",
        Recipe.max_rotation,
        "Largest angle to either side, degrees.",
        needs="rotate",
    )
    crop_area_min: float = setting(
        "augmentation",
        Recipe.crop_area_min,
        "Smallest share of the image that a crop covers.",
        needs="crop",
    )
    jitter_mode: str = setting(
        "augmentation",
        Recipe.jitter_mode,
        "fused: one matrix per image, clipped once; reference: the operations of the SimCLR paper "
        "one after the other, in random order, clipped after each (slower).",
        choices=JITTER_MODES,
    )

    # -- execution --
    precision: str = setting(
        "execution",
        "auto",
        "Number format of the layers; auto: by device.",
        choices=PRECISIONS,
    )
    augment_on: str = setting(
        "execution",
        "auto",
        "Where views are made: host (in the input pipeline) or device (in the training step).",
        choices=("auto", "host", "device"),
        tasks=("pretrain",),
    )
    xla: str = setting(
        "execution",
        "auto",
        "Compile the training step with XLA; auto: on a GPU, where a trial shows that it works. "
        "false keeps it off views and losses on the device, too.",
        choices=SWITCHES,
        tasks=TRAINING,
    )
    steps_per_execution: int = setting(
        "execution",
        0,
        "Steps that run without coming back to Python, at most; what is left of an epoch runs by "
        "itself. 0: 10 on a GPU, 1 on a CPU.",
        bounds="[0, inf)",
        tasks=TRAINING,
        free_on_resume=True,
    )
    deterministic: bool = setting(
        "execution",
        False,
        "Make every operation deterministic, also on a GPU, where xla=auto is then off. On a CPU "
        "runs of the same seed and machine were equal bit for bit without it, in all our tests.",
    )
    data_service: str = setting(
        "execution",
        "",
        "Addresses grpc://HOST:PORT, commas between, of services that make the views of "
        "pre-training (`python -m simclr_tf.data.service`).",
        tasks=("pretrain",),
        free_on_resume=True,
    )
    strategy: str = setting(
        "execution",
        "auto",
        "Spread each batch over the GPUs of this machine (mirrored) or of the machines in the "
        "environment's TF_CONFIG (multiworker); auto: multiworker where TF_CONFIG names several, "
        "else one GPU.",
        choices=("auto", "none", "mirrored", "multiworker"),
        free_on_resume=True,
    )

    # -- run --
    pretrain_save_path: str = setting(
        "run",
        "logs/pretrain",
        "Run folder of pre-training.",
        tasks=READ_BY["model"],
        roles=("path",),
        free_on_resume=True,
    )
    finetune_save_path: str = setting(
        "run",
        "logs/finetune",
        "Run folder of the other tasks.",
        tasks=TASKS[1:],
        roles=("path",),
        free_on_resume=True,
    )
    resume: bool = setting(
        "run",
        False,
        "Go on from the newest checkpoint of the run folder.",
        tasks=TASKS,
        free_on_resume=True,
    )
    overwrite: bool = setting(
        "run", False, "Replace a finished run in the run folder.", tasks=TASKS, free_on_resume=True
    )
    save_every_epochs: int = setting(
        "run", 1, "Epochs between checkpoints.", bounds="[1, inf)", free_on_resume=True
    )
    save_every_minutes: float = setting(
        "run",
        0.0,
        "Least minutes between the checkpoints of two epochs; the last epoch is saved in any case. "
        "0: none on a CPU; 1 on a GPU, unless save_every_epochs is given.",
        bounds="[0, inf)",
        free_on_resume=True,
    )
    keep_checkpoints: int = setting(
        "run",
        3,
        "Newest checkpoints kept; where the newest is damaged, the one before is taken.",
        bounds="[1, inf)",
        free_on_resume=True,
    )
    eval_every_epochs: int = setting(
        "run",
        5,
        "Epochs between evaluations; 0: at the end only.",
        bounds="[0, inf)",
        free_on_resume=True,
    )
    log_every_steps: int = setting(
        "run",
        10,
        "Steps between lines of the log.",
        bounds="[1, inf)",
        tasks=TRAINING,
        free_on_resume=True,
    )
    max_steps: int = setting(
        "run",
        0,
        "End after so many optimiser steps in all; 0: no limit.",
        bounds="[0, inf)",
        tasks=TRAINING,
        free_on_resume=True,
    )
    histograms: bool = setting(
        "run",
        False,
        "Let TensorBoard have the weights' histograms after each evaluation, too.",
        free_on_resume=True,
    )
    profile: bool = setting(
        "run",
        False,
        "Let TensorBoard have a profile of the steps 10 to 20 of this process.",
        free_on_resume=True,
    )
    tracker: str = setting(
        "run",
        "none",
        "Write settings, epochs and results to Weights & Biases or MLflow, too; each must be "
        "installed and is told where to by its own environment variables.",
        choices=TRACKERS,
        tasks=READ_BY["execution"],
        free_on_resume=True,
    )
    preview: bool = setting(
        "run",
        False,
        "Let --task=check draw pictures of the views and their colours.",
        tasks=("check",),
    )

    # -- evaluation --
    protocols: str = setting(
        "evaluation",
        "all",
        "What --task=evaluate measures: all (of images without labels, health), or a list with "
        "commas between of knn, logreg, linear, mlp, finetune, supervised, baselines, health.",
    )
    label_fractions: str = setting(
        "evaluation",
        "0.01,0.1,1.0",
        "Shares of the labels that fine-tuning and its supervised twin are given.",
    )
    num_seeds: int = setting(
        "evaluation", 1, "Runs of what draws at random, for mean and spread.", bounds="[1, 100]"
    )
    compare: str = setting(
        "evaluation",
        "",
        "Run folders that were evaluated, with commas between, to put side by side in one report "
        "instead of evaluating.",
    )
    with_z: bool = setting(
        "evaluation", False, "Let --task=embed write the projections z too.", tasks=("embed",)
    )
    embed_format: str = setting(
        "evaluation",
        "npz",
        "What --task=embed writes features as: arrays (npz) or a table, a row an image (parquet).",
        choices=("npz", "parquet"),
        tasks=("embed",),
    )
    index: bool = setting(
        "evaluation",
        False,
        "Let --task=embed find the nearest neighbours of the test images and draw them.",
        tasks=("embed",),
    )
    projector: bool = setting(
        "evaluation",
        False,
        "Let --task=embed write the features for TensorBoard's embedding projector, too.",
        tasks=("embed",),
    )

    # -- prediction --
    predict_save_path: str = setting(
        "prediction",
        "",
        "Folder of what --task=predict writes; without it, `predictions` in finetune_save_path.",
    )
    tile_size: tuple[int, int] = setting(
        "prediction",
        (0, 0),
        "Height and width of the windows that large images are segmented in, in pixels as the "
        "network sees them; 0: whole images up to a megapixel, windows of 768 above.",
    )
    tile_overlap: float = setting(
        "prediction",
        0.25,
        "Share of a window that it has in common with the next.",
        bounds="[0, 0.9]",
    )

    # -- export --
    format: str = setting("export", "keras", "What --task=export writes.", choices=FORMATS)
    export_of: str = setting(
        "export",
        "encoder",
        "What is exported: the encoder of init_weights (images to features), or the model, with "
        "its head, of the classification or segmentation in finetune_save_path (images to logits).",
        choices=("encoder", "model"),
    )
    export_path: str = setting(
        "export",
        "",
        "Folder that the model and its card are written to; without it, `export/FORMAT` in the "
        "run's folder. The model in it is called model.FORMAT, a SavedModel saved_model.",
    )
    export_license: str = setting(
        "export", "", "Licence of the weights, such as cc-by-4.0, for the model card."
    )

    given: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)
    typed: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)

    @classmethod
    def resolve(cls, **settings: object) -> Config:
        """Makes a Config of flags (text or typed values), the YAML file they name and presets.

        Raises:
            UserError: A name or value is wrong, or the YAML file cannot be read.
        """
        flags = read_all(SETTINGS, settings)
        path = flags.get("config")
        in_file = {name: field for name, field in SETTINGS.items() if name != "config"}
        file: dict[str, Any] = {}
        if path:
            content = load_yaml(path, f"a YAML file at --config={path}")
            file = read_all(in_file, take_settings(content, path), path)

        def overlay(base: dict[str, Any]) -> dict[str, Any]:
            return functools.reduce(_put_over, (file, flags), base)

        defaults = {field.name: field.default for field in SETTINGS.values()}
        chosen = overlay(defaults)
        source = _data_of(chosen["dataset"], chosen["train_file_path"]).partition(":")[0]
        task, data = PRESETS.get(chosen["task"], {}), DATA_PRESETS.get((chosen["task"], source), {})
        frozen = FROZEN_PRESET if chosen["task"] == "classification" and chosen["freeze"] else {}
        values = overlay(defaults | task | data | frozen)
        return cls(**values, given=frozenset(file | flags), typed=frozenset(flags))

    @property
    def data(self) -> str:
        """The data in one key: `dataset`, or "list:FILE" of a `train_file_path`."""
        return _data_of(self.dataset, self.train_file_path)

    @property
    def save_path(self) -> str:
        """The run folder of this task."""
        return getattr(self, self.save_flag)

    @property
    def save_flag(self) -> str:
        """The name of the setting that chooses the run folder of this task."""
        own = {"pretrain": "pretrain_save_path", "predict": "predict_save_path"}
        return own.get(self.task, "finetune_save_path")

    def command(self) -> list[str]:
        """Returns the words after `main.py` that ask for the settings that were given by flag."""
        return [f"--{name}={show(getattr(self, name))}" for name in SETTINGS if name in self.typed]

    def unused(self) -> list[str]:
        """Returns the settings given by flag that the task does not read, in their order; in
        brackets the switch that is missing.
        """
        off = {name for name in OPERATIONS if getattr(self, name) is False}
        if self.task == "classification" and self.freeze and not self.augments_by_name():
            off = set(OPERATIONS)
        words = []
        for name, field in SETTINGS.items():
            if name not in self.typed:
                continue
            if self.task not in tasks_of(field):
                words.append(f"--{name}")
            elif field.metadata["needs"] in off:
                words.append(f"--{name} (without --{field.metadata['needs']})")
        return words

    def augments_by_name(self) -> bool:
        """Tells whether an augmentation was asked for: without, a frozen encoder of a
        classification sees plain images.
        """
        return any(getattr(self, name) and name in self.given for name in OPERATIONS)

    def replace(self, **changes: object) -> Config:
        """Returns a copy with some settings changed; `given` and `typed` stay."""
        return dataclasses.replace(self, **_put_over(vars(self), read_all(SETTINGS, changes)))

    def recipe(self) -> Recipe:
        """Returns the augmentation settings; raises UserError where one is out of range."""
        return Recipe(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)})

    def to_dict(self) -> dict[str, Any]:
        """Returns what JSON and YAML can hold: every setting but `config`."""
        return {name: show(getattr(self, name)) for name in SETTINGS if name != "config"}

    def to_yaml(self) -> str:
        """Returns the text of a YAML file that `--config` reads back to an equal Config."""
        groups: dict[str, dict[str, Any]] = {}
        for name, value in self.to_dict().items():
            groups.setdefault(SETTINGS[name].metadata["group"], {})[name] = value
        return "\n".join(
            f"# {group}\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=4096)
            for group, values in groups.items()
        )

    def validate(self) -> None:
        """Raises UserError for the first setting out of range or at odds with another."""
        try:
            self._check()
        except UserError as error:
            if not self.config:
                raise
            raise UserError(f"{error} Settings are read from {self.config} too.") from None

    def _check(self) -> None:
        for name, field in SETTINGS.items():
            value = getattr(self, name)
            if isinstance(value, int | float):
                check_bounds(field, value)
            if read(field, value) != value:
                raise UserError(
                    f"Expected {read(field, value)!r} for {name}, got {value!r}. "
                    "Config.resolve turns text into values."
                )
        self.recipe()
        _put_over(vars(self), {name: getattr(self, name) for name in with_role("source")})
        self._check_text()
        self._check_sizes()
        if self.microbatch_size and self.batch_size % self.microbatch_size:
            raise UserError(
                f"Expected --microbatch_size to divide --batch_size={self.batch_size}, got "
                f"{self.microbatch_size}. Pass a divisor, or 0 for the whole batch at once."
            )
        self._check_data_service()
        if self.encoder_learning_rate and (self.freeze or not self.learning_rate):
            raise UserError(
                "Expected an encoder that is trained, beside a head with a --learning_rate above "
                f"0, for --encoder_learning_rate={self.encoder_learning_rate:g}, got --freeze="
                f"{self.freeze} and --learning_rate={self.learning_rate:g}. Leave one of them out."
            )
        if self.resume and self.overwrite:
            raise UserError(
                "Expected --resume or --overwrite, got both. Pass --resume to go on with the run "
                "in the folder, --overwrite to begin again."
            )

    def _check_text(self) -> None:
        for name in with_role("path"):
            if not getattr(self, name).strip():
                raise UserError(
                    f"Expected a path for --{name}, got ''. "
                    f"Leave it out for {SETTINGS[name].default}."
                )

    def data_services(self) -> tuple[str, ...]:
        """Returns the addresses of the services that make views, in their order."""
        return tuple(word.strip() for word in self.data_service.split(",") if word.strip())

    def _check_data_service(self) -> None:
        for address in self.data_services():
            if not re.fullmatch(r"grpc://[^\s/:]+:\d{1,5}", address):
                raise UserError(
                    f"Expected addresses such as grpc://HOST:5050 for --data_service, got "
                    f"{address!r}. Pass what `python -m simclr_tf.data.service` prints."
                )
        for name, fitting in (("augment_on", ("auto", "host")), ("strategy", ("auto", "none"))):
            if self.data_service and getattr(self, name) not in fitting:
                raise UserError(
                    f"Expected --{name} of {' or '.join(fitting)} beside --data_service, got "
                    f"{getattr(self, name)}: a service makes the views of one process that trains. "
                    "Leave one of the flags out."
                )

    def _check_sizes(self) -> None:
        sizes = {n: getattr(self, n) for n, f in SETTINGS.items() if "tuple" in str(f.type)}
        for name, size in sizes.items():
            if size != (0, 0) and min(size) < 8:
                raise UserError(
                    f"Expected --{name} of 8 pixels or more to either side, got {show(size)}. "
                    f"Pass --{name}='96 96', for instance, or leave it out."
                )


SETTINGS: dict[str, dataclasses.Field] = {
    field.name: field for field in dataclasses.fields(Config) if field.metadata
}
"""The fields of Config that are flags, by name."""


def with_role(role: str) -> tuple[str, ...]:
    """Returns the names of the settings that were declared with a role, in their order."""
    return tuple(name for name, field in SETTINGS.items() if role in field.metadata["roles"])


def fixed_on_resume() -> frozenset[str]:
    """Returns the names of the settings that a resumed run must have as it began."""
    free = {name for name, field in SETTINGS.items() if field.metadata["free_on_resume"]}
    return frozenset(SETTINGS) - free - {"config"}


def with_flags(text: str) -> str:
    """Returns a message of the library as the command line says it: `seed=1` is --seed=1."""
    names = "|".join(SETTINGS)
    return re.sub(rf"`({names})(=[^`]*)?`", lambda found: f"--{found[1]}{found[2] or ''}", text)


def without_flags(text: str) -> str:
    """Returns a message of the command line as the library says it: --seed=1 is seed=1."""
    return re.sub(rf"--(?=({'|'.join(SETTINGS)})\b)", "", text)


def tasks_of(field: dataclasses.Field) -> tuple[str, ...]:
    """Returns the tasks that read a setting."""
    return field.metadata["tasks"] or READ_BY[field.metadata["group"]]


def _data_of(dataset: str, lines: str) -> str:
    """Returns the data, in one key, of the two settings that name them."""
    return f"list:{lines}" if lines else dataset


def _put_over(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Puts one layer of settings over another.

    `dataset`, `cifar10` and `train_file_path` are one choice: the layer that makes it drops what
    the layers below chose.
    """
    values = {**base, **layer}
    shapes = SETTINGS["dataset"].default
    dataset = layer.get("dataset")
    if layer.get("cifar10"):
        if dataset not in (None, "cifar10"):
            raise UserError(
                f"Expected one data set, got --cifar10 and --dataset={dataset}. Leave one out."
            )
        dataset = "cifar10"
    if layer.get("train_file_path"):
        if dataset not in (None, shapes):
            raise UserError(
                f"Expected one data set, got --train_file_path={layer['train_file_path']} and "
                f"{dataset}. Leave one out."
            )
        return values | {"dataset": shapes, "cifar10": False}
    if dataset is not None:
        values |= {"dataset": dataset, "cifar10": bool(layer.get("cifar10"))}
        if base["train_file_path"]:
            lists = ("train_file_path", "val_file_path")
            values |= {name: layer.get(name, "") for name in lists}
    elif base["cifar10"] and not values["cifar10"]:
        values["dataset"] = shapes
    return values
