"""Nothing lost: damaged checkpoints, full disks, moved folders and folders of other versions."""

from __future__ import annotations

import csv
import errno
import json
import os
import resource
import shutil
import signal
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator

import main
from simclr_tf import atomic_write, plots
from simclr_tf.atomic_write import NotWritten, spell_bytes, write_whole
from simclr_tf.config.settings import Config
from simclr_tf.errors import UserError
from simclr_tf.runs import format
from simclr_tf.runs.checkpoints import fault_of, read_arrays, size_of
from simclr_tf.runs.folder import RunFolder
from simclr_tf.tasks import segmentation
from simclr_tf.workflow import disk
from simclr_tf.workflow.loop import _name_slow_saving
from simclr_tf.workflow.weights import pretrained_source

pytestmark = pytest.mark.usefixtures("shallow")

FULL = os.strerror(errno.ENOSPC)


def steps_in(folder):
    return [int(path.stem[5:]) for path in RunFolder(folder).checkpoints.files()]


def partials_in(folder):
    return list(folder.rglob("*.partial"))


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """What pre-trains three epochs of two steps on 16 images without labels, checkpoints of all."""
    file = tmp_path_factory.mktemp("data") / "images.npz"
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8)
    np.savez(file, x_train=images)
    return [
        "--task=pretrain",
        f"--dataset=npz:{file}",
        "--width_multiplier=0.0625",
        "--zdim=4",
        "--batch_size=8",
        "--num_epochs=3",
        "--precision=float32",
    ]


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    """The folder of such a run."""
    folder = tmp_path_factory.mktemp("logs") / "pretrain"
    assert main.main([*flags, f"--pretrain_save_path={folder}"]) == 0
    return folder


@pytest.fixture
def begun(finished, tmp_path):
    """A copy of it whose last checkpoint is damaged: two of three epochs are left."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    cut(RunFolder(folder).checkpoints.newest())
    return folder


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


# --- Damaged checkpoints, and folders that were moved ---


def journal_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def points_of(folder):
    """What TensorBoard's reader finds: (split, name, epoch from 0, value), but the pace."""
    points = []
    for split in sorted((folder / "tensorboard").iterdir()):
        events = EventAccumulator(str(split), size_guidance={TENSORS: 0}).Reload()
        for name in events.Tags()[TENSORS]:
            if name not in ("epoch_images_per_second", "views"):
                found = [(e.step, tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(name)]
                points += [(split.name, name, step, float(value)) for step, value in found]
    return sorted(set(points))  # an epoch that is taken again is there twice


def test_a_run_goes_on_bit_for_bit_from_the_newest_that_is_whole(finished, begun, flags, capsys):
    """Moved, without the statement of its format, and with an older file that is whole."""
    assert steps_in(finished) == [2, 4, 6]
    config = begun / "config.yaml"
    content = yaml.safe_load(config.read_text())
    assert content.pop(format.KEY)["format"] == format.VERSION
    # Where it was is no longer.
    content["pretrain_save_path"] = str(begun.parent / "where it was")
    config.write_text(yaml.safe_dump(content))
    assert main.main([f"--config={config}", "--resume"]) == 0
    out, error = capsys.readouterr()
    assert error.count("warning: damaged") == 1
    assert "step-000000006.safetensors (no whole safetensors file" in error
    assert "Takes" in error and "step-000000004.safetensors instead" in error
    assert f"goes on with that in {begun}" in out and "resumed at step 4" in out
    assert not (begun.parent / "where it was").exists()
    assert steps_in(begun) == [2, 4, 6]
    assert journal_of(begun) == journal_of(finished)
    arrays, expected = (
        read_arrays(RunFolder(folder).checkpoints.newest()) for folder in (begun, finished)
    )
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    results = json.loads((begun / "results.json").read_text())
    assert results["checkpoint_seconds"] > 0
    assert not (begun / ".lock").exists()
    points = points_of(begun)
    assert points == points_of(finished) and ("train", "epoch_loss", 2) in [p[:3] for p in points]


def test_a_run_without_a_whole_checkpoint_is_not_resumed(begun, flags, capsys):
    for path in RunFolder(begun).checkpoints.files():
        cut(path)
    assert main.main([*flags, f"--pretrain_save_path={begun}", "--resume"]) == 2
    error = capsys.readouterr().err
    assert "got 3 damaged" in error
    assert all(f"step-00000000{step}" in error for step in (2, 4, 6))
    assert "Traceback" not in error


def test_other_tasks_take_the_newest_that_is_whole_too(begun, capsys):
    newest = RunFolder(begun).checkpoints.newest()
    for settings in (
        {"pretrain_save_path": begun},
        {"init_weights": begun},
    ):
        source = pretrained_source(Config.resolve(**settings))
        assert source.name == "step-000000004.safetensors"
        assert str(newest) in capsys.readouterr().err
    # One that was asked for by name is not replaced by another.
    named = pretrained_source(Config.resolve(init_weights=newest))
    assert named == newest
    with pytest.raises(UserError, match=newest.name):
        read_arrays(named)


def test_a_segmentation_reports_its_last_weights_where_the_best_are_damaged(tmp_path, capsys):
    run = SimpleNamespace(folder=RunFolder(tmp_path))
    checkpoints = run.folder.checkpoints
    run.folder.rows = [{"step": 3, "val_mean_iou": 0.5}, {"step": 6, "val_mean_iou": 0.4}]
    checkpoints.save_best({"a": keras.Variable(1.0)}, step=3)
    assert segmentation._best_row(run)["step"] == 3
    cut(checkpoints.best)
    assert segmentation._best_row(run) is None
    assert f"{checkpoints.best} (no whole" in capsys.readouterr().err
    assert not checkpoints.best.exists()  # nor does predict take it


def test_the_best_weights_stay_where_the_journal_was_removed(tmp_path, capsys):
    run = SimpleNamespace(folder=RunFolder(tmp_path))
    checkpoints = run.folder.checkpoints
    checkpoints.save({"a": keras.Variable(1.0)}, step=6)
    checkpoints.save_best({"a": keras.Variable(1.0)}, step=3)
    assert segmentation._best_row(run) == {"step": 3}
    segmentation._name_unknown_best(run, 6)
    assert f"no journal says how good {checkpoints.best} of step 3 is" in capsys.readouterr().err
    for step in (0, 2):  # a new run; one that was killed before it wrote of them
        segmentation._name_unknown_best(run, step)
    run.folder.rows = [{"step": 3, "val_mean_iou": 0.5}]
    segmentation._name_unknown_best(run, 6)
    assert capsys.readouterr().err == ""
    run.folder.rows = [{"step": 2, "val_mean_iou": 0.5}]
    assert segmentation._best_row(run) is None and not checkpoints.best.exists()
    run.folder.rows = []
    checkpoints.save_best({"a": keras.Variable(1.0)}, step=9)  # after the end
    assert segmentation._best_row(run) is None and not checkpoints.best.exists()


def test_behind_a_damaged_checkpoint_an_epoch_keeps_its_means(finished, flags, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    checkpoints = RunFolder(folder).checkpoints
    damaged = bytearray(checkpoints.path_of(4).read_bytes())
    damaged[-1] ^= 1
    for step in (4, 6):
        checkpoints.path_of(step).unlink()
    command = [*flags, f"--pretrain_save_path={folder}", "--resume"]
    assert main.main([*command, "--max_steps=3"]) == 0
    checkpoints.path_of(4).write_bytes(damaged)
    assert main.main([*command, "--max_steps=4"]) == 0
    assert "resumed at step 3 from" in capsys.readouterr().out
    assert journal_of(folder) == journal_of(finished)[:3]


def test_a_finished_run_without_its_journal_keeps_its_numbers(finished, flags, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "metrics.csv").unlink()
    assert main.main([*flags, f"--pretrain_save_path={folder}", "--resume"]) == 0
    before, after = (json.loads((f / "results.json").read_text()) for f in (finished, folder))
    for name in ("images_per_second", "checkpoint_seconds", "steps"):
        assert after[name] == before[name] > 0
    assert after["loss"] is None


def test_the_journal_is_cut_back_on_disk(begun):
    folder = RunFolder(begun)
    folder.cut_back(4)
    assert [row["step"] for row in folder.rows] == [0, 2, 4]
    assert [int(row["step"]) for row in journal_of(begun)] == [0, 2, 4]
    assert not (begun / "results.json").exists()  # it speaks of step 6
    again = RunFolder(begun)
    again.checkpoints.newest().unlink()
    again.write_results({})
    again.cut_back(4)
    assert (begun / "results.json").exists()


# --- Disks that take no more ---


@pytest.fixture
def small_files():
    """Sets the largest size of a file, of the system, for the test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)  # Python ignores SIGXFSZ

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_finds_no_room_ends_the_run(begun, flags, small_files, capsys):
    newest = RunFolder(begun).checkpoints.newest()
    good = RunFolder(begun).checkpoints.files()[-2]
    damaged = newest.read_bytes()
    small_files(good.stat().st_size - 1)
    handler = signal.getsignal(signal.SIGINT)
    code = main.main([*flags, f"--pretrain_save_path={begun}", "--resume"])
    small_files(resource.RLIM_INFINITY)
    error = capsys.readouterr().err
    assert code == 2
    assert f"{newest} ({spell_bytes(good.stat().st_size)}), got: File too large" in error
    assert f"--resume then goes on from {good}" in error and "free" in error
    assert "Traceback" not in error
    assert not partials_in(begun)
    assert not fault_of(good)
    assert not newest.exists() or newest.read_bytes() == damaged
    assert not (begun / ".lock").exists()
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("number", atomic_write.DISK_FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("at", ["write", "fsync", "replace"])
def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch, number, at):
    path = tmp_path / "results.json"
    path.write_text("before")

    def fails(*arguments):
        raise OSError(number, os.strerror(number))

    def save(partial):
        partial.write_text("half")
        if at == "write":
            fails()

    if at != "write":
        monkeypatch.setattr(os, at, fails)
    with pytest.raises(NotWritten) as caught:
        write_whole(path, save, sync=True, need=5_000_000)
    assert os.strerror(number) in str(caught.value)
    assert f"{path} (5 MB)" in str(caught.value) and "free" in str(caught.value)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_fault_is_of_the_file_that_the_system_names(tmp_path):
    other = tmp_path / "elsewhere"

    def fails_there(number):
        def save(partial):
            raise OSError(number, os.strerror(number), str(other))

        return save

    with pytest.raises(NotWritten, match=f"Expected to write {other}, got: No space"):
        write_whole(tmp_path / "results.json", fails_there(errno.ENOSPC), need=5)
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "results.json", fails_there(errno.EACCES))
    config, folder = Config.resolve(task="pretrain"), RunFolder(tmp_path / "run")
    for named, path in ((str(other), other), (None, folder.path)):
        with (
            pytest.raises(NotWritten, match=f"Expected to write {path}, got: No space"),
            disk.naming_the_way_on(config, folder),
        ):
            raise OSError(errno.ENOSPC, FULL, named)


def test_every_writer_of_a_run_leaves_what_was_there(tmp_path, small_files):
    """Journal, settings, facts, results, pictures, best weights, under a real limit."""
    folder = RunFolder(tmp_path)
    folder.begin("pretrain", resume=False, overwrite=False, flag="")
    weights = {"a": keras.Variable(np.arange(10_000.0))}
    writers = {
        "metrics.csv": lambda text: folder.add_row({"epoch": 1, "step": 1, "loss": text}),
        "config.yaml": lambda text: folder.write_config(f"seed: {text}\n"),
        "model.json": lambda text: folder.write_model(text=text),
        "results.json": lambda text: folder.write_results({"text": text}),
        "plots/x.png": lambda text: plots.plot_curves(
            {text[:9]: [1, 2]}, folder.plots / "x.png", title=""
        ),
        "checkpoints/best.safetensors": lambda text: folder.checkpoints.save_best(weights, step=1),
    }
    for write in writers.values():
        write("1")
    before = {name: (tmp_path / name).read_bytes() for name in writers}
    for name, write in writers.items():
        small_files(1000)
        with pytest.raises(NotWritten, match=name):
            write(5000 * "1")
        small_files(resource.RLIM_INFINITY)
        assert (tmp_path / name).read_bytes() == before[name]
    assert not partials_in(tmp_path)


def test_events_that_find_no_room_end_the_run_in_words(tmp_path, small_files):
    folder = RunFolder(tmp_path)
    folder.checkpoints.save({"a": keras.Variable(1.0)}, step=7)
    config = Config.resolve(task="pretrain")
    writer = tf.summary.create_file_writer(str(folder.tensorboard))
    with pytest.raises(NotWritten) as caught, disk.naming_the_way_on(config, folder):
        small_files(10)
        with writer.as_default():
            for step in range(50):
                tf.summary.scalar("loss", 1.0, step=step)
        writer.flush()
    small_files(resource.RLIM_INFINITY)
    writer.close()
    assert f"Expected to write {folder.tensorboard}, got: File too large" in str(caught.value)
    assert "--resume then goes on from" in str(caught.value)
    assert "step-000000007" in str(caught.value)


@pytest.mark.parametrize(
    ("task", "remedy"),
    [("pretrain", "no checkpoint was written yet"), ("check", "--overwrite then begins again")],
)
def test_the_way_on_is_the_tasks_own(tmp_path, task, remedy):
    config, folder = Config.resolve(task=task), RunFolder(tmp_path)
    with (
        pytest.raises(NotWritten, match=remedy),
        disk.naming_the_way_on(config, folder),
    ):
        raise OSError(errno.ENOSPC, FULL)
    # What is no fault of the disk goes on as it is.
    for error in (OSError(errno.ENOENT, "no"), tf.errors.ResourceExhaustedError(None, None, FULL)):
        with pytest.raises(type(error)), disk.naming_the_way_on(config, folder):
            raise error


@pytest.mark.parametrize("named", [True, False])
def test_a_disk_that_cannot_be_read_is_not_said_to_be_written(tmp_path, named):
    config, folder = Config.resolve(task="pretrain"), RunFolder(tmp_path / "run")
    file = [str(tmp_path / "photos" / "7.jpg")] if named else []
    with pytest.raises(UserError) as caught, disk.naming_the_way_on(config, folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO), *file)
    said = f"Expected to read {file[0] if named else 'the data'}, got: Input/output error. Check"
    assert str(caught.value).startswith(said) and "then begins again" in str(caught.value)
    ours = str(folder.path / "plots")
    with pytest.raises(NotWritten, match="plots"), disk.naming_the_way_on(config, folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO), ours)


def test_the_outer_run_has_the_last_word(tmp_path):
    """An evaluation fine-tunes within its own folder: that run is not to be resumed."""
    outer, inner = (Config.resolve(task=task) for task in ("evaluate", "classification"))
    folder = RunFolder(tmp_path)
    with (
        pytest.raises(NotWritten) as caught,
        disk.naming_the_way_on(outer, folder),
        disk.naming_the_way_on(inner, folder),
    ):
        raise OSError(errno.EDQUOT, "")
    assert "--overwrite" in str(caught.value) and "no checkpoint" not in str(caught.value)


@pytest.mark.parametrize(
    ("free", "overwrite", "outcome"),
    [
        (0.9, False, "refused"),
        (0.9, True, ""),  # the three that lie there go first
        (1.1, False, ""),
        (3.0, False, ""),
    ],
)
def test_room_is_looked_for_first(tmp_path, monkeypatch, capsys, free, overwrite, outcome):
    weights = {"a": keras.Variable(np.zeros(1_000_000, np.float32))}
    assert size_of(weights) == 4_000_000
    folder = RunFolder(tmp_path)
    folder.checkpoints.folder.mkdir()
    for step in (1, 2, 3):
        (folder.checkpoints.folder / f"step-{step:09d}.safetensors").write_bytes(bytes(4_000_000))
    monkeypatch.setattr(disk, "free_bytes", lambda path: free * 4e6)
    config = Config.resolve(task="pretrain", overwrite=overwrite, keep_checkpoints=3)
    if outcome == "refused":
        with pytest.raises(UserError, match=r"checkpoint of 4 MB in .*, got 3.6 MB.*--pretrain_"):
            disk.check_room(config, folder, weights)
        return
    disk.check_room(config, folder, weights)
    warned = "3 checkpoints and one being written take 16 MB" in capsys.readouterr().err
    assert warned == (free + 3 < 4)


def test_checkpoints_that_take_long_are_named(capsys):
    config = Config.resolve(save_every_epochs=2)
    _name_slow_saving(config, 1.9, 100.0)
    _name_slow_saving(config, 2.2, 10.0)  # 22 %, of seconds
    assert capsys.readouterr().out == ""
    _name_slow_saving(config, 5.0, 100.0)
    assert "5.0 of 100.0 seconds of training (5 %): pass a larger --save_every_epochs than 2" in (
        capsys.readouterr().out
    )


# --- Folders of other versions ---


def files_of(folder):
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*")}


@pytest.mark.parametrize(
    "command",
    [
        ["--task=pretrain", "--resume", "--pretrain_save_path={}"],
        ["--task=pretrain", "--overwrite", "--pretrain_save_path={}"],
        ["--config={}/config.yaml", "--resume", "--pretrain_save_path={}"],
        ["--task=classification", "--overwrite", "--finetune_save_path={}"],
        ["--task=predict", "--init_weights={}"],
        ["--task=evaluate", "--compare={},{}"],
    ],
    ids=" ".join,
)
def test_a_folder_of_a_later_version_is_left_alone(finished, tmp_path, capsys, command):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("  format: 1\n", "  format: 2\n"))
    before = files_of(folder)
    assert main.main([word.format(folder, folder) for word in command]) == 2
    error = capsys.readouterr().err
    for part in ("format 1", "got format 2 in", str(config), "written by simclr_tf 0."):
        assert part in error
    assert files_of(folder) == before


def test_what_cannot_be_read_of_a_version_is_not_guessed():
    for said in ("1", None, [], {}, {"format": "1"}, {"format": 0}):
        with pytest.raises(format.UnreadableFormat):
            format.take_settings({format.KEY: said}, "config.yaml")
    assert format.take_settings({"seed": 1}, "config.yaml") == {"seed": 1}
    stated = yaml.safe_load(format.state_format() + "seed: 1\n")
    assert format.take_settings(stated, "config.yaml") == {"seed": 1}


def test_a_setting_that_is_not_known_is_named(begun, flags, capsys):
    config = begun / "config.yaml"
    config.write_text(config.read_text() + "frobnicate: 3\n")
    for command in (
        [*flags, f"--pretrain_save_path={begun}", "--resume"],
        [f"--config={config}", "--resume"],
    ):
        assert main.main(command) == 2
        error = capsys.readouterr().err
        assert "frobnicate" in error and str(config) in error


def test_settings_that_cannot_be_read_are_the_users_to_mend(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.settings() is None and folder.task() is None
    for text in ("a: [", "- 1", "", "\0"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match="Expected the settings of a run"):
            folder.settings()
        assert folder.task() is None
