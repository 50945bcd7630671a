"""Images of a `Source` as tensors: held in memory, or read from files by windows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from simclr_tf.augment.crop import Boxes
from simclr_tf.augment.resampling import Size, from_planes
from simclr_tf.data.images import read_header
from simclr_tf.data.memory import Held, Rows, planes_of
from simclr_tf.data.source import Source
from simclr_tf.errors import kept_within_tensorflow

# Parts or files that are made at a time. Not left to tf.data, which goes down to one where batches
# lie ready and takes a second to come up again.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread_an_operation() -> None:
    """Gives every operation of this process one thread, for a host that does nothing but views.

    Example:
        >>> one_thread_an_operation()

    Views are made in parts, one on each core. TensorFlow would also cut every operation of a part
    into pieces for all cores, and handing these over costs a fifth to a third of the views. A
    network that is trained on the CPU, though, wants it so. Call it before TensorFlow has computed
    anything: else, and where a number was chosen already, nothing changes.
    """
    threading = tf.config.threading
    if threading.get_intra_op_parallelism_threads() or "TF_NUM_INTRAOP_THREADS" in os.environ:
        return
    with contextlib.suppress(RuntimeError):  # TensorFlow has begun
        threading.set_intra_op_parallelism_threads(1)


def held_on_host(array: Any) -> tf.Tensor:
    """Returns an eager tensor; captured by reference, it never becomes a constant of a graph."""
    with tf.device("/CPU:0"):
        return tf.constant(array)


class HeldTensor:
    """Images [M, W, C, H], laid out as by `resampling.to_planes`, or masks [M, H, W], in memory.

    Attributes:
        whole: uint8 [B, ...], which shares the memory of the array it is made of.
    """

    def __init__(self, array: Held, *, planes: bool) -> None:
        whole, index = (array.whole, array.index) if isinstance(array, Rows) else (array, None)
        if planes:
            whole = planes_of(whole)
        self.whole = tf.experimental.dlpack.from_dlpack(whole.__dlpack__())
        self._index = None if index is None else held_on_host(index)

    def rows(self, index: tf.Tensor) -> tf.Tensor:
        """Returns where the images of the indices [n] are in `whole`: int64 [n]."""
        return index if self._index is None else tf.gather(self._index, index)


def images_in(whole: tf.Tensor, rows: tf.Tensor, dtype: tf.DType = tf.uint8) -> tf.Tensor:
    """Returns the images [n, H, W, C] of `dtype`, 0..255, at n rows of planes [B, W, C, H]."""
    return from_planes(tf.gather(whole, rows), dtype)


def map_beside(
    elements: tf.data.Dataset,
    held: dict[str, HeldTensor],
    function: Callable[[Any, dict[str, tf.Tensor]], Any],
    parallel: int,
) -> tf.data.Dataset:
    """Maps the elements with tensors that are in memory: function(element, {name: whole}).

    They come as elements of a data set, and what tf.data makes of the graph before it begins is
    left out. Otherwise each iterator would hold a copy of its own: tensors that a function captures
    become constants when the graph is rewritten.
    """
    if not held:
        return elements.map(lambda element: function(element, {}), parallel)
    wholes = {name: tensor.whole for name, tensor in held.items()}
    beside = tf.data.Dataset.zip(elements, tf.data.Dataset.from_tensors(wholes).repeat())
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    return beside.map(function, parallel).with_options(options)


def aspects_of_files(source: Source) -> tf.Tensor:
    """Returns width over height of every image: float32 [M]."""
    sizes = source.file_sizes
    if sizes is None:
        sizes = np.array([read_header(path) for path in source.paths])
    return held_on_host((sizes[:, 1] / sizes[:, 0]).astype(np.float32))


def read_windows(source: Source, index: tf.Tensor, boxes: Boxes, size: Size) -> tf.Tensor:
    """Reads windows [n * V] of the files at the indices [n]: uint8 [n * V, h, w, 3]."""

    def read(index: np.ndarray, windows: np.ndarray) -> np.ndarray:
        pairs = zip(index, windows.reshape(len(index), -1, 5), strict=True)
        return np.concatenate([source.read_windows(int(i), w, size) for i, w in pairs])

    crops = read_by_numpy(read, [index, tf.stack(boxes, axis=1)], tf.uint8)  # [n V, h, w, 3]
    return tf.ensure_shape(crops, [boxes.top.shape[0], *size, 3])


def read_by_numpy(read: Callable[..., Any], inputs: list[tf.Tensor], dtypes: Any) -> Any:
    """Calls a function of NumPy arrays that reads files, in a graph; returns tensors of `dtypes`.

    The same inputs must give the same result. TensorFlow is told so: one that might have a state
    would be called once at a time where operations are to be deterministic, and nothing would be
    prepared ahead.
    """

    def keeping_errors(*arrays: np.ndarray) -> Any:
        with kept_within_tensorflow():
            return read(*arrays)

    return tf.numpy_function(keeping_errors, inputs, dtypes, stateful=False)
