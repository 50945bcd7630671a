"""Segmentation from several first weights, frozen and not, at shares of the labelled images.

    python tools/segmentation_study.py --train=train.txt --val=val.txt --out=OUT \\
        --encoders random=none camvid=logs/pretrain_camvid cifar=logs/pretrain_cifar \\
        --json=study.json -- --ignore_label=11 --stem=imagenet --width_multiplier=0.5

Every run takes the same number of steps with the same settings; only the first weights, what is
trained, the share of the labels and the seed differ. Of the labelled images of a share a tenth
chooses the best weights. Flags after `--` go to every run. Runs that are finished already are not
repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

TRAINED = {"whole": False, "frozen": True}  # what is trained -> whether the encoder is frozen
VALIDATION = 0.1  # of the labelled images, for choosing the best weights
JUDGED = 10  # times that a run is judged on those


def count_images(path: Path) -> int:
    """Returns the images of a list file."""
    lines = path.read_text().splitlines()
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in lines)


def epochs_for(steps: int, images: int, batch_size: int) -> int:
    """Returns the epochs that come nearest to so many steps, where a tenth is held back."""
    trained = images - max(1, round(VALIDATION * images))
    if trained < batch_size:
        raise SystemExit(f"Expected {batch_size} images to train on, a batch, got {trained}.")
    return max(1, round(steps / (trained // batch_size)))


def segment(name: str, arguments: argparse.Namespace, flags: list[str]) -> dict[str, Any]:
    """Runs one segmentation, unless it is finished, and returns its results."""
    folder = arguments.out / name
    command = [
        *(sys.executable, "main.py", "--task=segmentation", "--overwrite"),
        f"--finetune_save_path={folder}",
        f"--train_file_path={arguments.train}",
        f"--val_file_path={arguments.val}",
        f"--val_fraction={VALIDATION}",
        "--save_every_epochs=1000",
        *flags,
        *arguments.flags,
    ]
    written = folder / "command.txt"
    said = " ".join(command[1:])
    if not (folder / "results.json").exists() or written.read_text() != said:
        print(said, flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        written.write_text(said)
    return json.loads((folder / "results.json").read_text())


def study(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs all combinations; returns a row for each with what was measured."""
    images = count_images(arguments.train)
    rows = []
    for fraction in arguments.fractions:
        labelled = images if fraction == 1.0 else max(1, round(fraction * images))
        epochs = epochs_for(arguments.steps, labelled, arguments.batch_size)
        for frozen in [TRAINED[name] for name in arguments.trained]:
            for encoder in arguments.encoders:
                name, _, weights = encoder.partition("=")
                for seed in range(arguments.seeds if fraction == min(arguments.fractions) else 1):
                    run = f"{name}_{'frozen' if frozen else 'whole'}_{fraction:g}_{seed}"
                    flags = [
                        f"--init_weights={weights}",
                        f"--freeze={frozen}",
                        f"--label_fraction={fraction}",
                        f"--seed={seed}",
                        f"--num_epochs={epochs}",
                        f"--batch_size={arguments.batch_size}",
                        f"--eval_every_epochs={max(1, epochs // JUDGED)}",
                    ]
                    results = segment(run, arguments, flags)
                    measured = {k: results[k] for k in ("mean_iou", "pixel_accuracy", "seconds")}
                    row = {"encoder": name, "frozen": frozen, "fraction": fraction, "seed": seed}
                    rows.append(row | measured | {"last_mean_iou": results["last"]["mean_iou"]})
    return rows


def print_table(rows: list[dict[str, Any]], fractions: list[float]) -> None:
    """Prints mean IoU, and its standard deviation where there are several seeds."""
    print(f"{'mean IoU':<28}" + "".join(f"{100 * f:>17g} %" for f in fractions))
    for frozen, encoder in dict.fromkeys((row["frozen"], row["encoder"]) for row in rows):
        line = f"{encoder + (', frozen' if frozen else ''):<28}"
        for fraction in fractions:
            values = [
                row["mean_iou"]
                for row in rows
                if (row["frozen"], row["encoder"], row["fraction"]) == (frozen, encoder, fraction)
            ]
            spread = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            line += f"{statistics.mean(values):.3f}{spread}".rjust(19)
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True, help="list with path,maskpath lines")
    parser.add_argument("--val", type=Path, required=True, help="the list that is reported on")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument(
        "--encoders",
        nargs="+",
        required=True,
        metavar="NAME=WEIGHTS",
        help="WEIGHTS: a run or none",
    )
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 0.3, 1.0])
    parser.add_argument("--trained", nargs="+", choices=list(TRAINED), default=list(TRAINED))
    parser.add_argument("--seeds", type=int, default=3, help="at the smallest fraction; else 1")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--json", type=Path, default=None, help="where the rows are written")
    parser.add_argument("flags", nargs="*", help="flags of every run, after --")
    arguments = parser.parse_args()
    rows = study(arguments)
    print_table(rows, arguments.fractions)
    minutes = sum(row["seconds"] for row in rows) / 60
    print(f"{len(rows)} runs, {minutes:.1f} minutes")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
