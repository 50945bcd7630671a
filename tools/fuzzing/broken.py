"""Ways to break the bytes of a file."""

from __future__ import annotations

import struct

import numpy as np

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER = 64  # bytes in which most formats say how large they are


def broken(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Breaks a file's content in one way that is drawn; returns it and the way."""
    how = str(rng.choice([*WAYS]))
    return WAYS[how](rng, data), how


def cut(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: int(rng.integers(len(data)))]


def flip_bits(rng: np.random.Generator, data: bytes) -> bytes:
    return _flip(rng, data, len(data))


def flip_header(rng: np.random.Generator, data: bytes) -> bytes:
    return _flip(rng, data, min(HEADER, len(data)))


def insert(rng: np.random.Generator, data: bytes) -> bytes:
    place = int(rng.integers(len(data) + 1))
    return data[:place] + rng.bytes(int(rng.integers(1, 40))) + data[place:]


def remove(rng: np.random.Generator, data: bytes) -> bytes:
    place = int(rng.integers(len(data)))
    return data[:place] + data[place + int(rng.integers(1, 40)) :]


def overwrite(rng: np.random.Generator, data: bytes) -> bytes:
    place, length = int(rng.integers(len(data))), int(rng.integers(1, 80))
    return data[:place] + rng.choice([b"\0", b"\xff"]) * length + data[place + length :]


def set_number(rng: np.random.Generator, data: bytes) -> bytes:
    """Puts an extreme number into the header: a size of 0, of 2^32 - 1, below 0."""
    width, order = str(rng.choice(["H", "I"])), str(rng.choice(["<", ">"]))
    value = int(rng.choice(EXTREMES)) & (0xFFFF if width == "H" else 0xFFFFFFFF)
    number = struct.pack(order + width, value)
    place = int(rng.integers(max(1, min(HEADER, len(data)) - len(number))))
    return data[:place] + number + data[place + len(number) :]


def repeat(rng: np.random.Generator, data: bytes) -> bytes:
    first, last = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    return data[:last] + data[first:last] + data[last:]


def append(rng: np.random.Generator, data: bytes) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 200)))


def noise(rng: np.random.Generator, data: bytes) -> bytes:
    """All of it but, sometimes, the first bytes that tell the format."""
    return data[: int(rng.choice([0, 4, 12]))] + rng.bytes(int(rng.integers(0, 600)))


def _flip(rng: np.random.Generator, data: bytes, within: int) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, within, int(rng.integers(1, 9))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


WAYS = {
    "cut": cut,
    "flip_bits": flip_bits,
    "flip_header": flip_header,
    "insert": insert,
    "remove": remove,
    "overwrite": overwrite,
    "set_number": set_number,
    "repeat": repeat,
    "append": append,
    "noise": noise,
}
