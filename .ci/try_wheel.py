"""Tries the wheel that was installed into an environment: `python .ci/try_wheel.py ENVIRONMENT`."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parent.parent / "simclr_tf"
BIN = pathlib.Path(sys.argv[1]).resolve() / "bin"


def run(*words: str | pathlib.Path) -> str:
    """Runs a command in a folder that is empty but for what the commands before it wrote."""
    done = subprocess.run(words, cwd=elsewhere, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


with tempfile.TemporaryDirectory() as name:
    elsewhere = pathlib.Path(name)
    installed = run(BIN / "python", "-c", "import simclr_tf; print(simclr_tf.__path__[0])").strip()
    if BIN.parent not in pathlib.Path(installed).parents:
        sys.exit(f"Expected simclr_tf in {BIN.parent}, got {installed}.")
    files = {str(p.relative_to(SOURCE)) for p in SOURCE.rglob("*") if p.suffix not in ("", ".pyc")}
    missing = {path for path in files if not pathlib.Path(installed, path).exists()}
    if missing or not {"py.typed", "report/report.css", "report/single.html"} <= files:
        sys.exit(f"Expected all files of simclr_tf in the wheel, got it without {missing}.")
    if "--task" not in run(BIN / "simclr-tf", "--help"):
        sys.exit("Expected the settings from simclr-tf --help.")
    run(
        BIN / "simclr-tf",
        "--task=pretrain",
        "--max_steps=2",
        "--batch_size=16",
        "--width_multiplier=0.0625",
    )
    results = json.loads((elsewhere / "logs/pretrain/results.json").read_text())
    if results["steps"] != 2 or results["config"]["dataset"] != "shapes":
        sys.exit(f"Expected two steps on shapes, got {results}.")
print(
    f"the wheel holds all {len(files)} files of simclr_tf; its simclr-tf pre-trained for two steps"
)
