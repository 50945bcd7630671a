"""What a run folder says, in its `config.yaml`, of the version of its format.

    run_folder:
      format: 1
      simclr_tf: 0.1.0
      data: {"images": 5000, ...}

A folder that says nothing is of the oldest version. Raise VERSION when a reader of today would
misread what a folder will hold; take a version out of READABLE when its folders can be read no
longer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import simclr_tf
from simclr_tf.errors import UserError

KEY = "run_folder"
VERSION = 1
READABLE = (1,)

# What a run had whose `config.yaml` is from before there was such a setting.
OLDER: dict[str, Any] = {"channels": 3, "label_pattern": "", "normalize_input": "none"}


class UnreadableFormat(UserError):
    """A run folder is of a version that this library does not read."""


def state_format(data: Mapping[str, Any] | None = None) -> str:
    """Returns the lines of YAML that a run folder written today begins with.

    Args:
        data: What tells the training images from others, where there are any.
    """
    lines = ["# run folder", f"{KEY}:", f"  format: {VERSION}"]
    lines.append(f"  simclr_tf: {simclr_tf.__version__}")
    if data is not None:
        lines.append(f"  data: {json.dumps(dict(data))}")
    return "\n".join(lines) + "\n\n"


def data_of(content: Mapping[Any, Any]) -> Mapping[str, Any] | None:
    """Returns what a `config.yaml` says of the training images; None where it says nothing."""
    said = content.get(KEY)
    data = said.get("data") if isinstance(said, Mapping) else None
    return data if isinstance(data, Mapping) else None


def take_settings(content: Mapping[Any, Any], where: object) -> dict[Any, Any]:
    """Returns what a `config.yaml` holds beside the statement of its format.

    Args:
        content: What the file holds.
        where: The file, for the message.

    Raises:
        UnreadableFormat: It is of a version that this library does not read.
    """
    said = content.get(KEY, {"format": READABLE[0]})
    version, writer = (
        (said.get("format"), said.get("simclr_tf")) if isinstance(said, Mapping) else (said, None)
    )
    if version not in READABLE:
        raise UnreadableFormat(
            f"Expected a run folder of format {' or '.join(map(str, READABLE))}, which simclr_tf "
            f"{simclr_tf.__version__} reads, got format {version} in {where}, written by simclr_tf "
            f"{writer or 'of unknown version'}. Use that version of simclr_tf or a later one for "
            "this run, or another folder."
        )
    return {name: value for name, value in content.items() if name != KEY}
