"""The notebooks run as they stand; what is committed of them is whole and small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(path):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def kinds(outputs):
    """What a cell showed: the kinds of its outputs, and of what is shown."""
    return list(dict.fromkeys((o["output_type"], *sorted(o.get("data", ()))) for o in outputs))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_what_is_committed(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the kernel's folder is another
    monkeypatch.syspath_prepend(path.parent)
    from execute import executed

    ran = [cell for cell in executed(path, str(tmp_path)).cells if cell.cell_type == "code"]
    for cell, kept in zip(ran, code_cells(path), strict=True):
        assert kinds(cell.outputs) == kinds(kept["outputs"]), cell.source
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_whole_and_small(path):
    assert path.stat().st_size < 300_000
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", ()) for output in outputs) >= 3
    for output in outputs:
        assert output["output_type"] != "error" and output.get("name") != "stderr"


def test_there_are_some():
    assert len(NOTEBOOKS) == 2
