"""From the settings to the steps of a run: its learning rate, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_docs import commands_of

import main
from simclr_tf.cli import parse
from simclr_tf.config.settings import Config
from simclr_tf.data.source import Source
from simclr_tf.errors import UserError
from simclr_tf.runs.folder import RunFolder
from simclr_tf.workflow.plan import fit_batch, plan_steps

ROOT = Path(__file__).resolve().parents[2]


def source_of(count: int) -> Source:
    return Source("many", paths=tuple(f"/many/{i}.png" for i in range(count)))


@pytest.mark.parametrize(
    ("words", "peak", "warned"),
    [
        ("--batch_size=4096", 16.0, True),
        ("--batch_size=4096 --learning_rate=0.3", 4.8, False),
        ("--batch_size=4096 --learning_rate=0.075 --lr_scaling=sqrt", 4.8, False),
        ("--batch_size=256 --lr_scaling=sqrt", 16.0, True),
        ("--batch_size=4096 --optimizer=sgd", 16.0, False),
        ("--batch_size=512 --learning_rate=2", 4.0, False),
    ],
)
def test_a_rate_that_is_high_for_lars_is_warned_of(words, peak, warned, capsys):
    config = parse(["--dataset=cifar10", *words.split()])
    plan = plan_steps(config, source_of(5000))
    assert plan.schedule.peak == pytest.approx(peak)
    out, error = capsys.readouterr()
    assert f"peak learning rate {peak:.4g} " in out
    assert error.startswith("warning: a peak learning rate of 16 is high") == warned
    if warned and config.batch_size == 4096:
        assert "4.8 (--learning_rate=0.3" in error and "4.8 (--learning_rate=0.075" in error


def test_the_large_batch_of_the_docs_has_the_papers_rate(capsys):
    command, *_ = commands_of((ROOT / "docs" / "large_batches.md").read_text())
    plan = plan_steps(parse(command), source_of(5000))
    assert plan.schedule.peak == pytest.approx(4.8)  # 0.3 x 4096 / 256
    assert capsys.readouterr().err == ""


def test_the_recipe_of_the_official_code_has_its_head_and_rate():
    for name in ("cifar10", "cifar100"):
        config = Config.resolve(config=str(ROOT / "configs" / f"{name}.yaml"))
        assert (config.projection_layers, config.zdim, config.lr_scaling) == (3, 128, "linear")
        assert (config.learning_rate, config.batch_size, config.temperature) == (1.0, 512, 0.5)


@pytest.mark.parametrize(
    ("words", "count", "chosen"),
    [
        ("--task=pretrain", 120, 32),
        ("--task=pretrain", 256, 256),  # as before, though an epoch is one step
        ("--task=pretrain", 255, 64),
        ("--task=pretrain", 3, 2),
        ("--task=pretrain", 2, 2),
        ("--task=segmentation", 15, 4),
        ("--task=classification --lr_scaling=linear", 120, 32),
        ("--task=pretrain --microbatch_size=8", 120, 32),
        ("--task=pretrain --microbatch_size=64", 120, 64),
        ("--task=pretrain --microbatch_size=128", 120, 256),  # none fits: refused as one typed is
        ("--task=pretrain --batch_size=256", 120, 256),
        ("--task=pretrain", 1, 256),
    ],
)
def test_a_batch_that_nobody_chose_follows_the_number_of_images(words, count, chosen, capsys):
    config = parse([*words.split(), "--dataset=cifar10"])
    source = source_of(count)
    fitted = fit_batch(config, source, began=None, replicas=1)
    assert fitted.batch_size == chosen
    said = f"batches of {chosen} images: there are {count}, fewer than the {config.batch_size} of"
    assert (said in capsys.readouterr().out) == (chosen != config.batch_size)
    if chosen > count:
        with pytest.raises(UserError, match="in a batch"):
            plan_steps(fitted, source)
    elif "linear" in words:
        assert plan_steps(fitted, source).schedule.peak == pytest.approx(1e-3 * 32 / 256)


def test_replicas_divide_a_batch_that_nobody_chose():
    config = parse(["--task=pretrain", "--microbatch_size=4"])
    fitted = fit_batch(config, source_of(120), began=None, replicas=3)
    assert fitted.batch_size == 48  # 3 replicas of 4 microbatches of 4


@pytest.mark.usefixtures("shallow")
def test_few_images_pretrain_by_default_and_are_resumed(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "few.npz", x_train=rng.integers(0, 256, (40, 16, 16, 3), np.uint8))
    flags = [f"--dataset=npz:{tmp_path / 'few.npz'}", f"--pretrain_save_path={tmp_path / 'run'}"]
    flags += ["--width_multiplier=0.0625", "--zdim=8", "--num_epochs=2", "--precision=float32"]
    assert main.main([*flags, "--max_steps=3"]) == 0
    assert "batches of 16 images: there are 40" in capsys.readouterr().out
    began = RunFolder(tmp_path / "run").settings()
    assert began is not None and began["batch_size"] == 16
    assert main.main([*flags, "--resume"]) == 0
    assert "resumed at step 3" in capsys.readouterr().out
    np.savez(tmp_path / "few.npz", x_train=rng.integers(0, 256, (90, 16, 16, 3), np.uint8))
    assert main.main([*flags, "--resume"]) == 2
    error = capsys.readouterr().err  # of the images, not of a batch that nobody typed
    assert "90 images (began with 40)" in error and "--batch_size" not in error
    assert main.main([*flags, "--batch_size=64", "--resume"]) == 2
    assert "--batch_size=64 (began with 16)" in capsys.readouterr().err
