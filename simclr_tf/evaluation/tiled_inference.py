"""Segmentation of an image of any size: in windows that overlap, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from simclr_tf.data.images import resize_pixels

Size = tuple[int, int]
Predict = Callable[[np.ndarray], tf.Tensor | np.ndarray]

WHOLE_PIXELS = 2**20  # of an image as the network sees it; larger ones are cut into windows
WINDOW = (768, 768)
PART_ELEMENTS = 2**22  # probabilities that are brought to the image's own rows at a time


def segment_image(
    predict: Predict,
    image: np.ndarray,
    *,
    scale: float = 1.0,
    tile: Size | None = None,
    overlap: float = 0.25,
) -> np.ndarray:
    """Finds the class of every pixel of an image, at the image's own resolution.

    The image is resized to the network's scale and cut into windows of one shape, evenly spaced and
    flush with the edges. Their probabilities are blended, with weights that fall to the windows'
    edges, and resized back.

    No array of all probabilities is held: windows are taken band by band across the image's shorter
    side, and what no later band touches becomes class numbers at once. Held are the probabilities
    of one band, [tile, shorter side, K] at the network's scale, and of one window.

    Args:
        predict: Float32 [1, h, w, 3] in 0..1 -> logits float32 [1, h, w, K], K up to 256.
        image: uint8 [H, W, 3].
        scale: Pixels that the network sees per pixel of the image.
        tile: (h, w) of the windows in pixels as the network sees them. None: the whole image up to
            a megapixel, windows of 768 above.
        overlap: Least share of a window that it has in common with the next, 0 to under 1.

    Returns:
        uint8 [H, W], of classes that are equally likely the first.
    """
    height, width = image.shape[:2]
    seen = max(round(scale * height), 1), max(round(scale * width), 1)
    small = _resize(image, seen)
    if tile is None:
        tile = seen if seen[0] * seen[1] <= WHOLE_PIXELS else WINDOW
    tile = min(tile[0], seen[0]), min(tile[1], seen[1])
    if seen[1] <= seen[0] or tile == seen:
        return _segment(predict, small, (height, width), tile, overlap)

    def predict_turned(pixels: np.ndarray) -> np.ndarray:
        return np.swapaxes(predict(np.ascontiguousarray(np.swapaxes(pixels, 1, 2))), 1, 2)

    turned = np.swapaxes(small, 0, 1)
    classes = _segment(predict_turned, turned, (width, height), tile[::-1], overlap)
    return np.ascontiguousarray(classes.T)


def _segment(
    predict: Predict, image: np.ndarray, size: Size, tile: Size, overlap: float
) -> np.ndarray:
    """Segments an image at the network's scale, uint8 [h, w, 3], into classes uint8 of `size`."""
    height, width = image.shape[:2]
    tops, lefts = (
        _starts(side, window, overlap) for side, window in zip((height, width), tile, strict=True)
    )
    down, across = _weights(tops, tile[0], height), _weights(lefts, tile[1], width)
    rows = _RowsOfClasses((height, width), size)
    band = np.zeros(0, np.float32)
    for number, top in enumerate(tops):
        for column, left in enumerate(lefts):
            window = image[np.newaxis, top : top + tile[0], left : left + tile[1]]
            logits = predict(window.astype(np.float32) / 255.0)
            found = tf.nn.softmax(tf.cast(logits, tf.float32))[0].numpy()  # [h, w, K]
            if not band.size:
                # One row more than the windows have: the last that the band before has finished.
                band = np.zeros((tile[0] + 1, width, found.shape[-1]), np.float32)
            share = down[number][:, np.newaxis] * across[column]  # [h, w]
            band[1:, left : left + tile[1]] += found * share[..., np.newaxis]
        after = tops[number + 1] if number + 1 < len(tops) else height
        finished = after - top
        rows.add(band[: finished + 1], top - 1)
        band[: tile[0] + 1 - finished] = band[finished:]
        band[tile[0] + 1 - finished :] = 0.0
    return rows.classes


class _RowsOfClasses:
    """Turns probabilities at the network's scale, as their rows are finished, into classes.

    Args:
        seen: (h, w) at the network's scale.
        size: (H, W) of the image.
    """

    def __init__(self, seen: Size, size: Size) -> None:
        self.seen = seen
        self.classes = np.zeros(size, np.uint8)
        self._rows, self._columns = (
            _neighbours(side, count) for side, count in zip(seen, size, strict=True)
        )
        self._done = 0

    def add(self, probabilities: np.ndarray, first: int) -> None:
        """Takes finished rows, float32 [n, w, K], of which the first has the number `first`."""
        lower, upper, _ = self._rows
        end = int(np.searchsorted(upper, first + len(probabilities)))
        elements = max(probabilities.shape[1], self.classes.shape[1]) * probabilities.shape[2]
        step = max(PART_ELEMENTS // elements, 1)
        for start in range(self._done, end, step):
            part = slice(start, min(start + step, end))
            if self.seen == self.classes.shape:
                found = probabilities[lower[part] - first]
            else:
                found = _between(probabilities, 0, self._rows, part, first)
                found = _between(found, 1, self._columns, slice(None), 0)
            self.classes[part] = found.argmax(axis=-1)
        self._done = max(end, self._done)


def _resize(image: np.ndarray, size: Size) -> np.ndarray:
    return image if image.shape[:2] == size else resize_pixels(image, size)


def _starts(side: int, window: int, overlap: float) -> list[int]:
    """Returns where the windows along a side begin: the first at 0, the last flush with the end."""
    stride = max(int(window * (1.0 - overlap)), 1)
    gaps = -(-(side - window) // stride)
    return [number * (side - window) // max(gaps, 1) for number in range(gaps + 1)]


def _weights(starts: list[int], window: int, side: int) -> np.ndarray:
    """Returns tents over the windows along a side, float32 [windows, window]; they add up to 1."""
    place = np.arange(window) + 0.5
    tent = np.minimum(place, window - place)
    total = np.zeros(side)
    for start in starts:
        total[start : start + window] += tent
    return np.array([tent / total[start : start + window] for start in starts], np.float32)


def _neighbours(seen: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns between which two of `seen` pixels each of `count` lies, and the second's share."""
    place = np.clip((np.arange(count) + 0.5) * seen / count - 0.5, 0, seen - 1)
    lower = place.astype(np.int64)
    return lower, np.minimum(lower + 1, seen - 1), (place - lower).astype(np.float32)


def _between(
    values: np.ndarray,
    axis: int,
    neighbours: tuple[np.ndarray, np.ndarray, np.ndarray],
    part: slice,
    first: int,
) -> np.ndarray:
    """Interpolates along an axis of [rows, columns, K]; its first entry has the number `first`."""
    lower, upper, share = (array[part] for array in neighbours)
    weight = share.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    found = values.take(lower - first, axis)
    found += weight * (values.take(upper - first, axis) - found)
    return found
