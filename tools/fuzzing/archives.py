"""Images inside other files: broken ZIP and tar archives, broken TFRecord files."""

from __future__ import annotations

import functools
import io
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from fuzzing.broken import broken
from fuzzing.case import Case, Wrong
from simclr_tf import data
from simclr_tf.data.check.folders import check_folder
from simclr_tf.data.sets.folders import load_folder
from simclr_tf.errors import UserError

NAMES = ("train/cat/a.png", "train/dog/b.png", "test/cat/c.png", "test/dog/d.png")


def archive(rng: np.random.Generator, folder: Path) -> Case:
    """An archive with two splits of two classes."""
    kind = str(rng.choice(["tar", "stored", "deflated"]))
    content, how = broken(rng, _packed(kind))
    if rng.random() < 0.1:
        content, how = _packed(kind), "whole"
    file = folder / "set.archive"
    file.write_bytes(content)

    def read() -> None:
        try:
            splits = data.load(f"folder:{file}", cache="false")
        except UserError:
            problems: list[object] = []  # as the check does, to name each
            listed = load_folder(str(file), report=problems.append)
            for source in listed.present():
                list(check_folder(str(file), source.paths))
            raise
        for source in splits.present():
            for index, path in enumerate(source.paths):
                _compare(source.read(index), os.path.relpath(path, file), kind)

    return Case(file, f"{kind}: {how}", read)


def _compare(image: np.ndarray, name: str, kind: str) -> None:
    # The directory of a ZIP has no checksum: a name may have changed unseen.
    pixels = _pixels()
    if name in NAMES and not np.array_equal(image, pixels[NAMES.index(name)]):
        raise Wrong(f"{kind}: {name} is another image")
    if not any(np.array_equal(image, each) for each in pixels):
        raise Wrong(f"{kind}: {name} is none of the images")


def records(rng: np.random.Generator, folder: Path) -> Case:
    """A TFRecord file of examples with labels."""
    content, how = broken(rng, _recorded())
    if rng.random() < 0.1:
        content, how = _recorded(), "whole"
    file = folder / "set.tfrecord"
    file.write_bytes(content)

    def read() -> None:
        source = data.load(f"tfrecord:{file}", cache="false").train
        if how == "cut" and len(source) == len(NAMES):
            raise Wrong("a file that is cut off was taken for whole")
        for index in range(len(source)):
            label = 0 if source.labels is None else source.labels[index]
            if not np.array_equal(source.read(index), _pixels()[label]):
                raise Wrong(f"image {index} is not that of label {label}")

    return Case(file, how, read)


@functools.cache
def _pngs() -> list[bytes]:
    rng, files = np.random.default_rng(0), []
    for _ in NAMES:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


@functools.cache
def _pixels() -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(content))) for content in _pngs()]


@functools.cache
def _packed(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, content in zip(NAMES, _pngs(), strict=True):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return buffer.getvalue()[: -8 * tarfile.BLOCKSIZE]  # most of the padding
    method = zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in zip(NAMES, _pngs(), strict=True):
            file.writestr(name, content)
    return buffer.getvalue()


@functools.cache
def _recorded() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole"
        with tf.io.TFRecordWriter(str(path)) as file:
            for label, content in enumerate(_pngs()):
                features = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                file.write(example.SerializeToString())
        return path.read_bytes()
