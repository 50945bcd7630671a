"""Services of `tf.data`: machines that make views for another one, which trains on them.

    python -m simclr_tf.data.service --host=NAME                on each machine that makes views
    python main.py --task=pretrain --data_service=grpc://NAME:5050,grpc://OTHER:5050

Of W services, number k makes the steps k, k + W, ... in their order, and training takes turns, so
that the batches are those of a run without services, whatever W is: bit for bit where all machines
have the same kind of processor. Whoever reaches the ports can have anything computed here: there is
no password.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from simclr_tf import environment
from simclr_tf.errors import UserError

if TYPE_CHECKING:  # `main` says what is missing where NumPy or TensorFlow is
    import tensorflow as tf

    from simclr_tf.data.batches.order import Shard
    from simclr_tf.data.batches.steps import Batches
    from simclr_tf.data.source import Source

MOST_BYTES = 2**31 - 2**24  # images are sent as one message, and TensorFlow's are below 2 GiB
LOOK_SECONDS, MISSES = 10.0, 3  # between looks for a service; so many in vain, and it is gone


class Services:
    """The services that make a run's views; without addresses, views are made in this process.

    Args:
        addresses: Such as "grpc://localhost:5050".

    Raises:
        UserError: A service is not reached.
    """

    def __init__(self, addresses: Sequence[str] = ()) -> None:
        self.addresses = tuple(addresses)
        for address in self.addresses:
            _reach(address)

    def check(self, source: Source) -> None:
        """Raises UserError where a source cannot be sent to the services."""
        from simclr_tf.data.memory import whole_of

        sent = 0 if source.images is None else whole_of(source.images).nbytes
        if self.addresses and not 0 < sent <= MOST_BYTES:
            got = f"{sent / 2**30:.2f} GiB of {source.name}" if sent else f"files, {source.name}"
            raise UserError(
                f"Expected images in memory, at most {MOST_BYTES / 2**30:.2f} GiB, for "
                f"`data_service`, got {got}. Pass `cache=true` with an `input_size`, a smaller one "
                "where it is too much, or leave `data_service` out."
            )

    def serve(self, batches: Batches) -> Batches:
        """Returns the same batches, in their order, as the services make them."""
        from simclr_tf.data.batches.steps import Batches as ByStep

        return ByStep(self._served, batches) if self.addresses else batches

    def _served(
        self, batches: Batches, *, first_step: int, last_step: int, shard: Shard
    ) -> tf.data.Dataset:
        import tensorflow as tf

        service, stride = tf.data.experimental.service, len(self.addresses)

        def served(turn: int) -> tf.data.Dataset:
            made = batches.make(
                first_step=first_step + turn, last_step=last_step, step_stride=stride, shard=shard
            )
            address, off = self.addresses[turn], service.ShardingPolicy.OFF
            return made.apply(service.distribute(off, address, compression=None))

        count = last_step - first_step
        turns = tf.data.Dataset.range(count).map(lambda number: number % stride)
        taken = tf.data.Dataset.choose_from_datasets(
            [served(turn) for turn in range(stride)], turns, stop_on_empty_dataset=False
        )
        return taken.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Ends the process, with exit code 2, where a service goes away within the block.

        TensorFlow itself waits for it for an hour, deaf to Ctrl-C, and has no public way to stop.

        Raises:
            UserError: A service was begun anew, and knows nothing of the views it was making.
        """
        import tensorflow as tf

        over = threading.Event()
        for address in self.addresses:
            threading.Thread(target=_watch, args=(address, over), daemon=True).start()
        try:
            yield
        except (tf.errors.NotFoundError, tf.errors.UnavailableError) as error:
            if not self.addresses:
                raise
            raise UserError(
                f"Expected views from {', '.join(self.addresses)}, got: {error.message}. Go on "
                "from the last checkpoint with `resume`."
            ) from None
        finally:
            over.set()


def _watch(address: str, over: threading.Event) -> None:
    """Looks for a service now and then; where it is gone, ends the process."""
    misses, said = 0, ""
    while misses < MISSES and not over.wait(LOOK_SECONDS):
        try:
            _reach(address)
            misses = 0
        except UserError as error:
            misses, said = misses + 1, str(error)
    if misses == MISSES:
        print(f"error: {said} Then go on with `resume`.", file=sys.stderr, flush=True)
        os._exit(environment.WRONG)  # the checkpoints are whole; nothing else would be heard


def _reach(address: str) -> None:
    """Raises UserError where there is no service, of two ports, at an address."""
    host, _, port = address.partition("://")[2].rpartition(":")
    for number in (int(port), int(port) + 1):
        try:
            socket.create_connection((host, number), timeout=5.0).close()
        except OSError as error:
            raise UserError(
                f"Expected a tf.data service at {address}, got: {error.strerror or error} at port "
                f"{number}. Start `python -m simclr_tf.data.service --host={host} --port={port}` "
                "there, or leave `data_service` out."
            ) from None


def start(port: int, host: str) -> tuple[Any, Any]:
    """Starts dispatcher and worker, at `port` and the next; they live as long as what is returned.

    Raises:
        UserError: One of the ports is in use.
    """
    import tensorflow as tf

    for number in (port, port + 1):  # TensorFlow would share it, and get every second request
        with socket.socket() as probe, contextlib.suppress(ConnectionRefusedError):
            probe.connect(("localhost", number))
            raise UserError(f"Expected port {number} to be free, got one in use. Pass another.")
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
    worker = service.WorkerConfig(
        dispatcher_address=f"localhost:{port}", worker_address=f"{host}:{port + 1}", port=port + 1
    )
    return dispatcher, service.WorkerServer(worker)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a service until Ctrl-C; returns 0 then, 2 where the command is wrong."""
    environment.leave_where_incomplete()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the user's own environment wins
    parser = argparse.ArgumentParser(
        prog="python -m simclr_tf.data.service",
        description="Makes views for a machine that trains, until Ctrl-C.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--port",
        type=int,
        choices=range(1, 2**16 - 1),
        metavar="PORT",
        default=5050,
        help="this port and the next (5050)",
    )
    parser.add_argument("--host", default="localhost", help="name by which the trainer reaches it")
    given = parser.parse_args(argv)
    from simclr_tf.data.batches.tensors import one_thread_an_operation

    one_thread_an_operation()
    try:
        servers = start(given.port, given.host)
        address = f"grpc://{given.host}:{given.port}"
        print(f"making views, until Ctrl-C; train with --data_service={address}", flush=True)
        threading.Event().wait()
        del servers
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return environment.WRONG
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # taken down in order, the servers would wait for those who still ask for views
