"""Fine-tuning from a pre-trained encoder against the supervised twin, at shares of the labels.

    python benchmarks/label_fractions.py --dataset=folder:PATH --pretrained=logs/pretrain --out=OUT

Both sides train the whole network with the same labels, epochs and settings; only the first weights
differ. Runs that are finished already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

# Share of the labels -> epochs and batch size: few labels are seen more often.
BUDGETS = {0.01: (60, 64), 0.1: (30, 256), 1.0: (8, 256)}


def accuracy(out: Path, side: str, fraction: float, flags: list[str]) -> float:
    """Runs one classification, unless it is finished, and returns its accuracy."""
    folder = out / f"{side}_{fraction:g}"
    epochs, batch_size = BUDGETS[fraction]
    if not (folder / "results.json").exists():
        command = [
            *(sys.executable, "main.py", "--task=classification", "--overwrite"),
            f"--finetune_save_path={folder}",
            f"--label_fraction={fraction}",
            f"--num_epochs={epochs}",
            f"--batch_size={batch_size}",
            "--eval_every_epochs=0",
            *flags,
        ]
        print(" ".join(command[1:]), flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "results.json").read_text())["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--pretrained", required=True, help="run folder of the pre-training")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--crop_area_min", type=float, default=0.3)
    parser.add_argument("--fractions", type=float, nargs="+", default=list(BUDGETS))
    arguments = parser.parse_args()
    config = json.loads((Path(arguments.pretrained) / "results.json").read_text())["config"]
    shape = ("model", "width_multiplier", "depthwise", "stem")
    common = [
        f"--dataset={arguments.dataset}",
        f"--crop_area_min={arguments.crop_area_min}",
        *(f"--{name}={config[name]}" for name in shape),
    ]
    sides = {"fine-tuned": arguments.pretrained, "supervised": "none"}
    print("labels  " + "  ".join(sides))
    for fraction in arguments.fractions:
        row = [
            accuracy(arguments.out, side, fraction, [*common, f"--init_weights={weights}"])
            for side, weights in sides.items()
        ]
        print(f"{fraction:>6.0%}  " + "  ".join(f"{value:>10.4f}" for value in row), flush=True)


if __name__ == "__main__":
    main()
