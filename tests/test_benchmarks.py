"""The benchmark of augmentation speed: its counting, its report, and one tiny run of it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simclr_tf.augment.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
RIVALS = ["ours_float32", "tf_image", "tf_image_tuned", "keras_layers", "torchvision", "lightly"]


def run_benchmark(name: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def augment(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("augment")


def test_views_that_lay_ready_are_not_counted(augment, monkeypatch):
    side = importlib.import_module("rivals.side")
    clock, ready, cores = [0.0], 6, 2
    monkeypatch.setattr(side.time, "perf_counter", lambda: clock[0])

    def batches():
        for number in range(1000):
            clock[0] += 0.0 if number < ready else 0.125
            yield np.zeros(4), np.zeros(4)

    counted = side.measure(side.Views(batches(), np.asarray), seconds=2.0, cores=cores)
    assert counted["views"] / counted["seconds"] == 8 / 0.125
    assert counted["seconds"] >= 2.0


def test_the_fastest_way_is_kept(augment, monkeypatch):
    side = importlib.import_module("rivals.side")
    clock = [0.0]
    monkeypatch.setattr(side.time, "perf_counter", lambda: clock[0])

    def way(took: float):
        def batches():
            while True:
                clock[0] += took
                yield np.zeros(4), np.zeros(4)

        return lambda: side.Views(batches(), np.asarray, note=str(took))

    job = side.Job(np.zeros([1, 2, 2, 3], np.uint8), {}, batch_size=4, cores=1)
    assert side.fastest(job, [way(0.25), way(0.125), way(0.5)]).note == "0.125"


def test_every_side_draws_the_numbers_of_the_recipe(augment):
    side = importlib.import_module("rivals.side")
    recipe = Recipe(blur=True)
    told = augment.describe(recipe, 224)
    job = side.Job(np.zeros([1, 224, 224, 3], np.uint8), {"strength": recipe.strength}, 4, 1)
    assert told["jitter"]["contrast"] == pytest.approx(job.factors)
    assert told["jitter"]["hue"][1] == pytest.approx(job.max_hue)
    assert told["crop"]["area"] == [0.08, 1.0]
    assert 2 * job.blur_radius + 1 == 23
    assert augment.describe(Recipe(blur=False), 32)["blur"] is None


def test_the_limit_counts_half_an_image_and_a_view(augment):
    job = importlib.import_module("rivals.side").Job(np.zeros([1, 2, 2, 3], np.uint8), {}, 4, 1)
    limit = augment.measure_limit(job, bandwidth=54e-9, value_bytes=4, ours=0.5)
    assert limit["bytes_per_view"] == 6 + 48
    assert limit["views_per_second"] == pytest.approx(1.0)
    assert limit["share"] == pytest.approx(0.5)


def test_a_side_that_cannot_be_imported_says_so(augment, monkeypatch):
    monkeypatch.setitem(augment.MODULES, "lightly", "not_there")
    with augment.processes({"lightly": sys.executable}) as sides:
        assert "not_there" in sides["lightly"].answer()["missing"]


def test_a_side_that_breaks_ends_the_run_with_its_error(augment, monkeypatch):
    monkeypatch.setitem(augment.MODULES, "lightly", "side")  # imports, but is no side
    with augment.processes({"lightly": sys.executable}) as sides:
        with pytest.raises(RuntimeError, match="(?s)lightly ended.*VERSIONS"):
            sides["lightly"].answer()


@pytest.mark.slow
def test_a_tiny_run_writes_every_key(tmp_path):
    file = tmp_path / "augment.json"
    words = f"--size=16 --repeats=1 --seconds=0.2 --batch_size=8 --operations noise --json={file}"
    run_benchmark("augment", words)
    results = json.loads(file.read_text())
    here = [name for name in RIVALS if results[name] is not None]
    assert set(results["missing"]) == set(RIVALS) - set(here)
    assert "tf_image" in here
    for name in ["ours", *here]:
        low, high = results["spread"][name]
        assert 0 < low <= results[name] <= high
    assert set(results["ratios"]) == set(here)
    assert all(ratio > 0 for ratio in results["ratios"].values())
    assert (results["size"], results["batch_size"]) == (16, 8)
    assert results["cores"] >= 1 and results["versions"]["tensorflow"] and results["date"]
    assert results["recipe"]["jitter"]["prob"] == 0.8 and results["recipe"]["blur"] is None
    assert all(value > 0 for value in results["limit"].values())
    added = results["operations"]["added"]
    assert [added["noise"][case]["prob"] for case in ("default", "always")] == [0.25, 1.0]
    assert all(case["views_per_second"] > 0 for case in added["noise"].values())
    assert all(
        took["median"] > 0 for took in results["operations"]["microseconds_per_view"].values()
    )


@pytest.mark.slow
def test_a_tiny_run_over_jpeg_files_writes_every_key(tmp_path):
    file = tmp_path / "jpeg.json"
    words = f"--sizes 512 --images 8 --passes 1 --repeats 1 --json={file}"
    run_benchmark("jpeg_folder", words)
    measured = json.loads(file.read_text())["sizes"]["512"]
    for part in ("views", "crops"):
        assert measured[part]["ratio"]["median"] > 0
        for side in ("ours", "whole"):
            assert measured[part][side]["images_per_second"]["median"] > 0
    assert measured["error"]["mean"] < 1.5
