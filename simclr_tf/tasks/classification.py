"""Classification: a head on a frozen encoder, or the whole network, trained with labels."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from simclr_tf import data, metrics, plots
from simclr_tf.augment.recipe import OPERATIONS
from simclr_tf.config.settings import Config
from simclr_tf.counting import spell_number
from simclr_tf.data.batches.evaluation import plain_batches
from simclr_tf.data.batches.steps import Batches
from simclr_tf.data.batches.tensors import held_on_host
from simclr_tf.data.batches.train import feature_batches, labelled_batches
from simclr_tf.errors import UserError
from simclr_tf.evaluation.features import embed
from simclr_tf.evaluation.preparation import mean_and_deviation
from simclr_tf.models.heads import classifier_head, set_scale, take_up_scale
from simclr_tf.runs.checkpoints import named_variables, numbered_variables
from simclr_tf.training.callbacks import AccuracyMonitor
from simclr_tf.training.distribution import scope_of
from simclr_tf.workflow import datasets
from simclr_tf.workflow.curves import draw_curves
from simclr_tf.workflow.encoder import prepare_encoder
from simclr_tf.workflow.network import Network, batches_of_views
from simclr_tf.workflow.optimizer import build_optimizer
from simclr_tf.workflow.plan import Plan, judged_epochs, steps_per_execution
from simclr_tf.workflow.run import Run, rounded
from simclr_tf.workflow.training import Parts, Subject, Trainer, run_training
from simclr_tf.workflow.weights import adopt_encoder, adopt_sizes

EVALUATION_BATCH_SIZE = 256
CURVES = {"loss": "Cross-entropy", "accuracy": "Accuracy"}


def run(config: Config) -> dict[str, Any]:
    """Trains a classifier and returns what results.json holds.

    Writes the run folder `config.finetune_save_path`. The accuracy reported is that of the last
    step, on images that chose nothing.
    """
    return run_training(config, Classification())


class Classification(Trainer):
    """A classifier, trained with labels.

    With a frozen encoder and no augmentation the head alone is trained, on features that are
    computed once; otherwise encoder and head are, on images.
    """

    need_labels = True
    monitor: AccuracyMonitor
    head: keras.Sequential

    def strategies(self, config: Config) -> tuple[str, ...]:
        if config.precision != "mixed_float16":
            return ("mirrored",)
        if config.strategy == "mirrored":
            raise UserError(
                "Expected --precision=float32 or mixed_bfloat16 for a classifier on several "
                "devices, got mixed_float16: Keras' loss scaling looks at one of them alone. Or "
                "pass --strategy=none."
            )
        return ()

    def adopt(self, config: Config, checkpoint: pathlib.Path) -> Config:
        return adopt_sizes(adopt_encoder(config, checkpoint), checkpoint)

    def load(self, config: Config, *, look: bool = True) -> data.Splits:
        return datasets.load_splits(config, need_labels=True, look=look)

    def share_out(self, config: Config, splits: data.Splits) -> Parts:
        train, test = datasets.train_and_test(config, splits)
        return Parts(train, test=test)

    def settle(self, config: Config, checkpoint: pathlib.Path | None, train: data.Source) -> Config:
        if config.freeze and not config.augments_by_name():
            # Written down, so that --config with this run's settings asks for the same.
            return config.replace(**dict.fromkeys(OPERATIONS, False))
        return config

    def build(self, run: Run, subject: Subject, plan: Plan) -> Network:
        config, train = run.config, subject.parts.train
        num_classes = config.num_classes or train.num_classes
        with scope_of(run.strategy):
            encoder = prepare_encoder(config, subject.checkpoint)
            self.head = classifier_head(
                encoder.output_shape[-1],
                num_classes,
                nonlinear=config.include_nonlinearity,
                normalize=config.freeze,
            )
            classifier = keras.Sequential([encoder, self.head], name="classifier")
        model, batches = classifier, self._batches(run, subject, encoder)
        if config.freeze and not config.augments_by_name():
            model = self.head
        with scope_of(run.strategy):
            model.compile(
                build_optimizer(config, plan, model.trainable_variables, encoder=encoder),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"],
                jit_compile=run.execution.xla,
                steps_per_execution=steps_per_execution(run, plan),
            )
        if run.strategy is None:
            # Under a strategy Keras makes the metrics before the first step, here only within it:
            # too late for a run that is taken up within an epoch and goes on with its means.
            model.compute_metrics(None, tf.zeros([1], tf.int32), tf.zeros([1, num_classes]))
            model.reset_metrics()
        return Network(
            model,
            {
                **named_variables("encoder", encoder.variables),
                **named_variables("classifier", self.head.variables),
                **numbered_variables("optimizer", model.optimizer.variables),
            },
            batches,
            [self.monitor, AccuracyLine()],
            facts={"class_names": class_names(train, num_classes)},
        )

    def _batches(self, run: Run, subject: Subject, encoder: keras.Model) -> Batches:
        """Returns what the model is trained on, and has the monitor judge it on the like."""
        config, size = run.config, subject.size
        train, test = subject.parts.train, subject.parts.judged

        def plain(source: data.Source) -> tf.data.Dataset:
            return plain_batches(source, batch_size=EVALUATION_BATCH_SIZE, size=size)

        if config.freeze:
            features = embed(encoder, plain(train))  # [M, F]
            set_scale(self.head, *mean_and_deviation(features))
        if config.freeze and not config.augments_by_name():
            tests = tf.data.Dataset.from_tensor_slices(embed(encoder, plain(test)))
            inputs = tests.batch(EVALUATION_BATCH_SIZE)
            batches = Batches(
                feature_batches,
                held_on_host(features),
                np.asarray(train.labels),
                batch_size=config.batch_size,
                seed=config.seed,
            )
        else:
            inputs = plain(test)
            batches = batches_of_views(
                labelled_batches, train, config, size=size, dtype=run.execution.views
            )
        epochs = judged_epochs(config)
        self.monitor = AccuracyMonitor(inputs, np.asarray(test.labels), epochs=epochs)
        return batches

    @contextlib.contextmanager
    def around_training(self, run: Run, subject: Subject, step: int) -> Iterator[None]:
        if run.config.freeze:
            take_up_scale(self.head)  # that of the run that is gone on with
        yield

    def report(self, run: Run, subject: Subject, plan: Plan, network: Network) -> dict[str, Any]:
        names, train = network.facts["class_names"], subject.parts.train
        logits, truth = self.monitor.logits(network.model), self.monitor.labels
        matrix = metrics.confusion_matrix(truth, logits.argmax(axis=1), logits.shape[1])
        plots.plot_confusion_matrix(matrix, names, run.folder.plots / "confusion_matrix.png")
        draw_curves(run.folder, CURVES, judged="test")
        accuracy, f1 = metrics.accuracy(matrix), metrics.f1_macro(matrix)
        top5 = metrics.top_k_accuracy(logits, truth, 5) if len(matrix) > 5 else None
        print(
            f"accuracy {accuracy:.4f}, macro F1 {f1:.4f} on {spell_number(len(truth), 'image')}",
            flush=True,
        )
        trained = network.model.trainable_variables
        return {
            "accuracy": rounded(accuracy),
            "f1_macro": rounded(f1),
            "top5": None if top5 is None else rounded(top5),
            "confusion_matrix": matrix.tolist(),
            "class_names": list(names),
            "num_train": len(train),
            "num_test": len(truth),
            "trainable_parameters": sum(int(np.prod(v.shape)) for v in trained),
        }


def class_names(train: data.Source, num_classes: int) -> tuple[str, ...]:
    """Returns the names of the classes; those that have none go by their numbers."""
    names = train.class_names
    return names + tuple(map(str, range(len(names), num_classes)))


class AccuracyLine(keras.callbacks.Callback):
    """Prints loss and accuracy after each epoch in which the model was judged."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        if "val_accuracy" in logs:
            print(
                f"epoch {epoch + 1:>3}  loss {logs['loss']:.3f}  accuracy {logs['accuracy']:.3f}  "
                f"test loss {logs['val_loss']:.3f}  test accuracy {logs['val_accuracy']:.3f}",
                flush=True,
            )
