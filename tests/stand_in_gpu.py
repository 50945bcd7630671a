"""A CPU that poses as one GPU, for tests of what only a GPU takes, on machines without one.

What is chosen for a GPU is then chosen here and runs on the CPU: XLA, several steps per execution,
batches copied to the device, the number format of a compute capability, views within the step. What
a GPU's own kernels do, and whether they are there, it cannot tell (see `test_gpu_kernels`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import tensorflow as tf

from simclr_tf.models import convolution
from simclr_tf.training import execution

NAME = "stand-in GPU"


@contextlib.contextmanager
def stand_in_gpu(capability: tuple[int, int] = (9, 0), *, runs: bool = True) -> Iterator[None]:
    """Has TensorFlow tell of one GPU within the block, which is the first CPU device.

    Args:
        capability: Compute capability that the GPU claims.
        runs: What is traced within the block is run, too. Convolutions are then those of a CPU:
            its kernel for one that a GPU is given writes beyond its memory (see `convolve`).
    """
    # TensorFlow begins here, if it has not: to a host with a GPU the library gives one thread an
    # operation where it still can, which would last for all tests of the process.
    logical = tf.config.list_logical_devices("CPU")[:1]
    physical = tf.config.list_physical_devices("CPU")[:1]
    details = {"device_name": NAME, "compute_capability": capability}
    with (
        _answers(tf.config, "list_physical_devices", physical),
        _answers(tf.config, "list_logical_devices", logical),
        mock.patch.object(tf.config.experimental, "get_device_details", lambda device: details),
        mock.patch.object(execution, "xla_failure", lambda gpu: ""),  # its process sees no GPU
        mock.patch.object(convolution, "_with_gpu", lambda: not runs),
    ):
        yield


def _answers(owner: object, name: str, gpus: list) -> contextlib.AbstractContextManager:
    """Has a function that lists devices of a kind list `gpus` as those of the kind GPU."""
    listed = getattr(owner, name)

    def answer(device_type: str | None = None) -> list:
        return list(gpus) if device_type == "GPU" else listed(device_type)

    return mock.patch.object(owner, name, answer)
