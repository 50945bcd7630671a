"""Check: reads all of the data that the settings name and, where asked, draws what is made of it.

Nothing is trained. What is drawn are the views that pre-training with the same settings makes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from simclr_tf import data, plots
from simclr_tf.augment import Recipe, apply_views, draw_views
from simclr_tf.augment.recipe import OPERATIONS
from simclr_tf.config import Config
from simclr_tf.data.decode import resize_to_fill
from simclr_tf.data.files import read_each
from simclr_tf.errors import UserError
from simclr_tf.tasks import assembly

Size = tuple[int, int]

BAD_NAMED = 20  # bad files named in the message; all are counted
CLASSES_LISTED = 20  # classes up to which each one's images are printed

VIEWS = 4  # columns beside the image
RECIPE_ROWS = 2  # rows of the whole recipe, below those of the single operations
IMAGES = 4  # rows of the picture of the views
CROPPED_IMAGES, CROPS = 3, 6  # rows of the histograms, and the crops drawn over each other in them
# Pixels of an image's longer side in a figure. A larger one is shrunk before it is drawn, as the
# figure would leave out rows of pixels.
SHOWN_SIDE = 224


def run(config: Config) -> dict[str, Any]:
    """Reads every image once and returns what results.json holds.

    Writes the run folder `config.finetune_save_path`; with `config.preview` its plots hold
    `preview_operations.png`, `preview_views.png` and `preview_colours.png`.

    Raises:
        UserError: The data is not there or not as it should be; it names the files.
    """
    with assembly.start_run(config) as run:
        return _check(run)


def _check(run: assembly.Run) -> dict[str, Any]:
    config = run.config
    started = time.monotonic()
    splits = assembly.load_splits(config, need_labels=False)
    sources = [s for s in (splits.train, splits.test, splits.unlabelled) if s is not None]
    sizes = _read_all(sources)
    seconds = time.monotonic() - started
    _describe(sources, sizes)
    seen = splits.train if splits.unlabelled is None else splits.unlabelled  # by pre-training
    view_size = assembly.view_size(config, seen) if config.preview else None

    assembly.begin_or_resume(run, {})
    pictures = _draw_preview(run, seen, view_size) if view_size else []
    heights, widths = zip(*sizes, strict=True)
    return run.finish(
        num_train=len(splits.train),
        num_test=0 if splits.test is None else len(splits.test),
        num_unlabelled=0 if splits.unlabelled is None else len(splits.unlabelled),
        num_skipped=sum(source.skipped for source in sources),
        classes={
            name: _count_classes(source)
            for name, source in (("train", splits.train), ("test", splits.test))
            if source is not None and source.labels is not None
        },
        image_size=splits.train.image_size,
        smallest_sides=(min(heights), min(widths)),
        largest_sides=(max(heights), max(widths)),
        pictures=pictures,
        images_per_second=round(sum(map(len, sources)) / seconds, 1),
    )


def _read_all(sources: Sequence[data.Source]) -> set[Size]:
    """Reads, in threads, every image that is not in memory yet; returns all (height, width).

    Raises:
        UserError: Some do not decode. It names the first and counts all, of all sources.
    """
    images = [(s, i) for s in sources if s.images is None for i in range(len(s))]

    def size(image: tuple[data.Source, int]) -> Size:
        source, index = image
        height, width, _ = source.read(index).shape
        return height, width

    outcomes = read_each(size, images, "reading")
    bad = [outcome for outcome in outcomes if isinstance(outcome, UserError)]
    if bad:
        more = "" if len(bad) <= BAD_NAMED else f"\n... and {len(bad) - BAD_NAMED} more"
        named = "\n".join(map(str, bad[:BAD_NAMED]))
        raise UserError(f"{len(bad)} of {len(images)} images do not decode:\n{named}{more}")
    return {s.images.shape[1:3] for s in sources if s.images is not None} | set(outcomes)


def _describe(sources: Sequence[data.Source], sizes: set[Size]) -> None:
    """Prints what there is: images, sizes and images per class."""
    for source in sources:
        assembly.describe_data(source)
        if source.labels is not None:
            print(f"  {_spell_counts(_count_classes(source))}")
    if len(sizes) > 1:
        heights, widths = (sorted(sides) for sides in zip(*sizes, strict=True))
        print(
            f"sizes: {len(sizes)}, heights {heights[0]} to {heights[-1]} and widths {widths[0]} to "
            f"{widths[-1]} pixels"
        )


def _count_classes(source: data.Source) -> dict[str, int]:
    """Returns the number of images of each class by its name."""
    names = source.class_names or tuple(map(str, range(source.num_classes)))
    counts = np.bincount(source.labels, minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def _spell_counts(counts: dict[str, int]) -> str:
    if len(counts) <= CLASSES_LISTED:
        return ", ".join(f"{name} {count}" for name, count in counts.items())
    (fewest, low), *_, (most, high) = sorted(counts.items(), key=lambda item: item[1])
    return f"{low} ({fewest}) to {high} ({most}) images per class"


def _draw_preview(run: assembly.Run, source: data.Source, size: Size) -> list[str]:
    """Draws the views into the run's folder; returns the names of the pictures."""
    names = ["preview_operations.png", "preview_views.png", "preview_colours.png"]
    operations, views, colours = (run.folder.plots / name for name in names)
    recipe, seed = run.config.recipe(), run.config.seed
    # Spread over the set: files are sorted by class.
    chosen = np.unique(np.linspace(0, len(source) - 1, IMAGES).astype(int))
    images = [_at_most(source.read(int(index)), 4 * max(size)) for index in chosen]

    grid, titles = _operation_rows(images[0], recipe, size=size, seed=seed)
    plots.plot_images(
        grid,
        operations,
        row_titles=titles,
        column_titles=["image", *(f"view {number}" for number in range(1, VIEWS + 1))],
        title="Each operation alone, on every view (in brackets: its share in training)",
    )
    plots.plot_views(
        [_shown(image) for image in images],
        [
            [_shown(view) for view in _views(image, recipe, VIEWS, size=size, seed=seed, step=row)]
            for row, image in enumerate(images)
        ],
        views,
        title="Views that the whole recipe makes of an image",
    )
    images = images[:CROPPED_IMAGES]
    plots.plot_histograms(
        [_shown(image) for image in images],
        _crop_histograms(images, recipe, size=size, seed=seed),
        colours,
        column_titles=["without colour distortion", f"with it, strength {recipe.strength:g}"],
        title="Pixel values of random crops, a line for each crop",
    )
    return names


def _operation_rows(
    image: np.ndarray, recipe: Recipe, *, size: Size, seed: int
) -> tuple[list[list[np.ndarray]], list[str]]:
    """Returns rows of an image and its views, one row an operation, then the recipe; and titles."""
    rows, titles = [], []
    for operation in OPERATIONS:
        # What does not crop would squeeze the image into the views' shape.
        start = (
            image if operation == "crop" else resize_to_fill(image, _largest_within(image, size))
        )
        alone = _alone(recipe, operation)
        rows.append([image, *_views(start, alone, VIEWS, size=size, seed=seed, step=0)])
        titles.append(f"{operation} ({_spell_share(recipe, operation, size)})")
    for step in range(RECIPE_ROWS):
        rows.append([image, *_views(image, recipe, VIEWS, size=size, seed=seed, step=step)])
        titles.append("whole recipe")
    return [[_shown(cell) for cell in row] for row in rows], titles


def _alone(recipe: Recipe, operation: str) -> Recipe:
    """Returns a recipe of one operation, which every view draws."""
    switches: dict[str, Any] = {name: name == operation for name in OPERATIONS}
    if operation != "crop":
        switches[_probability(operation)] = 1.0
    return dataclasses.replace(recipe, **switches)


def _probability(operation: str) -> str:
    """Returns the name of an operation's probability; a crop has none."""
    return "color_prob" if operation == "colordrop" else f"{operation}_prob"


def _spell_share(recipe: Recipe, operation: str, size: Size) -> str:
    on = recipe.blurs(size) if operation == "blur" else getattr(recipe, operation)
    share = 1.0 if operation == "crop" else getattr(recipe, _probability(operation))
    return f"{100 * share:.3g} %" if on else "off"


def _crop_histograms(
    images: Sequence[np.ndarray], recipe: Recipe, *, size: Size, seed: int
) -> np.ndarray:
    """Returns histograms [images, 2, CROPS, bins] of the same crops without and with distortion."""
    with_colours = dataclasses.replace(
        recipe, flip=False, blur=False, noise=False, rotate=False, cutout=False
    )
    without = dataclasses.replace(with_colours, jitter=False, colordrop=False)
    return np.array(
        [
            [
                plots.histograms_of(_views(image, r, CROPS, size=size, seed=seed, step=row))
                for r in (without, with_colours)
            ]
            for row, image in enumerate(images)
        ]
    )


def _views(
    image: np.ndarray, recipe: Recipe, count: int, *, size: Size, seed: int, step: int
) -> np.ndarray:
    """Returns views of one image, float32 [count, h, w, 3] in 0..1."""
    height, width, _ = image.shape
    draw = draw_views(recipe, count, seed=seed, step=step, size=size, aspect=width / height)
    images = tf.convert_to_tensor(np.broadcast_to(image, (count, *image.shape)))
    with _uncompiled():
        return apply_views(images, draw, size).numpy()


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Runs TensorFlow's functions op by op: each row would compile anew, for a handful of views."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _largest_within(image: np.ndarray, size: Size) -> Size:
    """Returns the (height, width) of the largest window of an image that has the aspect of size."""
    scale = min(image.shape[0] / size[0], image.shape[1] / size[1])
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _at_most(image: np.ndarray, side: int) -> np.ndarray:
    """Shrinks an image, uint8, whose longer side has more than so many pixels."""
    scale = side / max(image.shape[:2])
    if scale >= 1.0:
        return image
    height, width = (max(1, round(scale * pixels)) for pixels in image.shape[:2])
    return resize_to_fill(image, (height, width))


def _shown(image: np.ndarray) -> np.ndarray:
    """Returns an image, uint8 or float in 0..1, as it is put into a figure."""
    if image.dtype != np.uint8:
        image = np.rint(255.0 * image).astype(np.uint8)
    return _at_most(image, SHOWN_SIDE)
