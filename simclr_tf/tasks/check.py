"""Check: reads all of the data that the settings name and, where asked, draws what is made of it.

Nothing is trained. What is drawn are the views that pre-training with the same settings makes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from simclr_tf import data, plots
from simclr_tf.atomic_write import write_whole
from simclr_tf.augment import Recipe, apply_views, draw_views
from simclr_tf.augment.recipe import OPERATIONS
from simclr_tf.config.settings import Config, with_flags
from simclr_tf.counting import spell_number
from simclr_tf.data.check.arrays import check_npz
from simclr_tf.data.check.folders import check_folder
from simclr_tf.data.check.problems import ERROR, Problem
from simclr_tf.data.check.splits import Checked, check_splits
from simclr_tf.data.check.table import (
    count_kinds,
    spell_counts,
    spell_problems,
    write_problems,
)
from simclr_tf.data.images import resize_to_fill
from simclr_tf.data.loading import folder_of, list_files, list_of, offers_masks
from simclr_tf.data.masks import MaskRules
from simclr_tf.data.sets.arrays import UnreadableArchive
from simclr_tf.data.sets.lists import second_column
from simclr_tf.errors import UserError
from simclr_tf.workflow import datasets
from simclr_tf.workflow.resume import begin_or_resume
from simclr_tf.workflow.run import Run
from simclr_tf.workflow.start import start_run

Size = tuple[int, int]

TABLE = "problems.csv"
CLASSES_LISTED = 20  # classes up to which each one's images are printed

VIEWS = 4  # columns beside the image
RECIPE_ROWS = 2  # rows of the whole recipe, below those of the single operations
IMAGES = 4  # rows of the picture of the views
CROPPED_IMAGES, CROPS = 3, 6  # rows of the histograms, and the crops drawn over each other in them
# Pixels of an image's longer side in a figure. A larger one is shrunk before it is drawn, as the
# figure would leave out rows of pixels.
SHOWN_SIDE = 224


def run(config: Config) -> dict[str, Any]:
    """Reads everything once and returns what results.json holds.

    Writes the run folder `config.finetune_save_path` with every problem in `problems.csv`; with
    `config.preview` its plots hold `preview_operations.png`, `preview_views.png` and
    `preview_colours.png`.

    Raises:
        UserError: The data is not there, or holds what would stop or spoil training; there is a
            table of problems then, and a preview of the images that are good, but no results.
    """
    with start_run(config) as run:
        return _report(run)


def _report(run: Run) -> dict[str, Any]:
    config = run.config
    started, skip = time.monotonic(), config.skip_bad_images
    problems: list[Problem] = []
    checked = _check(config, problems)
    seconds = time.monotonic() - started
    errors = [p for p in problems if p.severity(skip_bad_images=skip) == ERROR]
    if not errors and config.preview:
        datasets.view_size(config, _seen(checked.splits))  # it must be known

    begin_or_resume(run, {})
    table = run.folder.path / TABLE
    write_whole(table, lambda path: write_problems(path, problems, skip_bad_images=skip))
    _describe(checked)
    if problems:
        root = os.path.dirname(list_of(config.data)) or folder_of(config.data)
        print(f"\nProblems{f' in {root}' if root else ''}:")
        print(with_flags(spell_problems(problems, skip_bad_images=skip, root=root)), end="\n\n")
    print(
        f"{spell_number(checked.read, 'image')} read: "
        f"{spell_counts(problems, skip_bad_images=skip)}; all of them in {table}",
        flush=True,
    )
    seen, pictures = _seen(checked.splits), []
    if config.preview and (not errors or _can_be_seen(config, seen)):
        pictures = _draw_preview(run, seen, datasets.view_size(config, seen))
    if errors:
        raise UserError(
            f"Expected data that can be trained on, got {spell_number(len(errors), ERROR)}, all in "
            f"{table}. Mend what it names{_hint(errors)}, and check again."
        )
    splits = checked.splits
    return run.finish(
        num_train=len(splits.train),
        num_test=0 if splits.test is None else len(splits.test),
        num_unlabelled=0 if splits.unlabelled is None else len(splits.unlabelled),
        num_skipped=sum(source.skipped for source in splits.present()),
        problems=count_kinds(problems),
        classes={
            name: _count_classes(source)
            for name, source in (("train", splits.train), ("test", splits.test))
            if source is not None and source.labels is not None
        },
        image_size=splits.train.image_size,
        smallest_sides=checked.smallest,
        largest_sides=checked.largest,
        pictures=pictures,
        images_per_second=round(sum(map(len, splits.present())) / seconds, 1),
    )


def _seen(splits: data.Splits) -> data.Source:
    """Returns the images that pre-training sees."""
    return splits.train if splits.unlabelled is None else splits.unlabelled


def _can_be_seen(config: Config, source: data.Source) -> bool:
    """Whether good images are left beside wrong ones, and the size of views of them is known."""
    if not len(source):
        print("no preview: no good image is left")
        return False
    sized = datasets.asked_size(config) != (0, 0) or source.image_size is not None
    if not sized:
        print("no preview: the images differ in size, pass that of the views as --input_size")
    return sized


def _check(config: Config, problems: list[Problem]) -> Checked:
    """Checks the data that the settings name, with masks where it has some by its own form.

    Args:
        config: The settings.
        problems: What is found is added here.
    """
    masked = bool(config.mask_colors) or config.ignore_label >= 0
    masked = masked or offers_masks(config.data)
    rules = datasets.mask_rules(config) if masked else None
    lines = list_of(config.data)
    column = second_column(lines) if lines else ""
    splits = list_files(
        config.data,
        test_list=config.val_file_path,
        label_pattern=config.label_pattern,
        need_labels=column == "labels" and not masked,
        num_classes=config.num_classes,
        masks=masked,
        skip_bad_images=config.skip_bad_images,
        report=problems.append,
    )
    if splits is None:
        splits = _load_arrays(config, rules, problems)
    elif lines:
        if column == "text" and not masked:
            problems.append(Problem("other column", lines))
    elif folder := folder_of(config.data):
        known = [problem.file for problem in problems]
        read = [path for source in splits.present() for path in source.paths + source.mask_paths]
        problems += check_folder(folder, read, known)
    view = datasets.asked_size(config)
    # Without labels or masks nothing but pre-training remains, which holds back what it is told to.
    asked = "val_fraction" in config.given
    shared = asked or splits.train.labels is not None or splits.train.has_masks
    checked = check_splits(
        splits,
        view=view,
        num_classes=config.num_classes,
        masks=rules,
        val_fraction=config.val_fraction if shared else 0.0,
        seed=config.seed,
    )
    # Of a few images there is no such share, and pre-training needs none.
    problems += [found for found in checked.problems if asked or found.kind != "held back"]
    return checked


def _load_arrays(config: Config, rules: MaskRules | None, problems: list[Problem]) -> data.Splits:
    """Loads a set that is no files; where its values are wrong, puts them among the problems.

    The set is then an empty one.
    """
    try:
        # Both sides of a share held back are checked.
        return datasets.load_splits(config.replace(val_fraction=0.0), masks=rules, look=False)
    except UnreadableArchive:
        raise
    except UserError:
        kind, _, path = config.dataset.partition(":")
        path = os.path.expanduser(path)
        if kind != "npz" or not os.path.exists(path):
            raise
        problems += check_npz(path)
        if not problems:
            raise
        return data.Splits(data.from_arrays(np.empty((0, 0, 0, 3), np.uint8)))


def _hint(errors: Sequence[Problem]) -> str:
    skippable = any(problem.severity(skip_bad_images=True) != ERROR for problem in errors)
    return ", or pass --skip_bad_images for the files that do not decode" if skippable else ""


def _describe(checked: Checked) -> None:
    """Prints what there is: images, sizes and images per class."""
    for source in filter(len, checked.splits.present()):
        datasets.describe_data(source)
        if source.labels is not None:
            print(f"  {_spell_counts(_count_classes(source))}")
    if checked.sizes > 1:
        (height, width), (most_height, most_width) = checked.smallest, checked.largest
        print(
            f"sizes: {checked.sizes}, heights {height} to {most_height} and widths {width} to "
            f"{most_width} pixels"
        )


def _count_classes(source: data.Source) -> dict[str, int]:
    """Returns the number of images of each class by its name."""
    names = source.class_names or tuple(map(str, range(source.num_classes)))
    counts = np.bincount(np.asarray(source.labels), minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def _spell_counts(counts: dict[str, int]) -> str:
    if len(counts) <= CLASSES_LISTED:
        return ", ".join(f"{name} {count}" for name, count in counts.items())
    (fewest, low), *_, (most, high) = sorted(counts.items(), key=lambda item: item[1])
    return f"{low} ({fewest}) to {high} ({most}) images per class"


def _draw_preview(run: Run, source: data.Source, size: Size) -> list[str]:
    """Draws the views into the run's folder; returns the names of the pictures."""
    datasets.name_colour_limits(run.config)
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
