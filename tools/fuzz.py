"""Fuzzing: broken files of every kind that the library reads, and what it makes of each.

A file may be read (a flipped bit may leave an image whole) or refused with a message that names it.
All else is a defect: another exception, a message that names no file, values that are not those of
the file, a crash, a hang, memory beyond the bound. Cases are functions of seed and number; they are
read in a process of their own, many in each, whose address space is bounded.

    python tools/fuzz.py --cases=1000 --seed=0 --json=fuzz.json
    python tools/fuzz.py --kinds image --only 17 --keep=logs/fuzz
"""

from __future__ import annotations

import argparse
import collections
import json
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
from fuzzing import DEFECTS, KINDS, make_of
from fuzzing.case import judge
from processes import Side, open_answers

FINE = ("read", "refused")
START_SECONDS = 300.0  # until a worker has imported what it needs


def work(memory: int, kinds: Sequence[str]) -> None:
    """Judges the cases that are asked for, one a line, until there are no more."""
    answers = open_answers()
    makes = {kind: make_of(kind) for kind in kinds}  # imports what they need
    # Beside what the process has: libraries reserve much that they never touch.
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        folder = Path(asked["folder"])
        judged = judge(makes[asked["kind"]], asked["seed"], asked["number"], folder)
        if "MemoryError" in judged["message"] and judged["outcome"] == "error":
            judged["outcome"] = "memory"
        print(json.dumps(judged), file=answers)


class Worker:
    """A process that judges cases, started anew after one that it did not live through."""

    def __init__(self, seconds: float, memory: int, kinds: Sequence[str]) -> None:
        self.seconds, self.memory, self.kinds = seconds, memory, kinds
        self._side: Side | None = None

    def judge(self, **case: Any) -> dict[str, Any]:
        """Returns what was made of a case; `outcome` may also be "crash", "hang" or "memory"."""
        if self._side is None:
            own = [sys.executable, str(Path(__file__).resolve())]
            self._side = Side("fuzz", [*own, f"--worker={self.memory}", "--kinds", *self.kinds])
            self._side.answer(START_SECONDS)
        try:
            return self._side.ask(within=self.seconds, **case)
        except TimeoutError as error:
            self.close(patience=0.0)
            return {"outcome": "hang", "how": "", "message": str(error), "seconds": self.seconds}
        except (RuntimeError, BrokenPipeError) as error:
            self.close(patience=0.0)
            outcome = "memory" if "bad_alloc" in str(error) else "crash"
            return {"outcome": outcome, "how": "", "message": str(error), "seconds": 0.0}

    def close(self, patience: float = 20.0) -> None:
        if self._side is not None:
            self._side.close(patience)
            self._side = None


def fuzz(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields what was made of each case."""
    worker = Worker(arguments.seconds, arguments.memory_mb << 20, arguments.kinds)
    numbers = [arguments.only] if arguments.only is not None else range(arguments.cases)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in numbers:
                kind = arguments.kinds[number % len(arguments.kinds)]
                place = Path(folder) / f"{kind}-{number}"
                place.mkdir()
                case = {"kind": kind, "seed": arguments.seed, "number": number}
                judged = worker.judge(folder=str(place), **case)
                if judged["outcome"] not in FINE and arguments.keep:
                    shutil.copytree(place, Path(arguments.keep) / place.name, dirs_exist_ok=True)
                shutil.rmtree(place)
                yield case | judged
    finally:
        worker.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=[*KINDS], choices=[*KINDS, *DEFECTS])
    parser.add_argument("--only", type=int, help="number of the one case to judge")
    parser.add_argument("--seconds", type=float, default=60.0, help="bound of a case")
    parser.add_argument("--memory_mb", type=int, default=2048, help="bound, beside the libraries")
    parser.add_argument("--keep", default="", help="folder that the files of defects are copied to")
    parser.add_argument("--json", default="", help="file to write the outcomes to")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        work(arguments.worker, arguments.kinds)
        return 0
    counted = {kind: collections.Counter[str]() for kind in arguments.kinds}
    defects, slowest = [], 0.0
    for case in fuzz(arguments):
        counted[case["kind"]][case["outcome"]] += 1
        slowest = max(slowest, case["seconds"])
        if case["outcome"] not in FINE:
            defects.append(case)
            print(json.dumps(case, ensure_ascii=True), flush=True)
    total = sum(counted.values(), collections.Counter())
    for kind, outcomes in (counted | {"all": total}).items():
        print(f"{kind:<14}", ", ".join(f"{count} {name}" for name, count in outcomes.items()))
    if arguments.json:
        results = {
            "cases": sum(total.values()),
            "seed": arguments.seed,
            "bounds": {"seconds": arguments.seconds, "memory_mb": arguments.memory_mb},
            "outcomes": {kind: dict(outcomes) for kind, outcomes in counted.items()},
            "slowest_seconds": slowest,
            "defects": defects,
        }
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")
    return int(bool(defects))


if __name__ == "__main__":
    sys.exit(main())
