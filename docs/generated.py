"""What the site's pages take from elsewhere: the table of settings, the public names, notebooks.

mkdocs calls `on_page_markdown` for each page; nothing here imports TensorFlow.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import simclr_tf
from simclr_tf.cli import meaning_of, spell_tasks
from simclr_tf.config.fields import show
from simclr_tf.config.settings import READ_BY, SETTINGS

ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts what is generated in the place of its mark."""
    for mark, make in (("<!-- settings -->", settings), ("<!-- public names -->", public_names)):
        if mark in markdown:
            markdown = markdown.replace(mark, "\n".join(make()))
    return re.sub(r"<!-- notebook (\w+) -->", lambda mark: "\n".join(notebook(mark[1])), markdown)


def settings() -> Iterator[str]:
    """Yields a table of the settings of each group."""
    for group, fields in itertools.groupby(SETTINGS.values(), lambda f: f.metadata["group"]):
        yield f"\n## {group.capitalize()}\n\nRead by {spell_tasks(READ_BY[group])}.\n"
        yield "| flag | default | meaning |\n|---|---|---|"
        for field in fields:
            default = show(field.default)
            meaning = "<br>".join(meaning_of(field)).replace("|", r"\|")
            yield f"| `--{field.name}` | {'' if default == '' else f'`{default}`'} | {meaning} |"


def notebook(name: str) -> Iterator[str]:
    """Yields the cells of a notebook and what they showed when they were run."""
    for cell in json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source.replace(".ipynb)", ".md)") + "\n"
            continue
        yield f"```python\n{source}\n```\n"
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text")})
            if "image/png" in data:
                yield f"![What the cell draws](data:image/png;base64,{data['image/png'].strip()})\n"
            else:
                yield f"```text\n{''.join(data['text/plain'])}\n```\n"


def public_names() -> Iterator[str]:
    """Yields mkdocstrings' directives for all that `import simclr_tf as st` gives."""
    yield "## st"
    for name, module in simclr_tf._OBJECTS.items():
        yield from directive(f"st.{name}", f"{module}.{name}")
    for name, module in simclr_tf._MODULES.items():
        yield from ("", f"## st.{name}", "")
        homes = homes_of(module)
        if not homes:  # a module, not a package
            options = ("options:", "  show_root_heading: false", "  show_root_toc_entry: false")
            yield from (f"::: {module}", *(f"    {line}" for line in options), "")
        for public, home in sorted(homes.items()):
            yield from directive(f"st.{name}.{public}", f"{home}.{public}")


def directive(heading: str, path: str) -> tuple[str, ...]:
    """Returns the lines that document one name, under the name by which users know it."""
    options = ("options:", f"  heading: {heading}", f"  toc_label: {heading}")
    return (f"::: {path}", *(f"    {line}" for line in options), "")


def homes_of(module: str) -> dict[str, str]:
    """Maps each public name of a package to the module it is defined in; none for a module."""
    source = ROOT.joinpath(*module.split("."), "__init__.py")
    if not source.exists():
        return {}
    homes = {
        name.name: node.module
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module.startswith(f"{module}.")
        for name in node.names
    }
    if not homes:  # loaded on first use
        package = importlib.import_module(module)
        homes = {name: f"{module}.{home}" for name, home in package._HOME.items()}
    return homes
