"""How fast a task goes through its images, told while it does."""

from __future__ import annotations

import time

from simclr_tf.counting import spell_number

LINE_SECONDS = 2.0  # between two lines of progress


class Pace:
    """Prints, every two seconds, how far a task is and how long it will take.

    Args:
        total: Images in all.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._done = 0
        self._mark = (0, time.monotonic())  # images done and when: from here the pace is taken
        self._ended = self._printed = self._mark[1]

    @property
    def images_per_second(self) -> float:
        images, began = self._mark
        return round((self._done - images) / max(self._ended - began, 1e-9), 2)

    def add(self, images: int) -> None:
        """Counts images that are done."""
        self._done += images
        self._ended = time.monotonic()
        if self._done == images < self.total:  # the first hold the compilation
            self._mark = (images, self._ended)
        elif self._ended - self._printed > LINE_SECONDS:
            self._printed = self._ended
            rate = max(self.images_per_second, 0.01)
            minutes, seconds = divmod(round((self.total - self._done) / rate), 60)
            print(
                f"{self._done} of {spell_number(self.total, 'image')}  {rate:,.1f} images/s  "
                f"{minutes}:{seconds:02d} left",
                flush=True,
            )
