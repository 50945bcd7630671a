"""How a protocol is judged: every seed by the same scores, and what results.json has of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simclr_tf.evaluation.probes import score
from simclr_tf.tasks.evaluate.subject import Features, Labels, Subject
from simclr_tf.workflow.run import rounded

HELD_BACK = "a tenth of the training images, held back"

Outcome = dict[str, Any]
# What a probe makes of the test features, float32 [N, K], and the settings that it chose.
Probe = Callable[[Features, Labels, int], tuple[np.ndarray, dict[str, Any]]]


def judge(
    name: str,
    probe: Probe,
    subject: Subject,
    features: Features,
    labels: Labels,
    *,
    ordered: bool = True,
) -> Outcome:
    """Runs a probe with every seed and returns what came of it.

    Args:
        name: For the line that is printed.
        probe: The probe.
        subject: What is evaluated.
        features: To be probed.
        labels: Of the images.
        ordered: Whether the scores put all classes in an order: else there is no top 5.
    """
    started = time.monotonic()
    outcomes, chosen = [], []
    for seed in subject.seeds:
        scores, settings = probe(features, labels, seed)
        outcomes.append(score(scores, labels.test, labels.num_classes))
        chosen.append(settings)
        if not ordered:
            outcomes[-1]["top5"] = None
    every = {key: [settings[key] for settings in chosen] for key in chosen[0]}
    settings = {key: v[0] if len(set(v)) == 1 else v for key, v in every.items()}
    return summarise(name, outcomes, settings | {"chosen_on": HELD_BACK}, started)


def summarise(
    name: str, outcomes: Sequence[Outcome], settings: dict[str, Any], started: float
) -> Outcome:
    """Returns what a protocol measured, given an outcome for each seed; prints its mean."""
    accuracies = [outcome["accuracy"] for outcome in outcomes]
    several = len(accuracies) > 1
    mean = rounded(float(np.mean(accuracies)))
    votes = (
        f"  (k {settings['k']}, temperature {settings['temperature']})" if "k" in settings else ""
    )
    print(f"{name.replace('_', ' '):<28} {mean:.4f}{votes}", flush=True)
    return {
        "accuracy": [rounded(value) for value in accuracies],
        "mean": mean,
        "std": rounded(float(np.std(accuracies, ddof=1))) if several else None,
        "top5": _mean([outcome.get("top5") for outcome in outcomes]),
        "f1_macro": _mean([outcome.get("f1_macro") for outcome in outcomes]),
        # Of all seeds together.
        "confusion_matrix": np.sum([o["confusion_matrix"] for o in outcomes], axis=0).tolist(),
        "settings": settings,
        "seconds": round(time.monotonic() - started, 2),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return rounded(float(np.mean(known))) if known else None
