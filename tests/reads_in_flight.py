"""What `test_library` asks of a process in which every operation is deterministic.

That is never switched off again. It reads the same few files by every pipeline, each read taking a
while, and prints as JSON how many files are read at a time, how often one epoch reads, what an
error of reading is told as, and the images of two epochs in their order.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from PIL import Image

from simclr_tf.augment.recipe import Recipe
from simclr_tf.data.batches import evaluation, train
from simclr_tf.data.source import Source
from simclr_tf.errors import UserError

COUNT, SIZE = 24, (8, 8)
SECONDS = 0.02  # that a read takes


class SlowSource(Source):
    """Counts its reads, those that happen at a time, and can fail."""

    lock = threading.Lock()
    now = most = reads = 0
    broken = False

    def read_windows(self, *arguments):
        return self._slowly(super().read_windows, *arguments)

    def read(self, *arguments):
        return self._slowly(super().read, *arguments)

    def read_mask(self, *arguments):
        return self._slowly(super().read_mask, *arguments)

    @classmethod
    def _slowly(cls, read, *arguments):
        if cls.broken:
            raise UserError("Expected whole files, got broken.png.")
        with cls.lock:
            cls.now, cls.reads = cls.now + 1, cls.reads + 1
            cls.most = max(cls.most, cls.now)
        time.sleep(SECONDS)
        try:
            return read(*arguments)
        finally:
            with cls.lock:
                cls.now -= 1


def write(folder):
    """Writes images, each of its own gray, and masks into a folder: returns them as a source."""
    paths = [os.path.join(folder, f"{kind}{i}.png") for kind in "im" for i in range(COUNT)]
    for place, path in enumerate(paths):
        gray = Image.new("L", (10, 12), place % COUNT)
        gray.convert("RGB" if place < COUNT else "L").save(path)
    return SlowSource(
        "files",
        labels=np.arange(COUNT),
        paths=tuple(paths[:COUNT]),
        mask_paths=tuple(paths[COUNT:]),
        file_sizes=np.full((COUNT, 2), (12, 10), np.int32),
    )


def pipelines(source):
    """Returns every way to the images, each of one epoch."""
    seeded = {"recipe": Recipe(), "seed": 0}
    trained = {"batch_size": 2, "size": SIZE, **seeded}
    steps = {"first_step": 0, "last_step": COUNT // 2}
    same = Recipe(crop=False, flip=False, jitter=False, colordrop=False, blur=False)
    by_epoch = {**trained, "recipe": same}
    return {
        "two views": train.two_views(source, **trained, **steps),
        "two views by the epoch": train.two_views(source, **by_epoch),
        "labelled": train.labelled_batches(source, **trained, **steps),
        "masked": train.masked_batches(source, **trained, **steps),
        "plain": evaluation.plain_batches(source, batch_size=2, size=SIZE),
        "plain and masked": evaluation.plain_masked_batches(source, batch_size=2, size=SIZE),
        "drawn once": evaluation.view_batches(source, batch_size=2, size=SIZE, view=0, **seeded),
    }


def main():
    tf.config.threading.set_inter_op_parallelism_threads(4)
    tf.config.experimental.enable_op_determinism()
    told = {}
    made = pipelines(write(sys.argv[1]))
    for name, batches in made.items():
        SlowSource.most = SlowSource.reads = 0
        for _ in batches:
            pass
        told[name] = {"most": SlowSource.most, "reads": SlowSource.reads}
        SlowSource.broken = True
        try:
            next(iter(batches))
        except tf.errors.OpError as error:
            told[name]["error"] = str(error)
        SlowSource.broken = False
    epochs = made["two views by the epoch"]
    told["orders"] = [
        [round(255 * float(image[0, 0, 0])) for view, _ in epochs for image in view]
        for _ in range(2)
    ]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
