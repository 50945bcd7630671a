"""Prediction: a trained classification or segmentation, run over images without labels."""

from __future__ import annotations

import pathlib
from typing import Any

from simclr_tf import data
from simclr_tf.config.settings import Config
from simclr_tf.counting import spell_number
from simclr_tf.tasks.predict.classifier import Classifier
from simclr_tf.tasks.predict.output import OutputFolder, output_names
from simclr_tf.tasks.predict.segmenter import Segmenter
from simclr_tf.tasks.predict.tolerant import tolerate
from simclr_tf.tasks.predict.trained import Trained, build_model, read_run
from simclr_tf.tasks.predict.work import Work
from simclr_tf.workflow import datasets
from simclr_tf.workflow.pace import Pace
from simclr_tf.workflow.resume import begin_or_resume
from simclr_tf.workflow.run import Run, peak_memory_bytes
from simclr_tf.workflow.start import start_run

__all__ = ["build_model", "output_names", "read_run", "run"]


def run(config: Config) -> dict[str, Any]:
    """Predicts with a trained run and returns what results.json holds.

    Writes `config.predict_save_path`: a table, a contact sheet and, of a segmentation, a mask and
    an overlay for each image, of the image's own size.

    Images that do not decode cost nobody the predictions of the others, but there are no results.

    Raises:
        UserError: There is no such run, no such data, the folder is not free, or images do not
            decode.
    """
    trained = read_run(config)
    config = config.replace(predict_save_path=str(_output_path(config, trained)))
    with start_run(config) as run:
        return _predict(run, trained)


def _predict(run: Run, trained: Trained) -> dict[str, Any]:
    config = run.config
    source = tolerate(_load_source(config.replace(channels=trained.config.channels)))
    model = build_model(trained)
    print(
        f"predicts the {spell_number(len(source), 'image')} of {source.name} with "
        f"{trained.checkpoint} "
        f"({trained.config.task}, {spell_number(len(trained.class_names), 'class')})",
        flush=True,
    )
    _name_unused(config, trained)
    folder = OutputFolder(run.folder.path)
    work = Work(config, trained, model, source, folder, output_names(source))
    task: Segmenter | Classifier
    task = Segmenter(work) if trained.config.task == "segmentation" else Classifier(work)
    begin_or_resume(run, {})
    pace = Pace(len(source))
    task.predict_all(pace)
    found = task.report() if source.good() else {}
    source.check(folder)
    return run.finish(
        **found,
        num_images=len(source),
        num_skipped=source.skipped,
        class_names=list(trained.class_names),
        run=str(trained.path),
        run_task=trained.config.task,
        checkpoint=str(trained.checkpoint),
        images_per_second=pace.images_per_second,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _name_unused(config: Config, trained: Trained) -> None:
    """Prints the sizes that were given where the run has its own."""
    known = trained.config.task == "segmentation" or trained.view_size is not None
    given = [f"--{name}" for name in ("input_size", "crop_size") if name in config.typed]
    if given and known:
        print(f"not used, as the run has its own: {', '.join(given)}", flush=True)


def _output_path(config: Config, trained: Trained) -> pathlib.Path:
    if config.predict_save_path:
        return pathlib.Path(config.predict_save_path)
    chosen = config.init_weights == "auto" or "finetune_save_path" in config.given
    base = pathlib.Path(config.finetune_save_path) if chosen else trained.path
    return base / "predictions"


def _load_source(config: Config) -> data.Source:
    """Loads the images that are reported on, all where there is one set; each of its own size."""
    plain = config.replace(input_size=(0, 0), cache="false", val_fraction=0.0, num_classes=0)
    splits = datasets.load_splits(plain, some_labels=True, stop_at_bad=False)
    return splits.train if splits.test is None else splits.test
