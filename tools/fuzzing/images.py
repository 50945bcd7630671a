"""Image and mask files: broken bytes, and headers that claim what is not there."""

from __future__ import annotations

import functools
import io
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from fuzzing.broken import broken
from fuzzing.case import Case, Wrong
from simclr_tf import data
from simclr_tf.augment import Recipe
from simclr_tf.data.images import read_image, read_windows
from simclr_tf.data.masks import MaskRules
from simclr_tf.errors import UserError, take_kept

SIZE = (16, 16)  # that images are brought to
SIDES = (0, 1, 7, 4000, 16383, 30000, 65535, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
COLOURS = np.array([[0, 0, 0], [85, 85, 85], [170, 170, 170], [255, 255, 255]], np.uint8)
# The extension does not decide how a file is read.
EXTENSIONS = (".jpg", ".png", ".gif", ".bmp", ".webp")
ALL_OF_IT, SMALL = np.array([[0, 0, 1, 1, 0]], np.float32), (8, 8)  # a JPEG is shrunk as it decodes
PIPELINE_SHARE = 0.05  # of the cases that go through TensorFlow's pipeline too


def image(rng: np.random.Generator, folder: Path) -> Case:
    """An image, read as for training, evaluation and --task=check."""
    names = [*_valid_images()]
    name = names[rng.integers(len(names))]
    content, how = _break_image(rng, _valid_images()[name], name)
    extension = str(rng.choice(EXTENSIONS)) if rng.random() < 0.1 else f".{name.split('_')[0]}"
    file = folder / "images" / f"bröken {rng.integers(1000)}{extension}"
    file.parent.mkdir()
    file.write_bytes(content)
    draw = rng.random()
    windows = rng.random((2, 5)).astype(np.float32)
    windows[:, 2:4] *= 1 - windows[:, :2]
    windows[:, 4] = windows[:, 4] > 0.5
    first, second = ("read", "windows") if rng.random() < 0.5 else ("windows", "read")

    def read() -> None:
        source = data.load(f"folder:{file.parent}", cache="false").train
        if draw < PIPELINE_SHARE:
            _through_pipeline(source, views=draw < PIPELINE_SHARE / 2)
        for way in (first, second):
            found = source.read(0) if way == "read" else source.read_windows(0, ALL_OF_IT, SMALL)
            if found.dtype != np.uint8 or way == "read" and found.shape[:2] != source.image_size:
                raise Wrong(f"{found.dtype} {found.shape} of {source.image_size}")
            if how == "cut" and not np.array_equal(found, _valid_pixels(name)[way]):
                raise Wrong(f"a file that is cut off was taken for whole ({way})")
        source.read_windows(0, windows, SIZE)

    return Case(file, f"{name}: {how}", read)


def mask(rng: np.random.Generator, folder: Path) -> Case:
    """A mask beside a whole image, with or without a table of colours."""
    names = [*_valid_masks()]
    name = names[rng.integers(len(names))]
    content, how = _break_image(rng, _valid_masks()[name], "png")
    coded = name == "colours" or rng.random() < 0.1
    rules = MaskRules(ignore_label=255, colours=COLOURS if coded else None)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for stem in ("a", "b"):
        Image.new("RGB", (24, 20)).save(folder / "images" / f"{stem}.bmp")
    (folder / "masks" / "b.png").write_bytes(_valid_masks()["colours" if coded else "gray"])
    file = folder / "masks" / "a.png"
    file.write_bytes(content)

    def read() -> None:
        train = data.load(f"folder:{folder}", cache="false", masks=rules).train
        values = train.read_mask(0)
        if values.dtype != np.uint8 or values.shape != (20, 24):
            raise Wrong(f"{values.dtype} {values.shape}")

    return Case(file, f"{name}: {how}", read)


def _through_pipeline(source: data.Source, *, views: bool) -> None:
    """Reads a file as training, or evaluation, does; an error is as the command line gives it."""
    try:
        if views:
            made = data.two_views(source, batch_size=1, recipe=Recipe(), seed=0, size=SIZE)
        else:
            made = data.plain_batches(source, batch_size=1, size=SIZE)
        for _ in made:
            pass
    except UserError:
        raise
    except Exception as error:
        kept = take_kept()
        if kept is None:
            raise
        raise kept from error


def _break_image(rng: np.random.Generator, content: bytes, name: str) -> tuple[bytes, str]:
    choice = rng.random()
    if choice < 0.2:
        return _claim_size(rng, content), "claimed size"
    if choice < 0.23:
        return _postscript(), "PostScript"
    if choice < 0.28:
        return content, "whole"
    return broken(rng, content)


def _claim_size(rng: np.random.Generator, content: bytes) -> bytes:
    """Writes another height and width into a header, with its checksum where it has one."""
    width, height = (int(rng.choice(SIDES)) for _ in range(2))
    if content.startswith(b"\x89PNG"):
        deep = bytes(rng.choice([content[24:29], bytes([16, 6, 0, 0, 0]), bytes([1, 3, 0, 0, 1])]))
        header = b"IHDR" + struct.pack(">II", width, height) + deep.ljust(5, b"\0")
        return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    if content.startswith(b"GIF"):
        sides = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
        content = content[:6] + sides + content[10:]
        frame = content.find(b"\x2c", 13 + 3 * 2)
        if rng.random() < 0.5 and frame > 0:
            content = content[: frame + 5] + sides + content[frame + 9 :]
        return content
    if content.startswith(b"BM"):
        return content[:18] + struct.pack("<II", width, height) + content[26:]
    if content.startswith(b"\xff\xd8"):
        place = next(content.find(m) for m in (b"\xff\xc0", b"\xff\xc2") if content.find(m) > 0)
        sides = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
        return content[: place + 5] + sides + content[place + 9 :]
    place = content.find(b"VP8X")
    if place > 0:
        sides = struct.pack("<I", width)[:3] + struct.pack("<I", height)[:3]
        return content[: place + 12] + sides + content[place + 18 :]
    return content[:20] + rng.bytes(16) + content[36:]


def _postscript() -> bytes:
    """A program, which must not be run: Pillow would start an interpreter for it."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@functools.cache
def _valid_images() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    low = rng.integers(0, 256, (6, 8, 3), np.uint8)
    colour = Image.fromarray(low).resize((48, 40), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: dict[str, tuple[Image.Image, dict]] = {
        "jpg": (colour, {"quality": 90}),
        "jpg_progressive": (colour, {"quality": 90, "progressive": True}),
        "jpg_gray": (colour.convert("L"), {}),
        "jpg_cmyk": (colour.convert("CMYK"), {}),
        "jpg_exif": (colour, {"exif": exif, "icc_profile": b"profile" * 9}),
        "png": (colour, {}),
        "png_alpha": (colour.convert("RGBA"), {}),
        "png_palette": (colour.quantize(9), {"transparency": 3}),
        "png_16": (Image.fromarray(np.asarray(colour)[..., 0].astype(np.uint16) * 257), {}),
        "gif": (colour.quantize(16), {}),
        "gif_moving": (
            colour.quantize(16),
            {"save_all": True, "append_images": [colour.rotate(9).quantize(16)]},
        ),
        "bmp": (colour, {}),
        "bmp_palette": (colour.quantize(9), {}),
        "webp": (colour, {"quality": 80}),
        "webp_lossless": (colour.convert("RGBA"), {"lossless": True, "exif": exif}),
    }
    return {name: _written(picture, name, o) for name, (picture, o) in variants.items()}


@functools.cache
def _valid_masks() -> dict[str, bytes]:
    values = np.arange(20 * 24, dtype=np.uint8).reshape(20, 24) // 128
    indexed = Image.fromarray(values)
    indexed.putpalette(bytes(range(48)))
    masks = {
        "gray": Image.fromarray(values),
        "indexed": indexed,
        "bits": Image.fromarray(values > 1),
        "colours": Image.fromarray(COLOURS[values]),
    }
    return {name: _written(picture, "png", {}) for name, picture in masks.items()}


def _written(picture: Image.Image, name: str, options: dict) -> bytes:
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG"}.get(name.split("_")[0], name.split("_")[0].upper())
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def _valid_pixels(name: str) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole"
        path.write_bytes(_valid_images()[name])
        return {"read": read_image(path), "windows": read_windows(path, ALL_OF_IT, SMALL)}
