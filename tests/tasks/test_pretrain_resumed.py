"""Pre-training that is stopped, resumed or replaced, as the command line calls it."""

from __future__ import annotations

import pkgutil
import signal
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import (
    THREE_EPOCHS,
    assert_same_weights,
    final_arrays,
    journal_of,
    pretrain,
    results_of,
)

from simclr_tf.runs.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("shallow")


@pytest.mark.parametrize("microbatch", [0, 4])
def test_a_resumed_run_equals_one_that_was_not_stopped(pictures, tmp_path, microbatch):
    flags = (f"--microbatch_size={microbatch}",)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert pretrain(whole, pictures, *flags) == 0
    flags = (*flags, "--steps_per_execution=4")
    # 4 steps an epoch: the first part ends within the second epoch.
    assert pretrain(parts, pictures, *flags, "--max_steps=5") == 0
    assert results_of(parts)["steps"] == 5
    assert pretrain(parts, pictures, *flags, "--resume") == 0
    assert_same_weights(whole, parts)
    assert journal_of(parts) == journal_of(whole)


class Killed(BaseException):
    """Stands in for SIGKILL, which would end the test with the run."""


def kill(*args, **kwargs):
    raise Killed


def kill_half_written(path, *args, **kwargs):
    path.with_name(f"{path.name}.partial").write_bytes(b"the first half")
    raise Killed


def terminate(*args, **kwargs):
    signal.raise_signal(signal.SIGTERM)


def interrupt_twice(*args, **kwargs):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def at_call(number: int, act, function):
    """Wraps a function: acts before one of its calls."""
    calls = iter(range(1, 1000))

    def wrapped(*args, **kwargs):
        if next(calls) == number:
            act(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapped


SAVE = "simclr_tf.runs.checkpoints.write_whole"


STEP = "simclr_tf.training.callbacks.Progress.on_train_batch_end"


LOOK = "simclr_tf.training.callbacks.knn_monitor.embed"


JOURNAL = "simclr_tf.runs.folder.RunFolder._write_rows"


RESULTS = "simclr_tf.runs.folder.RunFolder.write_results"


# One run's lives: what it did when it was ended, how, and the steps that are saved then.
LIVES = [
    (SAVE, 1, kill_half_written, []),
    (STEP, 2, terminate, [2]),
    (STEP, 1, terminate, [2, 3]),  # in the last step of an epoch, which is finished first
    (LOOK, 1, terminate, [2, 3, 6]),
    (SAVE, 1, kill_half_written, [2, 3, 6]),
    (STEP, 1, interrupt_twice, [2, 3, 6]),
    (JOURNAL, 1, kill, [2, 3, 6]),
    (RESULTS, 1, kill, [3, 6, 9]),
]


def test_a_run_that_is_ended_again_and_again_goes_on_as_if_it_was_not(
    whole, pictures, tmp_path, monkeypatch, capfd
):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    checkpoints, flags = Checkpoints(tmp_path / "checkpoints"), list(THREE_EPOCHS)
    for target, call, act, saved in LIVES:
        owner, _, name = target.rpartition(".")
        function = getattr(pkgutil.resolve_name(owner), name)
        with monkeypatch.context() as patch:
            patch.setattr(target, at_call(call, act, function))
            if act in (terminate, interrupt_twice):
                assert pretrain(tmp_path, pictures, *flags) == 130
                error = capfd.readouterr().err
                assert "once more stops at once" in error and "--resume" in error
                assert (f"step {saved[-1]} is saved" in error) == (act is terminate)
            else:
                with pytest.raises(Killed):
                    pretrain(tmp_path, pictures, *flags)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
        assert [int(path.stem[-9:]) for path in checkpoints.files()] == saved
        flags = [*THREE_EPOCHS, "--resume"] if saved else flags
    assert not (tmp_path / "results.json").exists()
    assert pretrain(tmp_path, pictures, *flags) == 0
    assert_same_weights(whole, tmp_path)
    assert journal_of(tmp_path) == journal_of(whole)


def test_a_run_is_not_overwritten_unasked(pretrained, pictures, capsys):
    before = (pretrained / "results.json").read_bytes()
    assert pretrain(pretrained, pictures) == 2
    error = capsys.readouterr().err
    assert "--overwrite" in error and "--resume" in error
    assert (pretrained / "results.json").read_bytes() == before


def test_a_run_is_not_resumed_with_other_settings(pretrained, pictures, capsys):
    assert pretrain(pretrained, pictures, "--temperature=0.7", "--resume") == 2
    assert "--temperature=0.7 (began with 0.1)" in capsys.readouterr().err


def test_an_overwriting_run_that_cannot_begin_leaves_the_old_one(pictures, tmp_path):
    assert pretrain(tmp_path, pictures, "--max_steps=1") == 0
    before = final_arrays(tmp_path)
    assert pretrain(tmp_path, Path("/nowhere"), "--overwrite") == 2
    assert (tmp_path / "results.json").exists()
    assert final_arrays(tmp_path).keys() == before.keys()
    assert pretrain(tmp_path, pictures, "--max_steps=2", "--overwrite") == 0
    assert results_of(tmp_path)["steps"] == 2


def test_a_run_may_begin_with_the_weights_of_the_one_it_overwrites(pictures, tmp_path):
    assert pretrain(tmp_path, pictures, "--max_steps=2") == 0
    flags = (f"--init_weights={tmp_path}", "--overwrite", "--seed=1", "--max_steps=1")
    before = final_arrays(tmp_path)["encoder/stem_conv/kernel"]
    assert pretrain(tmp_path, pictures, *flags) == 0
    after = final_arrays(tmp_path)["encoder/stem_conv/kernel"]
    # One step moves little: without the old weights the two would have nothing in common.
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9
