"""`fit_steps`: the same run however it is cut up, without waiting, tracing or compiling twice."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import policy, tiny_simclr, tiny_views

from simclr_tf.errors import UserError
from simclr_tf.losses.contrastive import NTXent
from simclr_tf.runs.checkpoints import (
    Checkpoints,
    named_variables,
    numbered_variables,
    read_arrays,
    restore,
    step_of,
)
from simclr_tf.runs.folder import RunFolder
from simclr_tf.training import execution
from simclr_tf.training.callbacks import Progress, SaveCheckpoints
from simclr_tf.training.callbacks.finite import StopWhereNotFinite
from simclr_tf.training.callbacks.steps import StepCallback
from simclr_tf.training.fit import (
    UnreadLogs,
    choose_steps_per_execution,
    fit_steps,
    prefetch_to_gpu,
)

EPOCH = 6  # steps


class Record(StepCallback):
    """Keeps what callbacks are told: the steps after each execution, and the epochs' logs."""

    def __init__(self):
        super().__init__()
        self.steps, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        assert tf.is_tensor(logs["loss"])
        self.steps.append(self.step)

    def on_test_batch_end(self, batch, logs=None):
        assert tf.is_tensor(logs["loss"])

    def on_epoch_end(self, epoch, logs=None):
        assert all(isinstance(value, float | int) for value in logs.values())
        self.epochs.append((epoch, self.step, logs))


def batches(first, last):
    """Another batch at every step."""
    views = [np.stack(v) for v in zip(*(tiny_views(8, seed=s) for s in range(24)), strict=True)]
    held = [tf.constant(view) for view in views]
    data = tf.data.Dataset.range(first, last)
    return data.map(lambda i: tuple(tf.gather(v, i % 24) for v in held))


def made(steps_per_execution=1, optimizer=None, **arguments):
    model = tiny_simclr(**arguments)
    optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, NTXent(0.5), steps_per_execution=steps_per_execution)
    return model


def trained(model, first=0, last=20, callbacks=(), **arguments):
    record = Record()
    fit_steps(
        model,
        batches,
        first_step=first,
        last_step=last,
        steps_per_epoch=EPOCH,
        callbacks=[*callbacks, record],
        **arguments,
    )
    return record


def state_of(model):
    return {
        **named_variables("encoder", model.encoder.variables),
        **named_variables("head", model.head.variables),
        **numbered_variables("optimizer", model.optimizer.variables),
    }


def assert_same_state(one, other):
    for name, variable in state_of(one).items():
        np.testing.assert_array_equal(variable.numpy(), state_of(other)[name].numpy(), err_msg=name)


# --- Steps per execution ---


@pytest.fixture(scope="module")
def one_at_a_time():
    """A run of three epochs and a third, and its record."""
    model = made()
    record = trained(model, validation_data=batches(20, 24), validation_freq=2)
    assert record.steps == list(range(1, 21))
    return model, record


@pytest.mark.parametrize(
    ("at_a_time", "expected"),
    [
        (2, list(range(2, 21, 2))),
        (3, [3, 6, 9, 12, 15, 18, 20]),
        (4, [4, 6, 10, 12, 16, 18, 20]),
        (6, [6, 12, 18, 20]),
        (100, [6, 12, 18, 20]),
    ],
)
def test_steps_run_together_are_the_same_steps(one_at_a_time, at_a_time, expected):
    model = made(at_a_time)
    record = trained(model, validation_data=batches(20, 24), validation_freq=2)
    assert record.steps == expected  # the last execution of an epoch has what is left of it
    assert_same_state(model, one_at_a_time[0])
    assert record.epochs == one_at_a_time[1].epochs


@pytest.mark.parametrize("stop", [4, 10, 18])
def test_a_run_taken_up_within_an_execution_goes_on_exactly(one_at_a_time, stop):
    model = made(3)
    trained(model, last=stop)
    again = made(3)
    restore(state_of(again), {n: v.numpy() for n, v in state_of(model).items()}, "test")
    record = trained(again, first=stop)
    assert record.steps[-1] == 20
    assert [(epoch, step) for epoch, step, _ in record.epochs][-1] == (3, 20)
    assert_same_state(again, one_at_a_time[0])


@pytest.mark.parametrize(
    ("asked", "epoch", "chosen"),
    [(1, 7, 1), (3, 7, 3), (7, 7, 7), (10, 97, 10), (10, 6, 6), (0, 6, 1)],
)
def test_an_execution_takes_what_was_asked_for_up_to_an_epoch(asked, epoch, chosen):
    assert choose_steps_per_execution(asked, epoch) == chosen


def test_many_epochs_with_a_rest_are_trained_to_the_end(one_at_a_time):
    """Keras counts 4 + 4 steps an epoch of 6, and ends a run whose batches it takes for used up."""
    model = made(4)
    assert trained(model, last=20 * EPOCH).steps[-1] == 20 * EPOCH
    before = int(model.optimizer.iterations)
    model.fit(batches(0, 8), steps_per_epoch=8, verbose=0)  # Keras' own, without `fit_steps`
    assert int(model.optimizer.iterations) == before + 8


# --- Nobody waits for the device ---


class Number:
    """A metric that counts how often it is read."""

    def __init__(self):
        self.reads = 0

    def __float__(self):
        self.reads += 1
        return 1.5


def test_progress_reads_the_loss_where_a_line_is_due_only():
    loss = Number()
    progress = Progress(last_step=40, batch_size=8, every_steps=10)
    progress.LINE_SECONDS = 0.0  # a line at every look
    calls = UnreadLogs([progress])
    progress.set_params({"steps": 40})
    progress.on_epoch_begin(0)
    for step in range(3, 40, 3):  # three steps an execution: 12, 21, 30 pass a multiple of ten
        calls.on_train_batch_end(step - 1, {"loss": loss})
    assert loss.reads == 3


# --- Input on the device ---


def test_without_a_gpu_the_batches_stay_as_they_are():
    data = batches(0, 2)
    assert prefetch_to_gpu(data) is data


def test_batches_are_the_same_on_another_device(one_at_a_time, monkeypatch):
    """The CPU stands in for the GPU."""
    devices = tf.config.list_logical_devices("CPU")
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda kind=None: devices)
    for ours, theirs in zip(prefetch_to_gpu(batches(0, 3)), batches(0, 3), strict=True):
        for view, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(view, expected)
    model = made(3)
    record = trained(model)
    assert record.steps[-1] == 20
    assert_same_state(model, one_at_a_time[0])


# --- Loss scaling ---


def scaled():
    """Starts at a scale that overflows, and comes back to such a one every few steps."""
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    return keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**18, dynamic_growth_steps=4)


def progress():
    return Progress(last_step=20, batch_size=8, every_steps=100)


def test_a_float16_run_counts_the_steps_it_skipped_and_goes_on_bit_for_bit(tmp_path):
    with policy("mixed_float16"):
        whole, first, again = (made(optimizer=scaled()) for _ in range(3))
        record = trained(whole, callbacks=[progress()])
        trained(first, last=10, callbacks=[progress()])
        file = Checkpoints(tmp_path).save(state_of(first), step=10)
        restore(state_of(again), read_arrays(file), str(file))
        resumed = trained(again, first=10, callbacks=[progress()])
    assert_same_state(again, whole)
    counts = [logs["skipped_steps"] for _, _, logs in record.epochs]
    assert 1 <= counts[0] < EPOCH
    assert counts == sorted(counts)
    assert counts[-1] == 20 - int(whole.optimizer.iterations)
    assert resumed.epochs[-1][2]["skipped_steps"] == counts[-1]


def test_without_loss_scaling_no_steps_are_reported_skipped():
    record = trained(made(), last=2, callbacks=[progress()])
    assert "skipped_steps" not in record.epochs[0][2]


def test_a_float16_run_that_leaves_out_every_step_ends_and_says_so():
    """A scale of 2^120 overflows for more than the fifty steps in a row that are waited for."""
    inner = keras.optimizers.SGD(0.1)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**120)
    with policy("mixed_float16"), pytest.raises(UserError, match="from step 0 to 50: all were"):
        trained(made(optimizer=optimizer), last=72, callbacks=[StopWhereNotFinite(every_steps=10)])


# --- Determinism ---


def test_deterministic_leaves_xla_off_on_a_gpu(monkeypatch):
    asked = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(1))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    monkeypatch.setattr(execution, "_describe", str)
    monkeypatch.setattr(execution, "xla_failure", lambda gpu: "")
    assert execution.choose_execution("float32", "auto").xla
    assert not asked
    assert not execution.choose_execution("float32", "auto", deterministic=True).xla
    assert asked
    with pytest.raises(UserError, match="`xla=false` or auto beside `deterministic`"):
        execution.choose_execution("float32", "true", deterministic=True)


# --- Numbers that are not finite ---


def bad_from(step):
    """Batches, of which that of one step, counted from 1, and those after hold a nan."""

    def spoilt(first, last):
        numbered = tf.data.Dataset.zip(tf.data.Dataset.range(first, last), batches(first, last))
        wrong = tf.constant(float("nan"))
        return numbered.map(
            lambda i, views: (views[0] + tf.where(i + 1 >= step, wrong, 0.0), views[1])
        )

    return spoilt


class Leap(keras.optimizers.schedules.LearningRateSchedule):
    """0.1, but at one step, counted from 1, more than any weight can take."""

    def __init__(self, step):
        self.step = step

    def __call__(self, step):
        return tf.where(step + 1 == self.step, 3e38, 0.1)


def stopped(tmp_path, model, data, *, first=0):
    """Runs until it ends in an error; returns its message and the steps that were saved."""
    finite = StopWhereNotFinite(every_steps=4)
    folder = RunFolder(tmp_path, keep_checkpoints=9)
    save = SaveCheckpoints(
        folder, state_of(model), every_epochs=1, steps_per_epoch=EPOCH, check=finite.check
    )
    record = Record()
    with pytest.raises(UserError) as caught:
        fit_steps(
            model,
            data,
            first_step=first,
            last_step=20,
            steps_per_epoch=EPOCH,
            callbacks=[finite, record, save],
        )
    save.restore_handlers()
    for path in folder.checkpoints.files():
        assert all(np.isfinite(array).all() for array in read_arrays(path).values())
    return str(caught.value), [step_of(path) for path in folder.checkpoints.files()]


@pytest.mark.parametrize(("at_a_time", "microbatch_size"), [(1, 4), (3, 0)])
def test_the_step_whose_loss_is_not_finite_is_named(tmp_path, at_a_time, microbatch_size):
    rate = keras.optimizers.schedules.PolynomialDecay(0.2, 20, 0.0)
    optimizer = keras.optimizers.SGD(rate)
    model = made(at_a_time, optimizer, microbatch_size=microbatch_size)
    message, saved = stopped(tmp_path, model, bad_from(8))
    step, rate = ("8", 0.13) if at_a_time == 1 else ("7 to 9", 0.14)
    assert f"got a loss that is not at step {step}, at a learning rate of {rate}." in message
    assert "`learning_rate`" in message
    assert saved == [6]


def test_an_update_that_is_not_finite_is_not_saved_though_the_loss_is(tmp_path):
    model = made(3, keras.optimizers.SGD(Leap(12)))  # the last step of an epoch
    message, saved = stopped(tmp_path, model, batches)
    assert "got a gradient or update that is not at step 10 to 12, at a learning" in message
    assert saved == [6]


def test_bad_weights_are_not_saved_when_told_to_stop(tmp_path):
    class Interrupt(StepCallback):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if self.step == 3:
                signal.raise_signal(signal.SIGTERM)

    model, folder = made(), RunFolder(tmp_path)
    finite = StopWhereNotFinite(every_steps=100)
    save = SaveCheckpoints(
        folder, state_of(model), every_epochs=1, steps_per_epoch=EPOCH, check=finite.check
    )
    arguments = {"first_step": 0, "last_step": 20, "steps_per_epoch": EPOCH}
    with pytest.raises(UserError, match="step 2,"):
        fit_steps(model, bad_from(2), callbacks=[finite, Interrupt(), save], **arguments)
    save.restore_handlers()
    assert not folder.checkpoints.files()


# --- Compilations ---

COUNTED_RUN = """
import sys
import keras
from test_fit import batches, EPOCH
from test_model import CountingNTXent
from tiny import tiny_simclr
from simclr_tf.training.fit import fit_steps

class Mark(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print(f"epoch {epoch} traces {self.model.contrastive_loss.calls}", file=sys.stderr)

microbatch_size, at_a_time = map(int, sys.argv[1:])
model = tiny_simclr(microbatch_size=microbatch_size)
model.compile(
    keras.optimizers.SGD(0.1), CountingNTXent(0.5), jit_compile=True, steps_per_execution=at_a_time
)
# Three epochs and a part of the fourth, then the rest of it, as after --resume.
for first, last in ((0, 20), (20, 24)):
    fit_steps(
        model, batches, first_step=first, last_step=last, steps_per_epoch=EPOCH, callbacks=[Mark()],
        validation_data=batches(20, 24),
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize(("microbatch_size", "at_a_time"), [(0, 1), (4, 3)])
def test_nothing_is_traced_or_compiled_after_the_first_epoch(microbatch_size, at_a_time):
    here = pathlib.Path(__file__).parent
    tests = here.parent
    # Compilations are counted where TensorFlow logs them; Python has no counter of them.
    environment = os.environ | {
        "TF_CPP_VMODULE": "device_compiler=1",
        "TF_CPP_MIN_LOG_LEVEL": "0",
        "PYTHONPATH": os.pathsep.join(map(str, (here, tests, tests.parent))),
        "TF_XLA_FLAGS": "",  # what another process has compiled would not be compiled again
    }
    command = [sys.executable, "-c", COUNTED_RUN, str(microbatch_size), str(at_a_time)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = ("Compilation of XLA executable", "epoch ")
    lines = [line for line in done.stderr.splitlines() if any(word in line for word in kept)]
    compiled = ["epoch " if line.startswith("epoch ") else "compiled" for line in lines]
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert compiled.index("epoch ") >= 2  # the step and the validation
    assert "compiled" not in compiled[compiled.index("epoch ") :]
    assert len(epochs) == 5
    assert len({line.partition("traces")[2] for line in epochs}) == 1
