"""Two views of each image through a PyTorch DataLoader that never ends, one worker per core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from rivals.side import Job, Views


class Pairs(torch.utils.data.Dataset):
    """Images in memory; an item is the two views that `transform` makes of one."""

    def __init__(
        self, images: Sequence[Any], transform: Callable[[Any], Sequence[torch.Tensor]]
    ) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = self.transform(self.images[index])
        return first, second


class EndlessBatches(torch.utils.data.Sampler):
    """Batches of indices, pass after pass in random order, without a stop in between."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.count, self.batch_size = count, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng(0)
        while True:
            order = rng.permutation(self.count).tolist()
            for start in range(0, self.count - self.batch_size + 1, self.batch_size):
                yield order[start : start + self.batch_size]


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)


def load(job: Job, pairs: Pairs, note: str) -> Views:
    """Starts the workers; views are float32 [N, 3, S, S] in [0, 1]."""
    loader = torch.utils.data.DataLoader(
        pairs,
        batch_sampler=EndlessBatches(len(pairs), job.batch_size),
        num_workers=job.cores,
        worker_init_fn=_start_worker,
    )
    return Views(iter(loader), lambda view: view.permute(0, 2, 3, 1).numpy(), note)
