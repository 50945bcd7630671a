"""The pages, the notebooks and the README: every flag, command and file that they name exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tables import for_each

from simclr_tf.cli import parse
from simclr_tf.config.fields import is_switch
from simclr_tf.config.settings import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
SWITCHES = {f"no-{name}" for name, field in SETTINGS.items() if is_switch(field)}

# What is called beside main.py, and where its arguments are declared.
PROGRAM = re.compile(r"(?:benchmarks|tools)/\w+\.py|simclr_tf\.data\.service")
FLAG = re.compile(r"(?<![\w-])--([a-zA-Z][\w-]*)")
LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


def sections_of(text: str) -> list[str]:
    return re.split(r"^#+ ", text, flags=re.MULTILINE)


def arguments_of(program: str) -> set[str]:
    path = program if program.endswith(".py") else f"{program.replace('.', '/')}.py"
    return set(re.findall(r'add_argument\(\s*"--([\w-]+)"', (ROOT / path).read_text()))


def unknown_flags(text: str) -> list[str]:
    """Returns the flags that are neither settings nor arguments of a program the section names."""
    unknown = []
    for section in sections_of(text):
        section = re.sub(r"tensorboard --logdir\S*", "", section)
        known = {"help", *SETTINGS, *SWITCHES}.union(*map(arguments_of, PROGRAM.findall(section)))
        unknown += [flag for flag in FLAG.findall(section) if flag not in known]
    return unknown


def commands_of(text: str) -> list[list[str]]:
    """Returns the words after main.py of every command, in blocks and within lines."""
    joined = re.sub(r"\\\n\s*", "", text)
    found = re.findall(r"python main\.py ([^\n`]+)", joined)
    return [shlex.split(command, comments=True) for command in found]


def wrong_commands(text: str) -> list[str]:
    wrong = []
    for words in commands_of(text):
        try:
            parse(words).validate()
        except Exception as error:
            wrong.append(f"{shlex.join(words)}: {error}")
    return wrong


def missing_files(page: Path, text: str) -> list[str]:
    targets = [target for target, _ in LINK.findall(text) if "://" not in target]
    return [target for target in targets if not (page.parent / target).exists()]


@for_each("page", PAGES)
def test_what_a_page_names_exists(page, monkeypatch):
    monkeypatch.chdir(ROOT)  # commands name files of the repository
    text = page.read_text()
    assert unknown_flags(text) == []
    assert wrong_commands(text) == []
    assert missing_files(page, text) == []


def test_every_page_is_looked_at():
    assert len(PAGES) > 10
    assert sum(len(commands_of(page.read_text())) for page in PAGES) > 40


def test_mistakes_are_found(tmp_path):
    text = """# A
`--batchsize` and `--no-seed`, but not `--no-flip`; `python main.py --task=pretrian`

    python main.py --task=pretrain \\
        --batch_size=1     # too small
    TF_CONFIG='{}' python main.py --task=pretrain --zdim=64

# B
`python benchmarks/augment.py --rivals`, [here](nowhere.md#top), [there](https://example.org/x)
# C
`--rivals`
"""
    assert unknown_flags(text) == ["batchsize", "no-seed", "rivals"]
    wrong = wrong_commands(text)
    assert [line.partition(":")[0] for line in wrong] == [
        "--task=pretrian",
        "--task=pretrain --batch_size=1",
    ]
    assert missing_files(tmp_path / "page.md", text) == ["nowhere.md"]
