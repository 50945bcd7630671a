"""The whole network trained with shares of the labels, from the encoder and from nothing."""

from __future__ import annotations

import math
import pathlib
import shutil
import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from simclr_tf import data, plots
from simclr_tf.runs.folder import RunFolder
from simclr_tf.tasks.classification import Classification
from simclr_tf.tasks.evaluate.outcomes import Outcome, summarise
from simclr_tf.tasks.evaluate.subject import Subject
from simclr_tf.workflow.training import resolve, train_run

MOST_EPOCHS = 60  # however few the labels


def fine_tune(
    subject: Subject, asked: Sequence[str], fractions: Sequence[float]
) -> dict[str, dict[str, Outcome]]:
    """Trains, and draws the accuracies; returns what came of it by "finetune" or "supervised", and
    by share of the labels.
    """
    starts = {"finetune": subject.checkpoint, "supervised": None}
    if subject.checkpoint is None and "finetune" in asked:
        print("not fine-tuned: a random encoder would be its own supervised twin", flush=True)
        del starts["finetune"]
    found: dict[str, dict[str, Outcome]] = {}
    for name in (name for name in starts if name in asked):
        for fraction in fractions:
            started = time.monotonic()
            outcomes = [
                _classify(subject, name, starts[name], fraction, seed) for seed in subject.seeds
            ]
            settings = {"epochs": outcomes[0]["config"]["num_epochs"], "chosen_on": "nothing"}
            entry = summarise(f"{name}_{fraction}", outcomes, settings, started)
            found.setdefault(name, {})[str(fraction)] = entry
    if found:
        accuracies = {
            name: {share: entry["accuracy"] for share, entry in by_share.items()}
            for name, by_share in found.items()
        }
        plots.plot_fractions(
            accuracies.get("finetune", {}),
            accuracies.get("supervised", {}),
            subject.run.folder.plots / "fractions.png",
        )
    return found


def _classify(
    subject: Subject, name: str, checkpoint: pathlib.Path | None, fraction: float, seed: int
) -> dict[str, Any]:
    config = subject.config
    labelled = math.ceil(fraction * len(subject.train))
    # With few labels an epoch is short: more of them, though not as many as would make up for it.
    most = max(MOST_EPOCHS, config.num_epochs)
    epochs = min(most, round(config.num_epochs / math.sqrt(fraction)))
    trainer = Classification()
    folder = subject.run.folder.path / "fine_tuning" / f"{name}_{fraction}_{seed}"
    tf.keras.backend.clear_session()  # what the run before has built
    config, inner = resolve(
        config.replace(
            task="classification",
            init_weights=str(checkpoint) if checkpoint else "none",
            label_fraction=fraction,
            num_epochs=epochs,
            batch_size=max(2, min(config.batch_size, labelled // 4)),
            seed=seed,
            freeze=False,
            jitter=False,
            colordrop=False,
            blur=False,
            crop_area_min=subject.recipe.crop_area_min,
            overwrite=True,
            tracker="none",  # the evaluation as a whole has one
            profile=False,
            histograms=False,
            eval_every_epochs=0,
            save_every_epochs=epochs,
            save_every_minutes=0.0,
            keep_checkpoints=1,
            finetune_save_path=str(folder),
        ),
        trainer,
        own=RunFolder(folder).checkpoints,
        splits=data.Splits(subject.train, subject.test),
    )
    results = train_run(subject.run.within(config), trainer, inner)
    shutil.rmtree(folder / "checkpoints")  # nobody reads them, and they are large
    return results
