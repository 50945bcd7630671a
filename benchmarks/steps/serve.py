"""One side of the training-step benchmark in a process of its own: `python -m steps.serve MODULE`.

Questions are `prepare` (build a variant, tell what it holds and its first losses), `measure` and
`matrix` (the rate of matrix products, of our side alone).
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from processes import open_answers

from steps.job import Job, Step

FIRST_LOSSES = 4


def prepare(side: ModuleType, question: dict[str, Any]) -> tuple[Step, dict[str, Any]]:
    """Builds a variant and trains it a few steps from given weights, or from its own, kept."""
    start = time.perf_counter()
    step = side.open_step(Job(**question["job"]), question["variant"], np.load(question["views"]))
    weights = step.weights()
    if question["save"]:
        np.savez(question["weights"], **weights)
    else:
        step.load(dict(np.load(question["weights"])))
    losses = [step.loss_of(step.run()) for _ in range(FIRST_LOSSES)]
    return step, {
        "shapes": {name: list(weight.shape) for name, weight in weights.items()},
        "losses": losses,
        "seconds": time.perf_counter() - start,
    }


def measure(step: Step, seconds: float) -> dict[str, float]:
    """Counts the steps of about `seconds`, after one that wakes what slept."""
    step.loss_of(step.run())
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        result = step.run()
        steps += 1
    loss = step.loss_of(result)
    return {"steps": steps, "seconds": time.perf_counter() - start, "loss": loss}


def answers(name: str, questions: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yields what the side called `name` is, or that it is missing, then an answer a question."""
    try:
        side = importlib.import_module(f"steps.{name}")
    except ImportError as error:
        yield {"missing": str(error)}
        return
    yield {"versions": side.VERSIONS, "precision": getattr(side, "PRECISION", None)}
    opened: dict[str, Step] = {}  # by variant
    for line in questions:
        question = json.loads(line)
        if "matrix" in question:
            yield {"rate": side.matrix_rate(question["matrix"], question["seconds"])}
        elif "job" in question:
            opened[question["variant"]], told = prepare(side, question)
            yield told
        else:
            yield measure(opened[question["variant"]], question["seconds"])


def main() -> None:
    file = open_answers()
    for answer in answers(sys.argv[1], sys.stdin):
        print(json.dumps(answer), file=file)


if __name__ == "__main__":
    main()
