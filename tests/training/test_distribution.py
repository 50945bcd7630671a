"""Several replicas are one device: data, loss, gradients, statistics, runs, and a lost worker."""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from two_replicas import END

import main
from simclr_tf.augment import Recipe
from simclr_tf.config.settings import Config
from simclr_tf.data import from_arrays, load
from simclr_tf.data.batches.order import WHOLE, Shard
from simclr_tf.data.batches.steps import Batches
from simclr_tf.data.batches.train import (
    drawn_batches,
    feature_batches,
    labelled_batches,
    masked_batches,
    two_views,
)
from simclr_tf.errors import UserError
from simclr_tf.optimizers import NAMES
from simclr_tf.runs.checkpoints import Checkpoints, read_arrays
from simclr_tf.training import distribution, rendezvous
from simclr_tf.training.distribution import choose_strategy, make_strategy, worker_addresses
from simclr_tf.training.execution import choose_execution
from simclr_tf.workflow.start import _check_rows, _make_strategy, _misfit

pytestmark = pytest.mark.usefixtures("shallow")

TESTS = pathlib.Path(__file__).parents[1]
# A rate and a temperature at which rounding stays rounding over a few steps.
TINY = [
    "--task=pretrain",
    "--width_multiplier=0.0625",
    "--zdim=8",
    "--batch_size=8",
    "--precision=float32",
    "--temperature=0.5",
    "--learning_rate=0.1",
    "--num_epochs=3",
    "--val_fraction=0.4",
    "--eval_every_epochs=1",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 2 classes of 14 PNGs, 16 pixels each: 17 to train on, 11 held back."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("one", "other"):
        (root / name).mkdir()
        for i in range(14):
            image = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(4, axis=0).repeat(4, axis=1)
            Image.fromarray(image).save(root / name / f"{i:02d}.png")
    return root


def environment(**variables):
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}


def two_replicas(*words):
    script = [sys.executable, str(TESTS / "two_replicas.py"), *words]
    done = subprocess.run(script, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def mirrored_runs(*commands):
    """Runs command lines on two replicas, one after the other in one process: their outputs."""
    words = [[*command, "--strategy=mirrored"] for command in commands]
    *outs, rest = two_replicas(json.dumps(words)).split(END)
    assert not rest.strip()
    return outs


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(folder, other):
    """The same losses, and weights that differ by rounding alone."""
    for row, wanted in zip(rows_of(folder), rows_of(other), strict=True):
        for name in ("loss", "val_loss", "contrastive_accuracy"):
            if wanted.get(name):
                np.testing.assert_allclose(float(row[name]), float(wanted[name]), rtol=1e-4)
    ours, theirs = (read_arrays(Checkpoints(f / "checkpoints").newest()) for f in (folder, other))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def on_one_device(pictures, tmp_path_factory):
    """The run that all others are compared with: three epochs of two steps."""
    folder = tmp_path_factory.mktemp("one") / "run"
    assert pretrain(folder, pictures, "--strategy=none") == 0
    return folder


def flags_for(folder, pictures, *flags):
    return [*TINY, f"--dataset=folder:{pictures}", f"--pretrain_save_path={folder}", *flags]


def pretrain(folder, pictures, *flags):
    return main.main(flags_for(folder, pictures, *flags))


# --- Data ---


def elements(batches):
    """The elements of a data set as lists of arrays."""
    return [[t.numpy() for t in tf.nest.flatten(element) if t is not None] for element in batches]


@pytest.fixture(scope="module")
def makers(pictures):
    """Functions shard -> batches of 8 images, by what they read."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 12, 16, 3), np.uint8)
    arrays = from_arrays(images, np.arange(20) % 2)
    files = load(f"folder:{pictures}", input_size=(16, 16), cache="false").train
    masked = dataclasses.replace(arrays, masks=images[..., 0])
    large = from_arrays(rng.integers(0, 256, (9, 300, 200, 3), np.uint8))
    sizes = {"batch_size": 8, "recipe": Recipe(), "seed": 3}
    steps = {"first_step": 1, "last_step": 3}

    def made(function, source, size=(10, 12)):
        return lambda shard: function(source, size=size, shard=shard, **sizes, **steps)

    numbers = rng.normal(size=(20, 3))
    features = Batches(feature_batches, numbers, np.arange(20), batch_size=8, seed=3)
    return {
        "views of arrays": made(two_views, arrays),
        "views of files": made(two_views, files),
        "views in parts": made(two_views, large, (300, 200)),
        "labelled": made(labelled_batches, arrays),
        "masked": made(masked_batches, masked),
        "drawn": made(drawn_batches, arrays),
        "features": lambda shard: features.steps(1, 3, shard),
    }


@pytest.fixture(scope="module")
def joint_batches(makers):
    """The elements of all of them without replicas."""
    return {name: elements(make(WHOLE)) for name, make in makers.items()}


@pytest.mark.parametrize(
    "shards",
    [[Shard(0, 2, 2)], [Shard(0, 1, 2), Shard(1, 1, 2)], [Shard(0, 2, 4), Shard(2, 2, 4)]],
    ids=["one worker", "two workers", "two workers of two"],
)
def test_the_replicas_share_the_joint_batch_bit_for_bit(makers, joint_batches, shards):
    for name, joint in joint_batches.items():
        of_workers = [elements(makers[name](shard)) for shard in shards]
        assert [len(own) for own in of_workers] == [2 * shard.own for shard in shards], name
        for step, whole in enumerate(joint):
            replicas = [
                own[step * shard.own + i]
                for own, shard in zip(of_workers, shards, strict=True)
                for i in range(shard.own)
            ]
            for parts, array in zip(zip(*replicas, strict=True), whole, strict=True):
                np.testing.assert_array_equal(np.concatenate(parts), array, err_msg=name)


def test_an_epoch_of_a_shard_has_a_batch_for_each_of_its_replicas(images):
    views = two_views(images, batch_size=4, recipe=Recipe(), seed=0, shard=Shard(2, 2, 4))
    assert [first.shape[0] for first, _ in views] == [1] * 4
    assert views.cardinality() == 4


# --- Which strategy ---


def cluster(*addresses, index=0):
    return json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )


def test_auto_is_several_workers_where_the_environment_names_them(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert choose_strategy() == "none"
    monkeypatch.setenv("TF_CONFIG", cluster("a:1"))
    assert choose_strategy() == "none"
    monkeypatch.setenv("TF_CONFIG", cluster("a:1", "b:1"))
    assert choose_strategy() == "multiworker"
    assert worker_addresses() == ["a:1", "b:1"]


def test_auto_takes_one_gpu_of_several_and_says_so(monkeypatch, capsys):
    visible = []
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one", "two"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *which: visible.append(which))
    assert _make_strategy(Config(), ("mirrored",)) is None
    assert visible == [("one", "GPU")]
    assert "the first of 2 GPUs; --strategy=mirrored trains on all" in capsys.readouterr().out
    assert _make_strategy(Config(task="segmentation"), ()) is None
    assert capsys.readouterr().out == "uses the first of 2 GPUs\n"
    assert _make_strategy(Config(strategy="none"), ("mirrored",)) is None
    assert visible == [("one", "GPU")] * 3

    def begun(*_):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", begun)
    assert _make_strategy(Config(), ("mirrored",)) is None


@pytest.mark.parametrize(
    "text",
    [
        None,
        "{}",
        cluster("a:1"),
        "{",
        "[]",
        '{"cluster": 3}',
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        cluster("a:1", "b:1", index=2),
    ],
)
def test_workers_without_a_cluster_are_refused(monkeypatch, text):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="TF_CONFIG"):
        make_strategy("multiworker")


def test_one_device_is_one_replica_that_is_mirrored():
    assert make_strategy("none") is None
    assert make_strategy("mirrored").num_replicas_in_sync == 1


def test_what_replicas_cannot_do_is_refused(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="2 replicas divide.*Pass `batch_size=6`"):
        Shard(0, 2, 2).rows(7)
    with pytest.raises(UserError, match="`xla=false`"):
        choose_execution("float32", "true", replicas=2)
    assert not choose_execution("float32", "auto", replicas=2).xla
    classify = ["--task=classification", f"--dataset=folder:{pictures}", "--strategy=multiworker"]
    assert main.main([*classify, f"--finetune_save_path={tmp_path}"]) == 2
    assert "none|mirrored for --task=classification" in capsys.readouterr().err


# --- Meeting ---


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"batch_size": 256}, ""),
        ({"data_service": "grpc://localhost:1"}, "a service makes the views of one"),
    ],
)
def test_auto_leaves_a_strategy_alone_that_the_run_does_not_fit(settings, reason):
    config = Config(task="pretrain", **settings)
    misfit = _misfit(config, "multiworker", ("multiworker",))
    assert misfit.startswith(reason) and bool(misfit) == bool(reason)
    assert _misfit(config, "none", ()) == ""
    assert "--strategy=multiworker" in _misfit(config, "multiworker", ("mirrored",))


def test_a_microbatch_that_does_not_divide_a_replicas_images_is_refused():
    config = Config(task="pretrain", batch_size=512, microbatch_size=256)
    with pytest.raises(UserError, match="the 128 images that each of 4 .*--microbatch_size=128"):
        _check_rows(config, 128, 4)
    _check_rows(config.replace(task="classification"), 128, 4)
    _check_rows(config.replace(microbatch_size=64), 128, 4)


def test_an_error_of_this_worker_is_not_another_ones_loss(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", cluster("a:1", "b:2"))

    def tells(kind, message):
        return distribution._tells_of_loss(kind(None, None, message))

    assert not tells(tf.errors.InternalError, "cuDNN failed at /job:localhost/replica:0/task:0")
    assert not tells(tf.errors.InternalError, "at /job:worker/replica:0/task:0/device:GPU:0")
    assert tells(tf.errors.InternalError, "from /job:worker/replica:0/task:1")
    assert tells(tf.errors.UnavailableError, "connection refused")
    assert "one of them" in distribution._explain_loss("/job:localhost/replica:0/task:0 went")
    assert "worker 1 (b:2)" in distribution._explain_loss("/job:worker/task:1 went")


def free_addresses():
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return addresses


def test_workers_meet_though_one_comes_later():
    addresses = free_addresses()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(rendezvous.meet, addresses, 0)
        with pytest.raises(concurrent.futures.TimeoutError):
            first.result(0.5)
        rendezvous.meet(addresses, 1)
        first.result(5)


def test_a_worker_that_waits_says_for_whom_and_gives_up(monkeypatch, capsys):
    monkeypatch.setattr(rendezvous, "NOTICE_SECONDS", 0.3)
    monkeypatch.setattr(rendezvous, "LIMIT_SECONDS", 1.0)
    addresses = free_addresses()
    with pytest.raises(UserError, match=f"no answer from {addresses[1]}. Start the same"):
        rendezvous.meet(addresses, 0)
    assert capsys.readouterr().out == f"waiting for {addresses[1]} to start\n"


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("", 0)) as taken, pytest.raises(UserError, match="free port"):
        rendezvous.meet([f"127.0.0.1:{taken.getsockname()[1]}", "127.0.0.1:1"], 0)


# --- Two replicas in one process ---


@pytest.fixture(scope="module")
def apart():
    return json.loads(two_replicas())


@pytest.mark.slow
@pytest.mark.parametrize("case", ["four steps", "a ResNet", "microbatches", *NAMES])
def test_two_replicas_are_one_device_with_the_joint_batch(apart, case):
    assert apart[case]["logs"] < 1e-5
    assert apart[case]["variables"] < 1e-5
    assert apart[case]["replicas"] == 0.0
    assert apart[case]["moved"] > 1e-5


@pytest.mark.slow
def test_two_replicas_compute_in_16_bits(apart):
    assert apart["mixed_bfloat16"]["logs"] < 0.15  # an accuracy goes in steps of a sixteenth
    # float16 cannot be compared: halves of a loss overflow less often, so that fewer steps are left
    # out at the start.
    for case in ("mixed_bfloat16", "mixed_float16"):
        assert apart[case]["replicas"] == 0.0
        assert apart[case]["moved"] > 1e-3


@pytest.mark.slow
def test_an_overflow_on_one_replica_is_seen_on_all(apart):
    assert apart["overflow"] == [["nan", "nan"], ["2.0", "inf"]]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_named_with_its_step(apart):
    assert "got a loss that is not at step 3, at a learning rate of 0.1." in apart["not finite"]


@pytest.mark.slow
def test_norms_that_see_their_own_microbatch_stay_equal_on_all_replicas(apart):
    assert apart["microbatches, norms that learn"]["replicas"] == 0.0


@pytest.fixture(scope="module")
def mirrored(pictures, tmp_path_factory):
    """What a process with two devices has run: the folder of its runs, and their outputs by name.

    `single` is resumed there: two steps of it were trained on one device. Runs of models with
    other shapes must be in another process, as TensorFlow numbers their collectives alike.
    """
    root = tmp_path_factory.mktemp("mirrored")
    assert pretrain(root / "single", pictures, "--strategy=none", "--max_steps=2") == 0
    commands = {
        "whole": flags_for(root / "whole", pictures),
        "begun": flags_for(root / "begun", pictures, "--max_steps=2"),
        "single": flags_for(root / "single", pictures, "--resume"),
    }
    return root, dict(zip(commands, mirrored_runs(*commands.values()), strict=True))


@pytest.mark.slow
def test_a_mirrored_run_is_that_of_one_device(mirrored, on_one_device):
    root, outs = mirrored
    assert "2 replicas of 4 images each" in outs["whole"]
    assert_same_run(root / "whole", on_one_device)
    assert json.loads((root / "whole/results.json").read_text())["replicas"] == 2


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_replicas(pictures, mirrored, on_one_device):
    root, outs = mirrored
    assert pretrain(root / "begun", pictures, "--strategy=none", "--resume") == 0
    assert "resumed at step 2" in outs["single"]
    for name in ("begun", "single"):
        assert_same_run(root / name, on_one_device)


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["true", "false"])
def test_a_mirrored_classifier_is_that_of_one_device(pictures, tmp_path, freeze):
    command = [
        "--task=classification",
        f"--dataset=folder:{pictures}",
        "--init_weights=none",
        f"--freeze={freeze}",
        "--width_multiplier=0.0625",
        "--batch_size=8",
        "--precision=float32",
        "--learning_rate=0.01",
        "--num_epochs=2",
        "--val_fraction=0.4",
        "--eval_every_epochs=1",
    ]
    assert main.main([*command, f"--finetune_save_path={tmp_path / 'one'}"]) == 0
    mirrored_runs([*command, f"--finetune_save_path={tmp_path / 'two'}"])
    for ours, theirs in zip(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"), strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            np.testing.assert_allclose(float(ours[name]), float(theirs[name]), rtol=1e-4)


# --- Two workers ---


WORKER = """
import sys
from tiny import shallow_encoders
from simclr_tf import cli
with shallow_encoders():
    sys.exit(cli.main())
"""


def start_workers(folder, pictures, *flags):
    """Two processes of the command line on this machine, the first one the leader."""
    addresses = free_addresses()
    command = [sys.executable, "-c", WORKER]
    command += flags_for(folder, pictures, "--strategy=multiworker", *flags)
    return [
        subprocess.Popen(
            command,
            env=environment(TF_CONFIG=cluster(*addresses, index=index)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def ends_of(workers, seconds=240):
    """Exit code, output and errors of each worker."""
    try:
        ends = [worker.communicate(timeout=seconds) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return [(worker.returncode, *end) for worker, end in zip(workers, ends, strict=True)]


@pytest.mark.slow
def test_two_workers_train_and_resume_as_one_device(pictures, on_one_device, tmp_path):
    folder = tmp_path / "run"
    (code, _, error), (other, out, _) = ends_of(start_workers(folder, pictures, "--max_steps=2"))
    assert (code, other) == (0, 0), error[-2000:]
    assert "follows" in out
    assert "kNN" not in out
    (code, out, error), (other, *_) = ends_of(start_workers(folder, pictures, "--resume"))
    assert (code, other) == (0, 0), error[-2000:]
    assert "resumed at step 2" in out
    assert_same_run(folder, on_one_device)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "number", "code"),
    [(1, signal.SIGKILL, -9), (0, signal.SIGKILL, -9), (0, signal.SIGTERM, 130)],
)
def test_a_lost_worker_ends_the_others_with_a_message(pictures, tmp_path, lost, number, code):
    folder = tmp_path / "run"
    workers = start_workers(folder, pictures, "--num_epochs=5000", "--save_every_epochs=1")
    end = time.monotonic() + 240
    checkpoints = Checkpoints(folder / "checkpoints")
    while checkpoints.newest() is None and time.monotonic() < end:
        time.sleep(0.2)
    workers[lost].send_signal(number)
    left = 1 - lost
    ends = ends_of(workers, seconds=60)
    assert ends[lost][0] == code, ends[lost][2][-2000:]
    assert ends[left][0] == 2, ends[left][2][-2000:]
    message = ends[left][2].splitlines()[-1]
    assert message.startswith("error: Expected all 2 workers to answer"), message
    assert f"worker {lost} (127.0.0.1:" in message
    assert message.endswith("from the last checkpoint.")
    assert read_arrays(checkpoints.newest())
