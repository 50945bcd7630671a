"""Segmentation: a mask, an overlay and a row of the table for each image."""

from __future__ import annotations

import pathlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from simclr_tf import plots
from simclr_tf.data.batches.tensors import CORES
from simclr_tf.evaluation.segmentation import ScaleOf, make_segment, scale_rule
from simclr_tf.evaluation.tiled_inference import segment_image
from simclr_tf.tasks.predict.output import Row, sheet_title, shown_images, shrunk
from simclr_tf.tasks.predict.work import Work
from simclr_tf.workflow import datasets
from simclr_tf.workflow.pace import Pace

AHEAD = 3  # images read, and predictions written, while the network is busy with another
JPEG_MOST_SIDE = 65_000  # pixels: the format ends a little above

Item = TypeVar("Item")
Result = TypeVar("Result")


class Segmenter:
    """Writes the mask and the overlay of every image."""

    def __init__(self, work: Work) -> None:
        self.work = work
        config, trained = work.config, work.trained
        settings = trained.config
        self.segment = make_segment(work.model, ignore_label=datasets.ignore_label(settings))
        # Of an older run, which has not written the size of its views: images at their own scale.
        self.scale_of: ScaleOf = lambda size: 1.0
        if trained.view_size is not None:
            self.scale_of = scale_rule(
                trained.view_size,
                trained_on=trained.trained_on,
                area_min=settings.crop_area_min if settings.crop else 1.0,
            )
        self.tile = None if config.tile_size == (0, 0) else config.tile_size
        self.overlap = config.tile_overlap
        self.pixels = np.zeros(len(trained.class_names), np.int64)
        self.shown = shown_images(len(work.source))
        self._thumbnails: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def predict_all(self, pace: Pace) -> None:
        columns = ["path", "mask", *(f"share_{name}" for name in self.work.trained.class_names)]
        rows: list[Row] = []
        self.work.folder.write_table(columns, rows)
        try:
            with ThreadPoolExecutor(max(CORES, 2)) as pool:
                images = _ahead(pool, self.work.source.read, range(len(self.work.source)))
                found = (
                    (i, image, self._segment(image))
                    for i, image in enumerate(images)
                    if i not in self.work.source.bad
                )
                for row, counts in _ahead(pool, lambda each: self._write(*each), found):
                    rows.append(row)
                    self.pixels += counts
                    pace.add(1)
        finally:  # what is done when it is interrupted can be used
            self.work.folder.write_table(columns, rows)

    def report(self) -> dict[str, Any]:
        """Draws the contact sheet and returns the results of the task."""
        shown = [index for index in self.shown if index in self._thumbnails]
        shown = shown or sorted(self._thumbnails)  # all that were to be shown are bad files
        images, masks = zip(*(self._thumbnails[index] for index in shown), strict=True)

        def save(path: pathlib.Path) -> None:
            plots.plot_segmentation(
                images,
                None,
                masks,
                path,
                class_names=self.work.trained.class_names,
                title=sheet_title(shown, self.work.source),
            )

        self.work.folder.write("contact_sheet.png", save)
        return {"pixels_per_class": self.pixels.tolist()}

    def _segment(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        read_height, read_width = self.work.trained.config.input_size
        # The run cut its images to this size: the scale that brings this one to it covers it whole.
        read = max(read_height / height, read_width / width) or 1.0
        scale = read * self.scale_of((height, width))
        return segment_image(self.segment, image, scale=scale, tile=self.tile, overlap=self.overlap)

    def _write(self, index: int, image: np.ndarray, mask: np.ndarray) -> tuple[Row, np.ndarray]:
        """Writes the files of one image; returns its row and its pixels of each class."""
        name, count = self.work.names[index], len(self.work.trained.class_names)
        picture = Image.fromarray(mask)
        picture.putpalette(plots.mask_palette(count).tobytes())  # its mode is P now
        self.work.folder.write(f"masks/{name}.png", lambda path: picture.save(path, format="PNG"))
        overlay = Image.fromarray(plots.overlay_masks(image, mask, count))
        if max(mask.shape) <= JPEG_MOST_SIDE:
            self.work.folder.write(
                f"overlays/{name}.jpg", lambda path: overlay.save(path, format="JPEG", quality=90)
            )
        else:
            self.work.folder.write(
                f"overlays/{name}.png", lambda path: overlay.save(path, format="PNG")
            )
        if index in self.shown or not self._thumbnails:
            self._thumbnails[index] = shrunk(image), shrunk(mask)
        counts = np.bincount(mask.ravel(), minlength=count)
        shares = [f"{share:.6f}" for share in counts / mask.size]
        return [self.work.path_of(index), f"masks/{name}.png", *shares], counts


def _ahead(
    pool: ThreadPoolExecutor, do: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """Yields `do` of each item, in order, with the next few under way in threads."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(do, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
