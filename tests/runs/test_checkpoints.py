"""Checkpoints: whole or not at all, the last few kept, and a run folder that is not overwritten."""

from __future__ import annotations

import errno
import itertools
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file
from tiny import policy, tiny_simclr, tiny_views

from simclr_tf.config.settings import Config
from simclr_tf.errors import UserError
from simclr_tf.losses.contrastive import NTXent
from simclr_tf.optimizers import NAMES, make_optimizer
from simclr_tf.runs.checkpoints import (
    Checkpoints,
    fault_of,
    named_variables,
    numbered_variables,
    read_arrays,
    restore,
    step_of,
)
from simclr_tf.runs.folder import RunFolder
from simclr_tf.schedules import WarmupCosine
from simclr_tf.workflow.weights import pretrained_source


def variables(**values):
    """Named variables with these values."""
    return {k: keras.Variable(np.asarray(v, np.float32), name=k) for k, v in values.items()}


def trained(steps, name="lars"):
    """A model after some steps, and all that a checkpoint of it holds."""
    model = tiny_simclr()
    schedule = WarmupCosine(0.1, warmup_steps=2, total_steps=9)
    optimizer = make_optimizer(
        name, learning_rate=schedule, weight_decay=1e-4, variables=model.trainable_variables
    )
    model.compile(optimizer, NTXent(0.5))
    if steps:
        model.fit(tf.data.Dataset.from_tensors(tiny_views(4)).repeat(steps), verbose=0)
    state = {
        **named_variables("encoder", model.encoder.variables),
        **named_variables("head", model.head.variables),
        **numbered_variables("optimizer", model.optimizer.variables),
    }
    return model, state


def values(state):
    return {name: variable.numpy() for name, variable in state.items()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- Files ---


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_comes_back_as_it_was(name, tmp_path):
    def stepped(count, state=None):
        layer = keras.layers.Dense(3, name="dense")
        layer.build((None, 2))
        layer.kernel.assign([[1.0, 2, 3], [4, 5, 6]])
        optimizer = make_optimizer(
            name, learning_rate=0.1, weight_decay=1e-2, variables=layer.trainable_variables
        )
        held = {
            **named_variables("layer", layer.variables),
            **numbered_variables("optimizer", optimizer.variables),
        }
        if state is not None:
            restore(held, state, "test")
        for _ in range(count):
            gradients = [0.1 * v.value + 0.3 for v in layer.trainable_variables]
            optimizer.apply(gradients, layer.trainable_variables)
        return held

    folder = Checkpoints(tmp_path)
    arrays = read_arrays(folder.save(stepped(3), step=3))
    resumed, straight = values(stepped(2, arrays)), values(stepped(5))
    assert resumed.keys() == straight.keys()
    for key in straight:
        np.testing.assert_array_equal(resumed[key], straight[key], err_msg=key)


def test_a_run_that_is_restored_goes_on_bit_for_bit(tmp_path):
    _, half = trained(2)
    arrays = read_arrays(Checkpoints(tmp_path).save(half, step=2))
    assert set(arrays) == set(half)
    model, state = trained(0)
    restore(state, arrays, "test")
    for key, value in values(state).items():
        np.testing.assert_array_equal(value, arrays[key], err_msg=key)
    model.fit(tf.data.Dataset.from_tensors(tiny_views(4)).repeat(2), verbose=0)
    _, straight = trained(4)
    for key, value in values(straight).items():
        np.testing.assert_array_equal(state[key].numpy(), value, err_msg=key)


def test_the_newest_few_are_kept_and_found(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new" / "folder", keep=2)
    assert checkpoints.files() == []
    assert checkpoints.newest() is None
    for step in (5, 50, 1_000_000):
        path = checkpoints.save(variables(a=step), step=step)
        assert checkpoints.newest() == path
        assert step_of(path) == step
    assert [step_of(path) for path in checkpoints.files()] == [50, 1_000_000]
    assert read_arrays(checkpoints.newest())["a"] == 1_000_000


def test_one_is_kept_by_default_and_a_step_may_be_saved_again(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step, value in ((1, 1.0), (2, 2.0), (2, 3.0)):
        checkpoints.save(variables(a=value), step=step)
    assert names(tmp_path) == ["step-000000002.safetensors"]
    assert read_arrays(checkpoints.newest())["a"] == 3.0


def test_a_kill_while_saving_leaves_the_one_before_as_the_newest(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    before = checkpoints.save(variables(a=[1.0, 2.0]), step=1)

    def killed(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)  # nor is it tidied up
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(variables(a=[3.0, 4.0]), step=2)
    # All but its name is there.
    assert names(tmp_path) == [before.name, "step-000000002.safetensors.partial"]
    assert checkpoints.newest() == before
    np.testing.assert_array_equal(read_arrays(before)["a"], [1.0, 2.0])
    after = checkpoints.save(variables(a=[3.0, 4.0]), step=2)
    assert names(tmp_path) == [after.name]
    after.with_name("best.safetensors.partial").write_bytes(b"half of a fi")
    checkpoints.remove_partial()
    assert names(tmp_path) == [after.name]


def test_an_old_one_goes_only_once_the_new_one_is_on_disk(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    old = checkpoints.save(variables(a=1.0), step=1)
    events = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*arguments, name=name, real=real):
            events.append((name, old.exists()))
            return real(*arguments)

        monkeypatch.setattr(os, name, noted)
    checkpoints.save(variables(a=2.0), step=2)
    # The file, its name, the folder that holds the name: all before the old one goes.
    assert events == [("fsync", True), ("replace", True), ("fsync", True)]
    assert not old.exists()


def test_what_was_passed_by_goes_before_what_is_whole(tmp_path):
    """Damaged files of later steps do not count among those kept."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (7, 14, 21, 28):
        Checkpoints(tmp_path, keep=4).save(variables(a=step), step=step)
    for path in checkpoints.files()[2:]:
        path.write_bytes(b"")
    assert step_of(checkpoints.newest_good()) == 14
    checkpoints.save(variables(a=16.0), step=16)
    assert [step_of(path) for path in checkpoints.files()] == [14, 16]


def test_files_of_others_are_neither_taken_nor_dropped(tmp_path):
    for name in ("step-best.safetensors", "notes.txt", "other.safetensors"):
        (tmp_path / name).write_text("x")
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(variables(a=1.0), step=1)
    assert checkpoints.files() == [path]
    assert len(names(tmp_path)) == 4


def test_a_missing_file_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="Expected a checkpoint in safetensors format at .*absent"):
        read_arrays(tmp_path / "absent.safetensors")


DAMAGES = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[:-7],
    "longer": lambda whole: whole + b"\0\0\0\0",
    "text": lambda whole: b"hello world, hello",
    "no header": lambda whole: whole[40:],
    "zeros": lambda whole: bytes(len(whole)),
    "zeros in the middle": lambda whole: whole[:-40] + bytes(32) + whole[-8:],
    "a picture": lambda whole: b"\x89PNG\r\n\x1a\n" + whole[8:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_the_users_mistake(tmp_path, damage):
    path = Checkpoints(tmp_path).save(variables(a=1 + np.arange(100.0)), step=1)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError, match=rf"safetensors format at .*{path.name}"):
        read_arrays(path)
    assert fault_of(path)


def test_every_flipped_bit_is_found(tmp_path, monkeypatch):
    """In header and data alike, but for the words by which a checksum is known as one."""
    path = Checkpoints(tmp_path).save(variables(a=[1.0, 2.0], bc=3.0, none=[]), step=12)
    whole = path.read_bytes()
    assert not fault_of(path)
    words = {
        i
        for w in (b'"checksum"', b"crc32:")
        for i in range(whole.index(w), whole.index(w) + len(w))
    }
    for bit in (bit for bit in range(8 * len(whole)) if bit // 8 not in words):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        monkeypatch.setattr("pathlib.Path.read_bytes", lambda _, content=bytes(damaged): content)
        assert fault_of(path), f"bit {bit % 8} of byte {bit // 8}: {bytes(damaged)!r}"


def test_a_file_from_before_there_were_checksums_is_read(tmp_path):
    path = tmp_path / "step-000000003.safetensors"
    save_file({"a": np.float32([1.0])}, path, metadata={"step": "3"})
    assert read_arrays(path) == {"a": np.float32([1.0])}
    other = tmp_path / "other.safetensors"
    save_file({"a": np.float32([1.0])}, other, metadata={"format": "pt", "from": "elsewhere"})
    assert read_arrays(other).keys() == {"a"}
    with pytest.raises(UserError, match="does not say after which step"):
        step_of(other)


@pytest.mark.parametrize(
    "metadata",
    [
        {"checksum": "sha256:12"},
        {"step": "3", "checksum": "0f"},
        {"step": "3", "format": "pt"},
    ],
)
def test_checksums_of_others_are_not_judged(tmp_path, metadata):
    path = tmp_path / "other.safetensors"
    save_file({"a": np.float32([1.0])}, path, metadata=metadata)
    assert not fault_of(path)
    save_file({"a": np.float32([1.0])}, path, metadata={"step": "3", "checksum": "crc32:00000000"})
    assert "checksum differs" in fault_of(path)


def test_a_reader_lists_again_where_a_run_has_dropped_what_it_was_to_read(tmp_path, monkeypatch):
    run, reader = Checkpoints(tmp_path), Checkpoints(tmp_path)
    first, read = run.save(variables(a=1.0), step=1), type(tmp_path).read_bytes

    def read_late(path):
        if path == first:
            run.save(variables(a=2.0), step=2)
        return read(path)

    monkeypatch.setattr("pathlib.Path.read_bytes", read_late)
    assert reader.newest_good() == run.path_of(2)
    # A link to nowhere does not go away.
    run.path_of(3).symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="No such file"):
        reader.newest_good()


def test_what_a_reader_has_picked_stays_though_the_run_drops_it(tmp_path, monkeypatch):
    run, reader = Checkpoints(tmp_path), Checkpoints(tmp_path)
    first = run.save(variables(a=1.0), step=1)
    assert reader.newest_held() == first
    run.save(variables(a=2.0), step=2)
    assert not first.exists()
    for _ in range(2):  # the encoder, then the projection head
        assert read_arrays(first)["a"] == 1.0
    named = Config(init_weights=str(first))  # as an evaluation hands it to its fine-tuning
    assert pretrained_source(named) == first
    good, steps = reader.newest_good, iter(range(3, 14))

    def dropped_at_once():
        path = good()
        for step in itertools.islice(steps, 1):
            run.save(variables(a=3.0), step=step)
        return path

    monkeypatch.setattr(reader, "newest_good", dropped_at_once)
    with pytest.raises(UserError, match="10 that were dropped at once.*`keep_checkpoints`"):
        reader.newest_held()
    assert reader.newest_held() == run.path_of(13)  # after it 12 was dropped
    with pytest.raises(UserError, match="No such file"):
        read_arrays(first)  # one file is held, not more


def test_a_file_that_may_not_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch):
    """Else a run would go on from an older one and in time remove it."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(variables(a=1.0), step=1)
    newest = checkpoints.save(variables(a=2.0), step=2)

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", refused)
    with pytest.raises(UserError, match=rf"{newest.name}, got: Permission denied"):
        checkpoints.newest_good()


def test_the_newest_that_is_whole_is_taken_and_the_damaged_are_named_once(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.newest_good() is None
    first, second, third = (checkpoints.save(variables(a=i), step=i) for i in (1, 2, 3))
    assert checkpoints.newest_good() == third
    third.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-1])
    assert capsys.readouterr().err == ""
    for _ in range(2):
        assert checkpoints.newest_good() == first
    error = capsys.readouterr().err
    assert error.count("warning") == 1
    assert f"{third} (it is empty)" in error and f"{second} (no whole safetensors file" in error
    assert f"Takes {first} instead" in error
    first.write_text("x")
    with pytest.raises(UserError, match="got 3 damaged") as caught:
        checkpoints.newest_good()
    assert all(str(path) in str(caught.value) for path in (first, second, third))


def test_the_newest_stands_in_for_the_best_where_that_is_damaged(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path)
    newest = checkpoints.save(variables(a=1.0), step=4)
    assert checkpoints.best_or_newest() == newest
    assert checkpoints.step_of_best() is None
    checkpoints.save_best(variables(a=2.0), step=3)
    assert checkpoints.best_or_newest() == checkpoints.best
    assert checkpoints.step_of_best() == 3
    assert capsys.readouterr().err == ""
    checkpoints.best.write_bytes(b"")
    assert checkpoints.best_or_newest() == newest
    assert checkpoints.step_of_best() is None
    error = capsys.readouterr().err
    assert f"{checkpoints.best} (it is empty). Takes {newest} instead" in error
    newest.unlink()
    with pytest.raises(UserError, match="got: it is empty"):
        checkpoints.best_or_newest()


def test_the_loss_scale_and_the_scaled_optimizers_state_are_saved_too():
    with policy("mixed_float16"):
        model, state = trained(1)
    held = {v.path.rsplit("/", 1)[-1] for v in model.optimizer.variables}
    assert {"dynamic_scale", "step_counter", "iteration"} <= held
    velocities = model.optimizer.inner_optimizer.velocities
    assert len(velocities) == len(model.trainable_variables)
    kept = {id(v) for v in state.values()}
    assert all(id(v) in kept for v in velocities)


# --- Names and restoring ---


def test_names_are_paths_and_positions():
    model, state = trained(0)
    assert "encoder/conv/kernel" in state
    assert "encoder/norm/moving_mean" in state
    assert "head/head/stack/dense2/kernel" in state
    assert len(state) == len(model.weights) + len(model.optimizer.variables)
    assert list(trained(0)[1]) == list(state)


def test_two_variables_of_one_path_are_refused():
    twice = [keras.Variable(1.0, name="a"), keras.Variable(2.0, name="a")]
    with pytest.raises(ValueError, match="paths of their own, got x/a twice"):
        named_variables("x", twice)


def test_a_mismatch_lists_all_that_is_wrong_and_changes_nothing():
    held = variables(good=[1.0], missing=[2.0, 2.0], shape=[3.0])
    arrays = {"good": np.float32([9.0]), "shape": np.zeros((2, 2), np.float32)}
    with pytest.raises(UserError) as caught:
        restore(held, arrays, "file.safetensors")
    message = str(caught.value)
    for part in ("file.safetensors", "got 2 that do not", "- missing missing (2,)",
                 "- shape: expected (1,), got (2, 2)", "`width_multiplier`"):  # fmt: skip
        assert part in message
    assert "good" not in message
    assert held["good"].numpy() == 1.0


def test_a_long_list_of_mismatches_is_cut_short():
    held = variables(**{f"v{i:02}": [0.0] for i in range(33)})
    with pytest.raises(UserError, match=r"got 33 that do not") as caught:
        restore(held, {}, "file")
    assert str(caught.value).count("- missing") == 20
    assert "... 13 more" in str(caught.value)


def test_arrays_beyond_those_asked_for_are_left_aside():
    held = variables(a=0.0)
    restore(held, {"a": np.float32(5.0), "b": np.zeros(3)}, "file")
    assert held["a"].numpy() == 5.0


# --- The run folder ---


def begin(path, *, resume=False, overwrite=False):
    folder = RunFolder(path)
    folder.begin("pretrain", resume=resume, overwrite=overwrite, flag="pretrain_save_path")
    return folder


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has begun, with a file of the user's own."""
    folder = begin(tmp_path / "logs" / "run")
    folder.checkpoints.save(variables(a=1.0), step=7)
    folder.add_row({"epoch": 1, "step": 7, "loss": 2.5})
    folder.write_config("task: pretrain\nseed: 0\n")
    folder.plots.mkdir()
    (folder.plots / "loss.png").write_text("x")
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "images").mkdir()
    (folder.path / "images" / "cat.png").write_text("mine")
    return folder


def test_a_new_run_makes_its_folder(tmp_path):
    folder = begin(tmp_path / "a" / "b")
    assert folder.path.is_dir()
    assert names(folder.path) == []  # a run that is refused leaves nothing


def test_a_folder_with_other_files_is_no_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    begin(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_is_not_overwritten_unasked(run, finished):
    if finished:
        run.write_results({"loss": 1.0})
    state = "a finished" if finished else "an unfinished"
    with pytest.raises(
        UserError, match=rf"got {state} one.*`resume`.*`overwrite`.*`pretrain_save_path`"
    ):
        begin(run.path)
    assert run.checkpoints.newest() is not None


def test_a_finished_run_without_checkpoints_is_not_overwritten_either(tmp_path):
    RunFolder(tmp_path).write_config("task: pretrain\n")
    RunFolder(tmp_path).write_results({"accuracy": 1.0})
    with pytest.raises(UserError, match="finished"):
        begin(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == {"accuracy": 1.0}


def test_overwriting_removes_the_run_and_nothing_else(run):
    run.write_results({"loss": 1.0})
    before = names(run.path)
    again = begin(run.path, overwrite=True)
    assert names(run.path) == before  # a run that fails as it begins has cost nothing
    again.clear()
    assert names(run.path) == ["images", "notes.txt"]
    assert names(run.path / "images") == ["cat.png"]


@pytest.mark.parametrize("name", ["plots", "results.json", "config.yaml"])
def test_what_no_run_has_written_is_neither_replaced_nor_cleared(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.png").write_text("mine")
    with pytest.raises(UserError, match=rf"got {name} of other origin.*`pretrain_save_path`"):
        begin(tmp_path, overwrite=True)
    RunFolder(tmp_path).clear()
    assert names(tmp_path / name) == ["mine.png"]


def test_what_only_another_task_writes_is_the_users(run):
    (run.path / "features.npz").write_text("mine")
    with pytest.raises(UserError, match="got features.npz of other origin"):
        RunFolder(run.path).begin("embed", resume=False, overwrite=True, flag="finetune_save_path")
    begin(run.path, overwrite=True).clear()
    assert (run.path / "features.npz").exists()


def test_a_run_without_its_settings_is_nobodys(run):
    (run.path / "config.yaml").unlink()
    before = names(run.path)
    for how in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match="got checkpoints, plots, .*restore the config.yaml"):
            begin(run.path, **how)
    assert names(run.path) == before


def test_resuming_keeps_everything(run):
    before = names(run.path)
    again = begin(run.path, resume=True)
    assert names(run.path) == before
    assert step_of(again.checkpoints.newest()) == 7


def test_resuming_needs_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no checkpoint there.*`resume`.*`pretrain_save_path`"):
        begin(tmp_path, resume=True)


def test_the_journal_is_read_back_up_to_the_checkpoint(run):
    run.add_row({"epoch": 2, "step": 14, "loss": 2.0, "knn_accuracy": 0.5})
    run.add_row({"epoch": 3, "step": 21, "loss": 1.5})
    again = RunFolder(run.path)
    again.resume_rows(14)
    again.add_row({"epoch": 3, "step": 21, "loss": 1.25})
    assert [row["loss"] for row in again.rows] == [2.5, 2.0, 1.25]
    lines = (run.path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "epoch,step,loss,knn_accuracy"
    assert lines[1:] == ["1,7,2.5,", "2,14,2.0,0.5", "3,21,1.25,"]
    assert not list(run.path.glob("*.partial"))


def test_numbers_of_the_journal_survive_reading(run):
    row = {
        "epoch": 2,
        "step": 14,
        "tiny": 1.5e-07,
        "huge": 1e22,
        "whole": 3.0,
        "none": float("nan"),
    }
    run.add_row(row)
    again = RunFolder(run.path)
    again.resume_rows(14)
    assert again.rows[1].pop("none") != again.rows[1]["tiny"]  # nan differs from all
    row.pop("none")
    assert {k: again.rows[1][k] for k in row} == row
    assert isinstance(again.rows[1]["whole"], float)
    assert isinstance(again.rows[1]["step"], int)


@pytest.mark.parametrize(
    ("journal", "said"),
    [
        ("step,loss\n7,1\n", "epoch missing"),
        ("epoch,loss\n1,1\n", "step missing"),
        ("epoch,step\n,7\n", "epoch "),
        ("epoch,step\n1,nan\n", "step nan"),
        ("epoch,step\n1,-7\n", "step -7"),
        ("epoch,step\n1.5,7\n", "epoch 1.5"),
    ],
)
def test_a_journal_that_does_not_say_when_is_refused(run, journal, said):
    path = run.path / "metrics.csv"
    path.write_text(journal)
    (run.path / "results.json").write_text("{}")
    with pytest.raises(UserError, match=f"{said}.*Mend or remove"):
        RunFolder(run.path).cut_back(3)
    assert path.read_text() == journal and (run.path / "results.json").exists()


def test_the_last_numbers_are_those_that_are_some(run):
    run.rows = [{"epoch": 1, "step": 7, "skipped_steps": 2}]
    run.rows.append({"epoch": 2, "step": 14, "skipped_steps": "", "loss": float("nan")})
    assert run.last_numbers() == {"epoch": 2, "step": 14}
    run.rows[-1]["loss"] = 1.5
    assert run.known("loss") == 1.5
    run.write_results({"loss": 2.5, "step": None, "none": "2"})
    assert run.known("loss") == 2.5 and run.known("step") == 14 and run.known("none") is None
    (run.path / "results.json").write_text(f'{{"loss": {10**400}}}')
    assert run.known("loss") == 10**400  # read, whatever it is
    (run.path / "results.json").write_text("[")
    assert run.known("loss") == 1.5
    run.rows = []
    assert run.last_numbers() == {}


def test_results_are_written_whole(run):
    run.write_results({"loss": 1.0, "task": "pretrain"})
    assert json.loads((run.path / "results.json").read_text()) == {"loss": 1.0, "task": "pretrain"}
    assert not list(run.path.glob("*.partial"))
