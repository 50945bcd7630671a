"""Sets that come as arrays: NumPy files, and what is made of any array of images."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Container, Iterable
from typing import NamedTuple

import numpy as np

from simclr_tf.data.files import free_memory, name_first
from simclr_tf.data.images import resize_to_fill
from simclr_tf.data.masks import MaskRules, resize_mask_to_fill, values_of
from simclr_tf.data.memory import hold_images, new_images, new_masks
from simclr_tf.data.source import MOST_CLASSES, Source, Splits
from simclr_tf.data.splitting import share_classes
from simclr_tf.errors import UserError


class Keys(NamedTuple):
    """Names that the arrays of one split go by in an .npz file."""

    images: tuple[str, ...]
    labels: tuple[str, ...]
    masks: tuple[str, ...]


TRAIN_KEYS = Keys(
    ("x_train", "train_images", "images", "x", "X"),
    ("y_train", "train_labels", "labels", "y", "Y"),
    ("masks_train", "train_masks", "masks", "mask"),
)
TEST_KEYS = Keys(
    ("x_test", "test_images", "x_val", "val_images"),
    ("y_test", "test_labels", "y_val", "val_labels"),
    ("masks_test", "test_masks", "masks_val", "val_masks"),
)


class UnreadableArchive(UserError):
    """An .npz file cannot be read at all, or unfolds to more than there is room for."""


def load_npz(path: str, *, channels: int = 3, masks: MaskRules | None = None) -> Splits:
    """Reads images and labels, or masks, from an .npz file.

    Images are uint8, or floats in 0..1, of shape [M, H, W, C], or [M, H, W] for one channel; they
    are found under names such as x_train, train_images, images or x, labels under y_train, labels
    or y, and those of a test set under x_test and y_test.

    Args:
        path: The file.
        channels: C of the images returned: see `to_channels`.
        masks: Read masks, integers [M, H, W] or [M, H, W, 1], instead of labels: under masks_train,
            masks and masks_test, or where labels would be.

    Raises:
        UnreadableArchive: The file is not so.
        UserError: Its arrays are not.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            _check_room(file.zip, path)
            arrays = {name: file[name] for name in file.files}
            strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
            if strange:
                raise ValueError(f"{strange[0]} is no array")
    except UserError:
        raise
    # A damaged file comes out as an error of zipfile, zlib, struct, ast, tokenize or NumPy.
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableArchive(
            f"Expected an .npz file of plain arrays at {path}, got: {reason}. Correct "
            "`dataset=npz:FILE`, or write the file with numpy.savez."
        ) from None
    train = _from_npz(arrays, TRAIN_KEYS, path, "train", channels, masks)
    if train is None:
        raise UserError(
            f"Expected images in {path} under one of {', '.join(TRAIN_KEYS.images)}, got "
            f"{_list(arrays)}. Rename the array."
        )
    test = _from_npz(arrays, TEST_KEYS, path, "test", channels, masks)
    return share_classes(train, test)


def npz_holds_masks(path: str) -> bool:
    """Tells whether an .npz file has masks, or labels of every pixel, for its training images."""
    try:
        with np.load(path, allow_pickle=False) as file:
            label_key = _first(TRAIN_KEYS.labels, file.files)
            if _first(TRAIN_KEYS.masks, file.files) is not None:
                return True
            return label_key is not None and _count_dimensions(file.zip, label_key) > 2
    except Exception:  # what is no such file is said by who loads it
        return False


def _count_dimensions(archive: zipfile.ZipFile, name: str) -> int:
    """Returns the dimensions of an array by its header: the array itself may be large."""
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        return len(read(member)[0])


def _check_room(archive: zipfile.ZipFile, path: str) -> None:
    """Raises UserError where what is compressed unfolds to more than the free memory, with the one
    copy at a time that is laid out anew.
    """
    sizes = [member.file_size for member in archive.infolist()]
    need, room = sum(sizes) + max(sizes, default=0), free_memory()
    if need > room:
        raise UnreadableArchive(
            f"Expected room for the {need / 1e9:.1f} GB of arrays in {path}, got "
            f"{room / 1e9:.1f} GB free. Pass a smaller set, or one of files."
        )


def _first(names: tuple[str, ...], there: Container[str]) -> str | None:
    return next((name for name in names if name in there), None)


def _list(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {list(a.shape)}" for name, a in arrays.items()) or "nothing"


def _from_npz(
    arrays: dict[str, np.ndarray],
    keys: Keys,
    path: str,
    split: str,
    channels: int,
    rules: MaskRules | None,
) -> Source | None:
    image_key = _first(keys.images, arrays)
    if image_key is None:
        return None
    images = hold_images(_as_images(arrays[image_key], channels, f"{image_key} in {path}"))
    arrays[image_key] = np.asarray(images)  # what was read of the file goes
    label_key = _first(keys.labels, arrays)
    per_pixel = label_key is not None and _is_per_pixel(arrays[label_key], images)
    name = f"npz:{path} ({split})"
    if rules is not None:
        mask_key = _first(keys.masks, arrays) or (label_key if per_pixel else None)
        if mask_key is None:
            raise UserError(
                f"Expected masks for {image_key} in {path} under one of {', '.join(keys.masks)}, "
                f"got {_list(arrays)}. Rename the array."
            )
        masks = _as_masks(arrays[mask_key], images, mask_key, path, rules)
        return Source(name, images, masks=masks)
    if label_key is None or per_pixel:
        return Source(name, images)
    return Source(
        name, images, _as_labels(arrays[label_key], len(images), f"{label_key} in {path}")
    )


def _is_per_pixel(array: np.ndarray, images: np.ndarray) -> bool:
    """Tells masks, [M, H, W] or [M, H, W, 1], from labels."""
    return array.shape in (images.shape[:3], (*images.shape[:3], 1))


def _as_masks(
    array: np.ndarray, images: np.ndarray, name: str, path: str, rules: MaskRules
) -> np.ndarray:
    if not _is_per_pixel(array, images) or array.dtype.kind not in "biu":
        raise UserError(
            f"Expected masks as integers {list(images.shape[:3])}, one for each pixel of the "
            f"images, as {name}, got {array.dtype} {list(array.shape)} in {path}. Save the "
            "number of each pixel's class."
        )
    return _masks_of(array, f"{path}: {name}", rules)


def _masks_of(masks: Iterable[np.ndarray], name: str, rules: MaskRules) -> np.ndarray:
    """Returns the values of masks, uint8 [M, H, W]; raises one UserError for all wrong ones."""
    found, wrong = [], []
    for index, mask in enumerate(masks):
        try:
            found.append(values_of(mask, rules.colours, f"{name}[{index}]"))
        except UserError as error:
            wrong.append(error)
    if wrong:
        raise UserError(name_first(wrong))
    return np.stack(found)


def to_channels(images: np.ndarray, channels: int, name: str) -> np.ndarray:
    """Returns images with as many channels as are asked for.

    Gray becomes colour by repetition, colour gray by its luma (Rec. 601).

    Args:
        images: uint8 [..., C].
        channels: C of the result.
        name: Of the images, for the message.

    Raises:
        UserError: There is no such way from one to the other.
    """
    there = images.shape[-1]
    if there == channels:
        return images
    if (there, channels) == (1, 3):
        return np.repeat(images, 3, axis=-1)
    if (there, channels) == (3, 1):
        from simclr_tf.augment.colour import LUMA  # with TensorFlow, which data is had without

        return np.rint(images @ LUMA)[..., np.newaxis].astype(np.uint8)
    raise UserError(
        f"Expected images of `channels={channels}` as {name}, got {there} channels "
        f"{list(images.shape)}. Pass `channels={there}`, or transpose the array, channels last."
    )


def _as_images(array: np.ndarray, channels: int, name: str) -> np.ndarray:
    if array.ndim == 3 and array.shape[-1] in (1, 3, channels):
        raise UserError(
            f"Expected images [M, H, W, C] or [M, H, W] as {name}, got {list(array.shape)}, which "
            "looks like a single one. Stack images by numpy.stack."
        )
    if array.ndim == 3:
        array = array[..., np.newaxis]
    if array.ndim != 4 or not array.size:
        raise UserError(
            f"Expected images [M, H, W, C] or [M, H, W] as {name}, got {list(array.shape)}. "
            "Transpose the array."
        )
    if array.dtype.kind not in "iuf":  # of bool, 0 and 1 would both be black
        raise UserError(
            f"Expected images as uint8 in 0..255 or floats in 0..1 as {name}, got {array.dtype}. "
            "Convert the array."
        )
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0.0 or array.max() > 1.0:
            raise UserError(
                f"Expected float images in 0..1 as {name}, got {array.min():g}..{array.max():g}. "
                "Scale them, or save them as uint8 in 0..255."
            )
        array = np.rint(array * 255.0)
    elif array.dtype != np.uint8 and (array.min() < 0 or array.max() > 255):
        raise UserError(
            f"Expected images in 0..255 as {name}, got {array.min()}..{array.max()}. Scale them."
        )
    return to_channels(array.astype(np.uint8, copy=False), channels, name)


def _as_labels(array: np.ndarray, count: int, name: str) -> np.ndarray:
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UserError(
            f"Expected {count} labels, integers from 0, as {name}, got {array.dtype} "
            f"{list(array.shape)}. Number the classes from 0, one label an image."
        )
    if labels.max() >= MOST_CLASSES:
        raise UserError(
            f"Expected labels below {MOST_CLASSES:,} as {name}, got {labels.max()}. Number the "
            "classes from 0."
        )
    return labels.astype(np.int32)


def resized(source: Source, size: tuple[int, int]) -> Source:
    """Brings the images and masks of a set in memory to a size (h, w); (0, 0): leaves them."""
    if size == (0, 0) or source.image_size == size or source.images is None:
        return source
    images = new_images(len(source), size, source.channels)
    for row, image in zip(images, source.images, strict=True):
        row[...] = resize_to_fill(image, size)
    masks = None
    if source.masks is not None:
        masks = new_masks(len(source), size)
        for row, mask in zip(masks, source.masks, strict=True):
            row[...] = resize_mask_to_fill(mask, size)
    return dataclasses.replace(source, images=images, masks=masks)
