"""Counts in words: one of a thing is not called several."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from simclr_tf.cli import parse
from simclr_tf.counting import spell_number
from simclr_tf.data.source import Source
from simclr_tf.workflow import datasets
from simclr_tf.workflow.plan import plan_steps

PACKAGE = Path(__file__).resolve().parent.parent / "simclr_tf"
COUNTED = "image|step|epoch|file|classe|line|label|channel|checkpoint|array|feature|bad image"


@pytest.mark.parametrize(
    ("number", "what", "said"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (1234, "image", "1,234 images"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (1, "bad image", "1 bad image"),
    ],
)
def test_numbers_are_spelt_with_what_they_count(number, what, said):
    assert spell_number(number, what) == said


def test_one_image_is_described_as_one(capsys):
    one = Source("one", np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int32), ("cat",))
    many = Source("many", np.zeros((1234, 8, 8, 3), np.uint8), skipped=1)
    datasets.describe_data(one, many)
    assert capsys.readouterr().out.splitlines() == [
        "one: 1 image, 8x8, 1 class",
        "many: 1,234 images, 8x8, no labels, 1 bad image left out",
    ]


def test_a_short_plan_is_in_the_singular(capsys):
    source = Source("few", paths=("a.png", "b.png", "c.png"))
    words = "--task=classification --num_epochs=1 --batch_size=2 --learning_rate=0.01"
    plan_steps(parse(words.split()), source)
    assert capsys.readouterr().out == (
        "1 epoch of 1 step, 2 images each; adam, peak learning rate 0.01, 0 steps of warm-up\n"
        "each epoch leaves out 1 of 3 images, others each time: they fill no batch\n"
    )
    plan_steps(parse([*words.split(), "--lr_scaling=sqrt"]), source)
    assert "peak learning rate 0.01414 (sqrt scaling of 0.01), 0 steps" in capsys.readouterr().out


def test_no_printed_count_has_a_plural_of_its_own():
    """What is printed of a number and a thing goes through `spell_number`; but for "3 of 9"."""
    found = []
    plain = re.compile(rf"^ (?:{COUNTED})s\b(?!/s)")
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and getattr(call.func, "id", "") == "print"):
                continue
            for text in (node for node in ast.walk(call) if isinstance(node, ast.JoinedStr)):
                parts = text.values
                for before, value, after in zip(
                    [None, *parts], parts, [*parts[1:], None], strict=False
                ):
                    if not isinstance(value, ast.FormattedValue):
                        continue
                    follows = after.value if isinstance(after, ast.Constant) else ""
                    leads = before.value if isinstance(before, ast.Constant) else ""
                    if plain.match(str(follows)) and not re.search(r"of( the)? $", str(leads)):
                        found.append(f"{path.name}:{value.lineno} ...{follows[:20]}")
    assert found == []
