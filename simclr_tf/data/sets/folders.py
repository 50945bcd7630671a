"""Sets of image files in folders and archives: splits, classes, and masks beside the images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from simclr_tf.data.check.problems import Problem, Report, refuse
from simclr_tf.data.files import name_first
from simclr_tf.data.images import EXTENSIONS
from simclr_tf.data.members import Member
from simclr_tf.data.sets.archives import ArchiveFolder, open_archive
from simclr_tf.data.sets.metadata import TABLE, read_labels
from simclr_tf.data.source import Source, Splits, each_split
from simclr_tf.errors import UserError

TRAIN_FOLDER = "train"
TEST_FOLDERS = ("test", "val", "valid", "validation")  # the first that is there, in any case
IMAGES, MASKS = "images", "masks"  # the folders of a set with masks
Folder = Path | ArchiveFolder


def load_folder(
    path: str, *, masks: bool = False, classes: bool = True, report: Report = refuse
) -> Splits:
    """Lists the images of a folder, or of a ZIP or tar archive, without decoding any.

    Where there are `train` and `test` folders they are the splits, otherwise all of it is the
    training set. Without `test`, `val`, `valid` or `validation` stands for it; capitals do not
    matter. Sub-folders are the classes, sorted by name; without any, there are no
    labels. A table `metadata.csv` of `file_name` and `label` in PATH or in a split says the classes
    instead. Of folders `images` and `masks` beside each other, in PATH or in those of the splits,
    only the images are listed. A single folder that wraps all of an archive is looked through.

    Args:
        path: The folder or archive.
        masks: Pair the images with the files in `masks` of the same relative path but for the
            extension. There are no labels then.
        classes: Sub-folders are the classes; off: they say nothing, and there are no labels.
        report: Called with whatever is wrong; where it returns, the file is left out.

    Raises:
        UserError: There is no such folder, no image in it, or an image without its mask; the
            archive cannot be read, or names lead out of it.
    """
    root, name = open_folder(path), f"folder:{path}"
    if isinstance(root, Path):
        return _load_tree(root, name, masks, classes, report)
    for problem in root.archive.problems:
        report(problem)
    return each_split(_load_tree(root, name, masks, classes, report), root.archive.with_members)


def open_folder(path: str) -> Folder:
    """Returns a folder, or the one that a data set begins at in an archive; raises UserError."""
    root = Path(path)
    if root.is_file():
        return _unwrapped(open_archive(str(root)).root)
    if not root.is_dir():
        raise UserError(f"Expected a folder at {root}, got none. Correct `dataset=folder:{path}`.")
    return root


def _unwrapped(root: ArchiveFolder) -> ArchiveFolder:
    """Returns the folder below those that hold nothing but another one."""
    while True:
        _, folders, files = next(root.walk())
        folders = [name for name in folders if not name.startswith(".")]
        if len(folders) != 1 or TABLE in files or any(map(is_image_name, files)):
            return root
        root = root / folders[0]


def _load_tree(root: Folder, name: str, masks: bool, classes: bool, report: Report) -> Splits:
    if masks:
        return _load_pairs(root, name, report)
    root = _images_of(root)
    folders = _split_folders(root)
    named = _labels_in(root) if classes else {}
    if folders is None:
        return Splits(_list_folder(root, name, named, classes, report))

    def split(folder: str) -> Source:
        own = _labels_in(root / folder) if classes else {}
        for below in (path for path in named if path.startswith(f"{folder}/")):
            own.setdefault(below.removeprefix(f"{folder}/"), named[below])
        return _list_folder(_images_of(root / folder), f"{name} ({folder})", own, classes, report)

    train, test = map(split, folders)
    return Splits(train, with_classes_of(train, test, report))


def holds_masks(path: str) -> bool:
    """Tells whether a folder, or the splits in it, hold `images` and `masks`."""
    if not os.path.exists(path):
        return False
    root = open_folder(path)
    folders = _split_folders(root)
    return _has_masks(root) or (folders is not None and _has_masks(root / folders[0]))


def _sub_folders(folder: Folder) -> list[str]:
    _, names, _ = next(walk(folder), ("", [], []))
    return sorted(names)


def _split_folders(root: Folder) -> tuple[str, str] | None:
    """Returns the folders that are trained and reported on, as they are spelled, or None."""
    wanted = (TRAIN_FOLDER, *TEST_FOLDERS)
    # Of several that differ in capitals alone, the one without comes last.
    found = {name.lower(): name for name in _sub_folders(root) if name.lower() in wanted}
    test = next((found[name] for name in TEST_FOLDERS if name in found), None)
    return None if test is None or TRAIN_FOLDER not in found else (found[TRAIN_FOLDER], test)


def _has_masks(folder: Folder) -> bool:
    return (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()


def _images_of(folder: Folder) -> Folder:
    return folder / IMAGES if _has_masks(folder) else folder


def _load_pairs(root: Folder, name: str, report: Report) -> Splits:
    """Lists images and masks: {images,masks}, {images,masks}/SPLIT or SPLIT/{images,masks}."""
    folders = _split_folders(_images_of(root))
    if folders is None and not _has_masks(root):
        found = ", ".join(_sub_folders(root)) or "no folder"
        raise UserError(
            f"Expected the folders {IMAGES} and {MASKS} in {root}, or in train and test in it, got "
            f"{found}. Sort the files so, or pass lists of image,mask lines as `train_file_path`."
        )

    def split(folder: str) -> Source:
        if _has_masks(root):
            parts = root / IMAGES / folder, root / MASKS / folder
        else:
            parts = root / folder / IMAGES, root / folder / MASKS
        return _pair(*parts, f"{name} ({folder})" if folder else name, report)

    return Splits(split("")) if folders is None else Splits(*map(split, folders))


def _pair(image_folder: Folder, mask_folder: Folder, name: str, report: Report) -> Source:
    images = _by_stem(image_folder, _files_below(image_folder, name, "images"))
    masks = _by_stem(mask_folder, _files_below(mask_folder, name, "masks"))
    pairs, wrong = [], []
    for stem in {**images, **masks}:
        these, those = images.get(stem, []), masks.get(stem, [])
        if len(these) == len(those) == 1:
            pairs.append((these[0], those[0]))
        else:
            one = ", ".join(these or ["no image"]), ", ".join(those or ["no mask"])
            wrong.append(Problem("pairing", (these or those)[0], " and ".join(one)))
    if wrong:
        fault = (
            f"Expected one mask in {mask_folder} for each image in {image_folder}, of the same "
            f"name but for the extension, got {len(wrong)} without:\n"
            f"{name_first([problem.detail for problem in wrong])}\n"
            "Add or remove files, or pass lists of image,mask lines as `train_file_path`."
        )
        _tell(refuse if not pairs else report, fault, *wrong)
    paths, mask_paths = zip(*pairs, strict=True)
    return Source(name, paths=paths, mask_paths=mask_paths)


def _tell(report: Report, fault: str, *problems: Problem) -> None:
    """Reports problems; where the first is one too many, raises UserError with `fault`."""
    if report is refuse:
        raise UserError(fault)
    for problem in problems:
        report(problem)


def _by_stem(folder: Folder, files: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in files:
        stem, _ = os.path.splitext(os.path.relpath(file, folder))
        found.setdefault(stem, []).append(file)
    return found


def _list_folder(
    root: Folder, name: str, named: dict[str, str], has_classes: bool, report: Report
) -> Source:
    """Lists the images of a split: with the classes that `named` gives, or by sub-folders."""
    if named:
        return _list_named(root, name, named, report)
    folders = [name for name in _sub_folders(root) if not name.startswith(".")]
    if not folders or not has_classes:
        return Source(name, paths=_files_below(root, name))
    paths: list[str] = []
    labels: list[int] = []
    classes: list[str] = []
    for folder in folders:
        found = _find_below(root / folder)
        if not found:
            fault = _nothing_in(root / folder, f"{name}, class {folder}", "images")
            _tell(report, fault, Problem("empty folder", str(root / folder)))
            continue
        paths += found
        labels += [len(classes)] * len(found)
        classes.append(folder)
    if not paths:
        raise UserError(_nothing_in(root, name, "images"))
    # A name that is no UTF-8 could not be printed.
    names = tuple(name.encode("utf-8", "backslashreplace").decode() for name in classes)
    return Source(name, paths=tuple(paths), labels=np.array(labels, np.int32), class_names=names)


def _labels_in(folder: Folder) -> dict[str, str]:
    """Returns what the table in a folder says; nothing where there is none."""
    path = str(folder / TABLE)
    if isinstance(folder, ArchiveFolder):
        path = folder.archive.members.get(path, "")
    return read_labels(path) if os.path.isfile(path) or isinstance(path, Member) else {}


def _list_named(root: Folder, name: str, named: dict[str, str], report: Report) -> Source:
    """Lists the images that a table gives classes to."""
    found = {path.removeprefix(f"{root}/"): path for path in _files_below(root, name)}
    for below in sorted(found.keys() - named.keys()):
        report(Problem("label", found[below], f"expected a line in {TABLE}, got none. Add it"))
    for below in sorted(named.keys() - found.keys()):
        report(Problem("missing", str(root / below), f"{TABLE} names it. Remove the line"))
    labelled = [below for below in found if below in named]
    if not labelled:
        raise UserError(_nothing_in(root, name, f"images that {TABLE} names"))
    texts = {named[below] for below in labelled}
    numbers = all(text.isdecimal() for text in texts)
    classes = sorted(texts, key=lambda text: (int(text) if numbers else 0, text))
    number_of = {text: number for number, text in enumerate(classes)}
    return Source(
        name,
        paths=tuple(found[below] for below in labelled),
        labels=np.array([number_of[named[below]] for below in labelled], np.int32),
        class_names=tuple(classes),
    )


def _files_below(folder: Folder, name: str, kind: str = "images") -> tuple[str, ...]:
    found = _find_below(folder)
    if not found:
        raise UserError(_nothing_in(folder, name, kind))
    return tuple(found)


def _find_below(folder: Folder) -> list[str]:
    found = []
    for here, folders, files in walk(folder):
        folders[:] = sorted(d for d in folders if not d.startswith("."))
        found += [os.path.join(here, f) for f in sorted(files) if is_image_name(f)]
    return found


def walk(folder: Folder) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` of a folder that may be one in an archive.

    Raises:
        UserError: A folder cannot be read.
    """
    if isinstance(folder, ArchiveFolder):
        return folder.walk()
    return os.walk(folder, onerror=_stop)


def _stop(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):  # what is not there holds nothing
        return
    raise UserError(
        f"Expected a folder that can be read at {error.filename}, got: {error.strerror}. Change "
        "its permissions, or move it away."
    ) from error


def is_image_name(name: str) -> bool:
    """Tells whether a file in a folder is taken for an image."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _nothing_in(folder: Folder, name: str, kind: str) -> str:
    return (
        f"Expected {kind} ({', '.join(EXTENSIONS)}) in {folder} ({name}), got none. Put {kind} "
        "there or correct the path."
    )


def with_classes_of(train: Source, test: Source, report: Report) -> Source:
    """Numbers the test set's classes as the training set does."""
    if train.labels is None or test.labels is None:
        return dataclasses.replace(test, labels=None, class_names=())
    unknown = sorted(set(test.class_names) - set(train.class_names))
    if unknown:
        fault = (
            f"Expected only classes of {train.name} in {test.name}, got {', '.join(unknown)} too. "
            "Add training images of them, or remove the folders."
        )
        _tell(report, fault, *(Problem("unknown class", test.name, c) for c in unknown))
        known = np.array([name not in unknown for name in test.class_names])[test.labels]
        test = test.take(np.flatnonzero(known))
    numbers = np.array(
        [train.class_names.index(c) if c not in unknown else -1 for c in test.class_names], np.int32
    )
    return dataclasses.replace(test, labels=numbers[test.labels], class_names=train.class_names)
