"""TFRecord files of `tf.train.Example`: which bytes of them are images, and their labels."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_tf.counting import spell_number
from simclr_tf.data.check.problems import Problem, Report, refuse
from simclr_tf.data.files import read_each
from simclr_tf.data.members import Container, Member
from simclr_tf.data.sets.folders import TEST_FOLDERS, TRAIN_FOLDER
from simclr_tf.data.source import MOST_CLASSES, Source, Splits, each_split
from simclr_tf.errors import UserError

IMAGE_FEATURES = ("image/encoded", "image")
LABEL_FEATURES = ("image/class/label", "label")
TEXT_FEATURE = "image/class/text"
_BEFORE, _AFTER = 12, 4  # bytes around a record: its length and two checksums


class _Record(NamedTuple):
    image: Member
    label: int | None
    text: str
    features: tuple[str, ...]


def load_records(pattern: str, *, report: Report = refuse) -> Splits:
    """Lists the images of TFRecord files, without decoding any.

    Each file is read once, whole, with the checksums of its records; after that images are read at
    random from where they lie. An image's name is `FILE/NUMBER`, of records from 0.

    Where there are files with the word `train` in their names and others with `test` (else `val`,
    `valid` or `validation`), those are the splits; otherwise all of them are the training set.
    Labels are taken as they are, where all records of a split have one that is not negative.

    Args:
        pattern: Of the files' paths, such as "data/train-*.tfrecord".
        report: Called with whatever is wrong; where it returns, the rest of the file is left out.

    Raises:
        UserError: There are no such files, or one is damaged or holds no images.
    """
    name = f"tfrecord:{pattern}"
    path = os.path.expanduser(pattern)  # of one file, it may hold what is special in patterns
    found = [path] if os.path.isfile(path) else glob.glob(path, recursive=True)
    files = sorted(path for path in found if os.path.isfile(path))
    if not files:
        raise UserError(
            f"Expected TFRecord files at {pattern}, got none. Correct `dataset={name}`, such as "
            "`dataset='tfrecord:data/*.tfrecord*'`."
        )
    of_split: dict[str, list[str]] = {}
    for file in files:
        of_split.setdefault(_split_of(file), []).append(file)
    test = next((split for split in TEST_FOLDERS if split in of_split), "")
    if not test or TRAIN_FOLDER not in of_split:
        train = _read(files, report)
        return _share_classes(_source(name, train), None, train)
    rest = [file for split in of_split.keys() - {TRAIN_FOLDER, test} for file in of_split[split]]
    if rest:
        print(
            f"{spell_number(len(rest), 'file')} of neither {TRAIN_FOLDER} nor {test} "
            f"{'is' if len(rest) == 1 else 'are'} left out, the first {min(rest)}",
            flush=True,
        )
    train, tested = (_read(of_split[split], report) for split in (TRAIN_FOLDER, test))
    return _share_classes(
        _source(f"{name} ({TRAIN_FOLDER})", train),
        _source(f"{name} ({test})", tested),
        train + tested,
    )


def _split_of(file: str) -> str:
    words = re.findall("[a-z]+", os.path.basename(file).lower())
    return next((word for word in words if word in (TRAIN_FOLDER, *TEST_FOLDERS)), "")


def _read(files: list[str], report: Report) -> list[_Record]:
    records = []
    for found, problem in read_each(_index, files, "indexing files"):
        if problem:
            report(problem)
        records += found
    return records


def _index(file: str) -> tuple[list[_Record], Problem | None]:
    """Returns the records of a file, up to one that is wrong, and what is wrong with it."""
    import tensorflow as tf

    records: list[_Record] = []
    place = 0
    try:
        container = Container.at(file)
        # The reader checks length and content of each record by their CRC-32C.
        for content in tf.data.TFRecordDataset(os.fsencode(file)).as_numpy_iterator():
            start = place + _BEFORE
            records.append(_record(f"{file}/{len(records)}", content, container, start))
            place = start + len(content) + _AFTER
        fault = f"{container.size - place} bytes after the last record" * (place < container.size)
    except _NoImage as error:
        fault = str(error)
    except tf.errors.OpError as error:
        fault = str(error.message).split("}} ")[-1].split(" [Op:")[0]
    except OSError as error:
        fault = str(error.strerror)
    if not fault:
        return records, None
    detail = f"record {len(records)} (from 0): {fault}. Write the file anew, uncompressed"
    return records, Problem("record", file, detail)


class _NoImage(ValueError):
    """A record that is no example with one image."""


def _record(name: str, content: bytes, container: Container, start: int) -> _Record:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        features = tf.train.Example.FromString(content).features.feature
    except DecodeError:
        raise _NoImage("expected a tf.train.Example, got other bytes") from None
    image = _first(features, IMAGE_FEATURES, "bytes_list")
    if not image:
        raise _NoImage(
            f"expected one encoded image as {' or '.join(IMAGE_FEATURES)}, got the features "
            f"{', '.join(sorted(features)) or 'none'}"
        )
    label = _first(features, LABEL_FEATURES, "int64_list")
    if label and label[1] >= MOST_CLASSES:
        raise _NoImage(f"expected a label below {MOST_CLASSES:,}, got {label[1]}")
    text = _first(features, (TEXT_FEATURE,), "bytes_list")
    feature, encoded = image
    return _Record(
        # Wherever the same bytes stand in the record, they are the image.
        Member(name, container, start + content.index(encoded), len(encoded)),
        label[1] if label else None,
        text[1].decode("utf-8", "backslashreplace") if text else "",
        (feature, label[0]) if label else (feature,),
    )


def _first(features: Any, names: tuple[str, ...], kind: str) -> tuple[str, Any] | None:
    """Returns name and value of the first feature that is there with just one value of a kind."""
    for name in names:
        values: Sequence[Any] = getattr(features[name], kind).value if name in features else ()
        if len(values) == 1:
            return name, values[0]
    return None


def _source(name: str, records: list[_Record]) -> Source:
    if not records:
        raise UserError(f"Expected records in {name}, got none. Correct the pattern or the files.")
    features = dict.fromkeys(feature for record in records for feature in record.features)
    source = Source(
        f"{name}: {', '.join(features)}", paths=tuple(record.image for record in records)
    )
    labels = [record.label for record in records]
    if any(label is None or label < 0 for label in labels):
        return source
    return dataclasses.replace(source, labels=np.array(labels, np.int32))


def _share_classes(train: Source, test: Source | None, records: list[_Record]) -> Splits:
    """Names the classes by their texts, where each has one of its own, else by their numbers."""
    splits = Splits(train, test)
    if any(source.labels is None for source in splits.present()):
        return splits
    count = max(source.num_classes for source in splits.present())
    texts = {(record.label, record.text) for record in records if record.text}
    names = {label: text for label, text in texts}
    if len(names) < len(texts) or len({*names.values()}) < len(texts):
        names = {}
    class_names = tuple(names.get(label, str(label)) for label in range(count))
    return each_split(splits, lambda source: dataclasses.replace(source, class_names=class_names))
