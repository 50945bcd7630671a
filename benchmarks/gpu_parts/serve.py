"""One part in this process: `python -m gpu_parts.serve MODULE.FUNCTION OPTIONS FILE`.

What a part finds out goes to the file at once, a line of JSON each, so that it is there when the
part ends before its time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_LETTERS = 300  # of an error's first line; XLA's are pages long


class Report:
    """What a part has found out so far.

    Args:
        path: File that the lines go to.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = open(path, "a", buffering=1)
        self.failed = False

    def tell(self, **values: Any) -> None:
        """Writes results by name; those of a name that was told before are added to it."""
        print(json.dumps(values), file=self._file)

    def fail(self, name: str, reason: str) -> None:
        self.failed = True
        self.tell(**{name: {"error": reason[:MOST_LETTERS]}})

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Keeps what the block raises as the error of `name`; the part goes on after it."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            text = str(error).strip() or type(error).__name__
            self.fail(name, f"{type(error).__name__}: {text.splitlines()[0]}")


def read_report(path: Path) -> dict[str, Any]:
    """Returns what was told, by name; a last line that was cut off is left out."""
    found: dict[str, Any] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            for name, value in json.loads(line).items():
                both = isinstance(value, dict) and isinstance(found.get(name), dict)
                found[name] = found[name] | value if both else value
    return found


def main() -> int:
    work, options, path = sys.argv[1:]
    module, _, function = work.partition(".")
    report = Report(path)
    getattr(importlib.import_module(f"gpu_parts.{module}"), function)(report, json.loads(options))
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
