"""From the settings to the images of a task: splits, sizes, what is said of them."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from simclr_tf import data
from simclr_tf.config.settings import Config, with_flags
from simclr_tf.counting import spell_number
from simclr_tf.data.batches.evaluation import own_size
from simclr_tf.data.check.problems import ERROR, WARNING
from simclr_tf.data.check.splits import look_at
from simclr_tf.data.check.table import spell_problems
from simclr_tf.data.masks import MaskRules, read_colour_table
from simclr_tf.errors import UserError


def load_splits(
    config: Config,
    *,
    need_labels: bool = False,
    unlabelled: bool = True,
    some_labels: bool = False,
    masks: MaskRules | None = None,
    look: bool = True,
    stop_at_bad: bool = True,
) -> data.Splits:
    """Loads the data that the settings name, with labels or with masks where they are needed.

    Args:
        config: The settings.
        need_labels: As for `data.load`, and so are the next three.
        unlabelled: Read the images that are for pre-training only.
        some_labels: A list may have labels in some lines only.
        masks: Every image must have a mask that keeps these rules.
        look: Decode a sample of the images.
        stop_at_bad: Raise where one of these does not decode; else whoever reads it finds out.

    Raises:
        UserError: The data is not there or not as it should be, or a sample of it does not decode.
    """
    splits = data.load(
        config.data,
        test_list=config.val_file_path,
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
    if look:
        look_at_sample(splits, asked_size(config), need_labels, stop_at_bad=stop_at_bad)
    return splits


def look_at_sample(
    splits: data.Splits, view: tuple[int, int], need_labels: bool, *, stop_at_bad: bool = True
) -> None:
    """Prints what is odd about a sample of the images; may raise UserError where one is broken."""
    problems = look_at(splits, view=view, labels=need_labels)
    errors = [problem for problem in problems if problem.severity() == ERROR]
    if errors and stop_at_bad:
        do = "does" if len(errors) == 1 else "do"
        raise UserError(
            f"Expected images that decode, got {len(errors)} in a sample that {do} not:\n"
            f"{spell_problems(errors)}\n--task=check reads all of them and lists every problem; "
            "--skip_bad_images goes on without such files."
        )
    warnings = [problem for problem in problems if problem.severity() == WARNING]
    if warnings:
        print(f"in a sample of the images:\n{with_flags(spell_problems(warnings))}", flush=True)


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


def name_colour_limits(config: Config) -> None:
    """Prints which colour operations of the settings images of such channels do not take."""
    left_out = [
        name
        for name, is_on in (("saturation and hue", config.jitter), ("gray", config.colordrop))
        if is_on
    ]
    if config.channels != 3 and left_out:
        names = " and no ".join(left_out)
        channels = "1 channel is" if config.channels == 1 else f"{config.channels} channels are"
        print(f"{channels} no red, green and blue: no {names}", flush=True)


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


def describe_data(*sources: data.Source | None) -> None:
    """Prints what was loaded, a line each."""
    for source in sources:
        if source is None:
            continue
        size = (
            "several sizes" if source.image_size is None else "x".join(map(str, source.image_size))
        )
        if source.has_masks:
            classes = f", masks of {spell_number(source.num_classes, 'class')}"
        elif source.labels is not None:
            classes = f", {spell_number(source.num_classes, 'class')}"
        else:
            classes = ", no labels"
        left_out = (
            f", {spell_number(source.skipped, 'bad image')} left out" if source.skipped else ""
        )
        images = spell_number(len(source), "image")
        print(f"{source.name}: {images}, {size}{classes}{left_out}", flush=True)
