"""Settings: how one is declared, read from a flag or from YAML, and checked."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from simclr_tf.errors import UserError

# No number, of whatever setting, is as large: where int64 ends, and where float32 does.
MOST_WHOLE, MOST = 2**63, 3.4e38
QUOTED = 200  # characters of a wrong value that a message holds


def setting(
    group: str,
    default: object,
    help: str,
    *,
    choices: Sequence[object] = (),
    bounds: str = "",
    tasks: Sequence[str] = (),
    needs: str = "",
    roles: Sequence[str] = (),
    free_on_resume: bool = False,
    compare: bool = True,
) -> Any:
    """Declares a dataclass field that is also a flag and a YAML key.

    Args:
        group: The heading it is listed under.
        default: Its value when neither a preset nor the user gives one.
        help: Its meaning in a sentence or two.
        choices: The allowed values; `folder:PATH` stands for `folder:` and any text.
        bounds: The allowed range as an interval, such as `(0, 1]` or `[2, inf)`.
        tasks: The tasks that read it; none: those of its group (`config.READ_BY`).
        needs: The switch without which it is not read.
        roles: What it is one of, for who asks for all of them: see `settings.with_role`.
        free_on_resume: Whether a run that is resumed may go on with another value.
        compare: Whether two configurations that differ in it count as different.
    """
    metadata: dict[str, Any] = {
        "group": group,
        "help": help,
        "choices": tuple(choices),
        "bounds": bounds,
    }
    metadata |= {"tasks": tuple(tasks), "needs": needs}
    metadata |= {"roles": frozenset(roles), "free_on_resume": free_on_resume}
    return dataclasses.field(default=default, metadata=metadata, compare=compare)


def is_switch(field: dataclasses.Field) -> bool:
    """Tells whether `--name` alone switches it on and `--no-name` off."""
    return str(field.type) in ("bool", "bool | None")


def nearest(word: str, names: Iterable[str]) -> str:
    """Returns the name meant by initials (lr), by its beginning or by like spelling, or ''."""
    word, known = word.lower(), {name.lower(): name for name in names}
    initials = [name for name in known if word == "".join(part[0] for part in name.split("_"))]
    begun = [name for name in known if word and name.startswith(word)]
    alike = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    for found in (initials, begun, alike):
        if len(found) == 1:
            return known[found[0]]
    return ""


def show(value: object) -> object:
    """Returns the value as flags and YAML write it: a size as `240 240`, None as `auto`."""
    if value is None:
        return "auto"
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def spell_flag(field: dataclasses.Field) -> str:
    """Returns the setting with its default (or its NAME) as a word of a shell command."""
    default = show(field.default)
    return f"--{field.name}={shlex.quote(str(default)) if default != '' else field.name.upper()}"


def read(field: dataclasses.Field, raw: object, file: str = "") -> Any:
    """Turns a flag's text or a YAML value into the field's type.

    Args:
        field: A field made by `setting`.
        raw: Text, a number, a boolean, a list of two numbers, or None for an automatic switch.
        file: The YAML file it stands in; empty for a flag.

    Raises:
        UserError: The value is of the wrong type or is not one of the choices.
    """
    expected, from_text = _READERS[str(field.type)]
    choices = field.metadata["choices"]
    if choices:
        expected = f"one of {', '.join(map(str, choices))}"
    try:
        text = _as_text(field, raw)
        return _read_choice(text, choices) if choices else from_text(text)
    except ValueError:
        where = f"{field.name} in {file}" if file else f"--{field.name}"
        remedy = _remedy(field, raw, bool(file))
        raise UserError(f"Expected {expected} for {where}, got {_quoted(raw)}. {remedy}") from None


def read_all(
    fields: Mapping[str, dataclasses.Field], values: Mapping[Any, object], file: str = ""
) -> dict[str, Any]:
    """Gives every value its field's type; raises UserError also for a name that is no field."""
    for name in values:
        if name not in fields:
            shown = _quoted(name)
            guess = nearest(shown.strip("'"), fields)
            raise UserError(
                f"Expected the name of a setting{f' in {file}' if file else ''}, got {shown}. "
                + (f"Did you mean {guess}?" if guess else "`python config.py` lists them all.")
            )
    return {name: read(fields[name], value, file) for name, value in values.items()}


def check_bounds(field: dataclasses.Field, value: float) -> None:
    """Raises UserError for a number that is not finite or lies outside the field's bounds."""
    bounds = field.metadata["bounds"]
    # A whole number may be too large to become a float.
    most = MOST_WHOLE if isinstance(value, int) else MOST
    if not abs(value) < most or not _within(value, bounds):
        allowed = spell_bounds(bounds) or "finite"
        raise UserError(
            f"Expected --{field.name} {allowed}, got {_quoted(value)}. "
            f"Pass such a number; the default is {field.default}."
        )


def spell_bounds(bounds: str) -> str:
    """Puts an interval into words: `[2, inf)` becomes '2 or more'."""
    low, _, high = bounds[1:-1].partition(", ")
    if high != "inf":
        return f"in {bounds}" if bounds else ""
    return f"{low} or more" if bounds[0] == "[" else f"above {low}"


def _within(value: float, bounds: str) -> bool:
    if not bounds:
        return True
    low, high = (float(end) for end in bounds[1:-1].split(","))
    above = value >= low if bounds[0] == "[" else value > low
    return above and (value <= high if bounds[-1] == "]" else value < high)


def _as_text(field: dataclasses.Field, raw: object) -> str:
    """One way in for both sources: YAML's typed values are written out and read as flags are."""
    if raw is None and str(field.type) == "bool | None":
        return "auto"
    if isinstance(raw, list | tuple) and str(field.type) == "tuple[int, int]":
        return " ".join(map(str, raw))
    if not isinstance(raw, str | int | float | os.PathLike):
        raise ValueError(raw)
    text = str(raw)
    if "\0" in text:  # no path holds it
        raise ValueError(raw)
    return text


def _quoted(raw: object) -> str:
    """Returns a value as messages show it, the beginning of one that is long."""
    try:
        text = repr(raw)
    except ValueError:  # Python writes out no number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}..."


def _read_choice(text: str, choices: Sequence[object]) -> object:
    for choice in choices:
        name, colon, _ = str(choice).partition(":")
        if colon and text.startswith(f"{name}:") and text.partition(":")[2].strip():
            return text
        if not colon and text.strip().lower() == name:
            return choice
    raise ValueError(text)


def _read_switch(text: str) -> bool:
    word = text.strip().lower()
    if word not in ("true", "yes", "1", "false", "no", "0"):
        raise ValueError(text)
    return word in ("true", "yes", "1")


def _read_tristate(text: str) -> bool | None:
    return None if text.strip().lower() == "auto" else _read_switch(text)


def _read_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)(?:\s*[ ,xX]\s*(\d+))?\s*", text)
    if match is None:
        raise ValueError(text)
    height, width = match.groups()
    return int(height), int(width or height)


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "bool": ("true or false", _read_switch),
    "bool | None": ("true, false or auto", _read_tristate),
    "int": ("a whole number", int),
    "float": ("a number", float),
    "str": ("text", str),
    "tuple[int, int]": ("a height and width such as '240 240', 240x240 or 240", _read_size),
}


def _remedy(field: dataclasses.Field, raw: object, in_yaml: bool) -> str:
    name, choices = field.name, {str(c).partition(":")[0]: c for c in field.metadata["choices"]}
    text = _quoted(raw).strip("'\"")
    guess = nearest(text.partition(":")[0], choices)
    if guess:
        return f"Did you mean {choices[guess]}?"
    if is_switch(field) and not in_yaml:
        return f"Write --{name}, --{name}=True, --{name}=False or --no-{name}."
    if "folder" in choices and os.sep in text:
        return f"Did you mean folder:{text}?"
    if in_yaml:
        default = show(field.default)
        return f"Write {name}: {'TEXT' if default == '' else default}, for instance."
    return f"Pass {spell_flag(field)}, for instance."
