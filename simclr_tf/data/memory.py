"""Images in memory: one copy of them, laid out as views read them, whatever is taken of it.

The array [M, H, W, C] that a `Source` shows is a view of memory laid out as
`augment.resampling.to_planes` wants it, [M, W, C, H], from an address that TensorFlow can use as it
stands. So no pipeline makes a copy of its own, and a part of a set is a list of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes: of the address of what TensorFlow computes with


class Rows(np.lib.mixins.NDArrayOperatorsMixin):
    """Some rows of an array in memory, by their numbers: read as an array would be, not copied.

    What is computed with them, or asked of them that is not below, is so with a copy.

    Attributes:
        whole: [B, ...].
        index: Which of its rows these are, int64 [M].
    """

    def __init__(self, whole: np.ndarray, index: np.ndarray) -> None:
        self.whole, self.index = whole, np.asarray(index, np.int64)

    @property
    def shape(self) -> tuple[Any, ...]:
        return len(self), *self.whole.shape[1:]

    @property
    def ndim(self) -> int:
        return self.whole.ndim

    @property
    def dtype(self) -> np.dtype:
        return self.whole.dtype

    @property
    def nbytes(self) -> int:
        return len(self) * self.whole[:1].nbytes

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, tuple):
            return np.asarray(self)[key]
        return self.whole[self.index[key]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.whole[row] for row in self.index)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **named: Any) -> Any:
        arrays = (np.asarray(each) if isinstance(each, Rows) else each for each in inputs)
        return getattr(ufunc, method)(*arrays, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols of other libraries, which would ask for ever
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(
                "Expected to copy the rows of an array, which lie apart, got copy=False"
            )
        return self.whole[self.index].astype(dtype or self.dtype, copy=False)


Held = np.ndarray | Rows


def new_images(count: int, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """Returns memory for images, uint8 [M, H, W, C], laid out as said above and not filled."""
    height, width = size
    return _new((count, width, channels, height)).transpose(0, 3, 1, 2)


def new_masks(count: int, size: tuple[int, int]) -> np.ndarray:
    """Returns memory for masks, uint8 [M, H, W], not filled."""
    return _new((count, *size))


def hold_images(images: np.ndarray) -> np.ndarray:
    """Returns images, uint8 [M, H, W, C], laid out as said above: themselves where they are so."""
    if _is_ready(planes_of(images)):
        return images
    held = new_images(len(images), images.shape[1:3], images.shape[3])
    held[...] = images
    return held


def hold_masks(masks: np.ndarray) -> np.ndarray:
    """Returns masks, uint8 [M, H, W], as TensorFlow can use them: themselves where it can."""
    if _is_ready(masks):
        return masks
    held = new_masks(len(masks), masks.shape[1:])
    held[...] = masks
    return held


def take_rows(array: Held, index: np.ndarray) -> Rows:
    """Returns rows of an array, or of rows of one, without copying them."""
    if isinstance(array, Rows):
        return Rows(array.whole, array.index[index])
    return Rows(array, np.arange(len(array))[index])


def whole_of(array: Held) -> np.ndarray:
    """Returns the array that is in memory for an array or for rows of one."""
    return array.whole if isinstance(array, Rows) else array


def planes_of(images: np.ndarray) -> np.ndarray:
    """Returns images [M, H, W, C] as [M, W, C, H], the same memory."""
    return images.transpose(0, 2, 3, 1)


def _new(shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    memory = np.empty(count + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + count].reshape(shape)


def _is_ready(array: np.ndarray) -> bool:
    contiguous, aligned = array.flags.c_contiguous, array.ctypes.data % ALIGNMENT == 0
    return array.dtype == np.uint8 and array.flags.writeable and contiguous and aligned
