"""Kills runs at bad moments and continues them: they must end as one that was left alone.

    python tools/soak.py --kills=20 --seed=0 --json=soak.json

Each variant trains a tiny encoder on drawn shapes, once undisturbed, then killed over and over: by
SIGKILL mostly, by SIGTERM, by SIGINT (Ctrl-C) and by SIGINT twice; at random moments of the run's
life, its start included, and at aimed ones: while a checkpoint, the journal, the best weights, a
plot or the results are written (half of a checkpoint is there), at the end of an epoch, while
features are computed or a validation begins. It is continued with --resume, or begun anew where no
checkpoint was there yet, until it ends. Its last checkpoint (weights and optimiser) and best
weights must be those of the undisturbed run bit for bit, `metrics.csv`, the points for TensorBoard
and `results.json` equal in all but times and paths; a signal that can be caught must end the
process with 130. The exit code is 1 where any of that fails.

A parent that has imported TensorFlow, but run nothing in it, forks each run, which saves the
seconds that a process takes to start. The undisturbed run of the first variant is made by a process
of its own, too, and compared: that the fork is sound.
"""

from __future__ import annotations

import argparse
import collections
import csv
import datetime
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import checkout  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import safetensors.numpy
from processes import processor

import main as program
from simclr_tf import atomic_write, plots
from simclr_tf.data.sets.shapes import make_shapes
from simclr_tf.models.resnet import DEPTHS
from simclr_tf.runs import checkpoints, folder
from simclr_tf.runs.checkpoints import Checkpoints
from simclr_tf.tasks import classification, pretrain, segmentation
from simclr_tf.training import callbacks
from simclr_tf.training.callbacks.tensorboard import TAG, TensorBoardLog

IMAGES, TESTS, SIDE = 96, 24, 16
TINY = (
    "--width_multiplier=0.0625",
    "--batch_size=8",
    "--keep_checkpoints=2",
    "--log_every_steps=5",
    "--eval_every_epochs=3",
)
PATIENCE = 300.0  # seconds after which a run that does not end is given up
TWICE = "SIGINT twice"
SIGNALS = ("SIGKILL",) * 5 + ("SIGTERM", "SIGINT", TWICE)
UNLIKE = {
    "images_per_second",
    "seconds",
    "checkpoint_seconds",
    "peak_memory_bytes",
    "config",
}  # times and paths

# What a kill may be aimed at: (owner, function, moment of the call). "half": of the file it writes.
AIMS: dict[str, tuple[Any, str, str]] = {
    "checkpoint, half written": (checkpoints, "write_whole", "half"),
    "checkpoint, without its name": (atomic_write.os, "fsync", "after"),
    "checkpoint, before the old ones go": (Checkpoints, "files", "before"),
    "best weights, half written": (Checkpoints, "save_best", "before"),
    "best weights, before the journal": (Checkpoints, "save_best", "after"),
    "journal, without its name": (folder.RunFolder, "_write_rows", "before"),
    "journal, before the checkpoint": (folder.RunFolder, "add_row", "after"),
    "end of an epoch": (callbacks.Progress, "on_epoch_end", "before"),
    "points, before the checkpoint": (TensorBoardLog, "on_epoch_end", "after"),
    "validation": (callbacks.SaveCheckpoints, "on_test_begin", "after"),
    "features of a look": (callbacks.knn_monitor, "embed", "before"),
    "features of a frozen encoder": (classification, "embed", "before"),
    "pixels of a validation": (segmentation.Judge, "__call__", "before"),
    "baselines": (pretrain, "pixel_encoder", "before"),
    "plot": (plots.style, "write_whole", "before"),
    "results": (folder.RunFolder, "write_results", "before"),
}


class Kill(NamedTuple):
    """A signal, and when: at a call of what an aim names, or after some seconds."""

    signal: str
    aim: str | None
    call: int
    seconds: float


class Life(NamedTuple):
    """How one process ended, and the seconds that it took to do so after its signal."""

    code: int
    killed: bool
    seconds: float
    output: str


def make_data(folder: Path) -> None:
    """Writes labelled images and images with masks."""
    images, labels, masks = make_shapes(IMAGES + TESTS, size=(SIDE, SIDE), seed=0)
    train, test = slice(IMAGES), slice(IMAGES, None)
    pictures = {"x_train": images[train], "x_test": images[test]}
    np.savez(folder / "labels.npz", y_train=labels[train], y_test=labels[test], **pictures)
    masks = {"masks_train": masks[train], "masks_test": masks[test]}
    np.savez(folder / "masks.npz", **pictures, **masks)


def variants(folder: Path, epochs: int) -> dict[str, list[str]]:
    """Returns the flags of each variant; the first is what the classifiers begin with."""
    of_labels, of_masks = (f"--dataset=npz:{folder / name}.npz" for name in ("labels", "masks"))
    common = [*TINY, f"--num_epochs={epochs}"]
    pretraining = ["--task=pretrain", of_labels, *common, "--zdim=8", "--val_fraction=0.1"]
    classifying = [
        "--task=classification",
        of_labels,
        *common,
        f"--init_weights={folder / 'whole'}",
    ]
    segmenting = ["--task=segmentation", of_masks, *common, "--crop_size=16"]
    exact, coarse = "--precision=float32", "--precision=mixed_bfloat16"
    return {
        "pretrain": [*pretraining, exact],
        "pretrain, bfloat16": [*pretraining, coarse],
        "pretrain, microbatches": [*pretraining, exact, "--microbatch_size=4"],
        "pretrain, 4 steps an execution": [*pretraining, exact, "--steps_per_execution=4"],
        "pretrain, checkpoints rare, moved": [*pretraining, exact, "--save_every_epochs=4"],
        "classification": [*classifying, exact],
        "classification, bfloat16": [*classifying, coarse],
        "classification, frozen": [*classifying, exact, "--freeze=True"],
        "segmentation": [*segmenting, exact],
        "segmentation, bfloat16": [*segmenting, coarse],
    }


def tell_where(flags: list[str], folder: Path) -> list[str]:
    name = "pretrain" if "--task=pretrain" in flags else "finetune"
    return [*flags, f"--{name}_save_path={folder}"]


def run_here(words: list[str], kill: Kill | None) -> int:
    """Runs the command line in this process, which a kill may be aimed at from within."""
    DEPTHS[18] = ((1, 1, 1, 1), False)  # as small as the names of the stages allow
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        if kill is not None and kill.aim is not None:
            take_aim(kill)
        return program.main(words)
    except KeyboardInterrupt:  # before the command line could take it
        return 130


def take_aim(kill: Kill) -> None:
    owner, name, moment = AIMS[kill.aim]
    function, calls = getattr(owner, name), 0

    def aimed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != kill.call:
            return function(*args, **kwargs)
        if moment == "before":
            send(kill.signal)
        if moment == "half":  # of a function that takes a path and what writes to it
            args = (args[0], lambda path, save=args[1]: write_half(save, path), *args[2:])
        result = function(*args, **kwargs)
        if moment == "after":
            send(kill.signal)
        return result

    def write_half(save: Callable[[Path], object], path: Path) -> None:
        save(path)
        if kill.signal == "SIGKILL":
            os.truncate(path, os.path.getsize(path) // 2)
        send(kill.signal)

    def send(name: str) -> None:
        print(f"AIMED {kill.aim}", flush=True)
        for _ in range(2 if name == TWICE else 1):
            os.kill(os.getpid(), number_of(name))

    setattr(owner, name, aimed)


def number_of(name: str) -> int:
    return int(getattr(signal, name.removesuffix(" twice")))


def live(words: list[str], kill: Kill | None, log: Path) -> Life:
    """Forks a process that runs the command line, kills it as told, and waits for its end."""
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    process = os.fork()
    if process == 0:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = 1
        try:
            code = run_here(words, kill)
        except BaseException:  # noqa: BLE001
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    code, killed, seconds = wait(process, kill)
    output = log.read_text(errors="replace")
    return Life(code, killed or "AIMED" in output, seconds, output)


def wait(process: int, kill: Kill | None) -> tuple[int, bool, float]:
    """Returns the exit code (-9 for SIGKILL), whether it was signalled from here, and how long it
    took to end from then on."""
    start, sent = time.monotonic(), []
    due = [] if kill is None or kill.aim else [kill.seconds] * (1 + (kill.signal == TWICE))
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        now = time.monotonic() - start
        if ended:
            return os.waitstatus_to_exitcode(status), bool(sent), now - (sent[0] if sent else 0.0)
        if len(sent) < len(due) and now >= due[0] + 0.05 * len(sent):
            os.kill(process, number_of(kill.signal))
            sent.append(now)
        if now > PATIENCE:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.005)


def differences(folder: Path, whole: Path) -> list[str]:
    """Returns in what a run is not that of `whole`."""
    found = []
    files = [Checkpoints(f / "checkpoints").newest() for f in (folder, whole)]
    pairs = {"last checkpoint": files}
    if Checkpoints(whole / "checkpoints").best.exists():
        pairs["best weights"] = [Checkpoints(f / "checkpoints").best for f in (folder, whole)]
    for what, (ours, theirs) in pairs.items():
        if ours is None or not ours.exists() or ours.name != theirs.name:
            found.append(f"{what}: {ours}")
            continue
        one, other = (safetensors.numpy.load_file(path) for path in (ours, theirs))
        wrong = [n for n in other if n not in one or one[n].tobytes() != other[n].tobytes()]
        if wrong or one.keys() != other.keys():
            found.append(f"{what}: {len(wrong)} of {len(other)} arrays differ: {wrong[:3]}")
    one, other = (rows_of(f) for f in (folder, whole))
    if one != other:
        first = [(a, b) for a, b in zip(one, other, strict=False) if a != b][:1]
        found.append(f"metrics.csv: {len(one)} and {len(other)} rows, {first}")
    one, other = (points_of(f) for f in (folder, whole))
    if one != other:
        found.append(f"tensorboard: {len(one)} and {len(other)} points")
    one, other = (json.loads((f / "results.json").read_text()) for f in (folder, whole))
    wrong = [name for name in other.keys() | one.keys() if one.get(name) != other.get(name)]
    found += [f"results.json: {n}: {one.get(n)}, {other.get(n)}" for n in set(wrong) - UNLIKE]
    return found


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in UNLIKE} for row in rows]


def points_of(folder: Path) -> list[tuple[str, str, int, bytes]]:
    """Returns what there is for TensorBoard: (split, name, epoch, value)."""
    found = []
    for path in (folder / "tensorboard").rglob("*tfevents*"):
        for event in events_of(path):
            for value in event.summary.value:
                if value.tag.removeprefix(TAG) not in UNLIKE:
                    content = value.tensor.SerializeToString()
                    found.append((path.parent.name, value.tag, event.step, content))
    return sorted(set(found))


def events_of(path: Path) -> Iterator[Any]:
    """Yields the events of a file: a length, its checksum, the event and its checksum, each.

    TensorFlow's own reader would run something in the parent, whose forks would wait for ever.
    """
    from tensorboard.compat.proto.event_pb2 import Event

    content, place = path.read_bytes(), 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        yield Event.FromString(content[place + 12 : place + 12 + length])
        place += length + 16


def soak(
    name: str, flags: list[str], whole: Path, seconds: float, kills: int, draw: random.Random
) -> dict[str, Any]:
    """Kills and continues runs of a variant until so many kills have hit; returns what happened."""
    counts: collections.Counter[str] = collections.Counter()
    by: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    failures: list[str] = []
    slowest = 0.0
    lives = 0
    while counts["kills"] < kills:
        lives += 1
        folder = whole.with_name(f"{whole.name}-{lives}")
        history = []
        while True:
            kill = draw_kill(draw, seconds) if counts["kills"] < kills else None
            resumed = Checkpoints(folder / "checkpoints").newest() is not None
            words = [*tell_where(flags, folder), "--resume" if resumed else "--overwrite"]
            life = live(words, kill, whole.with_suffix(".log"))
            counts["resumes"] += resumed
            if life.killed:
                counts["kills"] += 1
                by["signal"][kill.signal] += 1
                by["phase"][kill.aim or "a random moment"] += 1
                by["end"][str(life.code)] += 1
                slowest = max(slowest, life.seconds if kill.aim is None else 0.0)
                history.append(f"{kill.signal} at {kill.aim or f'{kill.seconds:.1f} s'}")
            wanted = {-9} if kill and kill.signal == "SIGKILL" else {130}
            if life.code not in ({0} | wanted if life.killed else {0}):
                failures.append(f"{history}: ended with {life.code}: {life.output[-1500:]}")
                break
            if life.code == 0:
                wrong = differences(folder, whole)
                failures += [f"{history}: {text}" for text in wrong]
                counts["survived"] += 0 if wrong else len(history)
                break
            if "moved" in name:
                folder = folder.rename(folder.with_name(f"{folder.name}-moved"))
        shutil.rmtree(folder, ignore_errors=True)
    return {
        **{key: counts[key] for key in ("kills", "survived", "resumes")},
        "lives": lives,
        **{f"by_{key}": dict(values) for key, values in by.items()},
        "slowest_end_after_a_signal": round(slowest, 2),
        "failures": failures,
    }


def draw_kill(draw: random.Random, seconds: float) -> Kill:
    aim = draw.choice([None, *AIMS]) if draw.random() < 0.6 else None
    return Kill(draw.choice(SIGNALS), aim, draw.randint(1, 4), draw.uniform(0.0, seconds))


def undisturbed(flags: list[str], folder: Path, start: Callable[[list[str]], int]) -> float:
    begun = time.monotonic()
    code = start(tell_where(flags, folder))
    if code:
        raise SystemExit(f"An undisturbed run ended with {code}: {flags}")
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="in all, shared by the variants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=24, help="of 12 steps or fewer each")
    parser.add_argument("--tasks", default="pretrain,classification,segmentation")
    parser.add_argument("--precision", default="", help="a Keras policy for all variants")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        sys.exit(run_here(json.loads(arguments.child), None))
    start, draw = time.monotonic(), random.Random(arguments.seed)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="soak") as name:
        scratch = Path(name)
        make_data(scratch)
        all_variants = variants(scratch, arguments.epochs)

        def fork(words: list[str]) -> int:
            life = live(words, None, scratch / "undisturbed.log")
            if life.code:
                print(life.output[-3000:])
            return life.code

        def process(words: list[str]) -> int:
            command = [sys.executable, __file__, f"--child={json.dumps(words)}"]
            return subprocess.run(command, stdout=subprocess.DEVNULL).returncode

        first = all_variants["pretrain"]
        took = undisturbed(first, scratch / "whole", fork)  # the classifiers begin with it
        undisturbed(first, scratch / "process", process)
        unsound = differences(scratch / "whole", scratch / "process")
        print(f"forked against a process of its own: {unsound or 'equal'}", flush=True)
        tasks = arguments.tasks.split(",")
        chosen = {n: f for n, f in all_variants.items() if n.split(",")[0] in tasks}
        for number, (name, flags) in enumerate(chosen.items()):
            if arguments.precision:
                flags = [*flags, f"--precision={arguments.precision}"]
            whole = scratch / f"run{number}"
            seconds = undisturbed(flags, whole, fork)
            share = arguments.kills // len(chosen) + (number < arguments.kills % len(chosen))
            found[name] = soak(name, flags, whole, seconds, share, draw)
            print(f"{name}: {json.dumps(found[name])}", flush=True)
    failed = bool(unsound) or any(result["failures"] for result in found.values())
    totals = {key: sum(r[key] for r in found.values()) for key in ("kills", "survived", "resumes")}
    report = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - start, 1),
        "seconds_of_an_undisturbed_run": round(took, 1),
        "fork_is_sound": not unsound,
        **totals,
        "variants": found,
    }
    print(json.dumps({k: v for k, v in report.items() if k != "variants"}, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
