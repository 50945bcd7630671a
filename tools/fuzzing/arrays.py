"""Sets as .npz files: broken archives, headers that lie, arrays of every kind."""

from __future__ import annotations

import functools
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fuzzing.broken import broken
from fuzzing.case import Case, Wrong
from simclr_tf import data
from simclr_tf.data.check.arrays import check_npz
from simclr_tf.data.masks import MaskRules
from simclr_tf.data.sets.arrays import UnreadableArchive, npz_holds_masks
from simclr_tf.errors import UserError

HEADERS = (
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 32, 32, 3), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807, 9, 9, 3), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (30000, 300, 300, 3), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8, 3), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 8, 8, 3), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 0, 8, 3), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (4L, 8, 8, 3), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': 4}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (4,), }",
    "{'descr': '<f99', 'fortran_order': False, 'shape': (4,), }",
    "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (4,), }",
    "{'descr': '|V2147483647', 'fortran_order': False, 'shape': (4, 8, 8, 3), }",
    "{'descr': '<U1000000', 'fortran_order': False, 'shape': (4, 8, 8, 3), }",
    "{'fortran_order': False, 'shape': (4, 8, 8, 3), }",
    "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (4,), }",
    "(" * 3000, "{" + "'a': 1, " * 500, "", "{'descr'", "'''", "\0", "0o9", "    x\n  y",
)  # fmt: skip
NAMES = ("../x_train", "/x_train", "x_train\0", "", "x_train/", "é", "\ud7ff", "x" * 3000)


def npz(rng: np.random.Generator, folder: Path) -> Case:
    """An .npz file, with labels or with masks."""
    file = folder / "set.npz"
    masked = rng.random() < 0.2
    wanted: tuple[np.ndarray, np.ndarray | None] | None = None
    draw = rng.random()
    if draw < 0.3:
        content, how = broken(rng, _saved())
    elif draw < 0.5:
        content, how = _with_header(rng, str(rng.choice(HEADERS)))
    elif draw < 0.6:
        names = [*_archives()]
        how = names[rng.integers(len(names))]
        content = _archives()[how]
    else:
        arrays, how, wanted = _arrays(rng)
        buffer = io.BytesIO()
        (np.savez_compressed if rng.random() < 0.3 else np.savez)(buffer, **arrays)
        content = buffer.getvalue()
    if how == "folder":
        file.mkdir()
    else:
        file.write_bytes(content)

    def read() -> None:
        rules = MaskRules(num_classes=3) if masked else None
        train = _load(file, rules)
        images, labels = train.images, train.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise Wrong(f"{images.dtype} {images.shape}")
        if labels is not None and (len(labels) != len(images) or labels.min() < 0):
            raise Wrong(f"labels {labels}")
        if wanted and not np.array_equal(images, wanted[0]):
            raise Wrong(f"{how}: the images are not those of the file")
        if wanted and labels is not None and not np.array_equal(labels, wanted[1]):
            raise Wrong(f"{how}: the labels {labels} are not those of the file, {wanted[1]}")

    return Case(file, how, read)


def _load(file: Path, rules: MaskRules | None) -> data.Source:
    npz_holds_masks(str(file))
    try:
        return data.load(f"npz:{file}", masks=rules).train
    except UnreadableArchive:
        raise
    except UserError:
        list(check_npz(str(file)))  # as the check does, to name each
        raise


Made = tuple[dict[str, np.ndarray], str, tuple[np.ndarray, np.ndarray | None] | None]


def _arrays(rng: np.random.Generator) -> Made:
    """Draws kinds of images and labels; returns them and what must be read if they are read."""
    images, labels = _images(), np.arange(4)
    kinds: dict[str, Callable[[], object]] = {
        "fortran": lambda: np.asfortranarray(images),
        "strided": lambda: np.repeat(images, 2, axis=1)[:, ::2],
        "reversed": lambda: np.ascontiguousarray(images[::-1])[::-1],
        "big-endian": lambda: images.astype(">u2"),
        "big-endian floats": lambda: (images / 255.0).astype(">f4"),
        "half floats": lambda: (images / 255.0).astype(np.float16),
        "long floats": lambda: (images / np.longdouble(255)).astype(np.longdouble),
        "large integers": lambda: images.astype(np.uint64),
        "0-d": lambda: np.array(3),
        "one dimension": lambda: images.ravel(),
        "planes first": lambda: images.transpose(0, 3, 1, 2),
        "five dimensions": lambda: images[None],
        "no images": lambda: images[:0],
        "no rows": lambda: images[:, :0],
        "no channels": lambda: images[..., :0],
        "complex": lambda: images + 1j,
        "bool": lambda: images > 99,
        "text": lambda: images.astype(str),
        "bytes": lambda: images.astype("S"),
        "dates": lambda: images.astype("datetime64[s]"),
        "differences": lambda: images.astype("timedelta64[s]"),
        "records": lambda: images.view([("r", "u1"), ("g", "u1"), ("b", "u1")]),
        "void": lambda: images.view("V3"),
        "nan": lambda: np.where(images > 250, np.nan, images / 255.0),
        "infinite": lambda: np.where(images > 250, np.inf, images / 255.0),
        "floats to 255": lambda: images.astype(np.float32),
        "below 0": lambda: images.astype(np.int16) - 9,
        "above 255": lambda: images.astype(np.int64) + 2**40,
        "objects": lambda: np.array([b"x", None, {}, images], dtype=object),
        "as they are": lambda: images,
    }
    label_kinds: dict[str, Callable[[], object]] = {
        "as they are": lambda: labels,
        "column": lambda: labels[:, None],
        "big-endian": lambda: labels.astype(">i8"),
        "above 2^31": lambda: labels + 2**31,
        "2^32": lambda: labels * 2**32,
        "unsigned": lambda: labels.astype(np.uint64) + 2**63,
        "two billion": lambda: labels + 1_999_999_990,
        "below 0": lambda: labels - 1,
        "floats": lambda: labels / 2,
        "nan": lambda: np.full(4, np.nan),
        "bool": lambda: labels > 1,
        "text": lambda: labels.astype(str),
        "too few": lambda: labels[:3],
        "0-d": lambda: np.array(1),
        "per pixel": lambda: images[..., 0].astype(np.int64) % 3,
        "per pixel, far": lambda: images[..., 0].astype(np.int64) + 2**40,
        "one-hot": lambda: np.eye(4),
        "objects": lambda: np.array([None] * 4),
    }
    plain = rng.random() < 0.5
    kind = "as they are" if plain else str(rng.choice([*kinds]))
    label_kind = str(rng.choice([*label_kinds])) if plain else "as they are"
    arrays = {"x_train": kinds[kind](), "y_train": label_kinds[label_kind]()}
    how = f"images {kind}, labels {label_kind}"
    if rng.random() < 0.1:
        arrays.pop("x_train")
        how = "no images"
    wanted = np.asarray(arrays["y_train"])
    numbers = wanted.ravel().astype(object) if wanted.dtype.kind in "iu" else wanted.ravel()
    return arrays, how, (images, numbers)


@functools.cache
def _images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)


@functools.cache
def _saved() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, x_train=_images(), y_train=np.arange(4), masks_train=_images()[..., 0] % 3
    )
    return buffer.getvalue()


def _with_header(rng: np.random.Generator, header: str) -> tuple[bytes, str]:
    text = header.encode("latin-1", "replace") + b"\n"
    version = int(rng.choice([1, 2, 3, 9]))
    size = struct.pack("<H" if version == 1 else "<I", min(len(text), 0xFFFF))
    if rng.random() < 0.1:
        size = b"\xff" * len(size)
    array = b"\x93NUMPY" + bytes([version, 0]) + size + text + _images().tobytes()
    return _zipped({"x_train.npy": array}), f"header, version {version}: {header[:70]!r}"


@functools.cache
def _archives() -> dict[str, bytes]:
    whole = _npy(_images())
    header = io.BytesIO()
    # Zeros to the size that the header claims: the archive holds a thousandth of it.
    shape = (1 << 13, 512, 512, 3)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return {
        "bomb": _bomb(header.getvalue(), 6 << 30),
        "bomb beside the images": _bomb(b"", 6 << 30, {"x_train.npy": whole}),
        "no archive": whole,
        "empty": b"",
        "empty archive": _zipped({}),
        "no array": _zipped({"x_train.npy": b"text"}),
        "not .npy": _zipped({"x_train": whole}),
        "twice": _zipped({"x_train.npy": whole}) + _zipped({"x_train.npy": whole}),
        "pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.",
        "folder": b"",
        **{f"name {name[:20]!r}": _zipped({f"{name}.npy": whole}) for name in NAMES},
    }


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _bomb(start: bytes, size: int, others: dict[str, bytes] | None = None) -> bytes:
    """An archive whose directory claims that a small member unfolds to `size` bytes."""
    members = {**(others or {}), "x_train.npy" if not others else "extra.npy": start + bytes(1000)}
    content = bytearray(_zipped(members))
    place = content.rfind(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", min(size, 0xFFFFFFF0))
    return bytes(content)
