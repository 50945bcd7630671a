"""The command line: flags in, one task run, an exit code out. Only a task loads TensorFlow."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import os
import re
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from typing import NoReturn

from simclr_tf import environment

environment.leave_where_incomplete()  # before what needs more than the standard library

from simclr_tf.config.fields import (  # noqa: E402
    is_switch,
    nearest,
    show,
    spell_bounds,
    spell_flag,
)
from simclr_tf.config.presets import DATA_PRESETS, FROZEN_PRESET, PRESETS  # noqa: E402
from simclr_tf.config.settings import (  # noqa: E402
    READ_BY,
    SETTINGS,
    TASKS,
    WITHOUT_CHECKPOINTS,
    Config,
    tasks_of,
    with_flags,
)
from simclr_tf.errors import OutOfMemoryError, UserError  # noqa: E402
from simclr_tf.tasks import run_task  # noqa: E402

DONE, WRONG, INTERRUPTED = 0, environment.WRONG, 130

# A line of TensorFlow's C++ log, before and after it has set up its own format.
_CHATTER = re.compile(
    r"^(?:WARNING: All log messages before absl|[IWE]\d{4} [\d:. ]+\S+:\d+\]|"
    r"\d{4}-\d\d-\d\d [\d:.]+: [IWE] |To enable the following instructions:).*\n",
    re.MULTILINE,
)

_USAGE = """\
usage: python main.py --task=TASK [--name=value ...]

  python main.py --task=pretrain
  python main.py --task=pretrain --dataset=folder:PATH --input_size="96 96"
  python main.py --task=classification --dataset=folder:PATH --freeze=True
  python main.py --task=segmentation --dataset=folder:PATH
  python main.py --task=predict --dataset=folder:PATH

Switches: --freeze, --freeze=True, --freeze=False or --no-freeze. Sizes: "240 240", 240x240 or 240.
Which value counts: default < preset of the task and data set < --config=FILE.yaml < flag.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code; lets no mistake of the user's end in a traceback.

    Args:
        argv: The words after the program's name; None: those of this process.

    Returns:
        0 when done, 2 when the command or the data is wrong, 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    asks_help = not {"-h", "--help"}.isdisjoint(words)
    again = "--resume continues from the last checkpoint; before the first, it begins without"
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what cannot be printed
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if asks_help:
            print(f"{_USAGE}\n{describe()}")
        else:
            config = parse(words)
            if config.task in WITHOUT_CHECKPOINTS:
                again = "--overwrite begins again"
            with _stopped_by_sigterm():
                run_task(config, importing=_quiet_start)
        sys.stdout.flush()
    except (UserError, OutOfMemoryError) as error:
        return _fail(WRONG, f"error: {with_flags(str(error))}")
    except KeyboardInterrupt as stop:
        where = f": {stop}" if str(stop) else ""
        return _fail(INTERRUPTED, f"Interrupted{where}. The same command with {again}.")
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE if asks_help else INTERRUPTED
    return DONE


def parse(argv: Sequence[str]) -> Config:
    """Turns flags into a Config with presets and YAML applied; raises UserError."""
    found, unknown = _make_parser().parse_known_args(list(argv))
    flags = vars(found)
    if unknown:
        raise UserError(_explain_unknown(unknown[0]))
    for name, value in flags.items():
        if value is None:
            raise UserError(
                f"Expected a value after --{name}, got none. "
                f"Pass {spell_flag(SETTINGS[name])}, for instance."
            )
    return Config.resolve(**flags)


def describe() -> str:
    """Returns a table of every setting: flag, default, meaning, allowed values and presets."""
    blocks = []
    for group, fields in itertools.groupby(SETTINGS.values(), lambda f: f.metadata["group"]):
        head = f"{group.upper()}, read by {spell_tasks(READ_BY[group])}"
        blocks.append("\n".join([head, *map(_describe_setting, fields)]))
    return "\n\n".join(blocks)


def meaning_of(field: dataclasses.Field) -> list[str]:
    """Returns a setting's meaning with the allowed values, what reads it where
    that is not what reads its group, then each value that presets give it.
    """
    choices, bounds = field.metadata["choices"], field.metadata["bounds"]
    meaning = field.metadata["help"]
    if choices:
        meaning += f" One of {', '.join(map(str, choices))}."
    elif bounds:
        meaning += f" {spell_bounds(bounds).capitalize()}."
    presets = _presets_of(field.name).items()
    said = [meaning, *_spell_readers(field)]
    return said + [f"{value} for {', '.join(places)}." for value, places in presets]


def spell_tasks(tasks: Sequence[str]) -> str:
    """Puts the tasks that read a setting, or a group of them, into words."""
    others = [task for task in TASKS if task not in tasks]
    if not others:
        return "all tasks"
    few = len(tasks) <= len(others) + 1
    return ", ".join(tasks) if few else f"all tasks but {', '.join(others)}"


def _spell_readers(field: dataclasses.Field) -> list[str]:
    """Returns a sentence on what a setting is read by, where not by what its group is."""
    said = []
    if tasks_of(field) != READ_BY[field.metadata["group"]]:
        said.append(f"Read by {spell_tasks(tasks_of(field))}.")
    if field.metadata["needs"]:
        said.append(f"Read with --{field.metadata['needs']}.")
    return [" ".join(said)] if said else []


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}. `python config.py` lists every flag.")


def _make_parser() -> argparse.ArgumentParser:
    """Splits words into names and texts; `Config.resolve` gives the texts their types."""
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name, field in SETTINGS.items():
        if is_switch(field):
            parser.add_argument(f"--{name}", nargs="?", const="true")
            parser.add_argument(f"--no-{name}", dest=name, action="store_const", const="false")
        else:
            parser.add_argument(f"--{name}", nargs="?")
    return parser


def _explain_unknown(word: str) -> str:
    if not word.startswith("-"):
        task = nearest(word, TASKS)
        remedy = f"Did you mean --task={task}?" if task else "Put a value of two words in quotes."
        return f"Expected flags as --name=value, got the word {word!r}. {remedy}"
    flag = word.partition("=")[0]
    switches = [f"no-{name}" for name, field in SETTINGS.items() if is_switch(field)]
    guess = nearest(flag.lstrip("-").replace("-", "_"), SETTINGS)
    if flag.startswith("--no"):
        guess = nearest(flag.lstrip("-"), switches) or guess
    remedy = f"Did you mean --{guess}?" if guess else "`python config.py` lists every flag."
    return f"Expected a known flag, got {flag}. {remedy}"


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM, which a scheduler sends, end a task as Ctrl-C does."""

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Keeps what TensorFlow prints as it is imported off the screen; all else is passed on.

    TensorFlow's libraries log to descriptor 2 before they read the level (tensorflow#100442), so
    the environment alone does not do it. A level that the user has set switches this off.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    screen = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            held.seek(0)
            text = held.read().decode(errors="replace")
            print(_CHATTER.sub("", text), end="", file=sys.stderr)


def _fail(code: int, message: str) -> int:
    print(message, file=sys.stderr)
    return code


def _describe_setting(field: dataclasses.Field) -> str:
    default = show(field.default)
    head = f"  --{field.name:<22}{'(none)' if default == '' else default!s:<16}"
    lines = [
        line
        for part in meaning_of(field)
        for line in textwrap.wrap(part, 100 - len(head), break_on_hyphens=False)
    ]
    return "\n".join([head + lines[0], *(" " * len(head) + line for line in lines[1:])])


def _presets_of(name: str) -> dict[object, list[str]]:
    """Maps each value that presets give the setting to the tasks and data sets it is for."""
    places: dict[object, list[str]] = {}
    by_data = {f"{task} on {data}": preset for (task, data), preset in DATA_PRESETS.items()}
    frozen = {"classification with --freeze": FROZEN_PRESET}
    for place, preset in (PRESETS | by_data | frozen).items():
        if name in preset:
            places.setdefault(show(preset[name]), []).append(place)
    return places


if __name__ == "__main__":
    sys.exit(main())
