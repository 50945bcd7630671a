"""One kind of data for all tasks: images by index, with labels or masks in step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from simclr_tf.data.images import read_image, read_windows
from simclr_tf.data.masks import read_mask
from simclr_tf.data.memory import Held, hold_images, hold_masks, take_rows
from simclr_tf.errors import UserError

T = TypeVar("T")
MOST_CLASSES = 1_000_000  # a larger label is no number of a class, and each class has a name


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a data set, in a fixed order, with random access.

    Images are held in memory (`images`) or read from files (`paths`), and their masks with them.
    What is in memory is laid out as views read it, copied where the array that is passed is not,
    and is there once: all pipelines read it, so nothing may write to it, and what is taken of a set
    shares it.

    Attributes:
        name: For messages, such as "folder:/x (train)".
        images: uint8 [M, H, W, C], or None. Of a part of a set they are `held.Rows`, of which
            `numpy.asarray` makes an array.
        labels: int32 [M] in 0..K-1, or None.
        class_names: K names, of labels or of a mask's values; empty where they are not known.
        paths: M file names; empty for sets that are no files.
        file_sizes: (H, W) of each image where they are read from files, int32 [M, 2].
        skipped: Images left out because they did not decode.
        masks: uint8 [M, H, W], or None; as `images`.
        mask_paths: M file names; empty for sets without masks, or whose masks are no files.
        mask_colours: The colour of each class in mask files, uint8 [R, 3], or None.
        lines: M numbers of lines in the list that names the images; empty for other sets.
    """

    name: str
    images: Held | None = None
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    file_sizes: np.ndarray | None = None
    skipped: int = 0
    masks: Held | None = None
    mask_paths: tuple[str, ...] = ()
    mask_colours: np.ndarray | None = None
    lines: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # Of a path that is no UTF-8: it goes into pictures, reports and JSON.
        name = self.name.encode("utf-8", "backslashreplace").decode()
        object.__setattr__(self, "name", name)
        if isinstance(self.images, np.ndarray):
            object.__setattr__(self, "images", hold_images(self.images))
        if isinstance(self.masks, np.ndarray):
            object.__setattr__(self, "masks", hold_masks(self.masks))

    def __len__(self) -> int:
        return len(self.paths) if self.images is None else len(self.images)

    @property
    def num_classes(self) -> int:
        """K: the number of class names, or one more than the largest label."""
        if self.class_names or self.labels is None:
            return len(self.class_names)
        return int(self.labels.max()) + 1

    @property
    def has_masks(self) -> bool:
        return self.masks is not None or bool(self.mask_paths)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) in pixels, or None where images differ."""
        if self.images is not None:
            return self.images.shape[1:3]
        sizes = self.file_sizes
        if sizes is None or (sizes != sizes[0]).any():
            return None
        return int(sizes[0, 0]), int(sizes[0, 1])

    @property
    def channels(self) -> int:
        """C: channels of an image; files are decoded to red, green and blue."""
        return 3 if self.images is None else self.images.shape[3]

    def read(self, index: int) -> np.ndarray:
        """Returns one image, uint8 [H, W, C]; raises UserError where its file does not decode."""
        return read_image(self.paths[index]) if self.images is None else self.images[index]

    def read_windows(self, index: int, windows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Returns windows of one image file, resized: see `images.read_windows`."""
        return read_windows(self.paths[index], windows, size)

    def read_mask(self, index: int) -> np.ndarray:
        """Returns the mask of one image, uint8 [H, W], of the image's size, as `read` has it."""
        if self.masks is not None:
            return self.masks[index]
        return read_mask(self.mask_paths[index], self.mask_colours)

    def take(self, indices: np.ndarray) -> Source:
        """Returns the images at the indices, in their order, with all that belongs to them.

        Images and masks in memory are shared.
        """

        def shared(values: Held | None) -> Held | None:
            return None if values is None else take_rows(values, indices)

        def rows(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[indices]

        def names(values: tuple[T, ...]) -> tuple[T, ...]:
            return tuple(values[i] for i in indices) if values else ()

        return dataclasses.replace(
            self,
            images=shared(self.images),
            labels=rows(self.labels),
            file_sizes=rows(self.file_sizes),
            paths=names(self.paths),
            masks=shared(self.masks),
            mask_paths=names(self.mask_paths),
            lines=names(self.lines),
        )


@dataclasses.dataclass(frozen=True)
class Splits:
    """The parts of a data set; `test` is reported on, `unlabelled` is for pre-training only."""

    train: Source
    test: Source | None = None
    unlabelled: Source | None = None

    def present(self) -> list[Source]:
        """Returns the splits that there are: train, test, unlabelled."""
        return [s for s in (self.train, self.test, self.unlabelled) if s is not None]


def each_split(splits: Splits, change: Callable[[Source], Source]) -> Splits:
    """Returns the splits, each of them changed."""
    others = (splits.test, splits.unlabelled)
    return Splits(change(splits.train), *(None if s is None else change(s) for s in others))


def from_arrays(images: np.ndarray, labels: np.ndarray | None = None) -> Source:
    """Wraps images, uint8 [M, H, W, C], and labels, int [M], as a `Source`."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UserError(
            "Expected images as uint8 [M, H, W, C], got "
            f"{images.dtype} {list(images.shape)}. Convert them, values 0 to 255."
        )
    if labels is not None and len(labels) != len(images):
        raise UserError(
            f"Expected a label per image, got {len(labels)} for {len(images)}. Pass them in step."
        )
    return Source("array", images, None if labels is None else np.asarray(labels, np.int32))
