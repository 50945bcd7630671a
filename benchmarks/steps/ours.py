"""Our side: `simclr_tf.SimCLR` and its `train_step`, as `model.fit` runs it."""

from __future__ import annotations

import time

import checkout  # noqa: F401
import keras
import numpy as np
import tensorflow as tf

import simclr_tf as st
from simclr_tf.training.execution import choose_execution
from steps.job import LEARNING_RATE, MOMENTUM, TEMPERATURE, TRUST, WEIGHT_DECAY, ZDIM, Job

VERSIONS = {
    "simclr_tf": st.__version__,
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
}
PRECISION = choose_execution("auto", "auto").precision  # what training here asks for
MATRIX_SIDE = 2048
XLA = {"": "auto", "xla": "true", "plain": "false"}  # by a variant's second word


class TrainStep:
    """The compiled step of a model on a batch that lies ready, in the format training makes it."""

    def __init__(self, job: Job, variant: str, views: np.ndarray) -> None:
        precision, _, compiler = variant.partition(" ")
        execution = choose_execution(precision, XLA[compiler])
        self.precision = execution.precision
        self.model = self.build(job)
        optimizer = st.optimizers.LARS(
            LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, trust_coefficient=TRUST
        )
        self.model.compile(
            optimizer, st.losses.NTXent(temperature=TEMPERATURE), jit_compile=execution.xla
        )
        self.step = tf.function(self.model.train_step, jit_compile=execution.xla)
        self.views = tuple(tf.cast(view, execution.views) for view in views)

    def build(self, job: Job) -> st.SimCLR:
        encoder = st.models.resnet(job.depth, stem=job.stem, width_multiplier=job.width_multiplier)
        return st.SimCLR(encoder, st.models.ProjectionHead(ZDIM))

    def run(self) -> tf.Tensor:
        return self.step(self.views)["loss"]

    def loss_of(self, result: tf.Tensor) -> float:
        # What the step returns is the mean since the last reset.
        self.model.reset_metrics()
        return float(result)

    def weights(self) -> dict[str, np.ndarray]:
        return {name: variable.numpy() for name, variable in self._named().items()}

    def load(self, weights: dict[str, np.ndarray]) -> None:
        for name, variable in self._named().items():
            variable.assign(weights[name])

    def _named(self) -> dict[str, keras.Variable]:
        weights = self.model.trainable_variables
        return {"/".join(weight.path.split("/")[-2:]): weight for weight in weights}


def open_step(job: Job, variant: str, views: np.ndarray) -> TrainStep:
    """Builds the step.

    Args:
        job: The network and its batch.
        variant: A Keras policy or "auto", where a second word says it with " xla" or " plain".
        views: float32 [2, N, S, S, 3].
    """
    return TrainStep(job, variant, views)


def uses_tf32() -> bool:
    """Tells whether products of float32 are rounded to TF32, where the device can."""
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    return on_gpu and tf.config.experimental.tensor_float_32_execution_enabled()


def matrix_rate(dtype: str, seconds: float, side: int = MATRIX_SIDE) -> float:
    """Returns the TFLOP/s of products of square matrices, on all cores or the GPU."""
    rng = np.random.default_rng(0)
    shape = (side, side)
    left, right = (tf.cast(rng.standard_normal(shape, np.float32), dtype) for _ in range(2))
    product = tf.function(lambda: tf.reduce_max(tf.matmul(left, right)))
    float(product())
    best, start = np.inf, time.perf_counter()
    while time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        float(product())
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best / 1e12
