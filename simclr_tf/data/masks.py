"""Masks: the class of every pixel of an image, uint8 [H, W], and the files they come in."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from simclr_tf.counting import spell_number
from simclr_tf.data.images import open_image, upright
from simclr_tf.data.lines import read_lines
from simclr_tf.errors import UserError

MOST_CLASSES = 256
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")  # some can be exact, which none tells
# Pillow spreads grays of fewer bits over 0..255; in a mask they are numbers of classes.
_GRAY_STEPS = {"L;2": 85, "L;4": 17}


class NoColourTable(UserError):
    """A colour-coded mask, and no table that says which class a colour is.

    Attributes:
        pixels: The pixels of each of its colours, 'red green blue', of the `MOST_CLASSES` + 1 most
            frequent ones.
    """

    def __init__(self, message: str, pixels: Counter[str]) -> None:
        super().__init__(message)
        self.pixels = pixels


@dataclasses.dataclass(frozen=True)
class MaskRules:
    """What the masks of a data set may hold.

    Attributes:
        num_classes: K, values are 0 to K-1; 0: as many as there are colours, or counted.
        ignore_label: The value, 0 to 255, of pixels that do not count; None: all do.
        colours: The colour of each class in colour-coded masks, uint8 [R, 3].
        class_names: Names of the classes from 0; others are called by their number.
    """

    num_classes: int = 0
    ignore_label: int | None = None
    colours: np.ndarray | None = None
    class_names: tuple[str, ...] = ()


def read_colour_table(path: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads a table of colours: a line `R G B name` for each class, from class 0.

    Between the numbers are blanks or commas. The name may hold blanks or be left out; blank lines
    and what follows a # are left aside.

    Returns:
        Colours uint8 [R, 3], and R names, the row's number where there is none.

    Raises:
        UserError: The file or a line is wrong; it names the line.
    """
    rows: dict[tuple[int, ...], str] = {}  # colour -> where it stands
    names: dict[str, str] = {}
    for where, line, _ in read_lines(path, "a table of colours"):
        *numbers, name = (re.split(r"[,\s]+", line.split("#")[0].strip(), maxsplit=3) + [""])[:4]
        if len(numbers) < 3 or not all(n.isdecimal() and int(n) <= 255 for n in numbers):
            raise UserError(
                f"{where}: expected three numbers 0..255 and a name, such as '128 64 0 road', got "
                f"{line!r}. Correct the line."
            )
        colour, name = tuple(map(int, numbers)), name.strip() or str(len(rows))
        for earlier, what in ((rows.get(colour), _spell(colour)), (names.get(name), repr(name))):
            if earlier:
                raise UserError(
                    f"{where}: expected a colour and a name of its own for each class, got {what} "
                    f"again, as in {earlier}. Correct one of the lines."
                )
        rows[colour] = names[name] = where
    if not 0 < len(rows) <= MOST_CLASSES:
        raise UserError(
            f"Expected 1 to {MOST_CLASSES} lines `red green blue name` in {path}, got {len(rows)}. "
            "Write a line for each class."
        )
    return np.array(list(rows), np.uint8), tuple(names)


def read_mask(path: str | Path, colours: np.ndarray | None = None) -> np.ndarray:
    """Reads a mask.

    Indices into a palette are the values, whatever its colours are; so are the levels of grays of
    1, 2, 4, 8 or 16 bits, and of RGB where all three channels agree. With a table of colours, RGB
    and gray pixels are looked up in it. Transparency is left aside, and an EXIF orientation is
    carried out.

    Args:
        path: The mask's file: any image without loss, such as PNG.
        colours: uint8 [R, 3].

    Returns:
        uint8 [H, W].

    Raises:
        UserError: The file does not decode, is a JPEG, or holds other values or colours.
    """

    def values(image: Image.Image) -> np.ndarray:
        stored = str(image.tile[0][3]) if image.tile else ""  # known until it is decoded
        _check_exact(image, stored, path)
        image.load()
        pixels = np.asarray(upright(image))
        if image.mode == "P":
            return pixels
        if image.mode == "PA":
            return pixels[..., 0]
        if image.mode in ("LA", "RGBA"):
            pixels = pixels[..., :-1]
        if colours is None:
            pixels = pixels // _GRAY_STEPS.get(stored, 1)
        elif image.mode == "1":
            pixels = np.where(pixels, np.uint8(255), np.uint8(0))
        return values_of(pixels, colours, str(path))

    return open_image(path, values, kind="a mask")


def _check_exact(image: Image.Image, stored: str, path: str | Path) -> None:
    """Raises UserError where the pixels, or what Pillow makes of them, are not what was drawn.

    Args:
        image: Not decoded yet.
        stored: Pillow's name for the pixels as they are in the file.
        path: The file.
    """
    if image.format in _LOSSY:
        raise UserError(
            f"{path}: expected a mask of exact values, got {image.format}, whose values may be "
            "blurred. Make it again from the original as PNG."
        )
    whole_numbers = image.mode.startswith("I")
    if stored.endswith(";16B") and not whole_numbers:  # Pillow drops the low byte
        raise UserError(
            f"{path}: expected a mask of 8 bits a channel, got 16. Save it as 8-bit PNG."
        )
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA") and not whole_numbers:
        raise UserError(
            f"{path}: expected a gray, palette or RGB mask, got the mode {image.mode}. Save it as "
            "8-bit PNG."
        )


def values_of(pixels: np.ndarray, colours: np.ndarray | None, name: str) -> np.ndarray:
    """Turns pixels of a mask into values: gray or equal channels as they are, colours by table.

    Args:
        pixels: Integers or bool [H, W], [H, W, 1] or [H, W, 3].
        colours: uint8 [R, 3]; a gray v is looked up as (v, v, v). None: there is no table.
        name: What messages call the mask.

    Returns:
        uint8 [H, W].

    Raises:
        UserError: A value is outside 0..255, or a colour not in the table, or there is none.
    """
    pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    wrong = (pixels < 0) | (pixels > 255)
    if wrong.any():
        value = pixels[wrong][0]
        raise UserError(
            f"{name}: value {value} {spell_pixels((pixels == value).any(-1))} is outside 0..255. "
            "Mend the mask."
        )
    if colours is not None:
        return _look_up(pixels, colours, name)
    odd = (pixels != pixels[..., :1]).any(-1)
    if odd.any():
        colour = pixels[odd][0]
        raise NoColourTable(
            f"{name}: expected the number of a class in every pixel, got the colour "
            f"{_spell(colour)} {spell_pixels((pixels == colour).all(-1))}. Pass "
            "`mask_colors=FILE`, a table with a line `red green blue name` for each class.",
            _count_colours(pixels),
        )
    return pixels[..., 0].astype(np.uint8)


def _look_up(pixels: np.ndarray, colours: np.ndarray, name: str) -> np.ndarray:
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    known, asked = _codes(colours), _codes(pixels)
    order = np.argsort(known)
    places = np.searchsorted(known, asked, sorter=order)
    rows = order.astype(np.uint8).take(places, mode="clip")
    found = known[rows] == asked
    if not found.all():
        unknown = pixels[~found][0]
        colour = _spell(unknown)
        raise UserError(
            f"{name}: colour {colour} {spell_pixels((pixels == unknown).all(-1))} is not in the "
            f"table of `mask_colors`. Add the line `{colour} name` to it, or mend the mask."
        )
    return rows


def _codes(colours: np.ndarray) -> np.ndarray:
    """Makes one number of each colour: [..., 3] -> int32 [...]."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def _count_colours(pixels: np.ndarray) -> Counter[str]:
    colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    most = np.argsort(-counts, kind="stable")[: MOST_CLASSES + 1]
    return Counter({_spell(colours[index]): int(counts[index]) for index in most})


def _spell(colour: tuple[int, ...] | np.ndarray) -> str:
    return " ".join(str(int(level)) for level in colour)


def spell_pixels(chosen: np.ndarray) -> str:
    """Says how many pixels are chosen, bool [H, W], and where: "(37 pixels, the first at ...)"."""
    row, column = np.argwhere(chosen)[0]
    count = int(chosen.sum())
    if count == 1:
        return f"(1 pixel, at row {row}, column {column})"
    return f"({spell_number(count, 'pixel')}, the first at row {row}, column {column})"


def resize_mask_to_fill(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`images.resize_to_fill` for masks: the same window, each pixel that under its centre.

    Args:
        mask: uint8 [H, W].
        size: (h, w) in pixels.

    Returns:
        uint8 [h, w].
    """
    if mask.shape == tuple(size):
        return mask
    fitted = ImageOps.fit(
        Image.fromarray(mask), (size[1], size[0]), method=Image.Resampling.NEAREST
    )
    return np.asarray(fitted)


def crop_masks(mask: np.ndarray, windows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cuts V windows out of a mask: equal to `augment.crop.crop_nearest`.

    Args:
        mask: uint8 [H, W].
        windows: float32 [V, 5], as for `images.read_windows`.
        size: (h, w) of the results in pixels.

    Returns:
        uint8 [V, h, w].
    """
    top, left, height, width, flip = windows.astype(np.float32).T[..., np.newaxis]  # [V, 1] each

    def under(start: np.ndarray, extent: np.ndarray, mirror: np.ndarray, axis: int) -> np.ndarray:
        # In float32 and in the order of `crop_nearest`: a centre may lie just beside a border.
        source, target = mask.shape[axis], size[axis]
        steps = (np.arange(target, dtype=np.float32) + 0.5) / target
        steps = np.where(mirror, 1 - steps, steps)  # [V, t]
        centres = (start + extent * steps) * source
        return np.clip(np.floor(centres).astype(np.int32), 0, source - 1)

    rows = under(top, height, np.zeros_like(flip), 0)
    columns = under(left, width, flip, 1)
    return mask[rows[:, :, np.newaxis], columns[:, np.newaxis, :]]
