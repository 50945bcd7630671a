"""A pre-training run that was named, or is taken by itself, and is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import write_colour_classes

import main
from simclr_tf.config.settings import Config
from simclr_tf.workflow.missing_run import names_pretraining, runs_near, what_is_there

pytestmark = pytest.mark.usefixtures("shallow")

TINY = ["--width_multiplier=0.0625", "--batch_size=8", "--precision=float32"]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with pictures of 3 classes in `pictures` and a run in `logs/pretrain`."""
    root = tmp_path_factory.mktemp("here")
    write_colour_classes(root / "pictures", ("blue", "red"), np.random.default_rng(0))
    flags = [f"--dataset=folder:{root / 'pictures'}", f"--pretrain_save_path={root}/logs/pretrain"]
    assert main.main(["--task=pretrain", *flags, *TINY, "--zdim=8", "--max_steps=1"]) == 0
    return root


@pytest.fixture
def on_pictures(here, tmp_path, monkeypatch, capsys):
    """Runs a task on the pictures from their folder; returns exit code and what is printed."""
    monkeypatch.chdir(here)

    def run(*flags: str) -> tuple[int, str, str]:
        command = ["--dataset=folder:pictures", f"--finetune_save_path={tmp_path / 'out'}", *flags]
        code = main.main(command)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("task", ["classification", "segmentation", "evaluate", "embed", "export"])
@pytest.mark.parametrize("named", ["logs/pretrian", "log/pretrain"])
def test_a_run_that_was_named_and_is_not_there_is_an_error(on_pictures, task, named):
    code, out, error = on_pictures(
        f"--task={task}", "--freeze=True", f"--pretrain_save_path={named}"
    )
    assert code == 2
    assert f"in {named}" in error and "Runs near it: logs/pretrain. " in error
    assert "--init_weights" in error and "Traceback" not in error
    assert "encoder:" not in out


def test_what_lies_in_its_place_is_said(here, on_pictures, tmp_path):
    (here / "notes.txt").write_text("no run")
    code, _, _ = on_pictures("--task=check")
    checked = tmp_path / "out"
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.yaml").write_text("task: pretrain\n")
    for path, said in {
        "notes.txt": "a file (--init_weights=notes.txt",
        str(checked): "a run of --task=check that has none",
        str(begun): "a run of --task=pretrain that was ended before its first",
        "pictures": "no checkpoint there.",
    }.items():
        flags = (f"--pretrain_save_path={path}", "--overwrite")
        code, _, error = on_pictures("--task=classification", *flags)
        assert code == 2 and said in error, (path, error)


def test_only_the_users_word_names_a_run(tmp_path):
    default, other = tmp_path / "default.yaml", tmp_path / "other.yaml"
    default.write_text("pretrain_save_path: logs/pretrain\n")
    other.write_text("pretrain_save_path: logs/mine\n")
    given = {"pretrain_save_path": "logs/pretrain"}
    for settings, named in (
        ({}, False),
        (given, True),
        (given | {"init_weights": "none"}, False),
        ({"config": str(default)}, False),  # as every run writes it
        ({"config": str(other)}, True),
    ):
        assert names_pretraining(Config.resolve(**settings)) == named, settings
    by_both = Config.resolve(config=str(default), **given)
    assert names_pretraining(by_both)


def test_runs_near_begin_with_the_nearest_spelling(tmp_path):
    for name in ("stl10", "cifar10", "cifar100", "shapes"):
        checkpoints = tmp_path / "logs" / name / "checkpoints"
        checkpoints.mkdir(parents=True)
        if name != "shapes":
            (checkpoints / "step-000000001.safetensors").write_bytes(b"")
    names = [str(Path(name).relative_to(tmp_path)) for name in runs_near(tmp_path / "logs/cifar1O")]
    assert names == ["logs/cifar10", "logs/cifar100", "logs/stl10"]
    assert runs_near(tmp_path / "logs/deep/er/than/that") == []
    assert what_is_there(tmp_path / "logs/shapes") == "no checkpoint there"


@pytest.mark.parametrize(
    ("flags", "warned"),
    [(("--freeze",), True), ((), False), (("--freeze", "--init_weights=none"), False)],
)
def test_a_random_encoder_is_frozen_loudly_or_as_asked(
    here, tmp_path, monkeypatch, capsys, flags, warned
):
    monkeypatch.chdir(tmp_path)  # no run in logs/pretrain
    command = ["--task=classification", f"--dataset=folder:{here / 'pictures'}", "--max_steps=1"]
    assert main.main([*command, *TINY, *flags]) == 0
    out, error = capsys.readouterr()
    assert ("a random encoder is frozen" in error and "in logs/pretrain" in error) == warned
    asked = "--init_weights=none" in flags
    assert ("random weights, as --init_weights=none asks" in out) == asked
    assert ("no pre-training run was given or found" in out) == (not asked)


def test_an_encoder_of_another_task_is_said_to_be_that(here, on_pictures, tmp_path):
    first = tmp_path / "first"
    flags = ("--task=classification", "--max_steps=1", "--batch_size=8", "--precision=float32")
    assert on_pictures(*flags, f"--finetune_save_path={first}")[0] == 0
    code, out, _ = on_pictures(*flags, f"--pretrain_save_path={first}")
    assert code == 0 and "000001.safetensors, a run of --task=classification\n" in out
