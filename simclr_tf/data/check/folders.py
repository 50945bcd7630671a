"""Checks of a folder's names and links: what is not read, and what leads elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from simclr_tf.data.check.problems import Problem
from simclr_tf.data.sets.folders import Folder, is_image_name, open_folder, walk
from simclr_tf.data.sets.metadata import TABLE


def check_folder(root: str, paths: Sequence[str], known: Sequence[str] = ()) -> Iterator[Problem]:
    """Yields what is odd about a folder or archive, without opening a file in it.

    Args:
        root: The folder of the data set.
        paths: The files in it that are read, images and masks.
        known: Files that are not read and reported already.
    """
    read = set(paths)
    folder = open_folder(root)
    yield from unread_files(folder, read.union(known))
    if isinstance(folder, Path):  # the links in an archive lead to nothing else
        yield from links_out(root, paths)
        yield from odd_links(root, read)


def links_out(root: str, paths: Sequence[str]) -> Iterator[Problem]:
    """Files that are read from outside of the folder, as they or a folder above are links."""
    home = os.path.realpath(root)
    real_folders: dict[str, str] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in real_folders:
            real_folders[folder] = os.path.realpath(folder)
        real = os.path.join(real_folders[folder], name)
        target = os.path.realpath(real) if os.path.islink(real) else real
        if not _within(target, home) and os.path.exists(target):
            yield Problem("link out", path, f"it is {target}")


def unread_files(root: Folder, read: set[str]) -> Iterator[Problem]:
    """Files in the folder that are not read: images outside the classes, other extensions."""
    others: dict[str, list[str]] = {}
    for here, folders, files in walk(root):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        for name in sorted(files):
            path = os.path.join(here, name)
            if path in read or name.startswith(".") or name == TABLE:
                continue
            if is_image_name(name):
                yield Problem("outside the classes", path)
            else:
                others.setdefault(os.path.splitext(name)[1].lower(), []).append(path)
    for extension, found in sorted(others.items()):
        what = f"{extension} files" if extension else "files without an extension"
        yield Problem("not read", found[0], f"the first of {len(found)} {what}")


def odd_links(root: str, read: set[str]) -> Iterator[Problem]:
    """Links to folders that lead back up, or that are not followed."""
    followed = _folders_above(read)
    for here, folders, _ in os.walk(root):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for name in folders:
            path = os.path.join(here, name)
            if not os.path.islink(path):
                continue
            target = os.path.realpath(path)
            if path not in followed:
                yield Problem("linked folder", path, f"it leads to {target}")
            elif _within(os.path.realpath(here), target):
                yield Problem("link loop", path, f"it leads to {target}")


def _folders_above(paths: set[str]) -> set[str]:
    found: set[str] = set()
    for folder in {os.path.dirname(path) for path in paths}:
        while folder and folder not in found:
            found.add(folder)
            folder = os.path.dirname(folder)
    return found


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
