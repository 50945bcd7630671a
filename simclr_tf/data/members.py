"""Images inside other files: a name that goes where a path goes, and knows where the bytes are."""

from __future__ import annotations

import errno
import functools
import io
import os
import struct
import weakref
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

_OPEN_FILES = 64  # held open in a process; a set may have thousands of shards
_ZIP_HEADER = 30  # bytes before the name


class Container(NamedTuple):
    """A file that holds others, as it was when it was listed.

    Attributes:
        path: The file.
        size: Its bytes.
        changed: When it was last written, in nanoseconds.
    """

    path: str
    size: int
    changed: int

    @classmethod
    def at(cls, path: str) -> Container:
        """Returns the file as it is now; raises OSError."""
        status = os.stat(path)
        return cls(path, status.st_size, status.st_mtime_ns)

    def read(self, start: int, length: int) -> bytes:
        """Returns bytes from any thread, fewer at the file's end.

        Raises:
            OSError: The file cannot be read, or is another one than was listed.
        """
        file = _open(self)  # by a name: what nobody holds may be closed by another thread
        return os.pread(file.number, length, start)


class Member(str):
    """The name of an image inside another file, such as `pets.tar/cat/a.jpg`: a range of its bytes.

    It is compared, printed and sorted as the path that it would have if the file were a folder.

    Attributes:
        container: The file.
        start: Where it begins there.
        size: Its bytes.
    """

    __slots__ = ("container", "size", "start")
    container: Container
    start: int
    size: int

    def __new__(cls, name: str, container: Container, start: int, size: int) -> Member:
        member = super().__new__(cls, name)
        member.container, member.start, member.size = container, start, size
        return member

    def __getnewargs_ex__(self) -> tuple[tuple, dict[str, Any]]:  # to be pickled and copied
        return (str(self), self.container, self.start, self.size), {}

    def open(self) -> BinaryIO:
        """Returns the bytes as a file of their own; raises OSError or ValueError, zlib.error."""
        return io.BufferedReader(_Range(self))


class ZipMember(Member):
    """A member of a ZIP archive, whose CRC-32 is checked; `start` is where its header begins.

    Attributes:
        packed: Its bytes in the archive.
        crc: The CRC-32 of its content.
        deflated: Whether it is compressed; else it is stored.
    """

    __slots__ = ("crc", "deflated", "packed")
    packed: int
    crc: int
    deflated: bool

    def __new__(
        cls,
        name: str,
        container: Container,
        start: int,
        size: int,
        *,
        packed: int,
        crc: int,
        deflated: bool,
    ) -> ZipMember:
        member = cast(ZipMember, super().__new__(cls, name, container, start, size))
        member.packed, member.crc, member.deflated = packed, crc, deflated
        return member

    def __getnewargs_ex__(self) -> tuple[tuple, dict[str, Any]]:
        arguments, _ = super().__getnewargs_ex__()
        return arguments, {"packed": self.packed, "crc": self.crc, "deflated": self.deflated}

    def open(self) -> BinaryIO:
        header = self.container.read(self.start, _ZIP_HEADER)
        if len(header) < _ZIP_HEADER or header[:4] != b"PK\x03\x04":
            raise ValueError("the archive has no member at its place")
        before = _ZIP_HEADER + sum(struct.unpack("<HH", header[26:]))  # its name, other fields
        content = self.container.read(self.start + before, self.packed)
        if self.deflated:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, self.size + 1)
        if len(content) != self.size or zlib.crc32(content) != self.crc:
            raise ValueError("its bytes do not fit the CRC-32 in the archive")
        return io.BytesIO(content)


class Unreadable(Member):
    """A member that cannot be read: encrypted, a link to nothing.

    Attributes:
        fault: Number (of `errno`) and text of the OSError that opening it raises.
    """

    __slots__ = ("fault",)
    fault: tuple[int, str]

    def __new__(cls, name: str, container: Container, fault: tuple[int, str]) -> Unreadable:
        member = cast(Unreadable, super().__new__(cls, name, container, 0, 0))
        member.fault = fault
        return member

    def __getnewargs_ex__(self) -> tuple[tuple, dict[str, Any]]:
        return (str(self), self.container, self.fault), {}

    def open(self) -> BinaryIO:
        raise OSError(*self.fault)


def open_bytes(path: str | Path) -> BinaryIO:
    """Opens a file, or a file inside another, to be read; raises as these do."""
    return path.open() if isinstance(path, Member) else open(path, "rb")


class _Range(io.RawIOBase):
    """The bytes of a member: as much is read of them as is asked for."""

    def __init__(self, member: Member) -> None:
        self._member, self._at = member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._member.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        member = self._member
        wanted = max(0, min(len(buffer), member.size - self._at))
        content = member.container.read(member.start + self._at, wanted)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


class _OpenFile:
    """A file's descriptor, closed when the last one who reads from it lets go of it."""

    def __init__(self, container: Container) -> None:
        self.number = os.open(container.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)
        status = os.fstat(self.number)
        if (status.st_size, status.st_mtime_ns) != (container.size, container.changed):
            raise OSError(errno.ESTALE, f"{container.path} was changed after it was listed")


_open = functools.lru_cache(maxsize=_OPEN_FILES)(_OpenFile)
