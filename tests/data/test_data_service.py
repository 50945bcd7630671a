"""Views made by `tf.data` services in processes of their own, on loopback."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import main
from simclr_tf.augment.recipe import Recipe
from simclr_tf.config.settings import Config
from simclr_tf.data import service
from simclr_tf.data.batches.steps import Batches
from simclr_tf.data.batches.train import two_views
from simclr_tf.data.service import Services
from simclr_tf.data.source import Source, from_arrays
from simclr_tf.errors import UserError

pytestmark = pytest.mark.usefixtures("shallow")

STARTS = "making views, until Ctrl-C; train with --data_service="
FIRST, LAST = 3, 10  # steps in the middle of an epoch and over its end


def free_port():
    """A port that is free, and the next one with it."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("localhost", 0))
            port = one.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                two.bind(("localhost", port + 1))
                return port


def launch(*flags):
    command = [sys.executable, "-m", "simclr_tf.data.service", f"--port={free_port()}", *flags]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A shell that runs the tests in the background has Ctrl-C ignored, in all below it.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )


def address_of(process):
    line = process.stdout.readline().strip()
    assert line.startswith(STARTS), line
    return line.removeprefix(STARTS)


@contextlib.contextmanager
def running(count, *flags):
    """Addresses and processes of so many services on free ports, which end with the block."""
    processes = [launch(*flags) for _ in range(count)]
    try:
        yield [address_of(process) for process in processes], processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def addresses():
    with running(2) as (addresses, _):
        yield addresses


@pytest.fixture(scope="module")
def source():
    return from_arrays(np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8))


def maker(source, **arguments):
    return functools.partial(two_views, source, batch_size=8, recipe=Recipe(), seed=5, **arguments)


def arrays_of(batches):
    return [np.stack([view.numpy() for view in views]) for views in batches]


@pytest.mark.slow  # each service compiles the augmentation
def test_views_are_those_of_one_process(addresses, source):
    make = maker(source, dtype="bfloat16")
    batches = Services(addresses).serve(Batches(make)).steps(FIRST, LAST)
    local = arrays_of(make(first_step=FIRST, last_step=LAST))
    assert batches.cardinality() == LAST - FIRST
    assert len(local) == LAST - FIRST
    for here, there in zip(local, arrays_of(batches), strict=True):
        np.testing.assert_array_equal(here, there)


def test_a_stride_leaves_steps_out(source):
    make = maker(source)
    every = arrays_of(make(first_step=FIRST, last_step=LAST))
    third = arrays_of(make(first_step=FIRST, last_step=LAST, step_stride=3))
    np.testing.assert_array_equal(third, every[::3])


def test_without_addresses_views_are_made_here(source):
    make = maker(source)
    batches = Services().serve(Batches(make)).steps(FIRST, LAST)
    np.testing.assert_array_equal(
        arrays_of(batches), arrays_of(make(first_step=FIRST, last_step=LAST))
    )


def counted(first_step, last_step, shard, step_stride=1):
    """The numbers of the steps as their batches."""
    return tf.data.Dataset.range(first_step, last_step, step_stride)


def test_each_step_is_made_once_in_its_order(addresses, source):
    for count in (1, 2):
        batches = Services(addresses[:count]).serve(Batches(counted)).steps(FIRST, 50)
        assert [int(step) for step in batches] == list(range(FIRST, 50))


@pytest.mark.slow
def test_a_service_that_begins_again_is_noticed(source):
    process = launch()
    address = address_of(process)
    services = Services([address])
    numbers = iter(services.serve(Batches(counted)).steps(FIRST, 10**9))
    assert next(numbers).numpy() == FIRST
    process.kill()
    process.wait()
    process = launch(f"--port={address.rpartition(':')[2]}")
    try:
        address_of(process)
        with pytest.raises(UserError, match="got: .*`resume`"), services.watched():
            list(numbers)
    finally:
        process.kill()


LOSES_ITS_SERVICE = """
import sys, time
from simclr_tf.data import service
service.LOOK_SECONDS = 0.2
with service.Services(sys.argv[1:]).watched():
    print("training", flush=True)
    time.sleep(60)
"""


def test_a_service_that_has_gone_ends_the_run_soon():
    with running(1) as (alone, _):
        command = [sys.executable, "-c", LOSES_ITS_SERVICE, *alone]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert run.stdout.readline() == "training\n"
    error = run.communicate(timeout=50)[1]
    assert run.returncode == 2
    assert f"error: Expected a tf.data service at {alone[0]}, got: " in error
    assert error.endswith("Then go on with `resume`.\n")


def test_an_address_without_a_service_is_refused_at_once():
    with socket.socket() as silent:
        silent.bind(("localhost", 0))
        address = f"grpc://localhost:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match="Expected a tf.data service at grpc://localhost:"):
            Services([address])


def test_ctrl_c_ends_a_service():
    with running(1) as (_, [process]):
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_sources_that_cannot_be_sent(addresses, monkeypatch):
    services = Services(addresses[:1])
    files = Source("folder:/x", paths=("a.png",))
    with pytest.raises(UserError, match="images in memory.*for `data_service`.*`cache=true`"):
        services.check(files)
    monkeypatch.setattr(service, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="at most .* GiB, for `data_service`"):
        services.check(from_arrays(np.zeros([1, 2, 2, 3], np.uint8)))
    Services().check(files)  # no service, nothing to send


@pytest.mark.parametrize("flag", ["--prot=5050", "--port=one", "--port=70000"])
def test_wrong_commands(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        service.main([flag])
    assert ended.value.code == 2 and flag.partition("=")[2] in capsys.readouterr().err


def test_a_port_in_use(addresses, capsys):
    port = addresses[0].rpartition(":")[2]
    assert service.main([f"--port={port}"]) == 2
    assert f"error: Expected port {port} to be free, got one in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "addresses"),
    [
        ("", ()),
        ("grpc://a:1", ("grpc://a:1",)),
        ("grpc://a:1, grpc://b.c:22", ("grpc://a:1", "grpc://b.c:22")),
    ],
)
def test_addresses_of_the_flag(word, addresses):
    config = Config.resolve(data_service=word)
    config.validate()
    assert config.data_services() == addresses


@pytest.mark.parametrize("word", ["a:1", "grpc://a", "http://a:1", "grpc://a:1 grpc://b:1"])
def test_wrong_addresses(word):
    with pytest.raises(UserError, match="Expected addresses such as grpc://HOST:5050"):
        Config.resolve(data_service=word).validate()


@pytest.mark.parametrize("other", [{"augment_on": "device"}, {"strategy": "mirrored"}])
def test_settings_that_make_views_elsewhere(other):
    with pytest.raises(UserError, match="beside --data_service"):
        Config.resolve(data_service="grpc://a:1", **other).validate()


def pretrain(folder, *flags):
    return main.main(
        [
            "--task=pretrain",
            f"--pretrain_save_path={folder}",
            "--width_multiplier=0.0625",
            "--zdim=8",
            "--batch_size=8",
            "--max_steps=4",
            "--precision=float32",
            *flags,
        ]
    )


@pytest.mark.slow
def test_a_run_with_services_is_the_run_without(addresses, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "set.npz", images=images)
    data = f"--dataset=npz:{tmp_path / 'set.npz'}"
    assert pretrain(tmp_path / "here", data) == 0
    assert pretrain(tmp_path / "there", data, f"--data_service={','.join(addresses)}") == 0
    here, there = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("here", "there")
    )
    assert here["steps"] == there["steps"] == 4
    assert here["loss"] == there["loss"]


def test_a_run_without_its_service_ends_with_2(tmp_path, capsys):
    assert pretrain(tmp_path, "--data_service=grpc://localhost:1") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Expected a tf.data service at grpc://localhost:1, got: ")
    assert "Traceback" not in error
