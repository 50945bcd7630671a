"""What a run needs of the disk: said before it begins, and where it turns out not to be there."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

import tensorflow as tf

from simclr_tf.atomic_write import DISK_FAULTS, NotWritten, free_bytes, path_in, spell_bytes
from simclr_tf.config.settings import WITHOUT_CHECKPOINTS, Config
from simclr_tf.counting import spell_number
from simclr_tf.errors import UserError
from simclr_tf.runs.checkpoints import Variables, size_of
from simclr_tf.runs.folder import RunFolder


def check_room(config: Config, folder: RunFolder, variables: Variables) -> None:
    """Warns where the disk has no room for the checkpoints that will be kept.

    Raises:
        UserError: It has none for a single one.
    """
    one, free = size_of(variables), free_bytes(folder.path)
    held = sum(path.stat().st_size for path in folder.checkpoints.files())
    # What --overwrite replaces goes first; else an old one goes once the new one is whole.
    room = free + held if config.overwrite else free
    if room < one:
        raise UserError(
            f"Expected room for a checkpoint of {spell_bytes(one)} in {folder.checkpoints.folder}, "
            f"got {spell_bytes(room)}. Make room, or pass another folder with "
            f"--{config.save_flag}."
        )
    wanted = one * (config.keep_checkpoints + 1)
    if free + held < wanted:
        print(
            f"warning: {spell_number(config.keep_checkpoints, 'checkpoint')} and one being written "
            f"take {spell_bytes(wanted)} in {folder.checkpoints.folder}, and there is room for "
            f"{spell_bytes(free + held)}: make room, or pass a smaller --keep_checkpoints",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def naming_the_way_on(config: Config, folder: RunFolder) -> Iterator[None]:
    """Ends the block, where the disk does not take a file, with how the run can go on.

    Raises:
        NotWritten: Something could not be written.
        UserError: A disk has failed that something was read from.
    """
    try:
        yield
    except NotWritten as error:
        raise error.with_remedy(_remedy(config, folder)) from error
    except (OSError, tf.errors.OpError) as error:
        reason = _disk_fault(error, folder)
        if not reason:
            raise
        if isinstance(error, tf.errors.OpError):
            path = folder.tensorboard if "tfevents" in str(error) else folder.path
        else:
            named = path_in(error)
            # What writes a file says so itself; any other use of a disk that fails is reading.
            if error.errno == errno.EIO and (named is None or folder.path not in named.parents):
                raise UserError(
                    f"Expected to read {named or 'the data'}, got: {reason}. Check the disk that "
                    f"it is on, or read a copy. {_way_on(config, folder)}"
                ) from error
            path = named or folder.path
        raise NotWritten(path, reason, remedy=_remedy(config, folder)) from error


def _disk_fault(error: OSError | tf.errors.OpError, folder: RunFolder) -> str:
    """Returns what the system says of the disk, '' where the error is another."""
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno in DISK_FAULTS else ""
    # TensorFlow tells it in words alone.
    said = [os.strerror(number) for number in DISK_FAULTS if os.strerror(number) in str(error)]
    return said[0] if said and str(folder.path) in str(error) else ""


def _remedy(config: Config, folder: RunFolder) -> str:
    way_on = _way_on(config, folder)
    return f"Make room there; {way_on[:1].lower()}{way_on[1:]}"


def _way_on(config: Config, folder: RunFolder) -> str:
    """Returns how the run begins again, or goes on, once the fault is mended."""
    if config.task in WITHOUT_CHECKPOINTS:
        return "The same command with --overwrite then begins again."
    if folder.checkpoints.newest() is None:
        return "The same command then begins again: no checkpoint was written yet."
    try:
        newest, _ = folder.checkpoints.find_good()
    except UserError:  # the disk cannot be read either
        newest = None
    return (
        "The same command with --resume then goes on from "
        f"{newest or 'the newest checkpoint that is whole'}."
    )
