"""Our side: `simclr_tf.data.two_views`, in the number format that training here asks for.

That is bfloat16 where the processor has instructions for it: the network's first layer would round
float32 views to it. Operations have one thread each, as `main.py` has it where a GPU trains.
"""

from __future__ import annotations

import checkout  # noqa: F401
import keras
import numpy as np
import tensorflow as tf

import simclr_tf as st
from rivals.side import Job, Views
from simclr_tf.training.execution import choose_execution

VERSIONS = {
    "simclr_tf": st.__version__,
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
}
DIFFERS = (
    "bilinear with antialias; jitter mode fused: the colour operations are one matrix, hue turns "
    "in YIQ, one clip at the end"
)


def open_views(job: Job, dtype: str = "", *, one_thread: bool = True) -> Views:
    if one_thread:
        st.data.one_thread_an_operation()
    views = st.data.two_views(
        np.asarray(job.images),
        batch_size=job.batch_size,
        recipe=st.augment.Recipe(**job.recipe),
        seed=0,
        first_step=0,
        last_step=1_000_000_000,
        dtype=dtype or choose_execution("auto", "auto").views,
    )
    note = "one thread an operation" if one_thread else "TensorFlow's default threads"
    return Views(iter(views), lambda view: view.numpy(), note)
