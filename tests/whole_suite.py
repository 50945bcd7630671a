"""The whole suite as `make test` runs it: a few files a process, several processes at a time.

What XLA has compiled stays in its process to the end: no call of TensorFlow or Keras gives it back,
nor does another context. One process that runs everything grows to many gigabytes. Here a process
ends after some files, and the next one finds what was compiled before in a folder they share.

    python tests/whole_suite.py [--durations=60] [options of pytest]

At the end it says how many tests passed, which took longest, what processor time all took, and
what all processes held together at the most.
"""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Iterator

TESTS = pathlib.Path(__file__).parent
PROCESSES = 4  # at most; as many as there are cores
FILES = 4  # a process
# Take long: these go first, so that at the end no process is left to itself.
ALONE = (
    "distribution",
    "fit",
    "pretrain",
    "model",
    "pretrain_resumed",
    "segmentation",
    "stand_in_gpu",
    "classification",
)
# make test-gpu, make test-scripts
LEFT_OUT = ("gpu", "benchmarks", "benchmark_gpu", "benchmark_nt_xent", "study", "golden")
GIGABYTE = 1e9
LOOK_EVERY = 3  # seconds; a look at the memory of all processes takes some 0.05 s
LIMIT = 4.0  # GB that all processes together may hold,
ROOM = 1.8  # and what one more is expected to need
NO_TESTS = 5  # pytest's exit code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--durations", type=int, default=0, help="how many of the slowest to list")
    arguments, options = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="simclr-tf-tests-") as folder:
        scratch = pathlib.Path(folder)
        codes, peak = run_all(scratch, options)
        counts, durations = read_reports(scratch)
    for seconds, name in sorted(durations, reverse=True)[: arguments.durations]:
        print(f"{seconds:8.1f} s  {name}")
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    times = os.times()
    print(
        f"{time.time() - started:.0f} s, {times.children_user + times.children_system:.0f} s of "
        f"processors, {peak:.1f} GB in all processes together at the most"
    )
    return max(codes)


def run_all(scratch: pathlib.Path, options: list[str]) -> tuple[list[int], float]:
    """Runs every group of files; returns the exit codes and the most memory held, in GB."""
    compiled = scratch / "compiled"
    compiled.mkdir()
    flags = f"{os.environ.get('TF_XLA_FLAGS', '')} --tf_xla_persistent_cache_directory={compiled}"
    environment = os.environ | {"TF_XLA_FLAGS": flags.strip(), "MALLOC_ARENA_MAX": "2"}
    waiting = collections.deque(groups())
    running: dict[subprocess.Popen, pathlib.Path] = {}
    codes, peak = [], 0.0
    try:
        while waiting or running:
            held = memory_held()
            peak = max(peak, held)
            may_start = len(running) < min(os.cpu_count() or 1, PROCESSES)
            if waiting and may_start and (not running or held + ROOM <= LIMIT):
                log = scratch / f"{len(waiting)}.log"
                command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
                command += [f"--junitxml={log.with_suffix('.xml')}", *map(str, waiting.popleft())]
                with log.open("w") as output:
                    process = subprocess.Popen(
                        command, cwd=TESTS.parent, env=environment, stdout=output, stderr=output
                    )
                running[process] = log
            time.sleep(LOOK_EVERY)
            for process in [process for process in running if process.poll() is not None]:
                print(running.pop(process).read_text(), flush=True)
                codes.append(0 if process.returncode == NO_TESTS else abs(process.returncode))
    finally:  # of a run that is stopped nothing goes on
        for process in running:
            process.terminate()
    return codes, peak


def groups() -> Iterator[list[pathlib.Path]]:
    """The files of tests, those of one process at a time."""
    files = {path.stem.removeprefix("test_"): path for path in sorted(TESTS.rglob("test_*.py"))}
    for name in LEFT_OUT:
        del files[name]
    yield from ([files.pop(name)] for name in ALONE)
    rest = list(files.values())
    count = -(-len(rest) // FILES)
    yield from (rest[i::count] for i in range(count))


def read_reports(scratch: pathlib.Path) -> tuple[collections.Counter, list[tuple[float, str]]]:
    """Returns how many tests had which outcome, and how long each took."""
    counts, durations = collections.Counter(), []
    for report in scratch.glob("*.xml"):
        for case in xml.etree.ElementTree.parse(report).iter("testcase"):
            outcome = {part.tag for part in case} & {"failure", "error", "skipped"}
            counts[outcome.pop() if outcome else "passed"] += 1
            durations.append(
                (float(case.get("time")), f"{case.get('classname')}::{case.get('name')}")
            )
    return counts, durations


def memory_held() -> float:
    """Returns what this process and all that descend from it hold, in GB; 0 where none can tell.

    Pages that several of them share are counted once.
    """
    children = collections.defaultdict(list)
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            # "pid (name) state parent ...", and the name may hold anything.
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:  # has ended
            continue
        children[parent].append(folder.name)
    family, held = [str(os.getpid())], 0
    for pid in family:  # grows while it is read
        family += children[pid]
        try:
            lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        held += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return held / GIGABYTE


if __name__ == "__main__":
    sys.exit(main())
