"""The Python and the packages that the programs need, looked for before anything is imported.

It runs where they are not there: it is written for any Python from 3.7 on, and needs no package.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys

OLDEST_PYTHON = (3, 10)
# What no training does without. Not all of requirements.txt: a run on a folder of images, say,
# reads no data set of TensorFlow's, and needs no package for that.
PACKAGES = ("tensorflow", "keras", "numpy", "PIL", "yaml", "safetensors", "matplotlib", "psutil")
WRONG = 2  # exit code

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def leave_where_incomplete() -> None:
    """Ends this process, with a message and exit code 2, where it lacks what a program needs."""
    fault = find_fault()
    if fault:
        print("error: " + fault, file=sys.stderr)
        sys.exit(WRONG)


def find_fault() -> str:
    """Returns what is missing, as expected, got and remedy; "" where nothing is."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        oldest, own = (".".join(map(str, v[:2])) for v in (OLDEST_PYTHON, sys.version_info))
        return f"Expected Python {oldest} or newer, got {own} as {sys.executable}. {_remedy()}"
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"Expected the packages of requirements.txt, got no module {', '.join(missing)} in "
        f"{sys.executable}. {_remedy()}"
    )


def _remedy() -> str:
    """Returns what to type, in a clone of the repository and where the package was installed."""
    is_clone = os.path.exists(os.path.join(_ROOT, "requirements.txt"))
    if sys.version_info[:2] >= OLDEST_PYTHON and (not is_clone or sys.prefix != sys.base_prefix):
        wanted = "-r requirements.txt" if is_clone else "simclr-tf"
        return f"Run `{sys.executable} -m pip install {wanted}`, then the same command."
    if not is_clone:
        return "Install simclr-tf with a newer Python."
    python = os.path.join(_ROOT, ".venv", "bin", "python")
    setup = "" if os.path.exists(python) else f"`make setup`{_where()}, then "
    words = [os.path.relpath(python), *_words()]
    return f"Run {setup}`{' '.join(map(shlex.quote, words))}`."


def _where() -> str:
    return "" if os.path.samefile(_ROOT, os.getcwd()) else f" in {_ROOT}"


def _words() -> list[str]:
    """Returns the command after the name of its Python and the options of that, as it was typed."""
    words = list(getattr(sys, "orig_argv", [sys.executable, *sys.argv])[1:])
    while words and words[0].startswith("-") and words[0] != "-m":
        del words[0]
    return words
