"""Classification: a head on a frozen encoder, or the whole network, trained with labels."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from simclr_tf import data, metrics, plots
from simclr_tf.augment.recipe import OPERATIONS
from simclr_tf.config.settings import Config
from simclr_tf.counting import spell_number
from simclr_tf.data.batches.evaluation import plain_batches
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
from simclr_tf.workflow.encoder import prepare_encoder, with_stem
from simclr_tf.workflow.plan import fit_batch, judged_epochs, plan_steps, steps_per_execution
from simclr_tf.workflow.refusals import Begun, Refusals, told_together
from simclr_tf.workflow.resume import begin_or_resume, name_initial_weights
from simclr_tf.workflow.run import Run, peak_memory_bytes, rounded
from simclr_tf.workflow.start import start_run
from simclr_tf.workflow.training import ShardBatches, batches_by_step, build_optimizer, train_model
from simclr_tf.workflow.weights import adopt_encoder, adopt_sizes, initial_weights

EVALUATION_BATCH_SIZE = 256
CURVES = {"loss": "Cross-entropy", "accuracy": "Accuracy"}


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is trained: a model on batches, and what judges it.

    With a frozen encoder and no augmentation the model is the head alone and its inputs are
    features, computed once; otherwise it is the classifier and its inputs are images.
    """

    model: keras.Model
    batches: ShardBatches
    monitor: AccuracyMonitor


def run(config: Config, splits: data.Splits | None = None) -> dict[str, Any]:
    """Trains a classifier and returns what results.json holds.

    Writes the run folder `config.finetune_save_path`. The accuracy reported is that of the last
    step, on images that chose nothing.

    Args:
        config: The settings.
        splits: The data, where they are loaded already.
    """
    with (
        told_together(config, lambda config: [] if splits else _look_ahead(config)) as begun,
        start_run(config, strategies=_strategies) as run,
    ):
        return _classify(run, splits, begun)


def _look_ahead(config: Config) -> list[UserError]:
    """Returns what keeps a run with these settings from its first step."""
    refusals = Refusals()
    refusals.of_images(
        refusals.of_weights(config),
        lambda config: datasets.load_splits(config, need_labels=True, look=False),
        lambda config, splits: datasets.train_and_test(config, splits)[0],
        need_labels=True,
    )
    return refusals


def _classify(run: Run, splits: data.Splits | None, begun: Begun) -> dict[str, Any]:
    config = run.config
    checkpoint = initial_weights(config, run.folder.checkpoints)
    if checkpoint is not None:
        config = adopt_encoder(config, checkpoint)
        config = adopt_sizes(config, checkpoint)
    splits = splits or datasets.load_splits(config, need_labels=True)
    train, test = datasets.train_and_test(config, splits)
    size = datasets.view_size(config, train)
    config = with_stem(config, size)
    if config.freeze and not config.augments_by_name():
        # Written down, so that --config with this run's settings asks for the same.
        config = config.replace(**dict.fromkeys(OPERATIONS, False))
    config = fit_batch(run, config, train)
    run = dataclasses.replace(run, config=config)
    datasets.describe_data(train, test)
    num_classes = config.num_classes or train.num_classes
    names = train.class_names
    names += tuple(map(str, range(len(names), num_classes)))
    with scope_of(run.strategy):
        encoder = prepare_encoder(config, checkpoint)
        head = classifier_head(
            encoder.output_shape[-1],
            num_classes,
            nonlinear=config.include_nonlinearity,
            normalize=config.freeze,
        )
        classifier = keras.Sequential([encoder, head], name="classifier")
    plan = plan_steps(config, train)
    views_dtype = run.execution.views
    datasets.name_colour_limits(config)
    problem = _state_problem(config, encoder, head, classifier, train, test, size, views_dtype)
    model = problem.model
    with scope_of(run.strategy):
        model.compile(
            build_optimizer(config, plan, model.trainable_variables, encoder=encoder),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=run.execution.xla,
            steps_per_execution=steps_per_execution(run, plan),
        )
    if run.strategy is None:
        # Under a strategy Keras makes the metrics before the first step, here only within it: too
        # late for a run that is taken up within an epoch and goes on with its means.
        model.compute_metrics(None, tf.zeros([1], tf.int32), tf.zeros([1, num_classes]))
        model.reset_metrics()
    variables = {
        **named_variables("encoder", encoder.variables),
        **named_variables("classifier", head.variables),
        **numbered_variables("optimizer", model.optimizer.variables),
    }
    begun()
    step = begin_or_resume(run, variables, plan=plan)
    if config.freeze:
        take_up_scale(head)  # that of the run that is gone on with
    origin = name_initial_weights(run, checkpoint)
    run.folder.write_model(class_names=names, view_size=size, initial_weights=origin)
    rate = train_model(
        run,
        model,
        problem.batches,
        plan=plan,
        first_step=step,
        variables=variables,
        callbacks=[problem.monitor, AccuracyLine()],
    )
    return _report(run, problem, names, train, test, rate, origin)


def _strategies(config: Config) -> tuple[str, ...]:
    """Returns what a classifier can run under; raises UserError for float16 on several devices."""
    if config.precision != "mixed_float16":
        return ("mirrored",)
    if config.strategy == "mirrored":
        raise UserError(
            "Expected --precision=float32 or mixed_bfloat16 for a classifier on several devices, "
            "got mixed_float16: Keras' loss scaling looks at one of them alone. Or pass "
            "--strategy=none."
        )
    return ()


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


def _state_problem(
    config: Config,
    encoder: keras.Model,
    head: keras.Sequential,
    classifier: keras.Model,
    train: data.Source,
    test: data.Source,
    size: tuple[int, int],
    views_dtype: str,
) -> Problem:
    def plain(source: data.Source) -> tf.data.Dataset:
        return plain_batches(source, batch_size=EVALUATION_BATCH_SIZE, size=size)

    def monitor(inputs: tf.data.Dataset) -> AccuracyMonitor:
        labels = np.asarray(test.labels)
        return AccuracyMonitor(inputs, labels, epochs=judged_epochs(config))

    if config.freeze:
        features = embed(encoder, plain(train))
        set_scale(head, *mean_and_deviation(features))
    if config.freeze and not config.augments_by_name():
        batches = feature_batches(
            features, np.asarray(train.labels), batch_size=config.batch_size, seed=config.seed
        )
        tests = tf.data.Dataset.from_tensor_slices(embed(encoder, plain(test)))
        return Problem(head, batches, monitor(tests.batch(EVALUATION_BATCH_SIZE)))

    batches_of_images = batches_by_step(
        labelled_batches, train, config, size=size, dtype=views_dtype
    )
    return Problem(classifier, batches_of_images, monitor(plain(test)))


def _report(
    run: Run,
    problem: Problem,
    names: tuple[str, ...],
    train: data.Source,
    test: data.Source,
    images_per_second: float | None,
    origin: str,
) -> dict[str, Any]:
    logits, truth = problem.monitor.logits(problem.model), problem.monitor.labels
    matrix = metrics.confusion_matrix(truth, logits.argmax(axis=1), logits.shape[1])
    plots.plot_confusion_matrix(matrix, names, run.folder.plots / "confusion_matrix.png")
    draw_curves(run.folder, CURVES, judged="test")
    accuracy, f1 = metrics.accuracy(matrix), metrics.f1_macro(matrix)
    print(
        f"accuracy {accuracy:.4f}, macro F1 {f1:.4f} on {spell_number(len(test), 'image')}",
        flush=True,
    )
    return run.finish(
        accuracy=rounded(accuracy),
        f1_macro=rounded(f1),
        top5=rounded(metrics.top_k_accuracy(logits, truth, 5)) if len(matrix) > 5 else None,
        confusion_matrix=matrix.tolist(),
        class_names=list(names),
        num_train=len(train),
        num_test=len(test),
        trainable_parameters=sum(int(np.prod(v.shape)) for v in problem.model.trainable_variables),
        initial_weights=origin,
        images_per_second=images_per_second,
        peak_memory_bytes=peak_memory_bytes(),
    )
