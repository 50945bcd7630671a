"""From the settings to the steps of a run: its learning rate, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_docs import commands_of

from simclr_tf.cli import parse
from simclr_tf.config import Config
from simclr_tf.data.sources import Source
from simclr_tf.tasks import fitting

ROOT = Path(__file__).resolve().parent.parent


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
    plan = fitting.plan_steps(config, source_of(5000))
    assert plan.schedule.peak == pytest.approx(peak)
    out, error = capsys.readouterr()
    assert f"peak learning rate {peak:.4g} " in out
    assert error.startswith("warning: a peak learning rate of 16 is high") == warned
    if warned and config.batch_size == 4096:
        assert "4.8 (--learning_rate=0.3" in error and "4.8 (--learning_rate=0.075" in error


def test_the_large_batch_of_the_docs_has_the_papers_rate(capsys):
    command, *_ = commands_of((ROOT / "docs" / "large_batches.md").read_text())
    plan = fitting.plan_steps(parse(command), source_of(5000))
    assert plan.schedule.peak == pytest.approx(4.8)  # 0.3 x 4096 / 256
    assert capsys.readouterr().err == ""


def test_the_recipe_of_the_official_code_has_its_head_and_rate():
    for name in ("cifar10", "cifar100"):
        config = Config.resolve(config=str(ROOT / "configs" / f"{name}.yaml"))
        assert (config.projection_layers, config.zdim, config.lr_scaling) == (3, 128, "linear")
        assert (config.learning_rate, config.batch_size, config.temperature) == (1.0, 512, 0.5)
