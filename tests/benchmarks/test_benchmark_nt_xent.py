"""The benchmark of the streaming loss: a tiny run, and a dense side that grows too large."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.scripts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("nt_xent")


def test_the_ratio_compares_pairs_at_the_largest_sizes_round_by_round(benchmark):
    sides = [
        benchmark.Measured("dense", 2, [9.0, 9.0]),
        benchmark.Measured("dense", 4, [1.0, 2.0]),
        benchmark.Measured("streaming", 4, [9.0, 9.0]),
        benchmark.Measured("streaming", 8, [2.0, 8.0]),
    ]
    assert benchmark.ratio_per_pair(sides) == {
        "streaming": 8,
        "dense": 4,
        "median": 0.75,
        "min": 0.5,
        "max": 1.0,
    }


def test_sides_that_disagree_end_the_run(benchmark):
    results = {"4": {"dense": {"loss": 1.0}, "streaming": {"loss": 1.001}}}
    with pytest.raises(RuntimeError, match="one loss at 4 images"):
        benchmark.check_losses(results, [4])


@pytest.mark.slow
def test_a_tiny_run_writes_every_key(tmp_path):
    file = tmp_path / "nt_xent.json"
    words = f"--images 64 --dense_images 32 --width=16 --repeats=2 --json={file}"
    done = subprocess.run(
        [sys.executable, "benchmarks/nt_xent.py", *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())
    assert results["64"]["dense"] is None
    for measured in (results["32"]["dense"], results["64"]["streaming"]):
        for key in ("seconds", "nanoseconds_per_pair"):
            assert 0 < measured[key]["min"] <= measured[key]["median"] <= measured[key]["max"]
        assert 0 < measured["added_gb"] < 0.5
    ratio = results["ratio_per_pair"]
    assert (ratio["streaming"], ratio["dense"]) == (64, 32)
    assert 0 < ratio["min"] <= ratio["max"]
    assert results["width"] == 16 and results["versions"]["tensorflow"] and results["date"]


@pytest.mark.slow
def test_a_side_that_takes_too_much_memory_is_ended(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "free_gb", lambda: benchmark.LEFT_GB + 0.05)
    dense = benchmark.Measured("dense", 2048)
    benchmark.run_once(dense, 8)
    assert 0.05 <= dense.summary()["above_gb"] < 1.0
