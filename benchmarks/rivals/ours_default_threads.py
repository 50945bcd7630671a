"""Our side where nothing is set, as beside a network that is trained on the CPU."""

from __future__ import annotations

from rivals import ours
from rivals.side import Job, Views

VERSIONS = ours.VERSIONS
DIFFERS = ours.DIFFERS


def open_views(job: Job) -> Views:
    return ours.open_views(job, one_thread=False)
