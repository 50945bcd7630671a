"""What needs no pre-training: pixels, their principal components and an untrained encoder."""

from __future__ import annotations

from typing import Any

import numpy as np

from simclr_tf.evaluation.features import pixel_encoder
from simclr_tf.tasks.evaluate.outcomes import Outcome
from simclr_tf.tasks.evaluate.probes import probe_simply
from simclr_tf.tasks.evaluate.subject import Features, Labels, Subject, spread
from simclr_tf.workflow.encoder import untrained_encoder

PIXEL_SIDE = 32  # of the images whose pixels are a baseline
PCA_IMAGES = 10_000  # that the components are found from


def measure_baselines(subject: Subject, labels: Labels, width: int) -> dict[str, Any]:
    """Probes the baselines one after the other: the features of one are in memory at a time.

    Args:
        subject: What is evaluated.
        labels: Of the images.
        width: Principal components, as many as the encoder has features.

    Returns:
        For results.json: "baselines", accuracies by nearest neighbours, and "baseline_protocols",
        all that was measured.
    """
    found: dict[str, Outcome] = {}

    def probe(name: str, features: Features, *asked: str) -> None:
        outcomes = probe_simply(subject, features, labels, asked, f"_{name}")
        found.update({f"{protocol}_{name}": entry for protocol, entry in outcomes.items()})

    # Of another width than the encoder's: a logistic regression would take long and say little.
    pixels = subject.embed(pixel_encoder(min(PIXEL_SIDE, *subject.size), subject.config.channels))
    probe("raw_pixels", pixels, "knn")
    reduced = _principal(pixels, width, subject.config.seed)
    del pixels  # the widest of all
    probe("pca", reduced, "knn", "logreg")
    del reduced
    # With the weights that the run which is evaluated began with, whatever seed the probes take.
    seed = (subject.trained or subject.config).seed
    untaught = subject.embed(untrained_encoder(subject.config.replace(seed=seed)))
    probe("random_encoder", untaught, "knn", "logreg")
    means = {
        name.removeprefix("knn_"): entry["mean"]
        for name, entry in found.items()
        if name.startswith("knn_")
    }
    return {"baselines": means, "baseline_protocols": found}


def _principal(pixels: Features, width: int, seed: int) -> Features:
    from sklearn.decomposition import PCA

    some = pixels.train[spread(len(pixels.train), PCA_IMAGES)]
    # Centred here: PCA itself may compute E[x x'] - E[x] E[x'] in float32, and of near-white pages
    # nothing is left of that.
    mean = some.mean(axis=0, dtype=np.float64).astype(np.float32)  # [P]
    pca = PCA(min(width, *some.shape), random_state=seed, copy=False).fit(some - mean)
    return Features(*(pca.transform(x - mean).astype(np.float32, copy=False) for x in pixels))
