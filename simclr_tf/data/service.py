"""A `tf.data` service on a machine that makes views for another one, which trains on them.

    python -m simclr_tf.data.service --host=NAME

runs until Ctrl-C and prints what the training machine passes as `--data_service`. Each service is
one dispatcher with one worker and knows of no other: see `served` for why.

Whoever reaches the ports can have anything computed here: there is no password.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from simclr_tf import environment
from simclr_tf.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a service until it is interrupted; returns 0 then, 2 where the command is wrong."""
    environment.leave_where_incomplete()
    try:
        given = _parse(argv)
        # A default for what TensorFlow prints as it starts; the user's own environment wins.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from simclr_tf.data.batches.tensors import one_thread_an_operation

        one_thread_an_operation()
        servers = start(given.port, given.host)
        address = address_of(servers, given.host)
        print(f"making views, until Ctrl-C; train with --data_service={address}", flush=True)
        threading.Event().wait()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0


def start(port: int, host: str = "localhost") -> tuple[Any, Any]:
    """Starts a service in this process: it lives as long as what is returned.

    Args:
        port: Of the dispatcher; the worker's is the next one. 0: any two that are free.
        host: The name or address by which those who train reach this machine.

    Returns:
        The dispatcher and the worker.

    Raises:
        UserError: One of the ports is in use.
    """
    worker_port = port + 1 if port else 0
    for wanted in filter(None, (port, worker_port)):
        _check_free(wanted)
    import tensorflow as tf

    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
    worker = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=dispatcher.target.partition("://")[2],
            worker_address=f"{host}:%port%",  # TensorFlow puts the number in
            port=worker_port,
        )
    )
    return dispatcher, worker


def address_of(servers: tuple[Any, Any], host: str = "localhost") -> str:
    """Returns the address of a service that was started, such as grpc://NAME:5050."""
    return f"grpc://{host}:{servers[0].target.rpartition(':')[2]}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(
            f"{message[:1].upper()}{message[1:]}. `python -m simclr_tf.data.service --help` lists "
            "the flags."
        )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m simclr_tf.data.service", allow_abbrev=False)
    parser.description = "Makes views for a machine that trains, until Ctrl-C."
    parser.add_argument(
        "--port", type=int, default=5050, help="Port, the next one is used too; 0: any two (5050)."
    )
    parser.add_argument(
        "--host",
        default="localhost",
        help="Name by which the training machine reaches this one (localhost: it is the same).",
    )
    given = parser.parse_args(argv)
    if not 0 <= given.port < 2**16 - 1:
        raise UserError(
            f"Expected --port in [0, {2**16 - 2}], got {given.port}. Leave it out for 5050."
        )
    return given


def _check_free(port: int) -> None:
    # TensorFlow itself would share the port with the other service, and get every second request.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"Expected port {port} to be free, got: {error.strerror}. A service takes the port "
                "it is given and the next one; pass another --port."
            ) from None


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Taken down in order, TensorFlow's servers would wait for those who are still asking for views.
    os._exit(code)
