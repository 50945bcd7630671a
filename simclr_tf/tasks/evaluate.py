"""Evaluation: how good the features of a pre-trained encoder are, by the protocols of the papers.

The features of all images are computed once; every probe works on these. Whatever is chosen (k, a
penalty, a learning rate) is chosen on a tenth of the training images, never on the test images.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import math
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from simclr_tf import data, metrics, plots
from simclr_tf.augment import Recipe
from simclr_tf.config import Config
from simclr_tf.data.pipeline import plain_batches, view_batches
from simclr_tf.errors import UserError
from simclr_tf.evaluation.features import embed, pixel_encoder
from simclr_tf.evaluation.knn import choose_knn, knn_scores
from simclr_tf.evaluation.logistic import choose_penalty, logistic_scores
from simclr_tf.evaluation.neighbours import nearest
from simclr_tf.evaluation.probes import choose_head, score, train_head
from simclr_tf.evaluation.report import build_report, read_report
from simclr_tf.tasks import assembly, classification, encoders
from simclr_tf.tasks.embed import (
    NEIGHBOURS,
    SHOWN_QUERIES,
    check_finite,
    draw_neighbours,
    project,
)
from simclr_tf.tasks.predict import BATCH_PIXELS
from simclr_tf.writing import write_whole

PROTOCOLS = ("knn", "logreg", "linear", "mlp", "finetune", "supervised", "baselines", "health")
REPORT = "report.html"
HELD_BACK = "a tenth of the training images, held back"

BATCH_SIZE = 256
LINEAR_VIEWS = 4  # of each training image for the linear probe: the image, and views of it
MLP_HIDDEN, MLP_EPOCHS = 128, 30
MLP_RATES, MLP_DECAYS = (0.03, 0.1), (0.0,)
PIXEL_SIDE = 32  # of the images whose pixels are a baseline
PCA_IMAGES = 10_000  # that the components are found from
HEALTH_IMAGES = 2000
MAP_IMAGES = 1000  # of each split in the t-SNE
SPREAD_VALUES = 64
MOST_EPOCHS = 60  # of fine-tuning, however few the labels

Scores = tuple[np.ndarray, dict[str, Any]]
Probe = Callable[[int], Scores]


class Split(NamedTuple):
    """Features of the training and the test images, float32 [M, F] and [N, F], with labels."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    num_classes: int

    def of(self, train: np.ndarray, test: np.ndarray) -> Split:
        """Returns other features of the same images."""
        return self._replace(train=train, test=test)


def run(config: Config) -> dict[str, Any]:
    """Evaluates a pre-training run, or compares evaluations, and returns what results.json holds.

    Writes the run folder `config.finetune_save_path`: results.json, pictures and report.html.

    Raises:
        UserError: There is no such run, no labels, or the folder is not free.
    """
    if config.resume:
        raise UserError(
            "Expected an evaluation from its beginning, got --resume. Pass --overwrite to replace "
            "the one in the folder."
        )
    if config.compare:
        return _compare(config)
    asked, fractions = _protocols(config), _fractions(config)
    with assembly.start_run(config) as run:
        return _evaluate(run, asked, fractions)


def _evaluate(
    run: assembly.Run, asked: Sequence[str], fractions: Sequence[float]
) -> dict[str, Any]:
    config = run.config
    checkpoint = encoders.pretrained_source(config)
    if checkpoint is None and config.init_weights != "none":
        raise UserError(
            f"Expected a pre-training run in {config.pretrain_save_path}, got no checkpoint there. "
            "Run --task=pretrain first, or pass --init_weights=none for a random encoder."
        )
    encoders.check_apart(run.folder.path, checkpoint)
    _check_report(run)
    if checkpoint is not None:
        config = encoders.adopt_run(config, checkpoint)
    splits = assembly.load_splits(config, need_labels=True)
    train, test = assembly.train_and_test(config, splits)
    if checkpoint is not None and "held back" in test.name:
        print(
            "note: there is no test split; the images held back here were, without their labels, "
            "among those of the pre-training, unless it held back the same ones",
            flush=True,
        )
    size = assembly.view_size(config, train)
    config = encoders.with_stem(config, size)
    run = dataclasses.replace(run, config=config)
    assembly.describe_data(train, test)
    encoder = encoders.prepare_encoder(config.replace(freeze=True), checkpoint)
    assembly.begin_or_resume(run, {})

    evaluation = Evaluation(run, train, test, size, encoder, checkpoint)
    evaluation.measure(asked)
    _fine_tune(evaluation, data.Splits(train, test), asked, fractions)
    evaluation.draw()
    return evaluation.finish()


def _check_report(run: assembly.Run) -> None:
    """Raises UserError where a report lies that no evaluation wrote."""
    if (run.folder.path / REPORT).exists() and run.folder.task() != "evaluate":
        raise UserError(
            f"Expected no {REPORT} in {run.folder.path} but that of --task=evaluate, got a file of "
            "other origin. Move it, or pass another --finetune_save_path."
        )


def _protocols(config: Config) -> tuple[str, ...]:
    """Returns the protocols that are asked for; raises UserError for one that does not exist."""
    if config.protocols.strip().lower() == "all":
        return PROTOCOLS
    words = [word.strip().lower() for word in config.protocols.split(",") if word.strip()]
    unknown = [word for word in words if word not in PROTOCOLS]
    if unknown or not words:
        raise UserError(
            f"Expected all or some of {', '.join(PROTOCOLS)} for --protocols, got "
            f"{', '.join(unknown) or 'none'}. Pass --protocols=knn,logreg, for instance."
        )
    return tuple(words)


def _fractions(config: Config) -> list[float]:
    """Returns the shares of the labels to fine-tune with; raises UserError for one that is none."""
    try:
        fractions = [float(word) for word in config.label_fractions.split(",")]
    except ValueError:
        fractions = []
    fractions = sorted(set(fractions))
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise UserError(
            "Expected shares above 0 and up to 1 with commas between for --label_fractions, got "
            f"{config.label_fractions!r}. Pass --label_fractions=0.01,0.1,1.0, for instance."
        )
    return fractions


class Evaluation:
    """What is measured of one encoder.

    Args:
        run: The run.
        train, test: Images with labels.
        size: (h, w) that they are seen at.
        encoder: Frozen, with its weights.
        checkpoint: Where these are from, or None.
    """

    def __init__(
        self,
        run: assembly.Run,
        train: data.Source,
        test: data.Source,
        size: tuple[int, int],
        encoder: keras.Model,
        checkpoint: pathlib.Path | None,
    ) -> None:
        self.run, self.train, self.test, self.size = run, train, test, size
        self.encoder, self.checkpoint = encoder, checkpoint
        self.seeds = range(run.config.seed, run.config.seed + run.config.num_seeds)
        self.measured: dict[str, dict[str, Any]] = {}
        self.results: dict[str, Any] = {}
        self.names = train.class_names or tuple(map(str, range(train.num_classes)))
        self.trained = encoders.settings_of(checkpoint)
        self.began = time.time()
        self.z: Split | None = None
        started = time.monotonic()
        self.h = Split(
            self._embed(encoder, train),
            train.labels,
            self._embed(encoder, test),
            test.labels,
            max(len(self.names), train.num_classes),
        )
        for features in (self.h.train, self.h.test):
            check_finite(features)
        images = len(train) + len(test)
        self.images_per_second = round(images / (time.monotonic() - started), 1)
        print(f"features of {images} images, {self.images_per_second:,.0f} images/s", flush=True)

    def measure(self, asked: Sequence[str]) -> None:
        """Measures what needs no training of the encoder, and draws it."""
        if "knn" in asked:
            self._probe("knn", lambda seed: _knn(self.h, seed))
        if "logreg" in asked:
            self._probe("logistic_regression", lambda seed: _logistic(self.h, seed))
        if "linear" in asked:
            self._linear()
        if "mlp" in asked:
            self._probe("mlp", lambda seed: _mlp(self.h, seed))
        if "baselines" in asked:
            self._baselines()
        self.z = self._project()
        if self.z is not None:
            self._probe_z(self.z, asked)
        if "health" in asked:
            self._health()

    def finish(self) -> dict[str, Any]:
        """Writes results and report."""
        for name, measured in self.measured.items():
            if name in ("knn", "logistic_regression", "linear_probe", "mlp"):
                self.results[name] = measured["mean"]
        folder = self.run.folder
        # Not those that a run which was interrupted, or the user, has left there.
        drawn = [p for p in folder.plots.glob("*.png") if p.stat().st_mtime >= self.began - 1.0]
        results = self.run.finish(
            **self.results,
            protocols=self.measured,
            class_names=list(self.names),
            num_train=len(self.train),
            num_test=len(self.test),
            data=[self.train.name, self.test.name],
            view_size=list(self.size),
            checkpoint=str(self.checkpoint) if self.checkpoint else "random",
            pictures=sorted(path.name for path in drawn),
            pretrain_config=self.trained.to_dict() if self.trained else None,
            report=REPORT,
            command=shlex.join(["python", *sys.argv]),
            date=datetime.date.today().isoformat(),
            images_per_second=self.images_per_second,
            peak_memory_bytes=assembly.peak_memory_bytes(),
        )
        _write_report(folder.path, [folder.path])
        return results

    def _embed(self, encoder: keras.Model, source: data.Source) -> np.ndarray:
        return embed(encoder, plain_batches(source, batch_size=self._together(), size=self.size))

    def _together(self) -> int:
        """Returns the images that go through an encoder together."""
        return min(max(BATCH_PIXELS // (self.size[0] * self.size[1]), 1), BATCH_SIZE)

    def _probe(self, name: str, probe: Probe, *, chosen_on: str = HELD_BACK) -> None:
        """Runs a probe with every seed and keeps what came of it."""
        started = time.monotonic()
        outcomes, chosen = [], []
        for seed in self.seeds:
            scores, settings = probe(seed)
            outcomes.append(score(scores, self.h.test_labels, self.h.num_classes))
            chosen.append(settings)
            if name.startswith("knn"):  # classes that nobody votes for have no order
                outcomes[-1]["top5"] = None
        every = {key: [settings[key] for settings in chosen] for key in chosen[0]}
        settings = {key: v[0] if len(set(v)) == 1 else v for key, v in every.items()}
        self.keep(name, outcomes, settings | {"chosen_on": chosen_on}, time.monotonic() - started)

    def keep(
        self, name: str, outcomes: list[dict[str, Any]], settings: dict[str, Any], seconds: float
    ) -> None:
        """Keeps what a protocol measured, an outcome for each seed, and prints its mean."""
        accuracies = [outcome["accuracy"] for outcome in outcomes]
        self.measured[name] = {
            "accuracy": [assembly.rounded(value) for value in accuracies],
            "mean": assembly.rounded(float(np.mean(accuracies))),
            "std": assembly.rounded(float(np.std(accuracies, ddof=1)))
            if len(accuracies) > 1
            else None,
            "top5": _mean([outcome.get("top5") for outcome in outcomes]),
            "f1_macro": _mean([outcome.get("f1_macro") for outcome in outcomes]),
            # Of all seeds together.
            "confusion_matrix": np.sum([o["confusion_matrix"] for o in outcomes], axis=0).tolist(),
            "settings": settings,
            "seconds": round(seconds, 2),
        }
        print(f"{name.replace('_', ' '):<28} {self.measured[name]['mean']:.4f}", flush=True)

    def _linear(self) -> None:
        """The linear probe, on views that are cropped and mirrored."""
        recipe = Recipe(
            jitter=False,
            colordrop=False,
            blur=False,
            crop_area_min=self.recipe().crop_area_min,
        )
        views = [self.h.train.astype(np.float16)]
        for view in range(1, LINEAR_VIEWS):
            batches = view_batches(
                self.train,
                batch_size=self._together(),
                recipe=recipe,
                seed=self.run.config.seed,
                size=self.size,
                view=view,
            )
            views.append(embed(self.encoder, batches).astype(np.float16))
        features = self.h.of(np.stack(views), self.h.test)
        self._probe("linear_probe", lambda seed: _linear(features, seed))

    def recipe(self) -> Recipe:
        """Returns the augmentation that the encoder was trained with."""
        return (self.trained or self.run.config).recipe()

    def _baselines(self) -> None:
        """Pixels, their principal components and an untrained encoder, by nearest neighbours."""
        pixels = pixel_encoder(min(PIXEL_SIDE, *self.size))
        raw = self.h.of(self._embed(pixels, self.train), self._embed(pixels, self.test))
        keras.utils.set_random_seed(self.run.config.seed)
        untaught = encoders.build_encoder(self.run.config)
        random = self.h.of(self._embed(untaught, self.train), self._embed(untaught, self.test))
        reduced = _principal(raw, self.h.train.shape[1], self.run.config.seed)
        found = {"raw_pixels": raw, "pca": reduced, "random_encoder": random}
        for name, features in found.items():
            self._probe(f"knn_{name}", lambda seed, own=features: _knn(own, seed))  # type: ignore[misc]
        for name in ("pca", "random_encoder"):
            own = found[name]
            self._probe(
                f"logistic_regression_{name}",
                lambda seed, own=own: _logistic(own, seed),  # type: ignore[misc]
            )
        self.results["baselines"] = {name: self.measured[f"knn_{name}"]["mean"] for name in found}
        # Beside the protocols, which are of the encoder's own features.
        self.results["baseline_protocols"] = {
            name: self.measured.pop(name)
            for name in list(self.measured)
            if name.endswith(tuple(found))
        }

    def _project(self) -> Split | None:
        """Returns the projections z, where the checkpoint has a projection head."""
        if self.checkpoint is None:
            return None
        try:
            head = encoders.load_projection_head(
                self.run.config, self.h.train.shape[1], self.checkpoint
            )
        except UserError as error:
            print(f"without z: {error}", flush=True)
            return None
        z = self.h.of(project(head, self.h.train), project(head, self.h.test))
        for projections in (z.train, z.test):
            check_finite(projections)
        return z

    def _probe_z(self, z: Split, asked: Sequence[str]) -> None:
        """The paper's claim: h tells the classes apart better than z = g(h) does."""
        probes = {"knn": ("knn", _knn), "logreg": ("logistic_regression", _logistic)}
        for short, (name, probe) in probes.items():
            if short in asked:
                self._probe(f"{name}_z", lambda seed, probe=probe: probe(z, seed))  # type: ignore[misc]
                measured = self.measured.pop(f"{name}_z")
                self.results.setdefault("z", {})[name] = measured

    def _health(self) -> None:
        """What can be said of features without labels."""
        config, h = self.run.config, self.h.test
        some = self.test.take(_spread(len(self.test), HEALTH_IMAGES))
        first, second = (
            embed(
                self.encoder,
                view_batches(
                    some,
                    batch_size=self._together(),
                    recipe=self.recipe(),
                    seed=config.seed,
                    size=self.size,
                    view=view,
                ),
            )
            for view in (1, 2)
        )
        rows = h[_spread(len(h), HEALTH_IMAGES)]
        unit = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12)
        spreads = np.sort(unit.std(axis=0))[::-1]
        self.results["health"] = {
            "alignment": assembly.rounded(metrics.alignment(first, second)),
            "uniformity": assembly.rounded(metrics.uniformity(rows)) if len(rows) > 1 else None,
            "effective_rank": assembly.rounded(metrics.effective_rank(h), 2),
            "width": h.shape[1],
            "feature_spread": assembly.rounded(metrics.feature_spread(h)),
            "per_dimension_spread": [
                float(f"{value:.6g}") for value in spreads[_spread(len(spreads), SPREAD_VALUES)]
            ],
        }

    def draw(self) -> None:
        """Draws confusion matrices, maps, neighbours, and copies the curves of the pre-training."""
        folder = self.run.folder
        for name in ("knn", "logistic_regression", "linear_probe", "mlp"):
            matrix = self.measured.get(name, {}).get("confusion_matrix")
            if matrix is not None:
                plots.plot_confusion_matrix(
                    np.array(matrix),
                    self.names,
                    folder.plots / f"confusion_matrix_{name}.png",
                    title=f"Confusion matrix, {name.replace('_', ' ')}",
                )
        self._draw_map(self.z)
        rows = _spread(len(self.test), SHOWN_QUERIES)
        found, similarities = nearest(self.h.train, self.h.test[rows], k=NEIGHBOURS)
        right = self.h.train_labels[found] == self.h.test_labels[rows][:, np.newaxis]
        draw_neighbours(
            self.run, self.train, self.test, rows, found, similarities, right, self.size
        )
        if self.checkpoint is not None and self.trained is not None:
            for name in ("loss.png", "accuracy.png"):
                curve = self.checkpoint.parent.parent / "plots" / name
                if curve.exists():
                    write_whole(folder.plots / name, functools.partial(shutil.copy, curve))

    def _draw_map(self, z: Split | None) -> None:
        """Draws a t-SNE of training and test features, of z beside h where there is z."""
        parts = [_spread(len(own), MAP_IMAGES) for own in (self.h.train, self.h.test)]
        labels = np.concatenate([self.h.train_labels[parts[0]], self.h.test_labels[parts[1]]])
        is_test = np.repeat([False, True], [len(part) for part in parts])
        if len(labels) < 5:
            return
        maps = [
            _map(np.concatenate([own.train[parts[0]], own.test[parts[1]]]), self.run.config.seed)
            for own in ([self.h] if z is None else [self.h, z])
        ]
        title, path = "t-SNE of training and test features", self.run.folder.plots / "tsne.png"
        if z is None:
            plots.plot_embedding(maps[0], labels, self.names, path, title=title)
        else:
            plots.plot_pair(
                maps[0], maps[1], labels, self.names, path, is_test=is_test, title=title
            )


def _knn(features: Split, seed: int) -> Scores:
    chosen = choose_knn(
        features.train, features.train_labels, num_classes=features.num_classes, seed=seed
    )
    scores = knn_scores(
        features.train,
        features.train_labels,
        features.test,
        k=chosen.k,
        temperature=chosen.temperature,
        num_classes=features.num_classes,
    )
    return scores, {"k": chosen.k, "temperature": chosen.temperature}


def _logistic(features: Split, seed: int) -> Scores:
    chosen = choose_penalty(features.train, features.train_labels, seed=seed)
    scores = logistic_scores(
        features.train,
        features.train_labels,
        features.test,
        penalty=chosen.penalty,
        num_classes=features.num_classes,
    )
    return scores, {"penalty": chosen.penalty}


def _linear(features: Split, seed: int) -> Scores:
    known: dict[str, Any] = {"num_classes": features.num_classes, "seed": seed}
    chosen = choose_head(features.train, features.train_labels, **known)
    rates: dict[str, Any] = chosen._asdict()
    rates.pop("accuracy")
    scores = train_head(features.train, features.train_labels, features.test, **rates, **known)
    return scores, rates | {"views": len(features.train)}


def _mlp(features: Split, seed: int) -> Scores:
    known: dict[str, Any] = {
        "num_classes": features.num_classes,
        "seed": seed,
        "hidden": MLP_HIDDEN,
        "epochs": MLP_EPOCHS,
    }
    chosen = choose_head(
        features.train,
        features.train_labels,
        learning_rates=MLP_RATES,
        weight_decays=MLP_DECAYS,
        **known,
    )
    rates: dict[str, Any] = chosen._asdict()
    rates.pop("accuracy")
    scores = train_head(features.train, features.train_labels, features.test, **rates, **known)
    return scores, rates | {"hidden": MLP_HIDDEN}


def _principal(pixels: Split, width: int, seed: int) -> Split:
    """Returns the principal components of pixels, as many as the encoder has features."""
    from sklearn.decomposition import PCA

    some = pixels.train[_spread(len(pixels.train), PCA_IMAGES)]
    pca = PCA(min(width, *some.shape), random_state=seed).fit(some)
    return pixels.of(*(pca.transform(x).astype(np.float32) for x in (pixels.train, pixels.test)))


def _map(features: np.ndarray, seed: int) -> np.ndarray:
    """Returns features in the plane by t-SNE, float32 [M, 2]."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    init = "pca" if features.shape[1] > 1 else "random"
    return TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(features)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return assembly.rounded(float(np.mean(known))) if known else None


def _spread(count: int, most: int) -> np.ndarray:
    """Returns at most so many numbers of 0..count-1, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _fine_tune(
    evaluation: Evaluation, splits: data.Splits, asked: Sequence[str], fractions: Sequence[float]
) -> None:
    """Trains the whole network with shares of the labels, from the encoder and from nothing."""
    starts = {"finetune": evaluation.checkpoint, "supervised": None}
    if evaluation.checkpoint is None and "finetune" in asked:
        print("not fine-tuned: a random encoder would be its own supervised twin", flush=True)
        del starts["finetune"]
    found: dict[str, dict[str, list[float]]] = {}
    for name in (name for name in starts if name in asked):
        for fraction in fractions:
            key, started = str(fraction), time.monotonic()
            outcomes = [
                _classify(evaluation, splits, name, starts[name], fraction, seed)
                for seed in evaluation.seeds
            ]
            settings = {"epochs": outcomes[0]["config"]["num_epochs"], "chosen_on": "nothing"}
            evaluation.keep(f"{name}_{key}", outcomes, settings, time.monotonic() - started)
            found.setdefault(name, {})[key] = [outcome["accuracy"] for outcome in outcomes]
            evaluation.results.setdefault(name, {})[key] = evaluation.measured[f"{name}_{key}"][
                "mean"
            ]
    if found:
        plots.plot_fractions(
            found.get("finetune", {}),
            found.get("supervised", {}),
            evaluation.run.folder.plots / "fractions.png",
        )


def _classify(
    evaluation: Evaluation,
    splits: data.Splits,
    name: str,
    checkpoint: pathlib.Path | None,
    fraction: float,
    seed: int,
) -> dict[str, Any]:
    config = evaluation.run.config
    labelled = math.ceil(fraction * len(evaluation.train))
    # With few labels an epoch is short: more of them, though not as many as would make up for it.
    most = max(MOST_EPOCHS, config.num_epochs)
    epochs = min(most, round(config.num_epochs / math.sqrt(fraction)))
    folder = evaluation.run.folder.path / "fine_tuning" / f"{name}_{fraction}_{seed}"
    tf.keras.backend.clear_session()  # what the run before has built
    results = classification.run(
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
            crop_area_min=evaluation.recipe().crop_area_min,
            overwrite=True,
            eval_every_epochs=0,
            save_every_epochs=epochs,
            keep_checkpoints=1,
            finetune_save_path=str(folder),
        ),
        splits,
    )
    shutil.rmtree(folder / "checkpoints")  # nobody reads them, and they are large
    return results


def _compare(config: Config) -> dict[str, Any]:
    """Puts evaluations side by side in one report."""
    folders = [pathlib.Path(word.strip()) for word in config.compare.split(",") if word.strip()]
    if len(folders) < 2:
        raise UserError(
            f"Expected at least two evaluated runs for --compare, got {config.compare!r}. Pass "
            "their folders with commas between."
        )
    for folder in folders:
        assembly.task_of(folder)  # refuses a folder of a version that is not read
        read_report(folder)  # before anything is written
    with assembly.start_run(config) as run:
        return _put_together(run, folders)


def _put_together(run: assembly.Run, folders: Sequence[pathlib.Path]) -> dict[str, Any]:
    if run.folder.path.resolve() in [folder.resolve() for folder in folders]:
        raise UserError(
            f"Expected another folder to write to than those compared, got {run.folder.path}. Pass "
            "another --finetune_save_path."
        )
    assembly.begin_or_resume(run, {})
    results = run.finish(
        compared=[str(folder) for folder in folders],
        report=REPORT,
        images_per_second=None,
    )
    _write_report(run.folder.path, folders)
    return results


def _write_report(folder: pathlib.Path, evaluated: Sequence[pathlib.Path]) -> None:
    html = build_report([read_report(path) for path in evaluated])
    write_whole(folder / REPORT, lambda path: path.write_text(html, encoding="utf-8"))
    print(f"report in {folder / REPORT}", flush=True)
