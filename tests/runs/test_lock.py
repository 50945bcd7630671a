"""The lock on a run folder: one run at a time, and no lock that outlives its run."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

import main
from simclr_tf.errors import UserError
from simclr_tf.runs import lock
from simclr_tf.runs.lock import NAME, lock_folder

HOLD = """
import pathlib, sys, time
from simclr_tf.runs.lock import lock_folder
with lock_folder(pathlib.Path(sys.argv[1]), task="pretrain", flag="pretrain_save_path"):
    print("held", flush=True)
    time.sleep(100)
"""


def hold(folder, task="pretrain"):
    return lock_folder(folder, task=task, flag="pretrain_save_path")


def refuse_locks(monkeypatch):
    """A file system that knows no locks."""

    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(lock.fcntl, "flock", flock)


@pytest.fixture(params=["locks", "no locks"])
def _with_and_without_locks(request, monkeypatch):
    if request.param == "no locks":
        refuse_locks(monkeypatch)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.usefixtures("_with_and_without_locks")
def test_a_folder_is_held_once_and_free_again(tmp_path):
    folder = tmp_path / "a" / "run"
    for _ in range(2):  # one after the other
        with hold(folder):
            before = (folder / NAME).read_bytes()
            with pytest.raises(UserError, match=f"`task=pretrain`, process {os.getpid()} on"):
                hold(folder, "check").__enter__()
            assert (folder / NAME).read_bytes() == before
            with hold(folder / "inner", "classification"):  # as evaluate's own runs
                pass
        assert not folder.exists()  # it was made for the lock, and nothing was put there


@pytest.mark.usefixtures("_with_and_without_locks")
def test_an_error_gives_the_folder_up(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt), hold(tmp_path):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_who_holds_it_is_named_and_a_killed_one_makes_room(tmp_path, holder, capsys):
    with pytest.raises(UserError) as caught:
        hold(tmp_path).__enter__()
    for part in (str(tmp_path), "`task=pretrain`", f"process {holder.pid} on", "since 20",
                 "`pretrain_save_path`"):  # fmt: skip
        assert part in str(caught.value)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / NAME).exists()
    with hold(tmp_path):
        note = capsys.readouterr().err
    assert f"process {holder.pid} on" in note and "takes over" in note
    assert not (tmp_path / NAME).exists()


def test_without_locks_a_process_that_lives_keeps_the_folder(tmp_path, holder, monkeypatch, capsys):
    refuse_locks(monkeypatch)
    with pytest.raises(UserError, match=rf"process {holder.pid} .*remove .*{NAME}"):
        hold(tmp_path).__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold(tmp_path):
        assert "takes over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ({"birth": "another start of the machine 17"}, True),  # the number was given anew
        ({"host": "another"}, False),  # cannot be told from here
        ({}, False),
    ],
    ids=["reused", "elsewhere", "same"],
)
def test_without_locks_what_the_file_says_decides(tmp_path, monkeypatch, said, taken):
    with hold(tmp_path):
        holder = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps(holder | said))
    refuse_locks(monkeypatch)
    if taken:
        with hold(tmp_path):
            assert json.loads((tmp_path / NAME).read_text())["birth"] == holder["birth"]
    else:
        with pytest.raises(UserError, match="remove"):
            hold(tmp_path).__enter__()


def test_a_lock_that_says_nothing_is_no_hindrance(tmp_path):
    (tmp_path / NAME).write_text("{torn")
    with hold(tmp_path):
        pass
    assert not (tmp_path / NAME).exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(UserError, match="Expected a folder"):
        hold(tmp_path / "run").__enter__()


@pytest.mark.parametrize("task", ["pretrain", "classification", "segmentation", "check", "embed"])
@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_task_leaves_a_folder_that_is_held_as_it_is(tmp_path, capsys, task, flag):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000001.safetensors").write_bytes(b"x")
    (tmp_path / "config.yaml").write_text(f"task: {task}\n")
    if task in ("check", "embed") and flag == "--resume":
        return  # refused before
    save = "pretrain_save_path" if task == "pretrain" else "finetune_save_path"
    with hold(tmp_path):
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
        assert main.main([f"--task={task}", f"--{save}={tmp_path}", flag]) == 2
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    error = capsys.readouterr().err
    assert f"process {os.getpid()}" in error and f"--{save}" in error
