"""Whether a resumed run has the training images that it began with.

Settings alone do not tell: a folder has files added, a list is edited. The steps of an epoch, the
learning rate and the order of the images would change with them, in silence.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_tf.counting import spell_number
from simclr_tf.data.source import Source
from simclr_tf.errors import UserError
from simclr_tf.runs.folder import RunFolder

SAMPLED = 16  # images in memory whose means are kept
CLOSE = 1.0  # between means of 0 to 255: another processor may resize to other roundings

Record = dict[str, Any]


def record_of(source: Source, *, steps_per_epoch: int, labels: bool) -> Record:
    """Returns what tells training images from others, as `config.yaml` can hold it.

    Of files the names count, below the folder that they have in common, so that it may be moved. Of
    images in memory their shape and the mean of some.

    Args:
        source: The images.
        steps_per_epoch: Steps of an epoch.
        labels: Whether the run learns from their labels.
    """
    record: Record = {"images": len(source), "steps_per_epoch": steps_per_epoch}
    if source.paths:
        below = os.path.commonprefix(source.paths).rfind(os.sep) + 1
        identity = os.fsencode("\0".join(path[below:] for path in source.paths))
    else:
        sampled = np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(int))
        record["means"] = [round(float(source.read(index).mean()), 2) for index in sampled]
        identity = repr(source.image_size).encode()
    if labels and source.labels is not None:
        identity += source.labels.astype("<i4").tobytes()
    return record | {"crc32": f"{zlib.crc32(identity):08x}"}


def check_same_images(began: Mapping[str, Any] | None, now: Record, folder: RunFolder) -> None:
    """Raises UserError where a run would go on with other images.

    Args:
        began: The record of the run as it began; None where it has none, as from an older version.
        now: That of the images there are.
        folder: The run's folder.
    """
    if began is None or _is_same(began, now):
        return
    changed = [
        f"{spell_number(now[name], what[0])}{what[1]} (began with {began.get(name)})"
        for name, what in (("images", ("image", "")), ("steps_per_epoch", ("step", " an epoch")))
        if now[name] != began.get(name)
    ]
    found = ", ".join(changed) or (
        f"{now['images']} as before, but with other names, order, pixels or labels"
    )
    raise UserError(
        f"Expected the training images that the run in {folder.path} began with, got {found}. "
        "Restore them to go on; or begin a run on what there is now, in another folder, with "
        f"--init_weights={folder.path}."
    )


def _is_same(began: Mapping[str, Any], now: Record) -> bool:
    rest = [{k: v for k, v in each.items() if k != "means"} for each in (began, now)]
    try:
        means = np.asarray([began.get("means", []), now.get("means", [])], float)
    except (TypeError, ValueError):  # of other lengths, or edited to no numbers
        return False
    return rest[0] == rest[1] and bool((abs(means[0] - means[1]) <= CLOSE).all())
