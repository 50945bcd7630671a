"""Evaluation: how good the features of a pre-trained encoder are, by the protocols of the papers.

The features of all images are computed once; every probe works on these. Whatever is chosen (k, a
penalty, a learning rate) is chosen on a tenth of the training images, never on the test images.
"""

from __future__ import annotations

import dataclasses
import datetime
import shlex
from typing import Any

from simclr_tf import data
from simclr_tf.config.settings import Config
from simclr_tf.tasks.evaluate import drawing
from simclr_tf.tasks.evaluate.asked import PROTOCOLS, Asked, read_asked
from simclr_tf.tasks.evaluate.baselines import measure_baselines
from simclr_tf.tasks.evaluate.fine_tuning import fine_tune
from simclr_tf.tasks.evaluate.health import measure_health
from simclr_tf.tasks.evaluate.held_back import adopt_held_back, note_on_test
from simclr_tf.tasks.evaluate.probes import probe_h, probe_simply
from simclr_tf.tasks.evaluate.reporting import REPORT, compare, write_report
from simclr_tf.tasks.evaluate.subject import Features, Labels, Subject, compute_h, compute_z
from simclr_tf.workflow import datasets
from simclr_tf.workflow.encoder import prepare_encoder, with_stem
from simclr_tf.workflow.resume import begin_or_resume
from simclr_tf.workflow.run import Run, peak_memory_bytes
from simclr_tf.workflow.start import start_run
from simclr_tf.workflow.weights import adopt_run, check_apart, required_source, settings_of

__all__ = ["PROTOCOLS", "run"]


def run(config: Config) -> dict[str, Any]:
    """Evaluates a pre-training run, or compares evaluations, and returns what results.json holds.

    Writes the run folder `config.finetune_save_path`: results.json, pictures and report.html. Of
    images without labels it measures what needs none.

    Raises:
        UserError: There is no such run, no labels for what needs some, or the folder is not free.
    """
    if config.compare:
        return compare(config)
    asked = read_asked(config)
    with start_run(config) as run:
        return _evaluate(run, asked)


def _evaluate(run: Run, asked: Asked) -> dict[str, Any]:
    subject, notes = _prepare(run, asked)
    begin_or_resume(subject.run, {})

    h, rate = compute_h(subject)
    z = compute_z(subject, h)
    labels = subject.labels()
    if labels is None:
        asked = asked.without_labels()
    measured: dict[str, Any] = {}
    if "health" in asked.protocols:
        measured["health"] = measure_health(subject, h.test)
    if labels is not None:
        measured |= _measure(subject, h, z, labels, asked)
    drawing.draw_maps(subject, h, z, labels)
    drawing.draw_nearest(subject, h, labels)
    drawing.copy_curves(subject)
    facts = _facts(subject, labels, notes)
    results = subject.run.finish(**measured, **facts, images_per_second=rate)
    write_report(run.folder.path, [run.folder.path])
    return results


def _prepare(run: Run, asked: Asked) -> tuple[Subject, list[str]]:
    """Loads what is evaluated; returns it and what has to be said of it."""
    config = run.config
    checkpoint = required_source(config)
    check_apart(run.folder.path, checkpoint)
    trained = settings_of(checkpoint)
    if checkpoint is not None:
        config = adopt_held_back(adopt_run(config, checkpoint), trained)
    splits = datasets.load_splits(config, need_labels=asked.needs_labels, unlabelled=False)
    train, test = datasets.train_and_test(config, splits)
    notes = [note_on_test(config, trained, test), _note_on_labels(config, train, test)]
    said = [note for note in notes if note]
    for note in said:
        print(f"note: {note}", flush=True)
    size = datasets.view_size(config, train)
    config = with_stem(config, size)
    datasets.describe_data(train, test)
    encoder = prepare_encoder(config.replace(freeze=True), checkpoint)
    run = dataclasses.replace(run, config=config)
    return Subject(run, train, test, size, encoder, checkpoint, trained), said


def _note_on_labels(config: Config, train: data.Source, test: data.Source) -> str | None:
    """Returns a sentence on images without labels; None for those with labels.

    Raises:
        UserError: A label is out of range.
    """
    bare = [source.name for source in (train, test) if source.labels is None]
    if bare:
        return f"Not every image of {' and '.join(bare)} has a label: measured is what needs none."
    for source in (train, test):
        data.check_labels(source, config.num_classes)
    return None


def _measure(
    subject: Subject, h: Features, z: Features | None, labels: Labels, asked: Asked
) -> dict[str, Any]:
    """Measures what needs labels, and draws it, for results.json."""
    protocols = probe_h(subject, h, labels, asked.protocols)
    drawing.draw_confusions(subject, labels.names, protocols)
    measured: dict[str, Any] = {name: entry["mean"] for name, entry in protocols.items()}
    if "baselines" in asked.protocols:
        measured |= measure_baselines(subject, labels, h.train.shape[1])
    if z is not None:  # the paper's claim: h tells the classes apart better than z = g(h) does
        on_z = probe_simply(subject, z, labels, asked.protocols, "_z")
        measured |= {"z": on_z} if on_z else {}
    for name, by_share in fine_tune(subject, asked.protocols, asked.fractions).items():
        measured[name] = {share: entry["mean"] for share, entry in by_share.items()}
        protocols |= {f"{name}_{share}": entry for share, entry in by_share.items()}
    return measured | {"protocols": protocols}


def _facts(subject: Subject, labels: Labels | None, notes: list[str]) -> dict[str, Any]:
    """Returns what was evaluated and how, for results.json."""
    config, trained = subject.config, subject.trained
    drawn = [path.name for path in subject.run.folder.plots.glob("*.png")]
    return {
        "labelled": labels is not None,
        "class_names": [] if labels is None else list(labels.names),
        "notes": notes,
        "num_train": len(subject.train),
        "num_test": len(subject.test),
        "data": [subject.train.name, subject.test.name],
        "view_size": list(subject.size),
        "checkpoint": str(subject.checkpoint) if subject.checkpoint else "random",
        "pictures": sorted(drawn),
        "pretrain_config": trained.to_dict() if trained else None,
        "report": REPORT,
        "command": shlex.join(["python", "main.py", *config.command()]),
        "date": datetime.date.today().isoformat(),
        "peak_memory_bytes": peak_memory_bytes(),
    }
