"""What can be said of features without labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from simclr_tf import metrics
from simclr_tf.tasks.evaluate.subject import Subject, spread
from simclr_tf.workflow.run import rounded

IMAGES = 2000  # at most that alignment and uniformity are of
SPREAD_VALUES = 64


def measure_health(subject: Subject, h: np.ndarray) -> dict[str, Any]:
    """Measures the test features, float32 [N, F], for results.json."""
    rows = spread(len(h), IMAGES)
    some = subject.test.take(rows)
    first, second = (subject.embed_view(some, subject.recipe, view) for view in (1, 2))
    unit = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12)
    spreads = np.sort(unit.std(axis=0, dtype=np.float64))[::-1]
    shown = spreads[spread(len(spreads), SPREAD_VALUES)]
    return {
        "alignment": rounded(metrics.alignment(first, second)),
        "uniformity": rounded(metrics.uniformity(h[rows])) if len(rows) > 1 else None,
        "effective_rank": rounded(metrics.effective_rank(h), 2),
        "width": h.shape[1],
        "feature_spread": rounded(metrics.feature_spread(h)),
        "per_dimension_spread": [float(f"{value:.6g}") for value in shown],
    }
