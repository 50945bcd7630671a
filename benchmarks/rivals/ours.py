"""Our side: `simclr_tf.data.two_views`."""

from __future__ import annotations

import checkout  # noqa: F401
import keras
import numpy as np
import tensorflow as tf

import simclr_tf as st
from rivals.side import Job, Views

VERSIONS = {
    "simclr_tf": st.__version__,
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
}
DIFFERS = ""


def open_views(job: Job) -> Views:
    views = st.data.two_views(
        np.asarray(job.images),
        batch_size=job.batch_size,
        recipe=st.augment.Recipe(**job.recipe),
        seed=0,
        first_step=0,
        last_step=1_000_000_000,
    )
    return Views(iter(views), lambda view: view.numpy())
