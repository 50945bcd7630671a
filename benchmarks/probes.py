"""What probes on features cost, against training through an encoder.

    python benchmarks/probes.py --json=probes.json
    python benchmarks/probes.py --given=features.npz --json=probes.json

Without --given the features are drawn: a cloud per class, of a falling spectrum and cut off at 0.
A file of features holds `h`, `label`, `h_test` and `label_test`. Of each probe are told the seconds
that the choice of its settings and its fit take, its accuracy, and the `peak` of resident memory
while it ran (bytes; `baseline` is what was held before it; where the peak cannot be reset, that of
the process up to then). Each has worked once on a few images before, so no tracing is timed.

`through_encoder` trains a linear head on a frozen ResNet-18 of width 0.25 on images of 32 pixels by
Keras, for as many epochs of as many images: a few batches are measured and `seconds_scaled` to all.
`speed_ratio` is that over `fit_seconds` of the linear probe, to which embedding all images once,
`embed_seconds_scaled`, is not added.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import checkout  # noqa: F401
import numpy as np
from gradient_caching import memory_held, peak_memory, reset_peak
from processes import count_cores, processor

Result = TypeVar("Result")
Features = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # train, its labels, test, labels
WARM_IMAGES = 400
HIDDEN = 128
SIDE = 32


def draw_features(images: int, test_images: int, features: int, num_classes: int) -> Features:
    """Returns features as ReLU and averages leave them: correlated, and none below 0."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(features, features)) * (np.arange(features) + 1.0) ** -0.7
    centres = 0.15 * rng.normal(size=(num_classes, features))
    labels = rng.integers(0, num_classes, images + test_images).astype(np.int32)
    cloud = centres[labels] + rng.normal(size=(len(labels), features))
    h = np.maximum(cloud @ mixing.T, 0.0).astype(np.float32)
    return h[:images], labels[:images], h[images:], labels[images:]


def timed(do: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    return do(), time.perf_counter() - start


def probes_of(features: Features, arguments: argparse.Namespace) -> dict[str, tuple]:
    """Returns, by name, how a probe's settings are chosen and how it scores with them."""
    from simclr_tf.evaluation import logistic, neighbours, probes

    train, labels, test, _ = features
    num_classes = int(labels.max()) + 1
    seeded = {"num_classes": num_classes, "seed": 0}

    def head(hidden: int | None, **lists: Any) -> tuple:
        shape = {**seeded, "hidden": hidden, "epochs": arguments.epochs}
        shape["batch_size"] = arguments.batch_size

        def score(choice: probes.HeadChoice) -> np.ndarray:
            settings = {k: v for k, v in choice._asdict().items() if k != "accuracy"}
            return probes.train_head(train, labels, test, **shape, **settings)

        return lambda: probes.choose_head(train, labels, **shape, **lists), score

    return {
        "knn": (
            lambda: neighbours.choose_knn(train, labels, **seeded),
            lambda choice: neighbours.knn_scores(
                train,
                labels,
                test,
                k=choice.k,
                temperature=choice.temperature,
                num_classes=num_classes,
            ),
        ),
        "logistic_regression": (
            lambda: logistic.choose_penalty(train, labels, seed=0),
            lambda choice: logistic.logistic_scores(
                train, labels, test, penalty=choice.penalty, num_classes=num_classes
            ),
        ),
        "linear_probe": head(None),
        # A hidden layer costs as many times more as it is wide over the classes: two settings do.
        "mlp": head(HIDDEN, learning_rates=(0.01, 0.1), weight_decays=(1e-3,)),
    }


def run_probe(choose: Callable, fit: Callable, labels: np.ndarray) -> dict[str, Any]:
    reset = reset_peak()
    baseline = memory_held("VmRSS:")
    choice, choice_seconds = timed(choose)
    scores, fit_seconds = timed(lambda: fit(choice))
    return {
        "chosen": choice._asdict(),
        "choice_seconds": round(choice_seconds, 3),
        "fit_seconds": round(fit_seconds, 3),
        "accuracy": round(float(np.mean(scores.argmax(axis=1) == labels)), 5),
        "baseline": baseline,
        "peak": peak_memory(),
        "peak_reset": reset,
    }


def train_through_encoder(images: int, num_classes: int, job: argparse.Namespace) -> dict[str, Any]:
    """Trains a linear head on a frozen encoder for a few batches; scaled to all of them."""
    import keras
    import tensorflow as tf

    import simclr_tf as st
    from simclr_tf.training.execution import choose_execution

    execution = choose_execution("auto", "auto")
    encoder = st.models.resnet(18, stem="small", width_multiplier=0.25)
    encoder.trainable = False
    head = st.models.classifier_head(encoder.output_shape[-1], num_classes)
    model = keras.Sequential([encoder, head])
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=execution.xla,
    )
    size = min(job.batch_size, images)
    x = np.random.default_rng(0).random((size, SIDE, SIDE, 3), np.float32)
    y = np.arange(size, dtype=np.int32) % num_classes
    batches = tf.data.Dataset.from_tensors((x, y)).repeat(job.batches)
    model.fit(batches.take(1), verbose=0)
    _, seconds = timed(lambda: model.fit(batches, verbose=0))
    encoder.predict_on_batch(x)
    _, once = timed(lambda: [encoder.predict_on_batch(x) for _ in range(job.batches)])
    measured = size * job.batches
    return {
        "precision": execution.precision,
        "images_measured": measured,
        "seconds_measured": round(seconds, 3),
        "images_scaled_to": images * job.epochs,
        "seconds_scaled": round(seconds / measured * images * job.epochs, 3),
        "embed_seconds_scaled": round(once / measured * images, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--given", type=Path, help="npz file of features")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--test_images", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=30, help="of the heads")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=20, help="measured through the encoder")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    import keras
    import tensorflow as tf

    if arguments.given:
        with np.load(arguments.given) as file:
            features = tuple(file[name] for name in ("h", "label", "h_test", "label_test"))
    else:
        features = draw_features(
            arguments.images, arguments.test_images, arguments.features, arguments.classes
        )
    train, labels, test, truth = features
    few = (train[:WARM_IMAGES], labels[:WARM_IMAGES], test[:WARM_IMAGES], truth[:WARM_IMAGES])
    warm = argparse.Namespace(epochs=1, batch_size=arguments.batch_size)
    found: dict[str, Any] = {}
    for name, (choose, fit) in probes_of(features, arguments).items():
        first, then = probes_of(few, warm)[name]
        then(first())
        found[name] = run_probe(choose, fit, truth)
        print(name, json.dumps(found[name]), flush=True)
    encoder = train_through_encoder(len(labels), int(labels.max()) + 1, arguments)
    print("through_encoder", json.dumps(encoder), flush=True)
    results = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": count_cores(),
        "platform": platform.platform(),
        "versions": {
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "features": str(arguments.given) if arguments.given else "drawn",
        "images": len(labels),
        "test_images": len(truth),
        "width": train.shape[1],
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "probes": found,
        "through_encoder": encoder,
        "speed_ratio": round(encoder["seconds_scaled"] / found["linear_probe"]["fit_seconds"], 3),
    }
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(f"linear probe: {results['speed_ratio']:.4g} times faster than through the encoder")


if __name__ == "__main__":
    main()
