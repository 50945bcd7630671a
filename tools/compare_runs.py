"""Puts finished runs side by side: what was learnt, against a random encoder and raw pixels.

python tools/compare_runs.py logs/demo/pretrain logs/demo/frozen logs/demo/segmentation
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def rows_of(folder: Path, results: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Returns (run, measure, score) for each accuracy or mean IoU that a run reports."""
    if results["task"] != "pretrain":
        frozen = results["config"]["freeze"]
        start = "random" if results["initial_weights"] == "random" else "pre-trained"
        if results["task"] == "segmentation":
            part = "frozen" if frozen else "whole network"
            name = f"segmentation (mean IoU), {part}, {start} encoder"
            return [(folder.name, name, results["mean_iou"])]
        head = "linear head" if frozen else "whole network fine-tuned"
        return [(folder.name, f"{head}, {start} encoder", results["accuracy"])]
    baselines = results.get("baselines", {})
    measured = [(f"kNN, {name.replace('_', ' ')}", value) for name, value in baselines.items()]
    measured.append(("kNN, pre-trained encoder", results.get("knn_accuracy")))
    return [(folder.name, name, value) for name, value in measured if value is not None]


def main() -> int:
    folders = [Path(argument) for argument in sys.argv[1:]]
    missing = [str(f) for f in folders if not (f / "results.json").exists()]
    if missing or not folders:
        print(
            f"Expected folders of finished runs, got {', '.join(missing) or 'none'}. "
            "Pass folders that hold a results.json.",
            file=sys.stderr,
        )
        return 2
    results = [json.loads((f / "results.json").read_text()) for f in folders]
    rows = [row for f, r in zip(folders, results, strict=True) for row in rows_of(f, r)]
    width = max(len(measure) for _, measure, _ in rows)
    print(f"\n{'measured on the test images':<{width}}  score")
    for _, measure, score in rows:
        print(f"{measure:<{width}}  {score:.3f}  {'#' * round(40 * score)}")
    seconds = sum(r["seconds"] for r in results)
    print(f"\n{seconds / 60:.1f} minutes of compute on {results[0]['device']}")
    print(f"figures: {', '.join(str(f / 'plots') for f in folders)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
