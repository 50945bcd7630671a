"""What the files that are written for an image are called."""

from __future__ import annotations

import os
import pathlib
from collections import Counter

from simclr_tf import data


def output_names(source: data.Source) -> list[str]:
    """Returns the name of each image's files without extension, below the images' common folder.

    Images of one name but for the extension keep it; images in memory are numbered.
    """
    if not source.paths:
        digits = max(len(str(len(source) - 1)), 4)
        return [f"{index:0{digits}d}" for index in range(len(source))]
    paths = [os.path.abspath(path) for path in source.paths]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    whole = [pathlib.Path(path).relative_to(root).as_posix() for path in paths]
    names = [os.path.splitext(name)[0] for name in whole]
    for _ in range(2):  # beside a.jpg and a.png, the stem of a.jpg.bmp is no name of its own either
        count = Counter(names)
        names = [full if count[name] > 1 else name for name, full in zip(names, whole, strict=True)]
    if len(set(names)) < len(names):  # a list may name an image twice
        names = [f"{name}_{index}" for index, name in enumerate(names)]
    return names
