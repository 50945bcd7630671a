"""Seconds and device memory of work that a GPU does while Python is ahead of it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

REPEATS = 5
WARM = 3  # runs before any that count: kernels are compiled and chosen in them
MOST_RUNS = 1000  # in one window


def seconds_per_run(
    run: Callable[[], Any], wait: Callable[[Any], Any], seconds: float = 3.0
) -> list[float]:
    """Returns the seconds that a run takes, of `REPEATS` windows.

    The device is waited for at the end of each window alone, as in training: how many runs make a
    window is known before, from one that was waited for.

    Args:
        run: Hands work to the device.
        wait: Waits until the work behind what `run` returned is done.
        seconds: About how long all windows take together.
    """
    for _ in range(WARM):
        wait(run())
    start = time.perf_counter()
    wait(run())
    one = time.perf_counter() - start
    runs = min(max(round(seconds / REPEATS / one), 1), MOST_RUNS)
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(runs):
            result = run()
        wait(result)
        taken.append((time.perf_counter() - start) / runs)
    return taken


class Memory:
    """The most device memory that TensorFlow has added to what it held when this was made."""

    def __init__(self) -> None:
        import tensorflow as tf

        gc.collect()
        self._experimental = tf.config.experimental
        self._gpu = bool(tf.config.list_physical_devices("GPU"))
        if self._gpu:
            self._experimental.reset_memory_stats("GPU:0")
            self._held = self._experimental.get_memory_info("GPU:0")["current"]

    def peak(self) -> int | None:
        """Returns bytes; None where there is no GPU."""
        if not self._gpu:
            return None
        return self._experimental.get_memory_info("GPU:0")["peak"] - self._held
