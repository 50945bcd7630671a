"""Set up before TensorFlow starts: quiet, and no traces of one test in another."""

from __future__ import annotations

import gc
import os
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Several processes of pytest share the cores: the threads of t-SNE and of matrix products, which
# spin while they wait for each other, would only keep them from each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

# As TensorFlow names the gradients that `tf.custom_gradient` defines while a graph is traced.
TRACED_GRADIENT = re.compile(r"CustomGradient-\d+")
ON_CPU = "SIMCLR_TF_GPU_TESTS_ON_CPU"  # 1: the CPU stands for the GPU, see test_gpu.py


def pytest_configure(config: pytest.Config) -> None:
    """Hides GPUs from all tests but those of `-m gpu`, before TensorFlow is imported."""
    if config.option.markexpr != "gpu" or os.environ.get(ON_CPU) == "1":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        return
    # Instead of all memory at the start: the processes that tests start need some of it too.
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        pytest.exit(
            "Expected a GPU that TensorFlow sees, got none: none of these tests has run. Look at "
            "what nvidia-smi says and install requirements-gpu.txt, or set "
            f"{ON_CPU}=1 to try the tests' own code on the CPU.",
            returncode=2,
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests that need a GPU to `-m gpu`, those of scripts to `-m scripts`."""
    others = {"gpu", "scripts"} - {config.option.markexpr}
    left_out = [item for item in items if any(map(item.get_closest_marker, others))]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    """A small batch of images, uint8 [8, 12, 16, 3]."""
    return rng.integers(0, 256, (8, 12, 16, 3), np.uint8)


@pytest.fixture(autouse=True)
def _float32_policy():
    """A run sets the global Keras policy; every test begins with float32."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].config.set_dtype_policy("float32")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Has the collector pass over what is imported now and stays: half a million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _graphs_end_with_their_module():
    """Frees the graphs that a module has traced.

    TensorFlow keeps the gradient of every `tf.custom_gradient` in a graph, and so the graph, in a
    registry that nothing leaves. Between modules no graph is left whose gradient is to be taken.
    """
    yield
    if "keras" not in sys.modules:
        return
    from tensorflow.python.framework import ops

    registry = ops.gradient_registry._registry
    for name in list(filter(TRACED_GRADIENT.fullmatch, registry)):
        del registry[name]
    sys.modules["keras"].utils.clear_session()  # collects too


@pytest.fixture(scope="module")
def shallow():
    """Has the runs of a module train encoders that are half as deep; see `shallow_encoders`."""
    from tiny import shallow_encoders

    with shallow_encoders():
        yield


@pytest.fixture
def full_depth(monkeypatch):
    """Gives a test of such a module, which waits for something to be learnt, the real depth."""
    from simclr_tf.models.resnet import DEPTHS

    monkeypatch.setitem(DEPTHS, 18, ((2, 2, 2, 2), False))
