"""What a run refuses to go on with: other images or settings, an earlier end, a doubtful folder."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import yaml

import main
from simclr_tf.config.settings import Config
from simclr_tf.data.source import Source, from_arrays
from simclr_tf.errors import UserError
from simclr_tf.runs import format
from simclr_tf.runs.folder import RunFolder
from simclr_tf.workflow.fingerprint import record_of
from simclr_tf.workflow.plan import plan_steps
from simclr_tf.workflow.resume import begin_or_resume
from simclr_tf.workflow.run import Run
from simclr_tf.workflow.start import _where_it_was_moved
from simclr_tf.workflow.weights import adopt_encoder

WEIGHTS = {"a": keras.Variable(1.0)}


def begin(folder, config, source=None):
    """Begins a run on a source, up to a checkpoint at step 6."""
    plan = plan_steps(config, source) if source else None
    run = Run(config, None, RunFolder(folder), 0.0)
    begin_or_resume(run, WEIGHTS, plan=plan)
    RunFolder(folder).checkpoints.save(WEIGHTS, step=6)


def resume(folder, config, source):
    plan = plan_steps(config, source)
    run = Run(config.replace(resume=True), None, RunFolder(folder), 0.0)
    return begin_or_resume(run, WEIGHTS, plan=plan)


def settings(folder, **changes):
    given = {"task": "pretrain", "batch_size": 4, "num_epochs": 9, "pretrain_save_path": folder}
    return Config.resolve(**given | changes)


def files(*names, root="/data", labels=None):
    paths = tuple(f"{root}/{name}" for name in names)
    return Source("list", paths=paths, labels=None if labels is None else np.int32(labels))


EIGHT = [f"a/{i}.png" for i in range(5)] + [f"b/{i}.png" for i in range(3)]
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), np.uint8)
PIXELS[:, :] //= np.arange(1, 6, dtype=np.uint8)[:, None]  # whose means differ


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (files(*EIGHT), files(*EIGHT, "b/3.png"), r"9 images \(began with 8\)\. Restore"),
        (
            files(*EIGHT),
            files(*EIGHT[:7], root="elsewhere"),
            r"7 images \(began with 8\), 1 step an epoch \(began with 2\)",
        ),
        (files(*EIGHT), files(*EIGHT[:7], "c/2.png"), "8 as before, but with other names"),
        (files(*EIGHT), files(*EIGHT[::-1]), "other names, order"),
        (from_arrays(PIXELS), from_arrays(PIXELS[1:]), r"39 images \(began with 40\)"),
        (from_arrays(PIXELS), from_arrays(255 - PIXELS), "40 as before, but with other"),
        (from_arrays(PIXELS), from_arrays(PIXELS.swapaxes(1, 2)), "40 as before"),
        (from_arrays(PIXELS), files(*map(str, range(40))), "40 as before"),
    ],
)
def test_a_run_does_not_go_on_with_other_images(tmp_path, before, now, said):
    config = settings(tmp_path)
    begin(tmp_path, config, before)
    assert resume(tmp_path, config, before) == 6
    with pytest.raises(UserError, match=said):
        resume(tmp_path, config, now)


def test_folders_that_were_moved_and_pixels_that_round_are_the_same_images(tmp_path):
    config = settings(tmp_path)
    begin(tmp_path, config, files(*EIGHT))
    for root in ("/elsewhere/deep", "relative", "/"):
        assert resume(tmp_path, config, files(*EIGHT, root=root)) == 6
    # Labels matter where they are learnt from.
    assert resume(tmp_path, config, files(*EIGHT, labels=range(8))) == 6
    in_memory = dataclasses.replace(files(*EIGHT), images=PIXELS[:8])  # as --cache holds them
    assert resume(tmp_path, config, in_memory) == 6
    begin(tmp_path, config, from_arrays(PIXELS))
    assert resume(tmp_path, config, from_arrays(PIXELS ^ 1)) == 6


def test_labels_are_of_what_a_classification_began_with(tmp_path):
    config = settings(tmp_path, task="classification", finetune_save_path=tmp_path)
    begin(tmp_path, config, files(*EIGHT, labels=[0] * 8))
    with pytest.raises(UserError, match="or labels"):
        resume(tmp_path, config, files(*EIGHT, labels=[1] + [0] * 7))


def test_runs_that_do_not_say_what_they_began_with_go_on(tmp_path):
    config = settings(tmp_path)
    begin(tmp_path, config)
    assert RunFolder(tmp_path).data() is None
    assert resume(tmp_path, config, files(*EIGHT)) == 6
    # What was edited to no record is none either; a record with other words is another.
    for said, goes_on in ((3, True), ([], True), ({"images": 8, "means": "x"}, False)):
        content = yaml.safe_load((tmp_path / "config.yaml").read_text())
        content[format.KEY]["data"] = said
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        if goes_on:
            assert resume(tmp_path, config, files(*EIGHT)) == 6
        else:
            with pytest.raises(UserError, match="2 steps an epoch .began with None"):
                resume(tmp_path, config, files(*EIGHT))


def test_names_that_are_no_utf8_have_a_record():
    source = files("a\udcff.png", "b.png")
    record = record_of(source, steps_per_epoch=1, labels=False)
    assert record["images"] == 2 and len(record["crc32"]) == 8
    assert record != record_of(files("a.png", "b.png"), steps_per_epoch=1, labels=False)


def test_a_run_does_not_end_before_the_step_it_has_reached(tmp_path):
    config, source = settings(tmp_path), files(*EIGHT)
    begin(tmp_path, config, source)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"--max_steps of 6 or more.*got an end at step 5"):
        resume(tmp_path, config.replace(max_steps=5), source)
    assert resume(tmp_path, config.replace(max_steps=6), source) == 6
    assert (tmp_path / "results.json").exists()


def test_settings_of_the_encoder_are_refused_as_those_of_the_run(tmp_path, capsys):
    """Not with advice on --init_weights, which a resumed run does not read."""
    flags = {"task": "classification", "finetune_save_path": tmp_path}
    begin(tmp_path, Config.resolve(**flags, width_multiplier=0.0625, stem="small"))
    words = [f"--{name}={value}" for name, value in flags.items()]
    assert main.main([*words, "--resume", "--width_multiplier=0.125", "--stem=auto"]) == 2
    error = capsys.readouterr().err
    assert "--width_multiplier=0.125 (began with 0.0625)" in error
    assert "init_weights" not in error and "stem" not in error


def test_a_copied_run_asks_which_is_meant(tmp_path, capsys):
    old, new = tmp_path / "old", tmp_path / "new"
    config = settings(old)
    for folder in (old, new):
        folder.mkdir()
        begin(folder, config)
    path = str(new / "config.yaml")
    assert main.main([f"--config={path}", "--resume"]) == 2
    error = capsys.readouterr().err
    assert f"--pretrain_save_path={new} or --pretrain_save_path={old}" in error
    assert not (old / ".lock").exists()
    where = _where_it_was_moved
    asked = Config.resolve(config=path, resume=True)
    for chosen in (
        dataclasses.replace(asked, typed=frozenset({"pretrain_save_path"})),
        asked.replace(pretrain_save_path=str(tmp_path / "new/../old")),
        asked.replace(pretrain_save_path=str(new)),
        Config.resolve(config=str(old / "config.yaml"), resume=True),
        asked.replace(resume=False),
    ):
        assert where(chosen) == chosen
    (old / "checkpoints/step-000000006.safetensors").unlink()
    assert where(asked).pretrain_save_path == str(new)


def test_an_encoder_from_random_weights_goes_on_as_its_checkpoint_says(tmp_path):
    config = settings(tmp_path)
    begin(tmp_path, config, files(*EIGHT))
    assert config.normalize_input == "auto"
    assert resume(tmp_path, config.replace(normalize_input="none"), files(*EIGHT)) == 6
    with pytest.raises(UserError, match="normalize_input=imagenet"):
        resume(tmp_path, config.replace(normalize_input="imagenet"), files(*EIGHT))


def test_a_run_of_before_a_setting_had_what_the_setting_says_of_it(tmp_path):
    config = settings(tmp_path)
    begin(tmp_path, config, files(*EIGHT))
    path, older = tmp_path / "config.yaml", format.OLDER
    lines = path.read_text().splitlines()
    kept = [line for line in lines if line.partition(":")[0] not in older]
    assert len(kept) == len(lines) - len(older)
    path.write_text("\n".join(kept))
    assert resume(tmp_path, config, files(*EIGHT)) == 6
    for name, value in {"channels": 4, "label_pattern": "x", "normalize_input": "imagenet"}.items():
        with pytest.raises(UserError, match=rf"--{name}={value} \(began with {older[name]}\)"):
            resume(tmp_path, config.replace(**{name: value}), files(*EIGHT))
    checkpoint = RunFolder(tmp_path).checkpoints.newest()
    adopted = adopt_encoder(Config.resolve(channels=3), checkpoint)
    assert (adopted.channels, adopted.normalize_input) == (3, "none")
    with pytest.raises(UserError, match="--channels=3"):
        adopt_encoder(Config.resolve(channels=4), checkpoint)
