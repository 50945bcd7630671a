"""From the name of a data set to its splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simclr_tf.data.check.masks import check_masks
from simclr_tf.data.check.problems import Report, refuse
from simclr_tf.data.files import measure, settle
from simclr_tf.data.masks import MaskRules
from simclr_tf.data.sets.arrays import load_npz, npz_holds_masks, resized, to_channels
from simclr_tf.data.sets.folders import holds_masks, load_folder
from simclr_tf.data.sets.label_pattern import label_by_name
from simclr_tf.data.sets.lists import load_lists, second_column
from simclr_tf.data.sets.shapes import CLASS_NAMES, make_shapes
from simclr_tf.data.sets.tfds import load_tfds
from simclr_tf.data.sets.tfrecord import load_records
from simclr_tf.data.source import Source, Splits, each_split
from simclr_tf.data.splitting import hold_back
from simclr_tf.errors import UserError

SHAPES_SIZE = (32, 32)
SHAPES_TRAIN, SHAPES_TEST = 4096, 1000


def load(
    dataset: str,
    *,
    test_list: str = "",
    label_pattern: str = "",
    input_size: tuple[int, int] = (0, 0),
    val_fraction: float = 0.0,
    seed: int = 0,
    cache: str = "auto",
    skip_bad_images: bool = False,
    need_labels: bool = False,
    unlabelled: bool = True,
    some_labels: bool = False,
    num_classes: int = 0,
    channels: int = 3,
    masks: MaskRules | None = None,
) -> Splits:
    """Loads a data set.

    Args:
        dataset: "shapes", "cifar10", "cifar100", "stl10", "tfds:NAME" (also with splits,
            "tfds:NAME:TRAIN:TEST", and a namespace before NAME), "folder:PATH",
            "tfrecord:PATTERN", "npz:FILE" or "list:FILE".
        test_list: The list file that is reported on, beside a "list:FILE".
        label_pattern: What finds the class in a file's name: see `label_pattern.label_by_name`.
        input_size: (h, w) that images are brought to; (0, 0): their own.
        val_fraction: Share held back for testing, class by class, of a set without a test split.
        seed: Of what is drawn.
        cache: "auto", "true" or "false": whether files are decoded into memory.
        skip_bad_images: Leave out files that do not decode or have no class in their names.
        need_labels: A set without labels is an error, and no unlabelled split is read.
        unlabelled: Read the images that are for pre-training only, where the set has such.
        some_labels: A list may have labels in some lines only: then they are not used.
        num_classes: Labels are 0 to num_classes - 1; 0: any.
        channels: C of the images: 3 of files; of arrays what they have, or gray from colour and
            colour from gray.
        masks: Every image must have a mask that keeps these rules. The classes are then those of
            the pixels, and neither labels nor an unlabelled split are read.

    Raises:
        UserError: The data is not there or not as it should be.
    """
    splits = list_files(
        dataset,
        test_list=test_list,
        label_pattern=label_pattern,
        need_labels=need_labels,
        num_classes=num_classes,
        masks=masks is not None,
        some_labels=some_labels,
        skip_bad_images=skip_bad_images,
    )
    if splits is None:
        unlabelled = unlabelled and not need_labels and masks is None
        splits = _load_arrays(
            dataset,
            input_size,
            seed,
            unlabelled=unlabelled,
            need_labels=need_labels,
            channels=channels,
            masks=masks,
        )
    elif channels != 3:
        raise UserError(
            f"Expected `channels=3` of image files, which are decoded to colour, got {channels}. "
            "Leave the flag out; for an encoder that was trained on so many channels, save the "
            "images as arrays for `dataset=npz:FILE`."
        )

    def ready(source: Source) -> Source:
        if source.images is None:
            return settle(
                source, input_size=input_size, cache=cache, skip_bad_images=skip_bad_images
            )
        return resized(source, input_size)

    splits = each_split(splits, lambda source: measure(source, skip_bad_images=skip_bad_images))
    if masks is not None:  # of their own size: resizing may lose a value that is wrong
        splits = check_masks(splits, masks)
    splits = each_split(splits, ready)
    if need_labels:
        for source in filter(None, (splits.train, splits.test)):
            check_labels(source, num_classes)
    if splits.test is None and val_fraction:
        return Splits(*hold_back(splits.train, val_fraction, seed), splits.unlabelled)
    return splits


def list_files(
    dataset: str,
    *,
    test_list: str = "",
    label_pattern: str = "",
    need_labels: bool = False,
    num_classes: int = 0,
    masks: bool = False,
    some_labels: bool = False,
    skip_bad_images: bool = False,
    report: Report = refuse,
) -> Splits | None:
    """Lists a data set's files without opening an image; None where it is no files.

    Args:
        dataset: As for `load`.
        test_list: Another list.
        label_pattern: What finds the class in a file's name.
        need_labels: Every line of a list must have a label.
        num_classes: Labels are 0 to num_classes - 1; 0: any.
        masks: Every image must have a mask.
        some_labels: As for `load`.
        skip_bad_images: Leave out files without a class in their names.
        report: Called with each problem; where it returns, the file is left out.

    Raises:
        UserError: There are no such files, or `report` refuses one.
    """
    kind, _, rest = dataset.partition(":")
    if test_list and kind != "list":
        raise UserError(
            "Expected `train_file_path` beside `val_file_path`, got none. "
            "Pass both, or a `dataset`."
        )
    folder = folder_of(dataset)
    if label_pattern and (masks or not (kind == "list" or folder)):
        raise UserError(
            "Expected image files without masks for `label_pattern`, got "
            f"{'masks' if masks else f'`dataset={dataset}`'}. Leave it out, or pass a folder:PATH "
            "or `train_file_path`."
        )
    splits = None
    if kind == "list":
        splits = load_lists(
            rest,
            test_list,
            need_labels=need_labels and not label_pattern,
            labels=not label_pattern,
            num_classes=num_classes,
            masks=masks,
            some_labels=some_labels,
            report=report,
        )
    elif folder:
        splits = load_folder(folder, masks=masks, classes=not label_pattern, report=report)
    elif kind == "tfrecord":
        if masks:
            raise UserError(
                f"Expected a data set with masks, got {dataset}: TFRecord files are read without. "
                "Pass a folder, an archive of one, lists or an .npz file."
            )
        splits = load_records(rest, report=report)
    if splits is None or not label_pattern:
        return splits
    return label_by_name(splits, label_pattern, skip=skip_bad_images, report=report)


def folder_of(dataset: str) -> str:
    """Returns the folder or archive that a data set is, or ""."""
    kind, _, rest = dataset.partition(":")
    return str(Path(rest).expanduser()) if kind == "folder" else ""


def list_of(dataset: str) -> str:
    """Returns the list file that a data set is, or ""."""
    kind, _, rest = dataset.partition(":")
    return rest if kind == "list" else ""


def offers_masks(dataset: str) -> bool:
    """Tells by its own form whether a data set is one with masks: list, folder or arrays."""
    kind, _, rest = dataset.partition(":")
    if kind == "list":
        return second_column(rest) == "masks"
    if kind == "npz":
        return npz_holds_masks(str(Path(rest).expanduser()))
    folder = folder_of(dataset)
    return bool(folder) and holds_masks(folder)


def _load_arrays(
    dataset: str,
    input_size: tuple[int, int],
    seed: int,
    *,
    unlabelled: bool,
    channels: int,
    need_labels: bool,
    masks: MaskRules | None,
) -> Splits:
    kind, _, rest = dataset.partition(":")
    if kind == "shapes":
        size = input_size if input_size != (0, 0) else SHAPES_SIZE
        return _make_shapes(size, seed, channels, masked=masks is not None)
    if kind == "npz":
        return load_npz(str(Path(rest).expanduser()), channels=channels, masks=masks)
    name = rest if kind == "tfds" else dataset
    return load_tfds(
        name,
        input_size=input_size,
        unlabelled=unlabelled,
        need_labels=need_labels,
        channels=channels,
        masks=masks,
    )


def _make_shapes(size: tuple[int, int], seed: int, channels: int, *, masked: bool) -> Splits:
    def draw(name: str, count: int, stream: int) -> Source:
        # Two streams a seed, so that no test image of one seed trains another.
        images, labels, masks = make_shapes(count, size=size, seed=2 * seed + stream)
        images = to_channels(images, channels, "shapes")
        if masked:
            names = "background", *CLASS_NAMES
            return Source(f"shapes ({name})", images, class_names=names, masks=masks)
        return Source(f"shapes ({name})", images, labels, CLASS_NAMES)

    return Splits(draw("train", SHAPES_TRAIN, 0), draw("test", SHAPES_TEST, 1))


def check_labels(source: Source, num_classes: int) -> None:
    """Raises UserError where there are no labels, or one is not below `num_classes` (0: any)."""
    if source.labels is None:
        raise UserError(
            f"Expected labels for {source.name}, got none. Sort the images into one folder a "
            "class, pass a list with path,label lines as `train_file_path`, or say with "
            "`label_pattern` where the files' names have them."
        )
    largest = int(np.max(source.labels))
    if num_classes and largest >= num_classes:
        raise UserError(
            f"Expected labels in 0..{num_classes - 1} (`num_classes={num_classes}`) in "
            f"{source.name}, got {largest}. Pass `num_classes={largest + 1}` or leave it out."
        )
