"""Pre-training: an encoder learns, without labels, to match two views of an image."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from simclr_tf import augment as augmentation
from simclr_tf import data, plots
from simclr_tf.config.settings import Config
from simclr_tf.data.batches.steps import Batches
from simclr_tf.data.batches.train import check_held, drawn_batches, two_views
from simclr_tf.data.service import Services
from simclr_tf.errors import UserError
from simclr_tf.evaluation.features import pixel_encoder
from simclr_tf.losses.contrastive import NTXent
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.runs.checkpoints import Checkpoints, named_variables, numbered_variables
from simclr_tf.training.callbacks import HealthLine, KNNMonitor
from simclr_tf.training.callbacks.tensorboard import show_picture
from simclr_tf.training.distribution import count_replicas, distribute, scope_of
from simclr_tf.training.execution import Execution
from simclr_tf.training.model import SimCLR
from simclr_tf.workflow import datasets
from simclr_tf.workflow.encoder import load_encoder_weights, untrained_encoder
from simclr_tf.workflow.network import Network, batches_of_views
from simclr_tf.workflow.optimizer import build_optimizer
from simclr_tf.workflow.plan import Plan, judged_epochs, name_left_out, steps_per_execution
from simclr_tf.workflow.run import Run, rounded
from simclr_tf.workflow.training import Parts, Subject, Trainer, run_training
from simclr_tf.workflow.weights import initial_weights

PIXEL_SIDE = 32  # raw pixels, the baseline, are compared at this size at most
KNN_LIMIT = 100_000  # images of either set in the kNN accuracy that is reported
VIEWS_SHOWN = 6  # images in the picture of the views


def run(config: Config) -> dict[str, Any]:
    """Pre-trains and returns what results.json holds.

    Writes the run folder `config.pretrain_save_path`; on interruption it can be resumed.
    """
    return run_training(config, Pretraining())


class Pretraining(Trainer):
    """An encoder that learns, without labels, to match two views of an image."""

    services: Services
    loss: NTXent
    monitor: KNNMonitor
    views: Batches  # of the training images

    def strategies(self, config: Config) -> tuple[str, ...]:
        return ("mirrored", "multiworker")

    def first_weights(self, config: Config, own: Checkpoints) -> pathlib.Path | None:
        # "auto" is for the tasks that follow: it would mean this very run's weights.
        return None if config.init_weights == "auto" else initial_weights(config, own)

    def load(self, config: Config, *, look: bool = True) -> data.Splits:
        # Validation is contrastive: its images are held back later, whether there is a test set
        # or not.
        return datasets.load_splits(config.replace(val_fraction=0.0), some_labels=True, look=look)

    def share_out(self, config: Config, splits: data.Splits) -> Parts:
        whole = splits.unlabelled if splits.unlabelled is not None else splits.train
        if not config.val_fraction:
            return Parts(whole, test=splits.test)
        return Parts(*data.hold_back(whole, config.val_fraction, config.seed), splits.test)

    def build(self, run: Run, subject: Subject, plan: Plan) -> Network:
        config, train, size = run.config, subject.parts.train, subject.size
        self.services = _reach_services(run)
        self.services.check(train)
        self.views = batches_of_views(
            two_views, train, config, size=size, dtype=run.execution.views
        )
        batches = self.services.serve(self.views)
        if run.execution.augment_on_device:
            check_held(train)
            batches = batches_of_views(drawn_batches, train, config, size=size)
        self.loss = NTXent(
            config.temperature, similarity=config.similarity, compiles=run.execution.xla_parts
        )
        model = _compile_model(run, plan, self.loss, subject)
        self.monitor = _make_monitor(config, subject.splits, size)
        health = HealthLine(loss=self.loss, batch_size=config.batch_size, monitor=self.monitor)
        return Network(
            model,
            {
                **named_variables("encoder", model.encoder.variables),
                **named_variables("head", model.head.variables),
                **numbered_variables("optimizer", model.optimizer.variables),
            },
            batches,
            [self.monitor, health],
            validation=_validation(run, subject.parts.validation, size),
            first_row=lambda: _look_before_training(self.monitor, model.encoder),
        )

    @contextlib.contextmanager
    def around_training(self, run: Run, subject: Subject, step: int) -> Iterator[None]:
        _plot_views(run, subject.parts.train, self.views.steps(0, 1))
        if not step:  # a run that is resumed has shown them
            show_picture(run.folder, run.folder.plots / "views.png")
        with self.services.watched():
            yield

    def report(self, run: Run, subject: Subject, plan: Plan, network: Network) -> dict[str, Any]:
        results = _results(run, plan, self.monitor, network.model)
        _plot_curves(run, self.loss, run.config.batch_size, results.get("knn_accuracy"))
        return results


def _reach_services(run: Run) -> Services:
    """Returns the services that make the views; raises UserError where they cannot be used."""
    addresses, replicas = run.config.data_services(), count_replicas(run.strategy)
    if addresses and replicas > 1:
        raise UserError(
            f"Expected one device to train on beside --data_service, got {replicas} replicas. "
            "Pass --strategy=none, or leave --data_service out."
        )
    return Services(addresses)


def _validation(run: Run, held_back: data.Source | None, size: tuple[int, int]) -> dict[str, Any]:
    """Returns the arguments of `fit` for the validation loss: the same views at every look."""
    if held_back is None:
        return {}
    config, replicas = run.config, count_replicas(run.strategy)
    batch_size = min(config.batch_size, len(held_back) // replicas * replicas)
    if not batch_size:
        raise UserError(
            f"Expected at least {replicas} images of {held_back.name} held back, one for each "
            f"replica, got {len(held_back)}. Pass a larger --val_fraction than "
            f"{config.val_fraction:g}, or 0."
        )
    if batch_size < config.batch_size:
        print(f"validation loss over batches of {batch_size}: not comparable with training's")
    last = len(held_back) // batch_size
    name_left_out(len(held_back), last * batch_size, "the validation loss")
    views = batches_of_views(
        two_views, held_back, config, size=size, batch_size=batch_size, dtype=run.execution.views
    )
    batches = distribute(run.strategy, lambda shard: views.steps(0, last, shard))
    return {
        "validation_data": batches,
        "validation_steps": last,
        "validation_freq": judged_epochs(config),
    }


def _build_model(
    config: Config, augment: Callable[..., Any] | None, checkpoint: pathlib.Path | None = None
) -> SimCLR:
    head = ProjectionHead(
        config.zdim,
        layers=config.projection_layers,
        hidden=config.projection_hidden,
    )
    encoder = untrained_encoder(config)
    if checkpoint is not None:
        load_encoder_weights(encoder, checkpoint)
    return SimCLR(encoder, head, microbatch_size=config.microbatch_size, augment=augment)


def _compile_model(
    run: Run,
    plan: Plan,
    loss: NTXent,
    subject: Subject,
) -> SimCLR:
    """Builds the model where the run's strategy wants it, ready for `fit`."""
    on_device = run.execution.augment_on_device
    augment = _view_maker(run.execution, subject.size) if on_device else None
    with scope_of(run.strategy):
        model = _build_model(run.config, augment, subject.checkpoint)
        model.compile(
            build_optimizer(run.config, plan, model.trainable_variables),
            loss,
            jit_compile=run.execution.xla,
            steps_per_execution=steps_per_execution(run, plan),
        )
    return model


def _view_maker(execution: Execution, size: tuple[int, int]) -> Callable[..., Any]:
    """Returns (images, packed draw) -> two views, for a training step."""

    def augment(images: tf.Tensor, packed: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        return augmentation.make_views(
            images,
            augmentation.unpack_draw(packed),
            size,
            execution.views,
            compiles=execution.xla_parts,
        )

    return augment


def _make_monitor(config: Config, splits: data.Splits, size: tuple[int, int]) -> KNNMonitor:
    """Looks at labelled images; without a test set, at a tenth of the training images."""
    train, test = splits.train, splits.test
    if test is None:
        if train.labels is None:
            return KNNMonitor(train, train, every_epochs=config.eval_every_epochs, size=size)
        train, test = data.hold_back(train, 0.1, config.seed)
    return KNNMonitor(train, test, every_epochs=config.eval_every_epochs, size=size)


def _look_before_training(monitor: KNNMonitor, encoder: keras.Model) -> dict[str, float]:
    """Returns the metrics of the encoder before the first step."""
    row = monitor.measure(encoder)
    if "knn_accuracy" in row:
        print(
            f"before training: kNN accuracy {row['knn_accuracy']:.3f} ({monitor.settings()})",
            flush=True,
        )
    return row


def _results(
    run: Run,
    plan: Plan,
    monitor: KNNMonitor,
    model: SimCLR,
) -> dict[str, Any]:
    """Returns the task's part of results.json, measured on the weights of the last step."""
    last = run.folder.last_numbers()
    metrics: dict[str, Any] = {
        "loss": rounded(last.get("loss", np.nan)),
        "contrastive_accuracy": rounded(last.get("contrastive_accuracy", np.nan)),
        "steps": plan.last_step,
        "epochs": round(plan.epochs, 4),
    }
    if "val_loss" in last:
        metrics["val_loss"] = rounded(last["val_loss"])
    # At the end all images vote, where the looks during training take a part of them.
    final = monitor.measure(model.encoder, limit=KNN_LIMIT)
    metrics.update({name: rounded(value) for name, value in final.items()})
    if "knn_accuracy" in final:
        untaught = {
            "raw_pixels": pixel_encoder(PIXEL_SIDE, run.config.channels),
            "random_encoder": untrained_encoder(run.config),
        }
        baselines = {
            name: monitor.measure_accuracy(encoder, limit=KNN_LIMIT)
            for name, encoder in untaught.items()
        }
        metrics["baselines"] = {name: rounded(v) for name, v in baselines.items()}
        print(
            f"kNN accuracy {final['knn_accuracy']:.3f} "
            f"(random encoder {baselines['random_encoder']:.3f}, "
            f"raw pixels {baselines['raw_pixels']:.3f}; {monitor.settings(limit=KNN_LIMIT)})",
            flush=True,
        )
    return metrics


def _plot_views(run: Run, train: data.Source, batches: tf.data.Dataset) -> None:
    """Draws the first images of the first batch as training will see them."""
    first, second = (view.numpy()[:VIEWS_SHOWN] for view in next(iter(batches)))
    plots.plot_images(
        [first, second],
        run.folder.plots / "views.png",
        row_titles=["view 1", "view 2"],
        title=f"Two views of images of {train.name}",
    )


def _plot_curves(run: Run, loss: NTXent, batch_size: int, knn_accuracy: float | None) -> None:
    """Draws the journal; where it ends without a look at the features, with the one reported."""
    if not run.folder.rows:  # the journal was removed
        return
    series = plots.series_of(run.folder.rows)
    epochs = series["epoch"]
    levels = {"start, ln(2N-1)": loss.start(batch_size)}
    if loss.similarity == "cosine":
        levels["floor"] = loss.floor(batch_size)
    losses = {name: values for name, values in series.items() if name in ("loss", "val_loss")}
    plots.plot_curves(
        losses, run.folder.plots / "loss.png", title="NT-Xent", x=epochs, levels=levels
    )
    shares = {name: values for name, values in series.items() if name.endswith("accuracy")}
    looks = shares.get("knn_accuracy")
    if knn_accuracy is not None and looks is not None and np.isnan(looks[-1]):
        looks[-1] = knn_accuracy
    plots.plot_curves(
        shares, run.folder.plots / "accuracy.png", title="Accuracy", x=epochs, percent=True
    )
