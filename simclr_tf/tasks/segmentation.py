"""Segmentation: a U-Net on the encoder, frozen or not, trained with masks."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from simclr_tf import data, metrics, plots
from simclr_tf.config.settings import Config
from simclr_tf.counting import spell_number
from simclr_tf.data.batches.evaluation import plain_masked_batches
from simclr_tf.data.batches.train import masked_batches
from simclr_tf.data.files import read_each
from simclr_tf.errors import UserError
from simclr_tf.evaluation.segmentation import (
    PixelCounts,
    ScaleOf,
    Segment,
    count_pixels,
    judged_scale,
    make_segment,
    scale_rule,
)
from simclr_tf.evaluation.tiled_inference import segment_image
from simclr_tf.losses.segmentation import PixelLoss, balanced_weights
from simclr_tf.models.unet import decoder_variables, unet
from simclr_tf.runs.checkpoints import (
    Variables,
    named_variables,
    numbered_variables,
    read_arrays,
    restore,
    step_of,
)
from simclr_tf.runs.folder import Row
from simclr_tf.training.callbacks import MeanIoUMonitor, best_row
from simclr_tf.workflow import datasets
from simclr_tf.workflow.curves import draw_curves
from simclr_tf.workflow.encoder import prepare_encoder
from simclr_tf.workflow.network import Network, batches_of_views
from simclr_tf.workflow.optimizer import build_optimizer
from simclr_tf.workflow.plan import Plan, steps_per_execution
from simclr_tf.workflow.run import Run, rounded
from simclr_tf.workflow.training import Parts, Subject, Trainer, run_training
from simclr_tf.workflow.weights import adopt_view_size

SHOWN_IMAGES = 8  # rows of the picture of test images
CLASSES_LISTED = 40  # classes up to which each one's share of the pixels is printed
HARDLY_FOUND = 0.01  # IoU
CURVES = {"loss": "Loss", "mean_iou": "Mean IoU", "pixel_accuracy": "Pixel accuracy"}


@dataclasses.dataclass(frozen=True)
class Judge:
    """What whole images are judged by, with the weights of the moment.

    Attributes:
        segment: Images to logits.
        loss: (masks, logits) -> a number.
        num_classes: K.
        ignore_label: Value of the pixels that do not count, or None.
        size: (h, w) that images are brought to first, or None.
        scale_of: (height, width) of an image -> the scale that the network sees it at.
    """

    segment: Segment
    loss: PixelLoss
    num_classes: int
    ignore_label: int | None
    size: tuple[int, int] | None
    scale_of: ScaleOf

    def __call__(self, source: data.Source) -> PixelCounts:
        return count_pixels(
            self.segment,
            source,
            self.num_classes,
            ignore_label=self.ignore_label,
            size=self.size,
            scale_of=self.scale_of,
            loss=self.loss,
        )

    def show(self, source: data.Source) -> tuple[list[np.ndarray], ...]:
        """Returns the images of a source, uint8, their masks and the classes found."""
        shown: list[tuple[np.ndarray, ...]] = []
        for images, masks in plain_masked_batches(source, batch_size=1, size=self.size):
            pixels = np.rint(255.0 * images[0].numpy()).astype(np.uint8)
            classes = segment_image(self.segment, pixels, scale=self.scale_of(pixels.shape[:2]))
            shown.append((pixels, masks[0].numpy(), classes))
        return tuple(map(list, zip(*shown, strict=True)))


def run(config: Config) -> dict[str, Any]:
    """Trains a segmentation and returns what results.json holds.

    Writes the run folder `config.finetune_save_path`. What is reported are the weights that were
    best on the validation images, on test images that chose nothing.
    """
    return run_training(config, Segmentation())


class Segmentation(Trainer):
    """A U-Net on the encoder, trained with masks."""

    judge: Judge
    weights: Variables  # all that the best weights are

    def load(self, config: Config, *, look: bool = True) -> data.Splits:
        return datasets.load_splits(config, masks=datasets.mask_rules(config), look=look)

    def share_out(self, config: Config, splits: data.Splits) -> Parts:
        train, test = datasets.train_and_test(config, splits)
        if not config.val_fraction:
            return Parts(train, None, test)
        # Of the images with labels: that the best weights are chosen takes labels too.
        rest, validation = data.hold_back(train, config.val_fraction, config.seed)
        validation = dataclasses.replace(validation, name=f"{train.name}, for validation")
        return Parts(rest, validation, test)

    def settle(self, config: Config, checkpoint: pathlib.Path | None, train: data.Source) -> Config:
        if checkpoint is None or train.image_size is not None:
            return config
        # Views need a size. Images keep theirs: a mask must not be cut to the shape of others.
        return adopt_view_size(config, checkpoint)

    def build(self, run: Run, subject: Subject, plan: Plan) -> Network:
        config, parts = run.config, subject.parts
        names = parts.train.class_names
        encoder = prepare_encoder(config, subject.checkpoint)
        model = unet(encoder, len(names))
        loss = _make_loss(config, parts)
        model.compile(
            build_optimizer(config, plan, model.trainable_variables, encoder=encoder),
            loss,
            jit_compile=run.execution.xla,
            steps_per_execution=steps_per_execution(run, plan),
        )
        self.judge = _make_judge(config, model, loss, subject)
        self.weights = {
            **named_variables("encoder", encoder.variables),
            **named_variables("decoder", decoder_variables(model, encoder)),
        }
        return Network(
            model,
            self.weights | numbered_variables("optimizer", model.optimizer.variables),
            batches_of_views(
                masked_batches, parts.train, config, size=subject.size, dtype=run.execution.views
            ),
            _monitors(run, parts, self.judge, self.weights, plan),
            facts={"class_names": names, "trained_on": _trained_on(config, parts.train)},
        )

    @contextlib.contextmanager
    def around_training(self, run: Run, subject: Subject, step: int) -> Iterator[None]:
        _name_unknown_best(run, step)
        yield

    def report(self, run: Run, subject: Subject, plan: Plan, network: Network) -> dict[str, Any]:
        parts, trained = subject.parts, network.model.trainable_variables
        counts, outcome = _judge_test(run, parts.judged, self.judge, self.weights)
        _draw(run, self.judge, parts.judged, counts)
        return outcome | {
            "num_train": len(parts.train),
            "num_validation": 0 if parts.validation is None else len(parts.validation),
            "num_test": len(parts.judged),
            "trainable_parameters": sum(int(np.prod(v.shape)) for v in trained),
        }


def _trained_on(config: Config, train: data.Source) -> tuple[int, int] | None:
    """Returns (height, width) of the images that views are cut from; None where they differ."""
    return config.input_size if config.input_size != (0, 0) else train.image_size


def _make_judge(config: Config, model: keras.Model, loss: PixelLoss, subject: Subject) -> Judge:
    ignore_label = datasets.ignore_label(config)
    trained_on = _trained_on(config, subject.parts.train)
    area_min = config.crop_area_min if config.crop else 1.0
    if trained_on is not None:
        _name_scale(judged_scale(trained_on, subject.size, area_min=area_min))
    return Judge(
        make_segment(model, ignore_label=ignore_label),
        loss,
        len(subject.parts.train.class_names),
        ignore_label,
        config.input_size if config.input_size != (0, 0) else None,
        scale_rule(subject.size, trained_on=trained_on, area_min=area_min),
    )


def _name_scale(scale: float) -> None:
    if scale != 1.0:
        print(
            f"whole images are judged at {scale:.3g} times their size, the nearest to 1 that views "
            "of --crop_size show in training",
            flush=True,
        )


class MeanIoULine(keras.callbacks.Callback):
    """Prints loss and mean IoU after each epoch in which the model was judged."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        if "val_mean_iou" in logs:
            print(
                f"epoch {epoch + 1:>3}  loss {logs['loss']:.3f}  "
                f"validation loss {logs['val_loss']:.3f}  mean IoU {logs['val_mean_iou']:.3f}  "
                f"pixel accuracy {logs['val_pixel_accuracy']:.3f}",
                flush=True,
            )


def _make_loss(config: Config, parts: Parts) -> PixelLoss:
    """Builds the loss; raises UserError where a part has no pixels that count."""
    counts = _count_pixels(config, parts.train)
    _name_shares(config, parts.train.class_names, counts)
    for source in filter(None, (parts.validation, parts.test)):
        _count_pixels(config, source)
    return PixelLoss(
        len(parts.train.class_names),
        ignore_label=datasets.ignore_label(config),
        class_weights=_class_weights(config, counts[: len(parts.train.class_names)]),
        dice_weight=config.dice_weight,
    )


def _count_pixels(config: Config, source: data.Source) -> np.ndarray:
    """Returns the pixels of each value in the masks, int64 [256], those ignored as 0.

    Raises:
        UserError: All pixels are ignored.
    """

    def count(index: int) -> np.ndarray:
        return np.bincount(source.read_mask(index).ravel(), minlength=256)

    counts = np.sum(read_each(count, range(len(source)), "counting pixels"), axis=0)
    if config.ignore_label >= 0:
        counts[config.ignore_label] = 0
    if not counts.any():
        raise UserError(
            f"Expected pixels that count in the masks of {source.name}, got only "
            f"--ignore_label={config.ignore_label}. Pass another --seed, --val_fraction or "
            "--label_fraction, or images with other pixels."
        )
    return counts


def _name_shares(config: Config, names: tuple[str, ...], counts: np.ndarray) -> None:
    """Prints each class's share of the training pixels."""
    shares = [
        f"{name} {100 * share:.2g} %" if share else f"{name} none"
        for name, share in zip(names, counts / counts.sum(), strict=False)
    ]
    if len(shares) > CLASSES_LISTED:
        shares = [f"{np.count_nonzero(counts)} of {len(shares)} classes occur"]
    print(f"training pixels: {', '.join(shares)}", flush=True)


def _class_weights(config: Config, pixels: np.ndarray) -> list[float] | None:
    """Returns a weight per class, or None for equal ones.

    Args:
        config: The settings.
        pixels: Training pixels of each class, int [K].

    Raises:
        UserError: The setting is none of its words and no list of K numbers.
    """
    text, count = config.class_weights.strip().lower(), len(pixels)
    if text == "none":
        return None
    if text == "balanced":
        weights = balanced_weights(pixels).tolist()
        print(f"class weights: {', '.join(f'{weight:.3g}' for weight in weights)}", flush=True)
        return weights
    try:
        weights = [float(word) for word in text.split(",")]
    except ValueError:
        weights = []
    usable = len(weights) == count and all(0 <= weight < float("inf") for weight in weights)
    if not usable or not np.dot(weights, pixels):
        raise UserError(
            f"Expected none, balanced or {count} numbers of 0 or more with commas between for "
            "--class_weights, one a class and above 0 for one that occurs, got "
            f"{config.class_weights!r}. "
            f"Pass --class_weights={','.join(['1'] * count)}, for instance."
        )
    return weights


def _monitors(
    run: Run, parts: Parts, judge: Judge, weights: Variables, plan: Plan
) -> list[keras.callbacks.Callback]:
    if parts.validation is None:
        return []
    validation = parts.validation
    monitor = MeanIoUMonitor(
        lambda: judge(validation),
        run.folder,
        weights,
        every_epochs=run.config.eval_every_epochs,
        num_epochs=run.config.num_epochs,
        steps_per_epoch=plan.steps_per_epoch,
    )
    return [monitor, MeanIoULine()]


def _judge_test(
    run: Run, test: data.Source, judge: Judge, weights: Variables
) -> tuple[PixelCounts, dict[str, Any]]:
    """Judges the last weights and the best, which the network keeps, on the test images.

    Returns:
        The counts of the best, or of the last where nothing was validated, and what is reported.
    """
    last = chosen = judge(test)
    row, path = _best_row(run), run.folder.checkpoints.best
    if row is not None:
        restore(weights, read_arrays(path), str(path))
        chosen = judge(test)
    which = "last step" if row is None else f"step {row['step']}, the best on validation"
    print(
        f"mean IoU {chosen.mean_iou:.4f}, pixel accuracy {chosen.pixel_accuracy:.4f} on "
        f"{spell_number(len(test), 'image')} ({which}; at the last step {last.mean_iou:.4f})",
        flush=True,
    )
    ious = metrics.iou_per_class(chosen.matrix)
    _name_hardly_found(test.class_names, ious)
    return chosen, {
        "mean_iou": rounded(chosen.mean_iou),
        "pixel_accuracy": rounded(chosen.pixel_accuracy),
        "iou_per_class": [rounded(value) for value in ious],
        "class_names": list(test.class_names),
        "ignore_label": judge.ignore_label,
        "confusion_matrix": chosen.matrix.tolist(),
        "checkpoint": "last" if row is None else "best",
        "best_step": None if row is None else int(row["step"]),
        "validation_mean_iou": None if row is None else rounded(row.get("val_mean_iou", np.nan)),
        "last": {
            "mean_iou": rounded(last.mean_iou),
            "pixel_accuracy": rounded(last.pixel_accuracy),
        },
    }


def _name_hardly_found(names: tuple[str, ...], ious: np.ndarray) -> None:
    """Prints the classes that a mean IoU counts as nothing: it says more of these than of all."""
    found_not = [name for name, iou in zip(names, ious, strict=True) if iou < HARDLY_FOUND]
    if found_not and len(found_not) <= CLASSES_LISTED:
        print(
            f"hardly found, IoU below {100 * HARDLY_FOUND:g} %: {', '.join(found_not)}. Train "
            "longer; where they are rare, try --class_weights=balanced or --dice_weight=1",
            flush=True,
        )


def _best_row(run: Run) -> Row | None:
    """Returns the journal's row of the best weights; None where nothing was judged.

    Where the journal was removed, what is left of the row is its step. A run that was killed, and
    resumed with an earlier end, may have kept weights from after it: they are not of this run's
    past, and are removed, as are such that are damaged.
    """
    row, checkpoints = best_row(run.folder.rows, "val_mean_iou"), run.folder.checkpoints
    step, newest = checkpoints.step_of_best(), checkpoints.newest()
    if row is not None and step == row["step"]:
        return row
    if row is None and step is not None and newest is not None and step <= step_of(newest):
        return {"step": step}
    checkpoints.best.unlink(missing_ok=True)
    return None


def _name_unknown_best(run: Run, step: int) -> None:
    """Warns where a resumed run has best weights and no journal that says how good they are."""
    best = run.folder.checkpoints.step_of_best() if step else None
    if best is not None and best <= step and best_row(run.folder.rows, "val_mean_iou") is None:
        print(
            f"warning: no journal says how good {run.folder.checkpoints.best} of step {best} is: "
            "the next weights that are judged replace it",
            file=sys.stderr,
            flush=True,
        )


def _draw(run: Run, judge: Judge, test: data.Source, counts: PixelCounts) -> None:
    """Draws the curves, the classes' IoU and a sheet of test images."""
    folder, names = run.folder.plots, test.class_names
    draw_curves(run.folder, CURVES, judged="validation")
    ious = metrics.iou_per_class(counts.matrix)
    occur = np.flatnonzero(~np.isnan(ious))
    plots.plot_bars(
        [names[index] for index in occur],
        ious[occur],
        folder / "iou_per_class.png",
        title=f"IoU per class, mean {100 * counts.mean_iou:.1f} %",
        percent=True,
    )
    shown = np.unique(np.linspace(0, len(test) - 1, SHOWN_IMAGES).astype(int))
    images, masks, classes = judge.show(test.take(shown))
    plots.plot_segmentation(
        images,
        masks,
        classes,
        folder / "segmentation.png",
        class_names=names,
        ignore_label=judge.ignore_label,
        title="Test images",
        iou=[
            metrics.mean_iou(
                metrics.confusion_matrix(truth, found, len(names), ignore_label=judge.ignore_label)
            )
            for truth, found in zip(masks, classes, strict=True)
        ],
    )
