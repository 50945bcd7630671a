"""What keeps a run from its first step is told at once, and alone as it always was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
from simclr_tf.config.settings import Config
from simclr_tf.errors import UserError
from simclr_tf.runs.folder import RunFolder
from simclr_tf.workflow.refusals import told_together

pytestmark = pytest.mark.usefixtures("shallow")

TINY = ["--width_multiplier=0.0625", "--precision=float32", "--max_steps=1"]
TOGETHER = "error: Expected a run that can begin, got {} reasons against it:\n  1. "


@pytest.fixture(scope="module")
def wrong(tmp_path_factory) -> Path:
    """Two classes of pictures of several sizes, one of them torn, and a folder with a run."""
    root, rng = tmp_path_factory.mktemp("wrong"), np.random.default_rng(0)
    for name in ("a", "b"):
        (root / "pictures" / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (16 + i, 20, 3), np.uint8)
            Image.fromarray(pixels).save(root / f"pictures/{name}/{i}.png")
    torn = root / "pictures/b/5.png"
    torn.write_bytes(torn.read_bytes()[:200])
    (root / "run").mkdir()
    (root / "run/config.yaml").write_text("task: pretrain\n")
    (root / "run/results.json").write_text("{}")
    return root


def flags_of(task: str, root: Path, *more: str) -> list[str]:
    save = "pretrain" if task == "pretrain" else "finetune"
    run = f"--{save}_save_path={root / 'run'}"
    return [f"--task={task}", f"--dataset=folder:{root / 'pictures'}", run, *TINY, *more]


@pytest.mark.parametrize("task", ["pretrain", "classification"])
def test_all_that_is_wrong_is_told_at_once(task, wrong, capsys):
    assert main.main(flags_of(task, wrong, "--batch_size=99")) == 2
    error = capsys.readouterr().err
    assert error.startswith(TOGETHER.format(4))
    parts = ("got a finished one", "5.png", "of one size", "in a batch")
    places = [error.index(part) for part in parts]
    assert places == sorted(places), error
    assert "Traceback" not in error and (wrong / "run/results.json").read_text() == "{}"


@pytest.mark.parametrize("task", ["pretrain", "classification"])
def test_each_that_is_left_is_told_until_none_is(task, wrong, tmp_path, capsys):
    found = []
    for more in (
        ["--batch_size=99"],
        ["--batch_size=99", "--overwrite"],
        ["--batch_size=99", "--overwrite", "--skip_bad_images"],
        ["--batch_size=99", "--overwrite", "--skip_bad_images", "--input_size=16"],
    ):
        assert main.main(flags_of(task, wrong, *more)) == 2
        found.append(capsys.readouterr().err)
    assert [error.count("\n  ") >= 2 for error in found] == [True, True, True, False]
    images = 11 if task == "pretrain" else 9
    assert found[-1].startswith(f"error: Expected at most {images} images in a batch, the size of ")
    assert [TOGETHER.format(n) in e for n, e in zip((4, 3, 2), found, strict=False)] == [True] * 3


def test_a_run_that_was_named_is_among_them_and_may_give_the_size(wrong, capsys):
    more = ("--overwrite", "--batch_size=99", "--skip_bad_images", "--pretrain_save_path=nowhere")
    assert main.main(flags_of("classification", wrong, *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith(TOGETHER.format(2)) and "in nowhere, got nothing" in error
    assert "in a batch" in error and "of one size" not in error


def test_masks_are_looked_at_too(wrong, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
    for i in range(8):
        for name, top, channels in (("images", 256, (3,)), ("masks", 2, ())):
            pixels = rng.integers(0, top, (16, 16 + i, *channels)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"pictures/{name}/{i}.png")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "pictures/masks/3.png")
    RunFolder(tmp_path / "run").begin("pretrain", resume=False, overwrite=False, flag="")
    (tmp_path / "run/results.json").write_text("{}")
    assert main.main(flags_of("segmentation", tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith(TOGETHER.format(2)) and "3.png" in error


def test_what_comes_later_stays_as_it_is_and_so_does_what_a_resumed_run_is_refused_for():
    def together(*texts: str, **settings: object):
        return told_together(Config(**settings), lambda config: [UserError(text) for text in texts])

    with pytest.raises(UserError, match=r"^late$"), together("other") as begun:
        begun()
        raise UserError("late")
    with pytest.raises(UserError, match=r"^alone$"), together("alone"):
        raise UserError("alone")
    with pytest.raises(UserError, match=r"^settings$"), together("other", resume=True):
        raise UserError("settings")
    with pytest.raises(UserError, match="2 reasons.*\n  1. one\n  2. two$"), together("one", "two"):
        raise UserError("one")
