"""The benchmarks: what they count, what they check, and one tiny run of each."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny import shallow_encoders

from simclr_tf.augment.recipe import Recipe

pytestmark = pytest.mark.scripts

ROOT = Path(__file__).resolve().parents[2]
RIVALS = [
    "ours_float32",
    "ours_default_threads",
    "tf_image",
    "tf_image_tuned",
    "keras_layers",
    "torchvision",
    "lightly",
]


@pytest.fixture
def run_benchmark(monkeypatch):
    """Runs a script of benchmarks/ here, without the seconds that a process takes to start."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    # Only a process that has just begun can be told how many threads to use: see the profile's.
    for name in ("set_inter_op_parallelism_threads", "set_intra_op_parallelism_threads"):
        monkeypatch.setattr(tf.config.threading, name, lambda threads: None)

    def run(name: str, words: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [f"{name}.py", *words.split()])
            importlib.import_module(name).main()

    return run


class SideHere:
    """A side that works in this process, for a test: see `processes.Side`."""

    def __init__(self, name, answers):
        self.name, self._asked = name, []
        self._answers = answers(self._questions())

    def _questions(self):
        while True:
            yield self._asked.pop()

    def answer(self, seconds=None):
        return json.loads(json.dumps(next(self._answers)))

    def ask(self, *, within=None, **question):
        self._asked.append(json.dumps(question))
        return self.answer()

    def rest(self):
        pass

    def close(self, patience=0.0):
        self._answers.close()


def started_here(package):
    """As `processes.started`, but only `ours` in a process of its own.

    Args:
        package: "rivals" or "steps", the sides of which answer.
    """
    serve = importlib.import_module(f"{package}.serve")
    started = importlib.import_module("processes").started

    @contextlib.contextmanager
    def start(commands):
        with started({"ours": commands["ours"]}) as sides:
            for name, (*_, module) in commands.items():
                if name != "ours":
                    answers = functools.partial(serve.answers, module)
                    sides[name] = SideHere(name, answers)
            yield sides

    return start


@pytest.fixture
def augment(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("augment")


def test_scripts_find_their_checkout_before_they_import_from_it():
    for path in (ROOT / "benchmarks").glob("*.py"):
        lines = path.read_text().splitlines()
        imports = [line.split()[1] for line in lines if line.startswith(("import ", "from "))]
        ours = [name.partition(".")[0] in ("simclr_tf", "main") for name in imports]
        assert not any(ours) or "checkout" in imports[: ours.index(True)], path.name


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
def test_a_tiny_run_writes_every_key(augment, run_benchmark, monkeypatch, tmp_path):
    file = tmp_path / "augment.json"
    words = f"--size=16 --repeats=1 --seconds=0.05 --batch_size=8 --operations noise --json={file}"
    monkeypatch.setattr(augment, "started", started_here("rivals"))
    monkeypatch.setattr(augment, "SOURCE_BYTES", 1 << 20)
    monkeypatch.setattr(importlib.import_module("rivals.side"), "_TRIAL_SECONDS", 0.05)
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
def test_a_tiny_run_over_jpeg_files_writes_every_key(run_benchmark, tmp_path):
    file = tmp_path / "jpeg.json"
    words = f"--sizes 512 --images 8 --passes 1 --repeats 1 --json={file}"
    run_benchmark("jpeg_folder", words)
    measured = json.loads(file.read_text())["sizes"]["512"]
    for part in ("views", "crops"):
        assert measured[part]["ratio"]["median"] > 0
        for side in ("ours", "whole"):
            assert measured[part][side]["images_per_second"]["median"] > 0
    assert measured["error"]["mean"] < 1.5


@pytest.fixture
def job(augment):
    return importlib.import_module("steps.job")


@pytest.mark.parametrize(("depth", "billions"), [(18, 1.814), (50, 4.089)])
def test_multiply_adds_are_those_of_the_known_networks(job, depth, billions):
    asked = job.Job(depth, "imagenet", 1.0, size=224, batch_size=4, cores=1)
    head = sum(np.prod(kernel.shape) for kernel in job.kernels(asked)[-2:])
    # The known numbers hold a classifier of 1,000 classes.
    features = job.kernels(asked)[-1].shape[0]
    counted = job.multiply_adds(asked) - head + 1000 * features
    assert counted == pytest.approx(billions * 1e9, rel=1e-3)
    assert job.step_flops(asked) == 12 * job.multiply_adds(asked)


def test_the_written_out_network_is_ours(augment, job):
    import simclr_tf as st

    for depth, stem in ((18, "small"), (50, "imagenet")):
        asked = job.Job(depth, stem, 0.0625, size=32, batch_size=4, cores=1)
        encoder = st.models.resnet(depth, stem=stem, width_multiplier=0.0625)
        model = st.SimCLR(encoder, st.models.ProjectionHead(job.ZDIM))
        held = {"/".join(w.path.split("/")[-2:]): tuple(w.shape) for w in model.trainable_variables}
        assert held == job.shapes(asked)


def test_another_network_ends_the_run(augment, job):
    train_step = importlib.import_module("train_step")
    asked = job.Job(18, "small", 0.0625, size=16, batch_size=4, cores=1)
    one = train_step.Measurement.__new__(train_step.Measurement)
    one.job, losses = asked, [2.0, 1.5]
    one.first = {("ours", "float32"): {"losses": losses}}
    shapes = {name: list(shape) for name, shape in job.shapes(asked).items()}
    one.check("torch", "float32", {"shapes": shapes, "losses": losses})
    one.check("torch", "bfloat16", {"shapes": shapes, "losses": [2.05, 1.0]})
    with pytest.raises(RuntimeError, match="first losses"):
        one.check("torch", "float32", {"shapes": shapes, "losses": [2.0, 1.6]})
    with pytest.raises(RuntimeError, match="stem_conv/kernel"):
        other = {**shapes, "stem_conv/kernel": [3, 3, 3, 8]}
        one.check("torch", "float32", {"shapes": other, "losses": losses})


def test_a_side_that_does_not_answer_is_given_up(augment, monkeypatch):
    processes = importlib.import_module("processes")
    side = processes.Side("slow", [sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(TimeoutError, match="slow"):
        side.answer(0.2)
    side.close(patience=0.0)


@pytest.mark.slow
def test_a_tiny_run_of_the_training_step_writes_every_key(
    augment, run_benchmark, monkeypatch, tmp_path
):
    file = tmp_path / "train_step.json"
    words = "--configurations tiny18 --repeats=1 --seconds=0.1 --rivals stock_batchnorm torch"
    monkeypatch.setattr(importlib.import_module("train_step"), "started", started_here("steps"))
    run_benchmark("train_step", f"{words} --json={file}")
    results = json.loads(file.read_text())
    assert set(results) == {"tiny18"}
    result = results["tiny18"]
    assert set(result) == {"ours", "stock_batchnorm", "torch", "detail"}
    detail = result["detail"]
    assert result["ours"] > 0 and detail["ratios"].keys() <= {"stock_batchnorm", "torch"}
    assert detail["missing"]["torch_compiled"] == "not asked for"
    for name in ("stock_batchnorm", "torch"):
        if name in detail["missing"]:
            assert result[name] is None
        else:
            assert result[name] > 0 and detail["ratios"][name]["median"] > 0
    assert result["stock_batchnorm"] is not None
    for variants in detail["variants"].values():
        for rate in variants.values():
            assert 0 < rate["min"] <= rate["median"] <= rate["max"] and rate["share"] >= 0
            assert all(np.isfinite(rate["first_losses"]))
    assert "float32" in detail["variants"]["ours"]
    assert detail["matrix_peak_tflops"]["float32"] > 0
    machine = detail["machine"]
    assert machine["cores"] >= 1 and machine["versions"]["tensorflow"] and machine["date"]


@pytest.mark.slow
def test_a_profile_of_the_step_adds_up_its_operations(tmp_path):
    file = tmp_path / "profile.json"
    words = f"--configuration=tiny18 --repeats=1 --json={file}"
    # As a script, from elsewhere: it sets the number of threads, before TensorFlow starts any.
    script = [sys.executable, ROOT / "benchmarks/step_profile.py", *words.split()]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    times = json.loads(file.read_text())["milliseconds"]
    assert any("Conv2D" in kind for kind in times)
    assert any("FusedBatchNormGrad" in kind for kind in times)
    assert all(value >= 0 for value in times.values())


@pytest.mark.slow
def test_both_ways_to_the_filter_gradient_are_timed(run_benchmark, tmp_path):
    file = tmp_path / "filter_gradient.json"
    run_benchmark("filter_gradient", f"--cases=4 --repeats=1 --json={file}")
    rows = json.loads(file.read_text())["convolutions"]
    assert [row["side"] for row in rows] == [32, 16, 8, 4]
    assert all(row["kernel_ms"] > 0 and row["products_ms"] > 0 for row in rows)


@pytest.mark.slow
def test_a_tiny_run_of_gradient_caching_writes_every_key(run_benchmark, tmp_path):
    file = tmp_path / "gradient_caching.json"
    run_benchmark(
        "gradient_caching",
        "--batch_size=32 --microbatch_size=16 --width_multiplier=0.0625 --size=16 --repeats=1 "
        f"--seconds=0.1 --json={file}",
    )
    results = json.loads(file.read_text())
    assert (results["batch_size"], results["microbatch_size"]) == (32, 16)
    for name in ("plain", "cached"):
        side = results[name]
        assert side["images_per_second"]["median"] > 0 and np.isfinite(side["loss"])
        assert 0 <= side["baseline"] <= side["peak"]
        assert side["added"] == side["peak"] - side["baseline"]
    expected = results["cached"]["peak"] / results["plain"]["peak"]
    assert results["memory_ratio"] == pytest.approx(expected, abs=1e-3)
    assert results["speed_ratio"]["median"] > 0


@pytest.mark.slow
def test_a_tiny_run_of_an_epoch_writes_every_key(run_benchmark, tmp_path):
    file = tmp_path / "epoch.json"
    with shallow_encoders():
        run_benchmark(
            "epoch",
            f"--images=64 --batch_size=16 --width_multiplier=0.0625 --repeats=1 --json={file}",
        )
    results = json.loads(file.read_text())
    assert results["steps"] == 4 and results["images"] == 64
    for part in ("epoch", "pipeline", "step"):
        took = results[f"{part}_seconds"]
        assert 0 < took["min"] <= took["median"] <= took["max"]
    assert results["over_longer"] > 0 and np.isfinite(results["overlap"])


def test_overlap_is_the_hidden_share_of_the_shorter_half(augment):
    compare = importlib.import_module("epoch").compare

    def took(seconds: float, half: float = 0.0) -> dict[str, float]:
        return {"median": seconds, "min": seconds - half, "max": seconds + half}

    assert compare(took(4.0), took(1.0), took(4.0))["overlap"] == 1.0
    assert compare(took(5.0), took(1.0), took(4.0))["overlap"] == 0.0
    assert compare(took(5.0), took(4.0), took(2.0)) == {
        "overlap": 0.5,
        "uncertainty": 0.0,
        "over_longer": 1.25,
    }
    assert compare(took(4.0, 0.5), took(1.0), took(4.0, 0.25))["uncertainty"] == 0.75
