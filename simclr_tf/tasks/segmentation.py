"""Segmentation: a U-Net on the encoder, frozen or not, trained with masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from simclr_tf import data, metrics, plots
from simclr_tf.config import Config
from simclr_tf.data.files import read_each
from simclr_tf.data.masks import MaskRules, read_colour_table
from simclr_tf.data.pipeline import Shard, masked_batches, plain_masked_batches
from simclr_tf.errors import UserError
from simclr_tf.evaluation.segmentation import PixelCounts, Segment, count_pixels, make_segment
from simclr_tf.models.unet import decoder_variables, unet
from simclr_tf.pixel_losses import PixelLoss, balanced_weights
from simclr_tf.tasks import assembly, encoders
from simclr_tf.training.callbacks import MeanIoUMonitor, best_row
from simclr_tf.training.checkpoints import (
    Variables,
    named_variables,
    numbered_variables,
    read_arrays,
    restore,
    step_of,
)

SHOWN_IMAGES = 8  # rows of the picture of test images
CLASSES_LISTED = 40  # classes up to which each one's share of the pixels is printed
CURVES = {"loss": "Loss", "mean_iou": "Mean IoU", "pixel_accuracy": "Pixel accuracy"}

Judge = Callable[[data.Source], PixelCounts]


@dataclasses.dataclass(frozen=True)
class Parts:
    """The images by what they are for.

    Attributes:
        train: Trained on.
        validation: Held back from training, chooses the best weights; None: the last are taken.
        test: Reported on; chooses nothing.
    """

    train: data.Source
    validation: data.Source | None
    test: data.Source


def run(config: Config) -> dict[str, Any]:
    """Trains a segmentation and returns what results.json holds.

    Writes the run folder `config.finetune_save_path`. What is reported are the weights that were
    best on the validation images, on test images that chose nothing.
    """
    run = assembly.start_run(config)
    config = run.config
    parts = _load_parts(config)
    size = assembly.view_size(config, parts.train)
    checkpoint = encoders.pretrained_source(config)
    if checkpoint is not None:
        config = encoders.adopt_encoder(config, checkpoint)
    config = encoders.with_stem(config, size)
    config = config.replace(num_classes=parts.train.num_classes)  # the counted one, for predict
    run = dataclasses.replace(run, config=config)
    assembly.describe_data(parts.train, parts.validation, parts.test)
    encoder = encoders.prepare_encoder(config, checkpoint)
    model = unet(encoder, config.num_classes)
    plan = assembly.plan_steps(config, parts.train)
    assembly.name_unused(config)
    loss = _make_loss(config, parts.train)
    model.compile(
        assembly.build_optimizer(config, plan, model.trainable_variables, encoder=encoder),
        loss,
        jit_compile=run.execution.xla,
        steps_per_execution=assembly.steps_per_execution(run, plan),
    )
    weights = {
        **named_variables("encoder", encoder.variables),
        **named_variables("decoder", decoder_variables(model, encoder)),
    }
    variables = {**weights, **numbered_variables("optimizer", model.optimizer.variables)}
    step = assembly.begin_or_resume(run, variables, plan=plan)
    run.folder.write_classes(parts.train.class_names)

    def batches(first: int, last: int, shard: Shard) -> tf.data.Dataset:
        return masked_batches(
            parts.train,
            batch_size=config.batch_size,
            recipe=config.recipe(),
            seed=config.seed,
            size=size,
            first_step=first,
            last_step=last,
            dtype=run.execution.views,
        )

    segment = make_segment(model)
    judge = _make_judge(config, segment, loss)
    rate = assembly.train(
        run,
        model,
        batches,
        plan=plan,
        first_step=step,
        variables=variables,
        callbacks=_monitors(run, parts, judge, weights, plan),
    )
    counts, outcome = _judge_test(run, parts.test, judge, weights)
    _draw(run, segment, parts.test, counts)
    return run.finish(
        **outcome,
        num_train=len(parts.train),
        num_validation=0 if parts.validation is None else len(parts.validation),
        num_test=len(parts.test),
        trainable_parameters=sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        initial_weights=str(checkpoint) if checkpoint else "random",
        images_per_second=rate,
        peak_memory_bytes=assembly.peak_memory_bytes(),
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


def _ignore_label(config: Config) -> int | None:
    return None if config.ignore_label < 0 else config.ignore_label


def _load_parts(config: Config) -> Parts:
    """Loads the images with their masks, checked, and shares them out."""
    colours, names = read_colour_table(config.mask_colors) if config.mask_colors else (None, ())
    rules = MaskRules(config.num_classes, _ignore_label(config), colours, names)
    splits = assembly.load_splits(config, masks=rules)
    train, test = assembly.train_and_test(config, splits)
    if not config.val_fraction:
        return Parts(train, None, test)
    # Of the images with labels: that the best weights are chosen takes labels too.
    rest, validation = data.hold_back(train, config.val_fraction, config.seed)
    validation = dataclasses.replace(validation, name=f"{train.name}, for validation")
    return Parts(rest, validation, test)


def _make_loss(config: Config, train: data.Source) -> PixelLoss:
    return PixelLoss(
        config.num_classes,
        ignore_label=_ignore_label(config),
        class_weights=_class_weights(config, _count_pixels(config, train)),
        dice_weight=config.dice_weight,
    )


def _count_pixels(config: Config, train: data.Source) -> np.ndarray:
    """Returns the pixels of each class in the training masks, int64 [K]; prints their shares."""

    def count(index: int) -> np.ndarray:
        return np.bincount(train.read_mask(index).ravel(), minlength=256)

    of_value = np.sum(read_each(count, range(len(train)), "counting pixels"), axis=0)  # [256]
    ignored = 0
    if config.ignore_label >= 0:
        ignored, of_value[config.ignore_label] = of_value[config.ignore_label], 0
    counts = of_value[: config.num_classes]
    if not counts.any():
        raise UserError(
            f"Expected pixels that count in the masks of {train.name}, got only "
            f"--ignore_label={config.ignore_label}. Pass a larger --label_fraction, or --seed."
        )
    shares = [
        f"{name} {100 * share:.2g} %" if share else f"{name} none"
        for name, share in zip(train.class_names, counts / counts.sum(), strict=True)
    ]
    if len(shares) > CLASSES_LISTED:
        shares = [f"{np.count_nonzero(counts)} of {len(shares)} classes occur"]
    left_out = f"; ignored {100 * ignored / (ignored + counts.sum()):.2g} %" if ignored else ""
    print(f"training pixels: {', '.join(shares)}{left_out}", flush=True)
    return counts


def _class_weights(config: Config, pixels: np.ndarray) -> list[float] | None:
    """Returns a weight per class, or None for equal ones.

    Args:
        config: The settings.
        pixels: Training pixels of each class, int [K].

    Raises:
        UserError: The setting is none of its words and no list of K numbers.
    """
    text, count = config.class_weights.strip().lower(), config.num_classes
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
    if len(weights) != count or not all(0 <= weight < float("inf") for weight in weights):
        raise UserError(
            f"Expected none, balanced or {count} numbers of 0 or more with commas between for "
            f"--class_weights, one a class, got {config.class_weights!r}. "
            f"Pass --class_weights={','.join(['1'] * count)}, for instance."
        )
    return weights


def _read_size(config: Config) -> tuple[int, int] | None:
    return config.input_size if config.input_size != (0, 0) else None


def _make_judge(config: Config, segment: Segment, loss: PixelLoss) -> Judge:
    def judge(source: data.Source) -> PixelCounts:
        return count_pixels(
            segment,
            source,
            config.num_classes,
            ignore_label=_ignore_label(config),
            size=_read_size(config),
            loss=loss,
        )

    return judge


def _monitors(
    run: assembly.Run, parts: Parts, judge: Judge, weights: Variables, plan: assembly.Plan
) -> list[keras.callbacks.Callback]:
    if parts.validation is None:
        return []
    validation = parts.validation
    monitor = MeanIoUMonitor(
        lambda: judge(validation),
        run.folder,
        weights,
        every_epochs=run.config.eval_every_epochs,
        last_step=plan.last_step,
    )
    return [monitor, MeanIoULine()]


def _judge_test(
    run: assembly.Run, test: data.Source, judge: Judge, weights: Variables
) -> tuple[PixelCounts, dict[str, Any]]:
    """Judges the last weights and the best, which the network keeps, on the test images.

    Returns:
        The counts of the best, or of the last where nothing was validated, and what is reported.
    """
    last = chosen = judge(test)
    best, path = _best_step(run), run.folder.checkpoints.best
    if best is not None:
        restore(weights, read_arrays(path), str(path))
        chosen = judge(test)
    which = "last step" if best is None else f"step {best}, the best on validation"
    print(
        f"mean IoU {chosen.mean_iou:.4f}, pixel accuracy {chosen.pixel_accuracy:.4f} on "
        f"{len(test)} images ({which}; at the last step {last.mean_iou:.4f})",
        flush=True,
    )
    row = best_row(run.folder.rows, "val_mean_iou")
    ious = metrics.iou_per_class(chosen.matrix)
    return chosen, {
        "mean_iou": assembly.rounded(chosen.mean_iou),
        "pixel_accuracy": assembly.rounded(chosen.pixel_accuracy),
        "iou_per_class": [assembly.rounded(value) for value in ious],
        "class_names": list(test.class_names),
        "ignore_label": _ignore_label(run.config),
        "confusion_matrix": chosen.matrix.tolist(),
        "checkpoint": "last" if best is None else "best",
        "best_step": best,
        "validation_mean_iou": None if row is None else assembly.rounded(row["val_mean_iou"]),
        "last": {
            "mean_iou": assembly.rounded(last.mean_iou),
            "pixel_accuracy": assembly.rounded(last.pixel_accuracy),
        },
    }


def _best_step(run: assembly.Run) -> int | None:
    """Returns the step of the best weights; None where nothing was judged.

    A run that was killed and resumed with an earlier end may have kept weights from after it.
    """
    row, path = best_row(run.folder.rows, "val_mean_iou"), run.folder.checkpoints.best
    if row is None or not path.exists() or step_of(path) != int(row["step"]):
        return None
    return int(row["step"])


def _draw(run: assembly.Run, segment: Segment, test: data.Source, counts: PixelCounts) -> None:
    """Draws the curves, the classes' IoU and a sheet of test images."""
    folder, names = run.folder.plots, test.class_names
    series = plots.series_of(run.folder.rows)
    for name, title in CURVES.items():
        curves = {
            label: series[column]
            for label, column in (("train", name), ("validation", f"val_{name}"))
            if column in series
        }
        if curves:
            path, share = folder / f"{name}.png", name != "loss"
            plots.plot_curves(curves, path, title=title, x=series["epoch"], percent=share)
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
    images, masks, classes = [], [], []
    some = plain_masked_batches(test.take(shown), batch_size=1, size=_read_size(run.config))
    for image, mask in some:
        images.append(image[0].numpy())
        masks.append(mask[0].numpy())
        classes.append(tf.argmax(segment(image), axis=-1)[0].numpy().astype(np.uint8))
    plots.plot_segmentation(
        images,
        masks,
        classes,
        folder / "segmentation.png",
        class_names=names,
        ignore_label=_ignore_label(run.config),
        title="Test images",
    )
