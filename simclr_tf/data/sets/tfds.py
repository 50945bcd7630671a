"""Sets of TensorFlow Datasets, read into memory."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from simclr_tf.data.files import name_first
from simclr_tf.data.images import resize_to_fill
from simclr_tf.data.masks import MaskRules, resize_mask_to_fill, values_of
from simclr_tf.data.memory import new_images, new_masks
from simclr_tf.data.sets.arrays import to_channels
from simclr_tf.data.sets.tfds_splits import Wanted, choose_splits, read_wanted
from simclr_tf.data.source import Source, Splits
from simclr_tf.errors import UserError

MASK_FEATURES = ("segmentation_mask", "segmentation_label", "segmentation", "mask", "annotation")


def load_tfds(
    name: str,
    *,
    input_size: tuple[int, int],
    unlabelled: bool,
    channels: int = 3,
    need_labels: bool = False,
    masks: MaskRules | None = None,
) -> Splits:
    """Reads a data set of TensorFlow Datasets into memory, downloading it where it is not prepared.

    Its splits `train`, `test` (or `validation`) and `unlabelled` are used, or those that are named;
    labels where it has one an image.

    Args:
        name: Such as "cifar10", "oxford_flowers102:train+validation", "cifar10:train[:10%]:test"
            or "huggingface:mnist", where the first is a namespace that TFDS knows.
        input_size: (h, w) that images are brought to; (0, 0): their own, which must agree.
        unlabelled: Read the split `unlabelled` too, where there is one and no split is named.
        channels: C of the images returned: see `to_channels`.
        need_labels: A set without labels is an error.
        masks: Read masks, such as the feature `segmentation_mask`, instead of labels.

    Raises:
        UserError: There is no such set or split, it cannot be downloaded, it has no labels or no
            masks, or its images differ in size.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"Expected the package tensorflow-datasets for tfds:{name}, got: {error}. "
            "pip install tensorflow-datasets"
        ) from error
    from tensorflow_datasets.core import community

    namespaces = community.community_register().list_namespaces()
    wanted = read_wanted(name, namespaces)
    builder = _prepared(tfds, wanted, namespaces)
    splits = builder.info.splits
    train, test = choose_splits(wanted, splits)
    if need_labels and _label_feature(builder.info.features) is None:
        raise UserError(
            f"Expected one label an image in tfds:{wanted.name}, as the feature 'label' or as the "
            f"only class label, got {_spell_features(builder.info.features)}. Choose another set, "
            "or save the one you mean with its images as npz:FILE."
        )

    def read(split: str) -> Source:
        return _read_tfds(tfds, builder, split, input_size, channels, masks)

    unlabelled = unlabelled and not wanted.train and "unlabelled" in splits
    return Splits(
        read(train), read(test) if test else None, read("unlabelled") if unlabelled else None
    )


def _prepared(tfds: Any, wanted: Wanted, namespaces: Sequence[str]) -> Any:
    """Returns the builder of a set, downloaded; `namespaces` are those that may stand before it."""
    try:
        builder = tfds.builder(wanted.name)
    # A namespace may lie on a server, whose errors are of kinds of their own.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        spaces = f" Of namespaces it knows {', '.join(namespaces)}." if wanted.train else ""
        raise UserError(
            f"Expected the name of a TensorFlow Datasets set, got {wanted.name!r} ({reason}). "
            f"https://www.tensorflow.org/datasets/catalog lists them.{spaces}"
        ) from None
    if not builder.info.splits:
        _download(tfds, builder, wanted.name)
    return builder


def _download(tfds: Any, builder: Any, name: str) -> None:
    from tensorflow_datasets.core.download import downloader

    downloader.MAX_RETRIES = 2  # 10 with growing waits take minutes to say: no network
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of each of them
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare()
    # Whatever stops a download (network, disk, checksums) has the same remedy.
    except Exception as error:
        folder = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        reason = str(error).splitlines()[0][:90] if str(error) else ""
        raise UserError(
            f"Expected to download {name}, got {type(error).__name__} ({reason}). Where there is a "
            f"network run `python -c \"import tensorflow_datasets as t; t.load('{name}')\"`, then "
            f"copy its ~/tensorflow_datasets/{name} into {folder} here (TFDS_DATA_DIR)."
        ) from None


def _read_tfds(
    tfds: Any,
    builder: Any,
    split: str,
    input_size: tuple[int, int],
    channels: int,
    rules: MaskRules | None,
) -> Source:
    name = f"tfds:{builder.info.name} ({split})"
    features = builder.info.features
    if "image" not in features:
        raise UserError(
            f"Expected a feature 'image' in {name}, got {', '.join(sorted(features))}. Choose "
            "another set."
        )
    mask_feature = None if rules is None else _mask_feature(features, name)
    label_feature = _label_feature(features)
    images: np.ndarray = np.empty(0, np.uint8)
    masks: np.ndarray = np.empty(0, np.uint8)
    labels: list[int] = []
    wrong: list[UserError] = []
    count = builder.info.splits[split].num_examples
    for i, example in enumerate(
        tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
    ):
        whole = example["image"]
        if whole.shape[-1] == 4 != channels:  # the fourth is opacity
            whole = whole[..., :3]
        whole = to_channels(whole, channels, name)
        image = whole if input_size == (0, 0) else resize_to_fill(whole, input_size)
        if not i:  # one array from the start: a list and its stack would hold the set twice
            images = new_images(count, image.shape[:2], image.shape[2])
            masks = new_masks(count, image.shape[:2])
        if image.shape != images.shape[1:]:
            raise UserError(
                f"Expected images of one size in {name}, got {_spell(images.shape[1:])} "
                f"and {_spell(image.shape)}. Pass the size that they are brought to, such as "
                "`input_size='96 96'`."
            )
        images[i] = image
        if rules is not None and mask_feature:
            where = f"{name}, {mask_feature} {i}"
            try:
                mask = _mask_of(example[mask_feature], whole, rules, where)
                masks[i] = resize_mask_to_fill(mask, image.shape[:2])
            except UserError as error:
                wrong.append(error)
        else:
            labels.append(int(example[label_feature]) if label_feature else -1)
    if wrong:
        raise UserError(name_first(wrong))
    if mask_feature:
        return Source(name, images, masks=masks)
    known = min(labels) >= 0  # unlabelled splits carry -1
    return Source(
        name,
        images,
        np.array(labels, np.int32) if known else None,
        tuple(getattr(features[label_feature], "names", None) or ()) if known else (),
    )


def _label_feature(features: Any) -> str | None:
    """Returns the feature that holds an image's label: `label`, or the only one of classes."""

    def is_number(name: str) -> bool:
        return features[name].shape == () and np.issubdtype(features[name].np_dtype, np.integer)

    found = [name for name, feature in features.items() if hasattr(feature, "num_classes")]
    found = ["label"] if "label" in features else found
    return found[0] if len(found) == 1 and is_number(found[0]) else None


def _spell_features(features: Any) -> str:
    kinds = {name: type(feature).__name__ for name, feature in sorted(features.items())}
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def _mask_feature(features: Any, name: str) -> str:
    feature = next((name for name in MASK_FEATURES if name in features), None)
    if feature is None:
        raise UserError(
            f"Expected masks in {name} as one of {', '.join(MASK_FEATURES)}, got "
            f"{', '.join(sorted(features))}. Choose another set."
        )
    return feature


def _mask_of(pixels: np.ndarray, image: np.ndarray, rules: MaskRules, name: str) -> np.ndarray:
    if pixels.shape[:2] != image.shape[:2]:
        raise UserError(
            f"Expected a mask of its image's size, {_spell(image.shape)}, as {name}, got "
            f"{_spell(pixels.shape)}. Choose another set."
        )
    return values_of(pixels, rules.colours, name)


def _spell(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
