"""The training machine's side of `tf.data` services: views that other machines make.

    python -m simclr_tf.data.service --host=NAME                on each machine that makes views
    python main.py --task=pretrain --data_service=grpc://NAME:5050,grpc://OTHER:5050

Of W services, number k makes the steps k, k + W, ... in their order, and training takes turns:

    step          0  1  2  3  4  5  6 ...
    made by       A  B  C  A  B  C  A ...

So the batches are those of a run without services, whatever W is: bit for bit where all machines
have the same kind of processor, else up to rounding. Several workers of
one dispatcher would hand the steps out as they get ready, in an order that no second run has.

TensorFlow's client waits for a service that has gone for an hour, deaf to Ctrl-C. Here a thread of
its own waits, and whoever waits for the thread asks now and then whether the service still lives.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import tensorflow as tf

from simclr_tf.data.memory import whole_of
from simclr_tf.data.source import Source
from simclr_tf.errors import UserError

# What a service makes is sent to it as one message, images and all; TensorFlow's are below 2 GiB.
# The slack is for the rest of the graph.
MOST_BYTES = 2**31 - 2**24

CONNECT_SECONDS = 5.0
CHECK_SECONDS = 10.0  # without a batch, until the service is asked whether it lives
AWAY_SECONDS = 20.0  # that it is given to answer: a network may fail for a moment
SILENT_SECONDS = 900.0  # alive, but without a batch; the first may take minutes, see `MOST_BYTES`

Make = Callable[..., tf.data.Dataset]


class Services:
    """The services that make a run's views; without addresses, views are made in this process.

    Args:
        addresses: Such as "grpc://localhost:5050".

    Attributes:
        failure: The error that ended a data set, where one did.

    Raises:
        UserError: A service is not reached.
    """

    def __init__(self, addresses: Sequence[str] = ()) -> None:
        self.addresses = tuple(addresses)
        self.failure: UserError | None = None
        for address in self.addresses:
            check_service(address)

    def check(self, source: Source) -> None:
        """Raises UserError where a source cannot be sent to the services."""
        if not self.addresses:
            return
        if source.images is None:
            raise UserError(
                f"Expected images in memory for --data_service, got the files of {source.name}. "
                "Pass --cache=true with an --input_size, or leave --data_service out."
            )
        sent = whole_of(source.images).nbytes
        if sent > MOST_BYTES:
            raise UserError(
                f"Expected at most {MOST_BYTES / 2**30:.2f} GiB of images for --data_service, "
                f"which sends them as one message, got {sent / 2**30:.2f} GiB "
                f"of {source.name}. Pass a smaller --input_size, or leave --data_service out."
            )

    def batches(self, make: Make, source: Source, first: int, last: int) -> tf.data.Dataset:
        """Returns the batches of the steps first..last-1, in their order.

        Args:
            make: (first_step=, last_step=, step_stride=) -> the data set of every so many steps,
                such as a partial `two_views`.
            source: What `make` reads, in memory.
            first, last: First included, last not.

        Raises:
            UserError: The source cannot be sent to a service.
        """
        if not self.addresses:
            return make(first_step=first, last_step=last)
        self.check(source)
        spec = make(first_step=first, last_step=last).element_spec

        def pull() -> Iterator[Any]:
            return self._pull(make, first, last)

        pulled = tf.data.Dataset.from_generator(pull, output_signature=spec)
        return pulled.apply(tf.data.experimental.assert_cardinality(last - first)).prefetch(2)

    @contextlib.contextmanager
    def named_errors(self) -> Iterator[None]:
        """Raises the UserError that ended a data set, where TensorFlow reports one of its own."""
        try:
            yield
        except tf.errors.OpError:
            if self.failure is None:
                raise
            raise self.failure from None

    def _pull(self, make: Make, first: int, last: int) -> Iterator[Any]:
        fetch = _Fetch(self.addresses, make, first, last)
        try:
            for _ in range(first, last):
                yield fetch.take()
        except UserError as error:
            self.failure = error
            raise
        finally:
            fetch.stop()


def check_service(address: str, *, patience: float = 0.0) -> None:
    """Raises UserError where there is no service at an address, or its worker is out of reach.

    Args:
        address: Such as "grpc://localhost:5050".
        patience: Seconds in which it may come back; 0: it must be there now.
    """
    import grpc  # not for the runs that ask no service

    place = address.partition("://")[2]
    start = f"`python -m simclr_tf.data.service --port={place.rpartition(':')[2]}`"
    try:
        # A call of TensorFlow's own, and the only one that tells whether and whom to wait for.
        with grpc.insecure_channel(place) as channel:
            ask = channel.unary_unary("/tensorflow.data.DispatcherService/GetWorkers")
            seconds = patience or CONNECT_SECONDS
            reply = ask(b"", timeout=seconds, wait_for_ready=bool(patience))
    except grpc.RpcError as error:
        raise UserError(
            f"Expected a tf.data service at {address}, got: {error.details() or error.code().name}."
            f" Start {start} there, or leave --data_service out."
        ) from None
    for worker in _addresses_in(reply):
        host, _, port = worker.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=patience or CONNECT_SECONDS).close()
        except OSError as error:
            raise UserError(
                f"Expected to reach the worker of {address} at {worker}, as it calls itself, got: "
                f"{error.strerror or error}. Start {start} there with --host=NAME, the name that "
                "this machine knows it by, and open both ports."
            ) from None


def _addresses_in(reply: bytes) -> list[str]:
    """Decodes GetWorkersResponse {repeated WorkerInfo {string address = 1} = 1}."""
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.unknown_fields import UnknownFieldSet

    workers = UnknownFieldSet(Empty.FromString(reply))
    infos = [UnknownFieldSet(Empty.FromString(worker.data)) for worker in workers]
    return [info[0].data.decode() for info in infos]


def _reason(error: Exception) -> str:
    """Returns an error's message in one line, without the names of TensorFlow's operations."""
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", " ".join(str(error).split())).strip(" .")
    return text or type(error).__name__


class _Fetch:
    """The steps first..last-1, fetched one ahead by a thread that may be left behind, waiting."""

    def __init__(self, addresses: Sequence[str], make: Make, first: int, last: int) -> None:
        self.addresses, self.make, self.first, self.last = addresses, make, first, last
        self.address = addresses[0]  # of the service that is waited for
        self.fetched: queue.Queue[Any] = queue.Queue(maxsize=1)
        self.stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def take(self) -> Any:
        """Returns the next batch; raises UserError where its service has gone."""
        until = time.monotonic() + SILENT_SECONDS
        while True:
            try:
                batch = self.fetched.get(timeout=CHECK_SECONDS)
            except queue.Empty:
                try:
                    check_service(self.address, patience=AWAY_SECONDS)
                except UserError:
                    self._refuse(f"no answer in {AWAY_SECONDS:g} seconds")
                if time.monotonic() > until:
                    self._refuse(f"none in {SILENT_SECONDS:g} seconds")
                continue
            if isinstance(batch, Exception):
                self._refuse(_reason(batch))
            return batch

    def stop(self) -> None:
        """Lets the thread end, once the service it may be waiting for has answered."""
        self.stopped.set()
        with contextlib.suppress(queue.Empty):
            self.fetched.get_nowait()

    def _refuse(self, got: str) -> NoReturn:
        raise UserError(
            f"Expected views from {self.address}, got: {got}. Start the service again if need be, "
            "and go on from the last checkpoint with --resume."
        )

    def _run(self) -> None:
        try:
            for batch in self._batches():
                self.fetched.put(batch)
                if self.stopped.is_set():
                    return
        except Exception as error:  # whatever it is, who waits must hear of it
            self.fetched.put(error)

    def _batches(self) -> Iterator[Any]:
        served = [iter(self._served(turn)) for turn in range(len(self.addresses))]
        for step in range(self.first, self.last):
            turn = (step - self.first) % len(served)
            self.address = self.addresses[turn]
            made, batch = next(served[turn])
            if made != step:  # a service that was taken for dead begins again, or skips a batch
                raise ValueError(f"step {int(made)} instead of {step}")
            yield batch

    def _served(self, turn: int) -> tf.data.Dataset:
        self.address, first, stride = self.addresses[turn], self.first + turn, len(self.addresses)
        steps = tf.data.Dataset.range(first, self.last, stride)
        batches = self.make(first_step=first, last_step=self.last, step_stride=stride)
        service = tf.data.experimental.service
        serve = service.distribute(service.ShardingPolicy.OFF, self.address, compression=None)
        return tf.data.Dataset.zip(steps, batches).apply(serve)
