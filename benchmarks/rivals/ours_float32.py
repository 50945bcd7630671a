"""Our side in float32 throughout, as on a processor without bfloat16 instructions."""

from __future__ import annotations

from rivals import ours
from rivals.side import Job, Views

VERSIONS = ours.VERSIONS
DIFFERS = ours.DIFFERS


def open_views(job: Job) -> Views:
    return ours.open_views(job, "float32")
