"""Reading one image file, whole or a few windows of it: every common format and mode to RGB."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from simclr_tf.data.members import Member, open_bytes
from simclr_tf.errors import OutOfMemoryError, UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
T = TypeVar("T")
_ORIENTATION = 0x0112  # EXIF tag
# How pixels as stored become the image: by orientation, which of the steps are taken, in order.
_TURN_STEPS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.FLIP_LEFT_RIGHT,
)
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_JPEG_SCALES = (8, 4, 2)  # the decoder can shrink by these
_PILLOWS_LIMIT = Image.MAX_IMAGE_PIXELS or 0
_BYTES_PER_PIXEL = 16  # that decoding takes at most: of transparent pixels, with copies
_HEAD = 512  # bytes of a file that is no image, to say what it is
# How files begin that people have among their images, and what they are called.
_FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer, fetch the file with `git lfs pull`",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "XML text",
    b"<svg": "an SVG drawing",
    b"%pdf": "a PDF",
    b"pk\x03\x04": "a ZIP archive",
}


class BadFile(UserError):
    """A file that is no image, or not one that is read.

    Attributes:
        kind: "missing", "broken link", "unreadable", "empty", "no image", "damaged" or "too large".
        reason: What is wrong with it, in a few words.
    """

    def __init__(self, message: str, *, kind: str, reason: str) -> None:
        super().__init__(message)
        self.kind, self.reason = kind, reason


def limit_pixels(most: int) -> None:
    """Sets, for this process, the most pixels that an image's header may claim; 0: Pillow's limit.

    A file that claims more is bad, wherever it is read.
    """
    Image.MAX_IMAGE_PIXELS = most or _PILLOWS_LIMIT
    # Pillow warns of what `open_image` refuses.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(path: str | Path) -> np.ndarray:
    """Reads an image as RGB.

    JPEG, PNG, BMP, GIF (first frame) and WebP. Transparency is laid on white, 16-bit grays are
    scaled to 8 bits, palette, gray and CMYK images become RGB, and an EXIF orientation is carried
    out.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: The file is missing, is no image, is cut off, or is too large to be one.
    """

    def whole(image: Image.Image) -> np.ndarray:
        load_pixels(image)  # before the orientation is asked for: Pillow turns a TIFF as it loads
        return np.asarray(_to_rgb(upright(image)))

    return open_image(path, whole)


def read_windows(path: str | Path, windows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Reads V windows of an image, each resized to `size`: the file is decoded once for all.

    Equal to `augment.crop_resize` of `read_image`, rounded, within one level. Only of a
    JPEG whose windows all shrink to half or less, the decoder does the first part of the
    shrinking, by 2, 4 or 8, which costs less and differs by less than a level on average, more at
    sharp edges. The smallest window sets that scale; but for it, no window depends on the others.

    Args:
        path: The image's file, as for `read_image`.
        windows: float32 [V, 5]: top, left, height and width in shares of the image's sides, and 1
            where the window is mirrored left-right, else 0.
        size: (h, w) of the results in pixels.

    Returns:
        uint8 [V, h, w, 3].

    Raises:
        UserError: As `read_image`.
    """

    def cut(image: Image.Image) -> np.ndarray:
        extent = _load_shrunk(image, windows, size)
        turn = _turn_of(image)
        # Gray stays gray until it is small.
        pixels = image if image.mode == "L" and not is_transparent(image) else _to_rgb(image)
        return np.stack([_cut(pixels, extent, window, turn, size) for window in windows.tolist()])

    return open_image(path, cut)


def read_header(path: str | Path) -> tuple[int, int]:
    """Returns (height, width) in pixels as `read_image` would give them, without decoding."""

    return open_image(path, size_of)


def size_of(image: Image.Image) -> tuple[int, int]:
    """Returns (height, width) of an image that is open, upright, without decoding it."""
    width, height = image.size
    if isinstance(image, PngImageFile) and not _may_be_turned(image):
        return height, width
    transposed, _, _ = _turn_of(image)
    return (width, height) if transposed else (height, width)


def load_pixels(image: Image.Image) -> None:
    """Decodes an open image; raises ValueError where its pixels cannot be made RGB."""
    image.load()
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no known range")


def resize_pixels(
    pixels: np.ndarray,
    size: tuple[int, int],
    method: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Resizes uint8 [H, W, C] or [H, W] to `size`, (h, w) in pixels; antialiased where it shrinks.

    Channels know nothing of each other: four would be taken for colours with their opacity.
    """
    return _each_channel(pixels, lambda plane: plane.resize(size[::-1], method))


def _each_channel(pixels: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    if pixels.ndim == 2 or pixels.shape[-1] == 3:
        return np.asarray(change(Image.fromarray(pixels)))
    planes = (np.ascontiguousarray(pixels[..., c]) for c in range(pixels.shape[-1]))
    return np.stack([np.asarray(change(Image.fromarray(plane))) for plane in planes], axis=-1)


def resize_to_fill(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cuts an image to the aspect of `size` about its centre and resizes it, antialiased.

    Args:
        image: uint8 [H, W, C].
        size: (h, w) in pixels.

    Returns:
        uint8 [h, w, C].
    """
    if image.shape[:2] == tuple(size):
        return image
    bilinear = Image.Resampling.BILINEAR
    return _each_channel(image, lambda plane: ImageOps.fit(plane, size[::-1], method=bilinear))


def open_image(path: str | Path, use: Callable[[Image.Image], T], *, kind: str = "an image") -> T:
    """Opens a file and returns `use(image)`, every failure turned into a UserError.

    Args:
        path: The image's file, or a `Member` of one.
        use: Called with the image, not decoded yet.
        kind: "an image", or "a mask", which no flag leaves out; for the messages.

    Raises:
        UserError: The file is bad, or `use` raises one.
        OutOfMemoryError: There is not enough memory, which no flag leaves files out for.
    """
    leave_out = ", or pass `skip_bad_images` to leave it out" if kind == "an image" else ""
    mend = f"Mend or remove the file{leave_out}."
    try:
        num_bytes = _count_bytes(path)
        with Image.open(path.open() if isinstance(path, Member) else path) as image:
            if image.format == "EPS":  # a program, which Pillow would have an interpreter run
                raise UnidentifiedImageError
            # Pillow refuses twice its limit and warns below; a warning turned into an error would
            # leak to the process, as filters are not kept per thread.
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError(f"{image.width * image.height} pixels")
            # All in one block: between blocks the decoder would wait for the interpreter's lock.
            image.decodermaxblock = max(image.decodermaxblock, num_bytes)
            return use(image)
    except UserError:
        raise
    except FileNotFoundError:
        if os.path.islink(path):
            fault, reason = "broken link", f"it links to {os.readlink(path)}, which is not there"
        else:
            message = f"Expected {kind} at {path}, got no such file. Correct the path."
            raise BadFile(message, kind="missing", reason="no such file") from None
    except Image.DecompressionBombError as error:
        claimed = re.search(r"(\d+) pixels", str(error))
        reason = f"{int(claimed[1]):,} pixels by its header" if claimed else "by its header"
        raise BadFile(
            f"Expected {kind} of at most {Image.MAX_IMAGE_PIXELS:,} pixels, got {path} ({reason}). "
            f"Reduce it, pass a larger `max_pixels`{leave_out}.",
            kind="too large",
            reason=reason,
        ) from None
    except UnidentifiedImageError:
        fault, reason = _say_what(path)
    except MemoryError:
        fault, reason = _blame_for_memory(path, kind)
    # Pillow's decoders raise almost anything for cut-off and damaged files.
    except Exception as error:
        number = getattr(error, "errno", None)  # the system's
        fault = "broken link" if number == errno.ELOOP else "unreadable" if number else "damaged"
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    raise BadFile(
        f"Expected {kind} that decodes, got {path} ({reason}). {mend}", kind=fault, reason=reason
    )


def _count_bytes(path: str | Path) -> int:
    """Returns a file's length; raises OSError where it is no regular one, or a link to none.

    Raises MemoryError for a member that unpacks to more than an image needs.
    """
    if isinstance(path, Member):
        if path.size > _BYTES_PER_PIXEL * (Image.MAX_IMAGE_PIXELS or _PILLOWS_LIMIT):
            raise MemoryError
        return path.size
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
        raise OSError(errno.EINVAL, "no regular file, but a folder, a pipe or a device")
    return status.st_size


def _blame_for_memory(path: str | Path, kind: str) -> tuple[str, str]:
    """Returns kind and reason of a file that asks for more memory than an image needs.

    A damaged file may claim a chunk of gigabytes. Where there is no room for the largest image
    either, the machine is to blame: OutOfMemoryError.
    """
    try:
        np.empty(_BYTES_PER_PIXEL * (Image.MAX_IMAGE_PIXELS or _PILLOWS_LIMIT), np.uint8)
    except MemoryError:
        raise OutOfMemoryError(
            f"Expected memory to decode {kind} at {path}, got no more of it. Free some, or shrink "
            "the file; a smaller `max_pixels` counts large ones as bad."
        ) from None
    return "damaged", "it asks for more memory than an image needs"


def _say_what(path: str | Path) -> tuple[str, str]:
    """Returns kind and reason of a file that Pillow knows no format for."""
    with open_bytes(path) as file:
        head = file.read(_HEAD)
    if not head:
        return "empty", "the file is empty"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = next((name for begins, name in _FOREIGN.items() if start.startswith(begins)), "")
    if not found and not start.strip(b"\0"):
        found = "nothing but zeros, as after a transfer that failed"
    if not found and b"\0" not in head and head.isascii():
        found = "text"
    return "no image", f"no known image format{f': it is {found}' if found else ''}"


def upright(image: Image.Image) -> Image.Image:
    """Carries out the EXIF orientation of a decoded image."""
    return _turned(image, _turn_of(image))


def _turn_of(image: Image.Image) -> tuple[bool, bool, bool]:
    return _TURNS.get(image.getexif().get(_ORIENTATION, 1), _TURNS[1])


def _may_be_turned(image: PngImageFile) -> bool:
    """Tells whether an open PNG holds an orientation, at the cost of its chunks' headers.

    Pillow would decode the whole image first, as the orientation may stand behind the pixels.
    """
    if {"exif", "Raw profile type exif", "XML:com.adobe.xmp"} & image.info.keys():
        return True
    file = cast(IO[bytes], image.fp)  # there until the pixels are decoded
    place = file.tell()  # where the decoder will go on
    try:
        return _names_orientation(file)
    finally:
        file.seek(place)


def _names_orientation(file: IO[bytes]) -> bool:
    """Tells whether the chunks of a PNG file name an orientation; leaves the file anywhere."""
    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", header)
        if name == b"eXIf":
            return True
        key = file.read(min(length, 32)) if name in (b"tEXt", b"zTXt", b"iTXt") else b""
        if key.startswith((b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")):
            return True
        file.seek(length - len(key) + 4, os.SEEK_CUR)
    return False


def _turned(image: Image.Image, turn: tuple[bool, bool, bool]) -> Image.Image:
    for needed, method in zip(turn, _TURN_STEPS, strict=True):
        if needed:
            image = image.transpose(method)
    return image


def _load_shrunk(
    image: Image.Image, windows: np.ndarray, size: tuple[int, int]
) -> tuple[float, float]:
    """Decodes a JPEG at the smallest scale at which no window is enlarged, others as they are.

    Returns (width, height) in pixels now, fractions where the scale does not divide the sides.
    """
    transposed, _, _ = _turn_of(image)
    height, width = image.size if transposed else image.size[::-1]  # as the windows count them
    shrink = min((windows[:, 2] * height / size[0]).min(), (windows[:, 3] * width / size[1]).min())
    scale = next((s for s in _JPEG_SCALES if s <= shrink), 1)
    drafted = None
    if scale > 1:
        drafted = image.draft(None, (image.width // scale, image.height // scale))
    load_pixels(image)
    return drafted[1][2:] if drafted else image.size


def _cut(
    pixels: Image.Image,
    extent: tuple[float, float],
    window: list[float],
    turn: tuple[bool, bool, bool],
    size: tuple[int, int],
) -> np.ndarray:
    """Cuts one window, given in the image as it is seen, out of the pixels as they are stored."""
    top, left, height, width, flip = window
    transposed, flipped, mirrored = turn
    if flipped:
        top = 1 - top - height
    if mirrored:
        left = 1 - left - width
    if transposed:
        top, left, height, width, size = left, top, width, height, size[::-1]
    right, bottom = min(left + width, 1.0) * extent[0], min(top + height, 1.0) * extent[1]
    box = max(left, 0.0) * extent[0], max(top, 0.0) * extent[1], right, bottom
    # Pillow's resampling is that of `augment.resampling`: a triangle widened where the window
    # shrinks, which reaches beyond the window and is cut at the edge of the image.
    view = pixels.resize(size[::-1], Image.Resampling.BILINEAR, box)
    return np.asarray(_to_rgb(_turned(view, (transposed, flipped, mirrored != bool(flip)))))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _scale_to_8_bits(image).convert("RGB")
    if is_transparent(image):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def is_transparent(image: Image.Image) -> bool:
    """Tells whether pixels may be transparent, by mode or by a colour that stands for it."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float32)  # 0 to 65535
    return Image.fromarray(np.rint(np.clip(values / 257.0, 0, 255)).astype(np.uint8))
