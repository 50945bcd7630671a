"""Calls torch_reference.py in .venv-interop, where that environment has been made."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
PYTHON = HERE.parent / ".venv-interop" / "bin" / "python"

_unless_there = pytest.mark.skipif(
    not PYTHON.exists(), reason="no .venv-interop with torch: `make interop` makes it"
)


def needs_torch(test):
    """Marks a test that `make interop` runs."""
    return pytest.mark.torch(_unless_there(test))


def in_torch(mode, folder):
    """Runs torch_reference.py; its errors are the test's."""
    command = [PYTHON, "-I", "-Wignore", HERE / "torch_reference.py", mode, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
