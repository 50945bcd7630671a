"""The library on a GPU: all that is to be known of one, by one command in under 10 minutes.

    python benchmarks/gpu.py --json=gpu.json
    python benchmarks/gpu.py --json=gpu.json --resume --budget=3600
    python benchmarks/gpu.py --table=gpu.json

Every part is a process of its own with a time limit: if one fails, its error is kept and the next
begins. The file is written after each part. The most valuable parts come first, and parts for which
the budget leaves no time are named: `--resume` runs those, and what failed. At the end a table is
printed that can be pasted into `docs/run_where.md`.

    machine        device, driver, libraries, packages, processor; always
    step           the training step alone: ResNet-18 at 32 px, ResNet-50 at 224 px, bfloat16 and
                   float32, with XLA and without
    training       the same through main.py, fed by the host, and with --augment_on=device
    pipeline       the views alone, on the host
    torch          the step in PyTorch, where it is installed with CUDA
    losses         of 20 steps in float32 against the CPU's, TF32 off and on
    deterministic  main.py --deterministic twice, bits compared
    ntxent         the dense loss against the streaming one; tiles
    caching        gradient caching: time and memory
    recipe         five epochs of configs/cifar10.yaml, with kNN

Exit code: 0 done, 1 a part has failed, 2 there is no GPU or the command is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_parts.parts import NETWORKS, Part, list_parts
from gpu_parts.serve import read_report
from gpu_parts.table import failures, markdown

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
LEAST_SECONDS = 15.0  # that a part is begun with
TAIL = 40  # lines of what a failed part printed
FIRST_TOLERANCE = 0.05  # between the first losses of our step and of torch's, relative
ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "1",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # a part that starts runs of its own shares the device
    "CUDA_CACHE_MAXSIZE": str(4 << 30),  # kernels compiled at first use are kept for the next part
}


def run_part(part: Part, folder: Path, seconds: float, python: str = "") -> dict[str, Any]:
    """Runs a part in a process of its own and returns what it found, with its error if any.

    Args:
        part: The part.
        folder: Where it tells its results.
        seconds: Its time limit.
        python: The interpreter; "": this one.
    """
    file = folder / f"{part.name}.jsonl"
    command = [
        python or sys.executable,
        "-m",
        "gpu_parts.serve",
        part.work,
        json.dumps(part.options),
    ]
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"} if part.on_host else {}
    start, error = time.monotonic(), None
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, str(file)],
            cwd=Path(__file__).resolve().parent,
            env=ENVIRONMENT | os.environ | hidden,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what it starts is known by its group
        )
        try:
            if code := process.wait(timeout=seconds):
                error = f"ended with {code}"
        except subprocess.TimeoutExpired:
            error = f"took longer than {seconds:.0f} seconds"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.seek(0)
        tail = log.read().decode(errors="replace").splitlines()[-TAIL:]
    return {
        "seconds": round(time.monotonic() - start, 1),
        "options": part.options,
        "results": read_report(file),
        "error": error,
        **({"printed": tail} if error else {}),
    }


class Session:
    """The parts that are run, and the file they are written to.

    Args:
        path: The file.
        record: What it holds so far.
        torch_python: The interpreter of the parts of torch.
    """

    def __init__(self, path: Path, record: dict[str, Any], torch_python: str) -> None:
        self.path, self.record, self.torch_python = path, record, torch_python

    def run(self, parts: list[Part], *, limit: float, budget: float) -> None:
        """Runs the parts, writing the file after each; stops beginning any as the budget ends."""
        begun = time.monotonic()
        skipped = self.record["skipped"]
        with tempfile.TemporaryDirectory() as name:
            for part in parts:
                left = budget - (time.monotonic() - begun)
                skipped.pop(part.name, None)
                if left < LEAST_SECONDS:
                    skipped[part.name] = f"the budget of {budget:.0f} seconds was used up"
                    continue
                print(f"{part.name} ...", end=" ", flush=True)
                python = self.torch_python if part.name.startswith("torch") else ""
                found = run_part(part, Path(name), min(limit, left), python)
                self.add(part.name, found)
                print(f"{found['seconds']:.0f} s {found['error'] or ''}", flush=True)
        self.write()

    def add(self, name: str, found: dict[str, Any]) -> None:
        self.record["parts"][name] = found
        compare_first_losses(self.record["parts"])
        self.write()

    def write(self) -> None:
        whole = self.path.with_name(self.path.name + ".part")
        whole.write_text(json.dumps(self.record, indent=1) + "\n")
        whole.replace(self.path)


def compare_first_losses(parts: dict[str, Any]) -> None:
    """Marks a part of torch as failed whose first losses are not those of our step."""
    for name, torch in parts.items():
        if not name.startswith("torch"):
            continue
        depth = name.partition("_")[2]
        ours = [parts.get(f"step_{depth}_{c}", {}).get("results", {}) for c in ("xla", "plain")]
        known = [loss for results in ours for loss in _first_losses(results)]
        for loss in _first_losses(torch["results"]):
            if known and abs(loss - known[0]) > FIRST_TOLERANCE * known[0]:
                torch["error"] = f"expected a first loss of {known[0]}, as ours, got {loss}"


def _first_losses(results: dict[str, Any]) -> list[float]:
    variants = [value for value in results.values() if isinstance(value, dict)]
    return [value["first_losses"][0] for value in variants if "first_losses" in value]


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [network["batch_size"] for network in NETWORKS.values()]
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="file to write to")
    parser.add_argument("--parts", default="", help="groups or names, joined by commas; all")
    parser.add_argument("--npz", default="", help="images of the recipe, such as CIFAR-10's")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of a part, at most")
    parser.add_argument("--budget", type=float, default=570.0, help="seconds in all")
    parser.add_argument(
        "--batch_sizes",
        type=int,
        nargs=2,
        default=sizes,
        help=f"of ResNet-18 and ResNet-50, instead of {sizes}: for a GPU of little memory",
    )
    parser.add_argument(
        "--torch_python", default="", help="interpreter with torch; default: this one"
    )
    parser.add_argument("--resume", action="store_true", help="add to the file what it lacks")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, also without a GPU")
    parser.add_argument("--table", type=Path, help="print the table of such a file, run nothing")
    arguments = parser.parse_args(words)
    if not arguments.json.resolve().parent.is_dir():
        parser.error(f"Expected a folder that is there for --json, got {arguments.json}.")
    if arguments.npz:  # parts run elsewhere
        arguments.npz = str(Path(arguments.npz).resolve())
        if not Path(arguments.npz).is_file():
            parser.error(f"Expected a file as --npz, got {arguments.npz}.")
    return arguments


def choose(parts: list[Part], asked: str) -> list[Part]:
    """Returns the parts that are asked for by name or group, in their order.

    Raises:
        ValueError: A word names none.
    """
    words = [word.strip() for word in asked.split(",") if word.strip()]
    for word in words:
        if not any(_is_named(part.name, word) for part in parts):
            names = ", ".join(part.name for part in parts)
            raise ValueError(f"Expected --parts among {names}, or their beginnings, got {word!r}.")
    return [p for p in parts if not words or any(_is_named(p.name, word) for word in words)]


def _is_named(name: str, word: str) -> bool:
    return name == word or name.startswith(f"{word}_")


def read_record(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what is to be added to: a new record, or that of the file.

    Raises:
        ValueError: The file is there and was not to be added to, or holds tiny sizes.
    """
    if not arguments.json.exists():
        words = " ".join(sys.argv[1:])
        return {"command": words, "quick": arguments.quick, "parts": {}, "skipped": {}}
    if not arguments.resume:
        raise ValueError(
            f"Expected no file {arguments.json}, got one. Pass --resume to add what it lacks, or "
            "another file."
        )
    record = json.loads(arguments.json.read_text())
    if record["quick"] != arguments.quick:
        raise ValueError(f"Expected a file of the same sizes, got {arguments.json}: see --quick.")
    return record


def no_gpu(found: dict[str, Any]) -> str:
    """Returns what to say where TensorFlow sees no GPU."""
    driver = found["results"].get("nvidia_smi", "nothing")
    seen = "" if driver.startswith("nothing") else f", though nvidia-smi names {driver}"
    return (
        f"Expected a GPU that TensorFlow sees, got none{seen}. Install CUDA's libraries: pip "
        "install -r requirements-gpu.txt. `--quick` tries this script out on a CPU."
    )


def measure(arguments: argparse.Namespace) -> int:
    """Runs what was asked for and prints the table; returns the exit code."""
    sizes = tuple(arguments.batch_sizes)
    machine, *others = list_parts(quick=arguments.quick, batch_sizes=sizes, npz=arguments.npz)
    try:
        record = read_record(arguments)
        chosen = choose([machine, *others], arguments.parts)
    except ValueError as error:
        print(error, file=sys.stderr)
        return WRONG
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        found = run_part(machine, Path(name), arguments.limit)
    # Where the part broke down, it may have been before it could tell: the others will.
    if not arguments.quick and found["results"].get("gpus", "unknown") == []:
        print(no_gpu(found), file=sys.stderr)
        return WRONG
    before = record["parts"].get("machine", found)["results"].get("gpus")
    if before != found["results"].get("gpus"):
        text = f"Expected {before} as in {arguments.json}, got {found['results'].get('gpus')}."
        print(f"{text} Pass another file.", file=sys.stderr)
        return WRONG
    record["date"] = datetime.date.today().isoformat()
    session = Session(arguments.json, record, arguments.torch_python)
    session.add("machine", found)
    if not arguments.parts:  # what is named is run again
        done = {name for name, part in record["parts"].items() if not part["error"]}
        chosen = [part for part in chosen if part.name not in done]
    chosen = [part for part in chosen if part is not machine]
    code = DONE
    try:
        left = arguments.budget - (time.monotonic() - begun)
        session.run(chosen, limit=arguments.limit, budget=left)
    except KeyboardInterrupt:
        code = INTERRUPTED
    print(f"\n{markdown(record)}\n{arguments.json} holds all of it")
    return code or (FAILED if failures(record) else DONE)


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    if arguments.table:
        print(markdown(json.loads(arguments.table.read_text())))
        return DONE
    return measure(arguments)


if __name__ == "__main__":
    sys.exit(main())
