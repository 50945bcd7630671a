"""Several devices, or several machines, that train one model: `tf.distribute` and what it lacks.

A strategy runs the training step on R replicas, one a device. Every replica holds the weights and
embeds its rows of the joint batch. Together they are one device that holds all rows:

    loss        each replica's anchors against the rows of all replicas      `gather_rows`
    gradients   of each replica's loss / R, added up over the replicas       Keras' optimisers
    BatchNorm   over the rows of all replicas                                `models.cross_replica`
    metrics     means over the replicas                                      `mean_over_replicas`
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from simclr_tf.data.batches.order import WHOLE, Shard
from simclr_tf.errors import UserError
from simclr_tf.runs.checkpoints import Variables
from simclr_tf.training.rendezvous import meet

Strategy: TypeAlias = tf.distribute.Strategy

FAILED, WRONG, INTERRUPTED = 1, 2, 130  # exit codes, those of Python and the command line
LEAVING_SECONDS = 20  # at most, from the loss of a worker to the end of the process

# What TensorFlow raises where another worker is gone or does not answer.
_LOST_WORKER = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


def choose_strategy() -> str:
    """Returns what "auto" means here: "multiworker" where TF_CONFIG names several workers, else
    "none", also beside several GPUs, on which training together has not been measured.
    """
    return "multiworker" if len(worker_addresses()) > 1 else "none"


def _own_devices() -> list[tf.config.LogicalDevice]:
    return tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")


def make_strategy(name: str) -> Strategy | None:
    """Makes a strategy, before TensorFlow has computed anything: several workers must meet first.

    Args:
        name: "none"; "mirrored": all GPUs of this machine, or all logical CPU devices where it has
            no GPU; "multiworker": all devices of the machines in the environment's TF_CONFIG.

    Returns:
        The strategy, or None for a single device without one.

    Raises:
        UserError: TF_CONFIG is missing or wrong.
    """
    if name == "none":
        return None
    if name == "mirrored":
        return tf.distribute.MirroredStrategy([device.name for device in _own_devices()])
    addresses = worker_addresses()
    if len(addresses) < 2:
        raise UserError(
            "Expected at least two workers in the environment's TF_CONFIG, got "
            f"TF_CONFIG={os.environ.get('TF_CONFIG', '')!r}. On each machine, set for instance "
            """TF_CONFIG='{"cluster": {"worker": ["HOST0:PORT", "HOST1:PORT"]}, "task": """
            """{"type": "worker", "index": 0}}' with its own index, or pass `strategy=mirrored`."""
        )
    meet(addresses, _own_position())
    return tf.distribute.MultiWorkerMirroredStrategy()


def worker_addresses() -> list[str]:
    """Returns the addresses, "host:port", of the workers that TF_CONFIG names.

    Raises:
        UserError: It is not what TensorFlow expects.
    """
    return [address for job in _jobs().values() for address in job]


def _jobs() -> dict[str, list[str]]:
    """Returns the addresses by job, the leader's first."""
    with _reading_tf_config() as config:
        cluster = config.get("cluster", {})
        return {job: list(cluster[job]) for job in ("chief", "worker") if job in cluster}


def _own_position() -> int:
    """Returns the position of this worker among `worker_addresses`."""
    with _reading_tf_config() as config:
        return _position(config["task"]["type"], int(config["task"]["index"]))


def _position(job: str, index: int) -> int:
    jobs = _jobs()
    jobs[job][index]  # raises where there is none
    return index + (len(jobs["chief"]) if job == "worker" and "chief" in jobs else 0)


@contextlib.contextmanager
def _reading_tf_config() -> Iterator[dict[str, Any]]:
    text = os.environ.get("TF_CONFIG", "")
    try:
        yield json.loads(text or "{}")
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise UserError(
            "Expected a cluster, and this worker's task in it, in JSON in the environment's "
            f"TF_CONFIG, got {text!r} ({error!r}). Correct it, or unset it to train on this "
            "machine alone."
        ) from error


def spans_workers(strategy: Strategy | None) -> bool:
    """Tells whether a strategy runs in several processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_leader(strategy: Strategy | None) -> bool:
    """Tells whether this process is the one that prints, reads and writes."""
    return strategy is None or bool(strategy.extended.should_checkpoint)


def count_replicas(strategy: Strategy | None) -> int:
    """Returns R, the replicas of all workers."""
    return 1 if strategy is None else int(strategy.num_replicas_in_sync)


def scope_of(strategy: Strategy | None) -> contextlib.AbstractContextManager:
    """Returns the context that a model and its optimiser are made in."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def distribute(
    strategy: Strategy | None, make: Callable[[Shard], tf.data.Dataset]
) -> tf.data.Dataset:
    """Hands each replica its batches.

    Args:
        strategy: The strategy.
        make: Makes the batches of a shard.

    Returns:
        What `make` gives for the whole; under a strategy, a data set over its replicas that begins
        again at its end: the steps to take must be told.
    """
    if strategy is None:
        return make(WHOLE)
    replicas = count_replicas(strategy)

    def make_for_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        own = replicas // context.num_input_pipelines
        # Of a data set that ends, the workers would ask each other at every step if it has.
        return make(Shard(context.input_pipeline_id * own, own, replicas)).repeat()

    return strategy.distribute_datasets_from_function(make_for_worker)


def replicas_here() -> int:
    """Returns R within a training step, 1 where it runs under no strategy."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def gather_rows(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Brings the rows of all replicas, with the gradient that flows back to them.

    Within a training step, called on every replica.

    Args:
        z: float [2n, D], of this replica: view 1 of its images, then view 2.

    Returns:
        float [2N, D], view 1 of all N = R n images, then view 2, and the positions [2n] among them
        of this replica's rows.
    """
    replicas = tf.distribute.get_replica_context()
    count, replica = replicas.num_replicas_in_sync, replicas.replica_id_in_sync_group
    rows, width = z.shape[0] // 2, z.shape[1]
    is_own = tf.reshape(tf.one_hot(replica, count, dtype=z.dtype), [1, count, 1, 1])
    # 0 but for its own rows; their sum over the replicas, exact, holds all.
    own_rows = is_own * tf.reshape(z, [2, 1, rows, width])  # [2, R, n, D]
    every_row = replicas.all_reduce(tf.distribute.ReduceOp.SUM, own_rows)
    first = replica * rows + tf.range(rows)
    positions = tf.concat([first, count * rows + first], axis=0)
    return tf.reshape(every_row, [2 * count * rows, width]), positions


def mean_over_replicas(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Averages floats over the replicas, within a training step; called on every replica."""
    if replicas_here() == 1 or not values:
        return list(values)
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, list(values))


def share_overflow(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Puts a nan into every replica's gradients where those of any replica have overflowed.

    Keras' loss scaling looks at one replica's own gradients to tell whether a step is skipped.
    """
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
    (all_finite,) = mean_over_replicas([tf.cast(finite, tf.float32)])
    first = tf.where(all_finite == 1.0, gradients[0], math.nan)
    return [first, *gradients[1:]]


def take_from_leader(
    strategy: Strategy | None, variables: Variables, step: int, fingerprint: int
) -> int:
    """Gives every worker the values and the step of the leader; each must call this.

    Args:
        strategy: The strategy; only one with several workers does anything.
        variables: All that training changes.
        step: The step to go on from; only the leader's counts.
        fingerprint: A number that tells what is trained, below 2^32.

    Returns:
        The leader's step.

    Raises:
        UserError: The fingerprint of this worker is not the leader's.
    """
    if strategy is None or not spans_workers(strategy):
        return step

    def of_leader(values: list[tf.Tensor]) -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        leads = context.replica_id_in_sync_group == 0
        own = values if leads else [tf.zeros_like(value) for value in values]
        return [context.all_reduce(tf.distribute.ReduceOp.SUM, value) for value in own]

    @tf.function
    def exchange(values: list[tf.Tensor]) -> list[tf.Tensor]:
        return strategy.run(of_leader, args=(values,))

    held = [tf.convert_to_tensor(variable) for variable in variables.values()]
    told = [tf.constant(number, tf.int64) for number in (step, fingerprint)]
    received = exchange([*told, *held])
    first, leaders, *values = (strategy.experimental_local_results(value)[0] for value in received)
    if int(leaders) != fingerprint:
        raise UserError(
            "Expected the settings and the images of the first worker, got others on worker "
            f"{_own_position()}. Start the same command on the same data on each, with its own "
            "index in TF_CONFIG."
        )
    for variable, value in zip(variables.values(), values, strict=True):
        variable.assign(value)
    return int(first)


@contextlib.contextmanager
def watch_workers(strategy: Strategy | None) -> Iterator[None]:
    """Ends the block with a UserError where another worker is lost.

    TensorFlow notices at the next exchange that a process is gone, within seconds, and that a
    machine no longer answers, within a minute or so. Whatever ends the block with an error, the
    process then ends without TensorFlow's own shutdown, which waits for the other workers.
    """
    if not spans_workers(strategy):
        yield
        return
    try:
        yield
    except BaseException as error:
        lost = _tells_of_loss(error)
        interrupted = isinstance(error, (KeyboardInterrupt, BrokenPipeError))
        wrong = lost or isinstance(error, UserError)
        _leave_at_exit(INTERRUPTED if interrupted else WRONG if wrong else FAILED)
        if lost:
            raise UserError(_explain_loss(str(error))) from error
        raise


def _leave_at_exit(code: int) -> None:
    """Ends the process with `code` as soon as Python has nothing more to do in it."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)
    # Should it not come that far, as TensorFlow waits already when the data sets are let go.
    if hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LEAVING_SECONDS)


def _tells_of_loss(error: BaseException) -> bool:
    """Tells whether an error is another worker's loss: some kinds are this process's own, too."""
    if isinstance(error, (tf.errors.InternalError, tf.errors.CancelledError)):
        own = _own_position()
        return any(_position(*task) != own for task in _tasks_in(str(error)))
    return isinstance(error, _LOST_WORKER)


def _tasks_in(message: str) -> list[tuple[str, int]]:
    """Returns the workers that a message of TensorFlow names, as (job, index)."""
    found = re.findall(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)", message)
    jobs = _jobs()
    return [(job, int(index)) for job, index in found if int(index) < len(jobs.get(job, ()))]


def _explain_loss(message: str) -> str:
    lost, own = "one of them", _own_position()
    # It names this worker, too, and who reported the loss; the lost one comes last.
    for job, index in _tasks_in(message):
        position = _position(job, index)
        if position != own:
            lost = f"{job} {index} ({worker_addresses()[position]})"
    lines = [line.strip() for line in message.splitlines()]
    reason = next((line for line in lines if "aborted by" in line), "".join(lines[:1]))
    return (
        f"Expected all {len(worker_addresses())} workers to answer, got nothing from {lost}: "
        f"{reason[:300]}. Look at what it printed last; then start all workers again with "
        "`resume`, which goes on from the last checkpoint."
    )
