"""One side of the augmentation benchmark in a process of its own: `python -m rivals.serve NAME`.

A line of JSON on standard input asks, a line on standard output answers. Between two questions a
side's buffers fill up and then it rests, so that sides can take turns on the same cores.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from processes import open_answers

from rivals.side import Job, Views, measure


def sample(views: Views, count: int, file: str) -> dict[str, Any]:
    """Saves `count` images' views, float32 [2, count, S, S, 3], and tells what a batch is."""
    pair = [views.as_images(view) for view in next(views.batches)]
    np.save(file, np.stack([view[:count].astype(np.float32) for view in pair]))
    return {
        "shapes": [list(view.shape) for view in pair],
        "dtype": str(pair[0].dtype),
        "bytes_per_value": pair[0].itemsize,
        "note": views.note,
    }


def answers(name: str, questions: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yields what the side called `name` is, or that it is missing, then an answer a question."""
    try:
        side = importlib.import_module(f"rivals.{name}")
    except ImportError as error:
        yield {"missing": str(error)}
        return
    yield {"versions": side.VERSIONS, "differs": side.DIFFERS}
    opened: dict[str, Views] = {}  # by recipe
    for line in questions:
        question = json.loads(line)
        job = Job(np.load(question["images"], mmap_mode="r"), **question["job"])
        key = json.dumps(job.recipe)
        if key not in opened:
            opened[key] = side.open_views(job)
        if "file" in question:
            yield sample(opened[key], question["count"], question["file"])
        else:
            yield measure(opened[key], question["seconds"], job.cores)


def main() -> None:
    file = open_answers()
    for answer in answers(sys.argv[1], sys.stdin):
        print(json.dumps(answer), file=file)


if __name__ == "__main__":
    main()
