"""ZIP and tar archives that are read in place, as a tree of folders.

Nothing is unpacked, so a name or a link that leads out of an archive leads nowhere.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

from simclr_tf.data.check.problems import Problem
from simclr_tf.data.members import Container, Member, Unreadable, ZipMember
from simclr_tf.data.source import Source
from simclr_tf.errors import UserError

_MOST_BYTES, _MOST_FOLDERS = 4096, 100  # of a name: hostile ones would fill the memory with folders
_MOST_LINKS = 40  # that lead from one to the next, as many as the system follows
_ENCRYPTED = 0x1  # a flag of ZIP's
_DOS = 0  # the number of the system whose tools may write \ between folders
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"(\xb5/\xfd": "unzstd",
}
_LINK = "a link to what is no file in the archive"
_OF_MACOS = "__MACOSX"  # the folder of what its tools know about each file


class _Link(NamedTuple):
    """Another name of what is at `target`, a name in the archive unless it leads out."""

    target: str


_Make = Callable[[str], Member]  # from the name it shall have
_Entry = _Make | _Link | None  # None stands for a folder


@dataclasses.dataclass
class _Folder:
    folders: set[str] = dataclasses.field(default_factory=set)
    files: set[str] = dataclasses.field(default_factory=set)


class Archive:
    """The members of an archive.

    Attributes:
        members: Those that are files, by their names, such as "pets.zip/cat/a.jpg".
        folders: What is in each folder, by its name, such as "pets.zip/cat".
        problems: Names that lead out of it, and links to folders, which are left out.
        root: The folder of all of it.
    """

    def __init__(
        self, container: Container, entries: dict[str, _Entry], problems: list[Problem]
    ) -> None:
        self.problems = problems
        self.members: dict[str, Member] = {}
        self.folders = {container.path: _Folder()}
        self.root = ArchiveFolder(self, container.path)
        leads_to: dict[str, str] = {}  # of links that lead to no file
        for inside, entry in entries.items():
            path = f"{container.path}/{inside}"
            if entry is None:
                self._add_folder(path)
                continue
            above, _, name = path.rpartition("/")
            self._add_folder(above).files.add(name)
            make = _followed(entries, entry)
            if isinstance(make, _Link):
                leads_to[path] = f"{container.path}/{make.target}".removesuffix("/.")
                make = _unreadable(container, errno.ELOOP, _LINK)
            self.members[path] = make(path)
        # Of other names, those of images are named by who reads them, and no others are read.
        for path, target in leads_to.items():
            if target in self.folders or not os.path.splitext(path)[1]:
                problems.append(Problem("outside name", path, f"{_LINK}: pack what it leads to"))

    def _add_folder(self, path: str) -> _Folder:
        if path not in self.folders:
            above, _, name = path.rpartition("/")
            self._add_folder(above).folders.add(name)
            self.folders[path] = _Folder()
        return self.folders[path]

    def with_members(self, source: Source) -> Source:
        """Returns a source whose names are those of members, with the members in their stead."""

        def members(paths: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(self.members[path] for path in paths)

        return dataclasses.replace(
            source, paths=members(source.paths), mask_paths=members(source.mask_paths)
        )


class ArchiveFolder:
    """A folder in an archive, with what a data set's tree is read by of `pathlib.Path`."""

    def __init__(self, archive: Archive, path: str) -> None:
        self.archive, self._path = archive, path

    def __str__(self) -> str:
        return self._path

    def __fspath__(self) -> str:
        return self._path

    def __truediv__(self, name: str) -> ArchiveFolder:
        return ArchiveFolder(self.archive, f"{self._path}/{name}" if name else self._path)

    def is_dir(self) -> bool:
        return self._path in self.archive.folders

    def walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yields what `os.walk` yields; what is taken out of a list of folders is not walked."""
        waiting = [self._path]
        while waiting:
            path = waiting.pop()
            here = self.archive.folders[path]
            folders = sorted(here.folders)
            yield path, folders, sorted(here.files)
            waiting += [f"{path}/{name}" for name in reversed(folders)]


def open_archive(path: str) -> Archive:
    """Lists the members of an archive; the one listed last is kept in memory.

    Raises:
        UserError: It is neither ZIP nor tar, is damaged, or is compressed as a whole.
    """
    try:
        return _list(Container.at(path))
    except UserError:
        raise
    # The readers of both formats raise almost anything for damaged ones.
    except Exception as error:
        raise UserError(
            f"Expected an archive that can be read, got {path} "
            f"({getattr(error, 'strerror', None) or error or type(error).__name__}). Copy or pack "
            "it anew."
        ) from None


@functools.lru_cache(maxsize=1)
def _list(container: Container) -> Archive:
    path = container.path
    entries: dict[str, _Entry] = {}
    problems = []
    for name, entry in _reader_of(path)(container):
        parts = [part for part in name.split("/") if part not in ("", ".")]
        fault = ""
        if name.startswith("/") or ".." in parts:
            fault = "it leads out of the archive"
        elif "\0" in name:
            name, fault = name.replace("\0", "\\0"), "no file has such a name"
        elif len(name) > _MOST_BYTES or len(parts) > _MOST_FOLDERS:
            name, fault = f"{name[:80]}...", "no system has names as long"
        if fault:
            problems.append(Problem("outside name", f"{path}/{name}", fault))
        elif parts and parts[0] != _OF_MACOS:
            entries["/".join(parts)] = entry  # of several of one name, the last, as in unpacking
    return Archive(container, entries, problems)


def _reader_of(path: str) -> Callable[[Container], Iterator[tuple[str, _Entry]]]:
    """Returns what lists an archive of its format, told by its content."""
    with open(path, "rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        return _tar_entries
    except tarfile.HeaderError:
        pass
    if zipfile.is_zipfile(path):
        return _zip_entries
    program = next((does for magic, does in _COMPRESSED.items() if head.startswith(magic)), "")
    if program:
        raise UserError(
            f"Expected an archive whose images can be read one by one, got {path}, compressed as a "
            f"whole. Take the compression off ({program}): images in a tar are compressed already."
        )
    found = "a ZIP archive that is cut off or damaged" if head[:2] == b"PK" else "another file"
    raise UserError(
        f"Expected a folder, or a ZIP or tar archive, at {path}, got {found}. Correct the path of "
        "`dataset=folder:PATH`, or pack the archive anew."
    )


def _tar_entries(container: Container) -> Iterator[tuple[str, _Entry]]:
    with tarfile.open(container.path, "r:") as file:
        for info in file:
            yield info.name, _tar_entry(container, info)
    with open(container.path, "rb") as raw:  # tarfile takes a header that is damaged for the end
        raw.seek(file.offset)
        end = raw.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):
        raise ValueError(f"cut off or damaged at byte {file.offset:,}")


def _tar_entry(container: Container, info: tarfile.TarInfo) -> _Entry:
    if info.isdir():
        return None
    if info.issym():
        return _link(info.name, info.linkname)
    if info.islnk():
        return _Link(posixpath.normpath(info.linkname))
    if not info.isreg() or info.issparse():
        what = "a sparse file" if info.issparse() else "no regular file"
        return _unreadable(container, errno.ENOTSUP, f"{what} in the tar, pack it anew")
    return functools.partial(Member, container=container, start=info.offset_data, size=info.size)


def _zip_entries(container: Container) -> Iterator[tuple[str, _Entry]]:
    with zipfile.ZipFile(container.path) as file:
        for info in file.infolist():
            name = info.filename
            if info.create_system == _DOS:
                name = name.replace("\\", "/")
            yield name, None if name.endswith("/") else _zip_entry(container, info)


def _zip_entry(container: Container, info: zipfile.ZipInfo) -> _Entry:
    if info.flag_bits & _ENCRYPTED:
        return _unreadable(container, errno.EACCES, "encrypted, pack it anew without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        fault = f"ZIP's method {info.compress_type}, pack it anew with store or deflate"
        return _unreadable(container, errno.ENOTSUP, fault)
    make = functools.partial(
        ZipMember,
        container=container,
        start=info.header_offset,
        size=info.file_size,
        packed=info.compress_size,
        crc=info.CRC,
        deflated=info.compress_type == zipfile.ZIP_DEFLATED,
    )
    if not stat.S_ISLNK(info.external_attr >> 16) or info.file_size > _MOST_BYTES:
        return make
    with make(info.filename).open() as file:
        target = file.read().decode("utf-8", "surrogateescape")
    return _link(info.filename, target)


def _link(name: str, target: str) -> _Link:
    """Returns the link from a name to a target that is relative to the folder of the name."""
    return _Link(posixpath.normpath(posixpath.join(posixpath.dirname(name), target)))


def _unreadable(container: Container, number: int, reason: str) -> _Make:
    return functools.partial(Unreadable, container=container, fault=(number, reason))


def _followed(entries: dict[str, _Entry], entry: _Make | _Link) -> _Make | _Link:
    """Returns what makes the file that an entry is or leads to, or the link that leads to none."""
    for _ in range(_MOST_LINKS):
        following = entries.get(entry.target) if isinstance(entry, _Link) else None
        if following is None:
            break
        entry = following
    return entry
