"""Embedding: the features of every image of a data set, and which images they make neighbours."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from simclr_tf import data, plots
from simclr_tf.atomic_write import write_whole
from simclr_tf.config.settings import Config
from simclr_tf.counting import spell_number
from simclr_tf.data.batches.evaluation import images_together
from simclr_tf.data.images import resize_to_fill
from simclr_tf.errors import UserError
from simclr_tf.evaluation.feature_files import check_format, write_columns
from simclr_tf.evaluation.features import embed_each
from simclr_tf.evaluation.neighbours import nearest
from simclr_tf.evaluation.projector import MOST_POINTS, write_projector
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.tasks.predict import output_names
from simclr_tf.workflow import datasets
from simclr_tf.workflow.encoder import load_projection_head, prepare_encoder, with_stem
from simclr_tf.workflow.pace import Pace
from simclr_tf.workflow.resume import begin_or_resume
from simclr_tf.workflow.run import Run, peak_memory_bytes, rounded
from simclr_tf.workflow.start import start_run
from simclr_tf.workflow.weights import adopt_run, check_apart, required_source

TABLE, PICTURE = "neighbours.csv", "plots/neighbours.png"
SPLITS = ("train", "test", "unlabelled")
NEIGHBOURS = 7
MOST_QUERIES = 10_000
SHOWN_QUERIES = 8
Z_ROWS = 4096  # features that are projected together

Size = tuple[int, int]
Sources = dict[str, data.Source]


def run(config: Config) -> dict[str, Any]:
    """Embeds a data set and returns what results.json holds.

    Writes the run folder `config.finetune_save_path`: features.npz, or a table features.parquet,
    with `path`, `label` (-1: none), `split`, `h` and, `with_z`, `z`; with `index` a table and a
    picture of nearest neighbours too.
    Encoder, and what the flags leave open of data and sizes, are those of the run whose weights
    are taken.

    Raises:
        UserError: There are no such weights or data, or the folder is not free.
    """
    check_format(config.embed_format)
    with start_run(config) as run:
        return _embed(run)


def _embed(run: Run) -> dict[str, Any]:
    checkpoint = required_source(run.config)
    check_apart(run.folder.path, checkpoint)
    config = run.config
    if checkpoint is not None:
        config = adopt_run(config, checkpoint)
    sources = _load_sources(config)
    size = datasets.view_size(config, sources["train"])
    config = with_stem(config, size)
    run = dataclasses.replace(run, config=config)
    datasets.describe_data(*sources.values())
    encoder = prepare_encoder(config.replace(freeze=True), checkpoint)
    head = (
        load_projection_head(config, encoder.output_shape[-1], checkpoint)
        if config.with_z
        else None
    )
    # From here on a run that lay in the folder is gone: what can be refused has been.
    begin_or_resume(run, {})
    print(f"embeds images at {size[0]}x{size[1]} pixels", flush=True)
    pace = Pace(sum(map(len, sources.values())))
    h = _embed_all(encoder, sources, size, pace)
    z = None if head is None else project(head, h)
    columns = _columns_of(sources)
    _write_features(run, columns, h, z)
    files = [_features_of(config)]
    metrics: dict[str, Any] = {}
    if config.index:
        files += [TABLE, PICTURE]
        metrics = _index(run, sources, h, size)
    if config.projector:
        files += _write_projector(run, sources, columns, h)
    names = sources["train"].class_names or map(str, range(sources["train"].num_classes))
    return run.finish(
        num_images=len(h),
        images_per_split={split: len(source) for split, source in sources.items()},
        num_skipped=sum(source.skipped for source in sources.values()),
        feature_width=h.shape[1],
        projection_width=None if z is None else z.shape[1],
        view_size=list(size),
        class_names=list(names),
        checkpoint=str(checkpoint) if checkpoint else "random",
        images_per_second=pace.images_per_second,
        peak_memory_bytes=peak_memory_bytes(),
        files=files,
        **metrics,
    )


def _load_sources(config: Config) -> Sources:
    """Loads the splits that there are, in the order they are written in."""
    splits = datasets.load_splits(config)
    found = {name: getattr(splits, name) for name in SPLITS}
    sources = {name: source for name, source in found.items() if source is not None}
    if config.index and "test" not in sources and len(sources["train"]) < 2:
        raise UserError(
            f"Expected at least 2 images in {sources['train'].name} for --index, got 1. Add "
            "images, or leave the flag out."
        )
    return sources


def _embed_all(encoder: keras.Model, sources: Sources, size: Size, pace: Pace) -> np.ndarray:
    """Returns the features of all images, float32 [M, F], split after split."""
    # Filled in place: a list and what is joined of it would take the memory twice.
    h = np.empty((pace.total, encoder.output_shape[-1]), np.float32)
    done = 0
    for source in sources.values():
        for features in embed_each(encoder, _batches(source, size)):
            h[done : done + len(features)] = features
            done += len(features)
            pace.add(len(features))
    check_finite(h)
    return h


def check_finite(h: np.ndarray) -> None:
    """Raises UserError for features, float [M, F], that are no numbers."""
    wrong = int((~np.isfinite(h).all(axis=1)).sum())
    if wrong:
        raise UserError(
            f"Expected features that are numbers, got nan or infinity for {wrong} of {len(h)} "
            "images: the training of the encoder diverged. Pass an earlier checkpoint as "
            "--init_weights, or try --precision=float32."
        )


def _batches(source: data.Source, size: Size) -> Iterator[tf.Tensor]:
    yield from data.plain_batches(source, batch_size=images_together(size), size=size)


def project(head: ProjectionHead, h: np.ndarray) -> np.ndarray:
    """Returns the projections of features, float32 [M, D]."""
    z = np.empty((len(h), head.width), np.float32)
    for start in range(0, len(h), Z_ROWS):
        rows = slice(start, start + Z_ROWS)
        z[rows] = tf.cast(head(tf.constant(h[rows]), training=False), tf.float32)
    return z


def _names_of(source: data.Source) -> tuple[str, ...]:
    """Returns the path of each image; of images in memory that are no files, a number."""
    return source.paths or tuple(output_names(source))


def _labels_of(source: data.Source) -> np.ndarray:
    return np.full(len(source), -1, np.int32) if source.labels is None else source.labels


def _columns_of(sources: Sources) -> dict[str, Any]:
    """Returns what is known of the images beside their features, by name, in the data's order."""
    return {
        "path": [name for source in sources.values() for name in _names_of(source)],
        "label": np.concatenate([_labels_of(source) for source in sources.values()]),
        "split": [name for name, source in sources.items() for _ in range(len(source))],
    }


def _write_features(run: Run, columns: dict[str, Any], h: np.ndarray, z: np.ndarray | None) -> None:
    columns = {**columns, "h": h} | ({} if z is None else {"z": z})
    path = run.folder.path / _features_of(run.config)
    write_whole(path, lambda partial: write_columns(partial, columns, run.config.embed_format))
    widths = f"h {h.shape[1]} wide" + ("" if z is None else f", z {z.shape[1]} wide")
    print(f"features of {spell_number(len(h), 'image')}, {widths}, in {path}", flush=True)


def _write_projector(run: Run, sources: Sources, known: dict[str, Any], h: np.ndarray) -> list[str]:
    """Writes what TensorBoard's projector shows of the images, at most `MOST_POINTS` spread over
    them; returns the names of the files.
    """
    rows = _spread(len(h), MOST_POINTS)
    if len(rows) < len(h):
        print(f"{len(rows)} of the {len(h)} images for the projector, spread over them", flush=True)
    places = [(source, index) for source in sources.values() for index in range(len(source))]

    def thumbnail(point: int, side: int) -> np.ndarray:
        source, index = places[rows[point]]
        return plots.displayed(resize_to_fill(source.read(index), (side, side)))

    columns = {
        "path": [known["path"][row] for row in rows],
        "label": [_label_name(*places[row]) for row in rows],
        "split": [known["split"][row] for row in rows],
    }
    folder = run.folder.tensorboard / "projector"
    written = write_projector(folder, h[rows], columns, thumbnail)
    print(f"for the projector: tensorboard --logdir={run.folder.tensorboard}", flush=True)
    return [path.relative_to(run.folder.path).as_posix() for path in written]


def _spread(count: int, most: int) -> np.ndarray:
    """Returns at most so many of the indices below `count`, evenly spaced, int [M]."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _label_name(source: data.Source, index: int) -> str:
    if source.labels is None:
        return "-"
    label = source.labels[index]
    return source.class_names[label] if source.class_names else str(label)


def _features_of(config: Config) -> str:
    """Returns the name of the file that features are written to."""
    return f"features.{config.embed_format}"


def _index(run: Run, sources: Sources, h: np.ndarray, size: Size) -> dict[str, Any]:
    """Writes and draws the nearest training images of the test images, or of the training images
    where there is no test split; returns what is reported.
    """
    bank = sources["train"]
    asked = sources.get("test", bank)
    first = 0 if asked is bank else len(bank)
    rows = _spread(len(asked), MOST_QUERIES)
    if len(rows) < len(asked):
        print(f"neighbours of {len(rows)} of the {len(asked)} images, spread over them", flush=True)
    found, similarities = nearest(
        h[: len(bank)], h[first + rows], k=NEIGHBOURS, own=rows if asked is bank else None
    )
    names = _names_of(asked)
    _write_table(run, [names[row] for row in rows], _names_of(bank), found, similarities)
    metrics: dict[str, Any] = {"num_queries": len(rows)}
    right = None
    if bank.labels is not None and asked.labels is not None:
        right = bank.labels[found] == asked.labels[rows][:, np.newaxis]  # [Q, k]
        agreement = float(right[:, 0].mean())
        metrics["neighbour_label_agreement"] = rounded(agreement)
        print(f"nearest neighbour of the same class: {100 * agreement:.1f} %", flush=True)
    draw_neighbours(run, bank, asked, rows, found, similarities, right, size)
    return metrics


def _write_table(
    run: Run,
    asked: Sequence[str],
    names: Sequence[str],
    found: np.ndarray,
    similarities: np.ndarray,
) -> None:
    """Writes a line for each name of `asked`, with those of its neighbours out of `names`."""
    numbers = range(1, found.shape[1] + 1)
    columns = ["path", *(f"neighbour_{n}" for n in numbers), *(f"similarity_{n}" for n in numbers)]

    def save(path: pathlib.Path) -> None:
        # Names of files need not be UTF-8.
        with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(columns)
            for own, near, alike in zip(asked, found, similarities, strict=True):
                table.writerow([own, *(names[i] for i in near), *(f"{s:.6f}" for s in alike)])

    write_whole(run.folder.path / TABLE, save)


def draw_neighbours(
    run: Run,
    bank: data.Source,
    asked: data.Source,
    rows: np.ndarray,
    found: np.ndarray,
    similarities: np.ndarray,
    right: np.ndarray | None,
    size: Size,
) -> None:
    """Draws a few of the images with their neighbours, as the encoder sees them."""
    shown = _spread(len(rows), SHOWN_QUERIES)
    titles = []
    if asked.labels is not None:
        labels = asked.labels[rows[shown]]
        titles = [asked.class_names[i] if asked.class_names else str(i) for i in labels]
    plots.plot_neighbours(
        [resize_to_fill(asked.read(rows[i]), size) for i in shown],
        [[resize_to_fill(bank.read(j), size) for j in found[i]] for i in shown],
        similarities[shown],
        run.folder.path / PICTURE,
        right=None if right is None else right[shown],
        row_titles=titles,
        title="Images and the most similar others"
        if asked is bank
        else "Test images and the most similar training images",
    )
