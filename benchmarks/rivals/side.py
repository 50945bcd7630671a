"""What every side of the augmentation benchmark is given and gives back; imports no framework."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

ASPECT = (3 / 4, 4 / 3)  # width over height of a crop
SIGMA = (0.1, 2.0)  # width of the blur, pixels
_TRIAL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Job:
    """What a side has to make: two views of each image, without end, in a random order.

    Attributes:
        images: uint8 [M, S, S, 3], S the side of the views as well.
        recipe: The fields of `simclr_tf.augment.Recipe` by name; `blur` is true or false.
        batch_size: Images per batch: a batch is two arrays of so many views.
        cores: Processor cores that a side may keep busy.
    """

    images: np.ndarray
    recipe: dict[str, Any]
    batch_size: int
    cores: int

    @property
    def size(self) -> int:
        return self.images.shape[1]

    @property
    def factors(self) -> tuple[float, float]:
        """The range of the brightness, contrast and saturation factors (arXiv 2002.05709, A)."""
        return max(0.0, 1.0 - 0.8 * self.recipe["strength"]), 1.0 + 0.8 * self.recipe["strength"]

    @property
    def max_hue(self) -> float:
        """The largest turn of the hue to either side, as a share of the full turn."""
        return 0.2 * self.recipe["strength"]

    @property
    def blur_radius(self) -> int:
        """Pixels to either side in the blur's kernel, which spans a tenth of the image."""
        return self.size // 10 // 2


@dataclasses.dataclass(frozen=True)
class Views:
    """A side at work.

    Attributes:
        batches: Endless pairs (view 1, view 2), arrays of the side's own kind.
        as_images: Turns one of them into numpy [N, S, S, 3] of the same dtype.
        note: How the side works where it had a choice, for the report.
    """

    batches: Iterator[tuple[Any, Any]]
    as_images: Callable[[Any], np.ndarray]
    note: str = ""


def measure(views: Views, seconds: float, cores: int) -> dict[str, float]:
    """Counts the views made within about `seconds`, from a state in which nothing lies ready.

    Batches are counted in groups of one per core, as workers that began together end together.
    """
    ready, start = 2 * cores + 2, time.perf_counter()  # more than any side keeps in store
    while ready > 0 or time.perf_counter() - start < 0.25 * seconds:
        next(views.batches)
        ready -= 1
    made, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(cores):
            made += sum(len(view) for view in next(views.batches))
    return {"views": made, "seconds": elapsed}


def fastest(job: Job, ways: list[Callable[[], Views]]) -> Views:
    """Tries several ways of making the same views for a moment each and keeps the fastest."""
    best, best_rate = None, 0.0
    for way in ways:
        views = way()
        counted = measure(views, _TRIAL_SECONDS, job.cores)
        if (rate := counted["views"] / counted["seconds"]) > best_rate:
            best, best_rate = views, rate
    return best
