"""The benchmark for a GPU: parts that fail, hang or are left out, its table, and a tiny run."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.scripts

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {
    "machine",
    "step",
    "training",
    "torch",
    "losses",
    "deterministic",
    "ntxent",
    "caching",
    "recipe",
    "pipeline",
}
# Stands for the interpreter: what it is told to run decides what it does.
STAND_IN = """#!/bin/sh
# -m gpu_parts.serve WORK OPTIONS FILE
case $3 in
  machine) echo '{"gpus": ["a GPU"], "cores": 2}' >> "$5";;
  bare) echo '{"gpus": [], "nvidia_smi": "NVIDIA H200, 550"}' >> "$5";;
  broken) echo '{"a": {"x": 1}}' >> "$5"; echo "the reason" >&2; exit 3;;
  slow) echo '{"a": 1}' >> "$5"; sleep 60;;
  *) echo '{"a": {"x": 1}}' >> "$5"; echo '{"a": {"y": 2}}' >> "$5"; echo '{"cut' >> "$5";;
esac
"""


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu")


@pytest.fixture
def run(gpu, monkeypatch, tmp_path):
    """Runs the command with parts that a stand-in for Python plays; returns code and record."""
    script = tmp_path / "python"
    script.write_text(STAND_IN)
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))

    def run(works, *words):
        parts = [gpu.Part(work, work, {}) for work in works]
        monkeypatch.setattr(gpu, "list_parts", lambda **_: parts)
        file = tmp_path / "gpu.json"
        code = gpu.main([f"--json={file}", *words])
        return code, json.loads(file.read_text()) if file.exists() else None

    return run


def test_a_part_that_fails_is_kept_with_its_error_and_the_next_one_runs(run, capsys):
    code, record = run(["machine", "broken", "good"])
    assert code == 1
    broken, good = record["parts"]["broken"], record["parts"]["good"]
    assert broken["error"] == "ended with 3" and broken["printed"] == ["the reason"]
    assert broken["results"] == {"a": {"x": 1}}
    assert good["error"] is None and good["results"] == {"a": {"x": 1, "y": 2}}
    assert "broken ended with 3: the reason" in capsys.readouterr().out


def test_a_part_that_hangs_is_ended_and_what_it_told_is_kept(run):
    start = time.monotonic()
    code, record = run(["machine", "slow", "good"], "--limit=0.5")
    assert code == 1 and time.monotonic() - start < 20
    assert "longer than" in record["parts"]["slow"]["error"]
    assert record["parts"]["slow"]["results"] == {"a": 1}
    assert record["parts"]["good"]["error"] is None


def test_resume_runs_what_the_budget_left_and_keeps_the_rest(run, capsys, tmp_path):
    code, record = run(["machine", "good", "better"], "--budget=1")
    assert code == 0 and set(record["parts"]) == {"machine"}
    assert set(record["skipped"]) == {"good", "better"}
    assert "budget" in capsys.readouterr().out
    code, record = run(["machine", "good", "better"], "--resume", "--parts=good")
    assert code == 0 and set(record["skipped"]) == {"better"}
    record["parts"]["good"]["results"] = {"kept": True}
    (tmp_path / "gpu.json").write_text(json.dumps(record))
    code, record = run(["machine", "good", "better"], "--resume")
    assert code == 0 and not record["skipped"]
    assert record["parts"]["good"]["results"] == {"kept": True}
    assert record["parts"]["better"]["results"]["a"] == {"x": 1, "y": 2}


def test_a_file_that_is_there_is_not_written_over(run, capsys):
    assert run(["machine", "good"])[0] == 0
    code, _ = run(["machine", "good"])
    assert code == 2 and "--resume" in capsys.readouterr().err


def test_without_a_gpu_it_says_so_and_writes_nothing(run, capsys):
    code, record = run(["bare", "good"])
    said = capsys.readouterr().err
    assert code == 2 and record is None
    assert "got none, though nvidia-smi names NVIDIA H200" in said
    assert "requirements-gpu.txt" in said


def test_parts_go_by_name_or_group(gpu, run, capsys):
    parts = gpu.list_parts(quick=False, batch_sizes=(512, 256), npz="")
    assert {part.name.partition("_")[0] for part in parts} == GROUPS
    assert len({part.name for part in parts}) == len(parts) and parts[0].name == "machine"
    asked = {
        (form, compiler, place)
        for part in parts
        if part.name.startswith("training_50")
        for form, compiler, place in [part.name.split("_")[2:]]
    }
    assert len(asked) == 8  # formats, compilers, places
    assert len(gpu.choose(parts, "")) == len(parts)
    names = [part.name for part in gpu.choose(parts, "torch_18, training_50_16bit_xla")]
    assert names[0] == "torch_18" and len(names) == 3
    assert gpu.choose(parts, "step_18_xla")[0].options["network"]["batch_size"] == 512
    assert run(["machine"], "--parts=nothing")[0] == 2
    assert "got 'nothing'" in capsys.readouterr().err


def test_the_work_of_every_part_is_there(gpu):
    for quick in (True, False):
        for part in gpu.list_parts(quick=quick, batch_sizes=(512, 256), npz=""):
            module, _, function = part.work.partition(".")
            source = (ROOT / f"benchmarks/gpu_parts/{module}.py").read_text()
            assert f"\ndef {function}(report: Report, options: dict[str, Any]) -> None:" in source


def test_another_network_of_torch_is_a_failure(gpu):
    def step(loss):
        return {"error": None, "results": {"v": {"first_losses": [loss, 1.0]}}}

    parts = {"step_18_xla": step(6.0), "torch_18": step(6.1), "torch_50": step(9.0)}
    gpu.compare_first_losses(parts)
    assert not any(part["error"] for part in parts.values())
    parts["step_50_plain"] = step(6.0)
    gpu.compare_first_losses(parts)
    assert "expected a first loss of 6.0" in parts["torch_50"]["error"]


def test_bits_differ_where_values_do_not(gpu):
    differing_bits = importlib.import_module("gpu_parts.agreement").differing_bits
    one = {"a": np.array([0.0, 1.0], np.float32), "b": np.ones(2, np.float32)}
    assert differing_bits(one, dict(one)) == []
    other = {"a": np.array([-0.0, 1.0], np.float32), "c": one["b"]}
    assert differing_bits(one, other) == ["a", "b", "c"]


def test_errors_within_a_part_leave_the_rest_of_it(gpu, tmp_path):
    serve = importlib.import_module("gpu_parts.serve")
    report = serve.Report(tmp_path / "told")
    report.tell(one={"x": 1})
    with report.attempt("one"):
        raise ValueError("out of memory\n" + "detail\n" * 99)
    with report.attempt("two"):
        report.tell(two=2)
    expected = {"one": {"x": 1, "error": "ValueError: out of memory"}, "two": 2}
    assert report.failed and serve.read_report(tmp_path / "told") == expected


def test_windows_wait_for_the_device_once_each(gpu, monkeypatch):
    timing = importlib.import_module("gpu_parts.timing")
    clock, queued, waits = [0.0], [0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def run():
        queued[0] += 1

    def wait(_):
        waits.append(queued[0])
        clock[0] += 0.125 * queued[0]  # the device works off what was handed to it
        queued[0] = 0

    assert timing.seconds_per_run(run, wait, seconds=5.0) == [0.125] * timing.REPEATS
    assert waits == [1] * (timing.WARM + 1) + [8] * timing.REPEATS


def test_memory_is_what_was_added_to_what_the_device_held(gpu, monkeypatch):
    import tensorflow as tf

    memory = importlib.import_module("gpu_parts.timing").Memory
    held = {"current": 0, "peak": 0}
    experimental = tf.config.experimental
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr(experimental, "get_memory_info", lambda device: dict(held))
    monkeypatch.setattr(
        experimental, "reset_memory_stats", lambda device: held.update(peak=held["current"])
    )
    held.update(current=100, peak=900)  # of the work before
    work = memory()
    assert work.peak() == 0
    held.update(current=150, peak=400)
    assert work.peak() == 300
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert memory().peak() is None


@pytest.mark.slow
def test_a_tiny_run_writes_every_key_and_its_table(gpu, tmp_path):
    file = tmp_path / "gpu.json"
    script = [sys.executable, ROOT / "benchmarks/gpu.py"]
    words = [f"--json={file}", "--quick", "--limit=900", "--budget=3600"]
    done = subprocess.run([*script, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(file.read_text())
    found = {name: part["results"] for name, part in record["parts"].items()}
    assert {name.partition("_")[0] for name in found} == GROUPS and not record["skipped"]
    assert found["machine"]["packages"]["tensorflow"] and found["machine"]["cores"] >= 1
    assert found["machine"]["float32_tflops"] > 0 and found["machine"]["chosen"]["precision"]
    step = found["step_18_plain"]["float32 plain"]
    rates = [step, *(found[f"training_18_float32_plain_{place}"] for place in ("host", "device"))]
    rates += [found["caching"][name] for name in ("small", "cached", "large")]
    rates += [found["pipeline_18"][dtype] for dtype in ("float32", "bfloat16")]
    for measured in rates:
        rate = measured["images_per_second"]
        assert 0 < rate["min"] <= rate["median"] <= rate["max"]
    assert all(np.isfinite(step["first_losses"])) and step["precision"] == "float32"
    if "missing" not in found["torch_18"]:
        torch = found["torch_18"]["float32_channelslast"]
        assert torch["first_losses"] == pytest.approx(step["first_losses"], rel=0.01)
    for name in ("dense 64", "streaming 128", "tile 64"):
        assert found["ntxent"][name]["milliseconds"]["median"] > 0
    assert found["ntxent"]["agreement"]["float32"]["gradient"] < 1e-4
    assert len(found["losses"]["tf32=off xla=false"]["losses"]) == 3
    assert found["losses"]["tf32=off xla=false"]["first_apart"] < 1e-3
    assert found["deterministic"]["bits"]["arrays"] > 100
    assert found["deterministic"]["bits"]["differing"] == 0
    assert found["recipe"]["epochs"] == 2 and 0 <= found["recipe"]["results_knn_accuracy"] <= 1
    assert found["recipe"]["epoch_seconds"]["median"] > 0
    assert "built-in shapes" in found["recipe"]["data"]
    again = subprocess.run([*script, f"--table={file}"], capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.strip() in done.stdout
    for line in ("| ResNet-18 | float32 | no XLA |", "| 16 by 8 |", "| streaming 128 images |"):
        assert line in again.stdout
    assert "say nothing of speed" in again.stdout and "kNN accuracy" in again.stdout
