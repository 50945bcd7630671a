"""Pre-trains the variants of a study, evaluates each, and puts them side by side.

    python tools/study.py configs/studies/strength.yaml --out=OUT --json=study.json \\
        -- --dataset=folder:PATH

A study is a YAML file: `config` names the settings that all variants start from (a file beside the
study), `settings` what is changed of them for all, `variants` what for each, by its name, and
`evaluate` the settings of `--task=evaluate`; without it the variants are pre-trained only. Flags
after `--` go to every command. OUT holds a folder for each variant and seed, and `compare` with the
report. What is finished already is not repeated, what was interrupted is resumed.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkout
import yaml

ROOT = Path(checkout.__file__).resolve().parents[1]
Row = dict[str, Any]


def as_flags(settings: dict[str, Any]) -> list[str]:
    """Returns settings as flags."""
    return [f"--{name}={value}" for name, value in settings.items()]


def folder_name(variant: str) -> str:
    """Returns a name for a variant's folder: "1/8" has a character that none can have."""
    return re.sub(r"[^\w.-]+", "_", variant)


def run(flags: list[str], folder: Path, *, resumable: bool = False) -> Row:
    """Runs a task, unless it is finished with these very flags, and returns its results."""
    written = folder / "command.txt"
    said = " ".join(["main.py", *flags])
    same = written.exists() and written.read_text() == said
    if not (same and (folder / "results.json").exists()):
        folder.mkdir(parents=True, exist_ok=True)
        written.write_text(said)
        begun = same and resumable and any((folder / "checkpoints").glob("step-*"))
        print(said, flush=True)
        subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *flags]
            + ["--resume" if begun else "--overwrite"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return json.loads((folder / "results.json").read_text())


def measure(
    study: dict[str, Any], variant: str, seed: int, out: Path, base: list[str], given: list[str]
) -> Row:
    """Pre-trains a variant and evaluates it; returns what was measured."""
    trained = out / f"{folder_name(variant)}_{seed}"
    settings = {**study.get("settings", {}), **study["variants"][variant]}
    results = run(
        [
            "--task=pretrain",
            *base,
            *as_flags(settings),
            f"--seed={seed}",
            f"--pretrain_save_path={trained}",
            *given,
        ],
        trained,
        resumable=True,
    )
    row = {"variant": variant, "seed": seed, "loss": results["loss"], "epochs": results["epochs"]}
    row["seconds"] = results["seconds"]
    if "evaluate" in study:
        evaluated = out / f"{trained.name}_evaluated"
        results = run(
            [
                "--task=evaluate",
                *as_flags(study["evaluate"]),
                f"--seed={seed}",
                f"--pretrain_save_path={trained}",
                f"--finetune_save_path={evaluated}",
            ],
            evaluated,
        )
        row |= {name: found["mean"] for name, found in results["protocols"].items()}
        row |= {f"{name} of z": found["mean"] for name, found in results.get("z", {}).items()}
        row["evaluate_seconds"] = results["seconds"]
    return row


def print_table(rows: list[Row]) -> None:
    """Prints Markdown: a line for each variant, the mean over the seeds and its deviation."""
    kept = ("variant", "seed", "seconds", "evaluate_seconds", "epochs")
    columns = [name for name in rows[0] if name not in kept]
    print("| variant | " + " | ".join(name.replace("_", " ") for name in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for variant in dict.fromkeys(row["variant"] for row in rows):
        cells = []
        for name in columns:
            values = [row[name] for row in rows if row["variant"] == variant]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        print(f"| {variant} | " + " | ".join(cells) + " |")


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="YAML file, see configs/studies")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each variant")
    parser.add_argument("--json", type=Path, default=None, help="where the rows are written")
    words = sys.argv[1:] if arguments is None else arguments
    # argparse gives what follows `--` to nobody where an option stood between the two positionals.
    end = words.index("--") if "--" in words else len(words)
    asked, flags = parser.parse_args(words[:end]), words[end + 1 :]
    study = yaml.safe_load(asked.study.read_text())
    base = [f"--config={asked.study.parent / study['config']}"] if "config" in study else []
    rows = [
        measure(study, variant, seed, asked.out, base, flags)
        for variant in study["variants"]
        for seed in range(asked.seeds)
    ]
    print_table(rows)
    minutes = sum(row["seconds"] + row.get("evaluate_seconds", 0) for row in rows) / 60
    print(f"{len(rows)} runs, {minutes:.1f} minutes")
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")
    if "evaluate" in study and len(study["variants"]) > 1:
        folders = [asked.out / f"{folder_name(name)}_0_evaluated" for name in study["variants"]]
        compared = asked.out / "compare"
        run(
            [
                "--task=evaluate",
                f"--compare={','.join(map(str, folders))}",
                f"--finetune_save_path={compared}",
            ],
            compared,
        )
        print(f"side by side in {compared / 'report.html'}")
    return rows


if __name__ == "__main__":
    main()
