"""Reading one image file: every common format and mode to RGB."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from simclr_tf.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
T = TypeVar("T")
_ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 turn the image by a quarter


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
    return np.asarray(_open(path, _to_rgb))


def read_header(path: str | Path) -> tuple[int, int]:
    """Returns (height, width) in pixels as `read_image` would give them, without decoding."""

    def size(image: Image.Image) -> tuple[int, int]:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) >= 5
        return (width, height) if turned else (height, width)

    return _open(path, size)


def resize_to_fill(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cuts an image to the aspect of `size` about its centre and resizes it, antialiased.

    Args:
        image: uint8 [H, W, 3].
        size: (h, w) in pixels.

    Returns:
        uint8 [h, w, 3].
    """
    if image.shape[:2] == tuple(size):
        return image
    fitted = ImageOps.fit(
        Image.fromarray(image), (size[1], size[0]), method=Image.Resampling.BILINEAR
    )
    return np.asarray(fitted)


def _open(path: str | Path, use: Callable[[Image.Image], T]) -> T:
    """Opens a file and returns `use(image)`, every failure turned into a UserError."""
    try:
        with Image.open(path) as image:
            # Pillow refuses twice its limit and warns below; a warning turned into an error would
            # leak to the process, as filters are not kept per thread.
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError
            return use(image)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(
            f"Expected an image at {path}, got no such file. Correct the path."
        ) from None
    except Image.DecompressionBombError:
        raise UserError(
            f"Expected an image of at most {Image.MAX_IMAGE_PIXELS:,} pixels, got more in {path}. "
            "Reduce it, or pass --skip_bad_images to leave it out."
        ) from None
    except UnidentifiedImageError:
        reason = "the file is empty" if Path(path).stat().st_size == 0 else "no known image format"
        raise _undecodable(path, reason) from None
    # Pillow's decoders raise these for cut-off and damaged files.
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        TypeError,
        ArithmeticError,
    ) as e:
        raise _undecodable(path, str(e) or type(e).__name__) from None


def _undecodable(path: str | Path, reason: str) -> UserError:
    return UserError(
        f"Expected an image that decodes, got {path} ({reason}). Mend or remove the file, or pass "
        "--skip_bad_images to leave it out."
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _scale_to_8_bits(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no known range")
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if transparent:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float32)  # 0 to 65535
    return Image.fromarray(np.rint(np.clip(values / 257.0, 0, 255)).astype(np.uint8))
