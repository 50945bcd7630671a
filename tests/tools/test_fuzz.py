"""Broken files of every kind are read as what they hold, or refused by name: a part of the fuzzing.

`python tools/fuzz.py` is the long form. What it has found stands below, a case each.
"""

from __future__ import annotations

import ast
import importlib
import io
import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tables import for_each

import main
from simclr_tf import cli, data
from simclr_tf.data.files import free_memory
from simclr_tf.data.images import read_image
from simclr_tf.data.masks import MaskRules
from simclr_tf.data.sets.lists import load_lists
from simclr_tf.errors import UserError
from simclr_tf.models import resnet
from simclr_tf.report import read_report
from simclr_tf.runs.checkpoints import Checkpoints, fault_of, named_variables, step_of
from simclr_tf.runs.folder import RunFolder
from simclr_tf.workflow import weights
from simclr_tf.workflow.encoder import load_encoder_weights
from simclr_tf.workflow.weights import adopt_encoder

ROOT = Path(__file__).resolve().parents[2]
CASES = 40  # of each kind
IS_LINUX = sys.platform == "linux"
sys.path += [str(ROOT / "tools"), str(ROOT / "benchmarks")]
fuzzing = importlib.import_module("fuzzing")


@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_a_broken_file_is_read_right_or_refused_by_name(kind, tmp_path):
    judge, make = importlib.import_module("fuzzing.case").judge, fuzzing.make_of(kind)
    outcomes = []
    for number in range(CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        judged = judge(make, 0, number, folder)
        assert judged["outcome"] in ("read", "refused"), (number, judged)
        outcomes.append(judged["outcome"])
    assert set(outcomes) == {"read", "refused"}  # neither all whole nor all broken


@pytest.mark.scripts
def test_the_fuzzing_notices_defects(tmp_path):
    file = tmp_path / "fuzz.json"
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "tools/fuzz.py", "--kinds", *fuzzing.DEFECTS),
            *(f"--cases={len(fuzzing.DEFECTS)}", "--seconds=1", f"--json={file}"),
            f"--keep={tmp_path / 'kept'}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    results = json.loads(file.read_text())
    assert results["outcomes"] == {kind: {kind: 1} for kind in fuzzing.DEFECTS}
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert kept == {f"{kind}-{number}" for number, kind in enumerate(fuzzing.DEFECTS)}


def settings_of(path):
    config = cli.parse([f"--config={path}"])
    config.validate()


def npz_of(path):
    data.load(f"npz:{path}")


def masks_of(path):
    data.load(f"npz:{path}", masks=MaskRules())


def journal_of(path):
    RunFolder(path.parent).resume_rows(3)


def labelled(path):
    load_lists(str(path), "", need_labels=True, num_classes=0)


def archive(header):
    """An .npz file of one array, whose header is given."""
    text = header.encode() + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(99)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x_train.npy", array)
    return buffer.getvalue()


def arrays(images, **others):
    buffer = io.BytesIO()
    np.savez(buffer, x_train=images, **others)
    return buffer.getvalue()


IMAGES = np.zeros((2, 8, 8, 3), np.uint8)
LAUGHS = "\n  - ".join(
    ["seed:", "&x0 [a]", *(f"&x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 20))]
)
HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000, 8, 8, 3), }"

FOUND = {
    "references unfold to gigabytes": (settings_of, LAUGHS, "write it out"),
    "a reference in a size": (settings_of, "dataset: &a x\ncrop_size: [*a, *a]", "write it out"),
    "the first of two values was lost": (settings_of, "seed: 1\nseed: 2", "seed is given twice"),
    "a list that is called a map": (settings_of, "seed: !!map [1]", "expected a mapping"),
    "no float is as large": (settings_of, f"batch_size: {'9' * 400}", "2 or more, got 99"),
    "no text of so many digits": (settings_of, f"blur: 0x{'f' * 5000}", "of thousands of digits"),
    "a name of so many digits": (settings_of, f"? 0x{'f' * 5000}\n: 1", "thousands of digits"),
    "a value as long as the file": (settings_of, f"seed: {'x' * 9999}", r"x\.\.\.\. "),
    "no path holds a NUL": (settings_of, 'init_weights: "a\\0b"', "text for init_weights"),
    "a bound named no file": (settings_of, "temperature: 0", "above 0, got 0.0"),
    "names of a billion classes": (settings_of, "num_classes: 1000000000", "1000000"),
    "a very long line": (labelled, f"a.png,{'1' * 200_000}", "line 1: .*field larger"),
    "a user's name with a NUL": (labelled, "~\0,1", "line 1: expected an image file"),
    "a billion classes in a list": (labelled, "a.png,1999999999", r"outside 0\.\.999999\. Fix"),
    "too large an array": (npz_of, archive(HUGE), "plain arrays at .*allocate"),
    "a header that ends within a line": (npz_of, archive("{'descr'"), "plain arrays at"),
    "a header of quotes": (npz_of, archive("'''"), "plain arrays at"),
    "an empty header": (npz_of, archive(""), "plain arrays at"),
    "complex numbers": (npz_of, arrays(IMAGES + 1j), "got complex128"),
    "bool, 0 and 1 of 255": (npz_of, arrays(IMAGES > 0), "got bool"),
    "text": (npz_of, arrays(IMAGES.astype(str)), "got <U3"),
    "records": (npz_of, arrays(np.zeros((2, 8, 8), [("r", "u1")])), "got .*'r'"),
    "no rows": (npz_of, arrays(IMAGES[:, :0]), r"got \[2, 0, 8, 3\]"),
    "labels that wrapped to 0": (npz_of, arrays(IMAGES, y=np.array([0, 2**32])), "below 1,000,000"),
    "names of a billion labels": (npz_of, arrays(IMAGES, y=np.array([0, 10**9])), "below 1,000,"),
    "masks named no file": (masks_of, arrays(IMAGES, y=np.full((2, 8, 8), 300)), "value 300"),
    "other masks named no file": (masks_of, arrays(IMAGES, masks=np.zeros((2, 8, 9))), "float64"),
    "a journal of text": (journal_of, "step,loss\nx,1", "lines of numbers"),
    "a journal without steps": (journal_of, "epoch\n1", "lines of numbers"),
    "a journal that is cut off": (journal_of, "step,loss\n1", "lines of numbers"),
    "a journal of too many cells": (journal_of, "step\n1,2", "lines of numbers"),
    "an infinite step": (journal_of, "step\ninf", "lines of numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name, tmp_path):
    read, content, message = FOUND[name]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    path = tmp_path / ("metrics.csv" if read is journal_of else "broken file")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"(?s){message}") as raised:
        read(path)
    assert path.name in str(raised.value) and len(str(raised.value)) < 1000


def test_a_set_that_unfolds_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "set.npz", x_train=np.zeros((9, 200, 200, 3), np.uint8))
    assert (tmp_path / "set.npz").stat().st_size < 5000
    monkeypatch.setattr("simclr_tf.data.sets.arrays.free_memory", lambda: 1e6)
    with pytest.raises(UserError, match="0.0 GB of arrays in .*set.npz"):
        npz_of(tmp_path / "set.npz")


@pytest.mark.parametrize(
    "array",
    [
        np.array("no image"),
        np.array(["a", "b"]),
        np.zeros((2, 0, 8, 3), np.uint8),
        np.array([{}, {}], object),
        np.full((2, 8, 8, 3), 1 + 1j),
    ],
    ids=lambda array: f"{array.dtype.kind}{array.ndim}",
)
def test_the_check_of_odd_arrays_ends_in_a_list_or_a_message(array, tmp_path, capsys):
    np.savez(tmp_path / "odd.npz", x_train=array, y_train=np.arange(2))
    flags = [f"--dataset=npz:{tmp_path / 'odd.npz'}", f"--finetune_save_path={tmp_path / 'run'}"]
    assert main.main(["--task=check", *flags]) == 2
    printed = capsys.readouterr()
    assert "odd.npz" in printed.out + printed.err and "Traceback" not in printed.err


@pytest.mark.parametrize("damage", ["cut off", "flipped", "random", "an array of its own"])
def test_the_check_of_broken_archives_ends_in_a_message(damage, tmp_path, capsys):
    path = tmp_path / "broken.npz"
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (9, 16, 16, 3), np.uint8), np.arange(9)
    np.savez_compressed(path, x_train=images, y_train=labels)
    content = bytearray(path.read_bytes())
    if damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        at = content.index(b"y_train.npy") + 40  # within the labels' packed bytes
        content[at : at + 8] = bytes(byte ^ 255 for byte in content[at : at + 8])
        path.write_bytes(content)
    elif damage == "random":
        path.write_bytes(rng.bytes(500))
    else:
        with open(path, "wb") as file:
            np.save(file, images)
    flags = [f"--dataset=npz:{path}", f"--finetune_save_path={tmp_path / 'run'}"]
    assert main.main(["--task=check", *flags]) == 2
    assert "broken.npz" in capsys.readouterr().err


def test_free_memory_counts_what_only_caches_files():
    for line in Path("/proc/meminfo").read_text().splitlines() if IS_LINUX else ():
        if line.startswith("MemAvailable:"):
            assert free_memory() == pytest.approx(1024 * int(line.split()[1]), rel=0.2)


def test_a_program_is_no_image(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("ran the program"))
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("ran the program"))
    with pytest.raises(UserError, match="a.jpg .no known image format"):
        read_image(path)


def test_weights_of_other_numbers_are_refused(tmp_path):
    encoder = resnet(18, stem="small", width_multiplier=0.0625)
    arrays = {n: np.asarray(v) for n, v in named_variables("encoder", encoder.variables).items()}
    name = "encoder/stem_conv/kernel"
    path = tmp_path / "weights.safetensors"
    for changed, message in (
        (np.full_like(arrays[name], np.nan), f"nan or infinity in 1 of .*{name}"),
        (arrays[name].astype(np.int32), f"{name}: expected float32, got int32"),
    ):
        save_file(arrays | {name: changed}, path)
        with pytest.raises(UserError, match=f"(?s)weights.safetensors.*{message}"):
            load_encoder_weights(encoder, path)
    save_file(arrays | {name: arrays[name].astype(np.float16)}, path)
    load_encoder_weights(encoder, path)
    # A kind of numbers that NumPy does not have.
    path.write_bytes(path.read_bytes().replace(b'"F16"', b'"F4" '))
    with pytest.raises(UserError, match="weights.safetensors"):
        load_encoder_weights(encoder, path)


def test_a_checkpoint_of_another_name_is_not_the_newest(tmp_path):
    for name in ("step-000000003", "step-000000009 (1)", "step-newest"):
        (tmp_path / f"{name}.safetensors").touch()
    assert Checkpoints(tmp_path).newest() == tmp_path / "step-000000003.safetensors"
    save_file({"a": np.zeros(1)}, tmp_path / "best.safetensors")
    with pytest.raises(UserError, match="best.safetensors.*after which step"):
        step_of(tmp_path / "best.safetensors")


@pytest.mark.parametrize(
    "text",
    ['{"class_names": 3}', '{"class_names": "ab"}', '{"class_names": ["\\ud800"]}', "3",
     '{"view_size": [1e999, 2]}', '{"view_size": 3}', '{"trained_on": [0, 1]}', "[" * 100_000],
)  # fmt: skip
def test_facts_of_a_run_that_are_none(text, tmp_path):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(UserError, match="model.json"):
        RunFolder(tmp_path).facts()


def test_settings_of_a_run_that_are_none(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "step-000000001.safetensors"
    for text in ("", "- 3", "task: 2024-99-99", "stem: [small]", "a: !!timestamp x", "model: 7"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match="config.yaml"):
            adopt_encoder(cli.parse([]), checkpoint)
            raise AssertionError(text)
        assert RunFolder(tmp_path).task() is None
    (tmp_path / "config.yaml").write_text("width_multiplier: -1")
    with pytest.raises(UserError, match="config.yaml"):
        weights.settings_of(checkpoint)


def test_a_report_of_deep_lists(tmp_path):
    (tmp_path / "results.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="results.json"):
        read_report(tmp_path)


FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@for_each("path", sorted((ROOT / "simclr_tf").rglob("*.py")))
def test_no_file_can_run_code(path):
    """No pickle, eval, exec or shell; YAML by a safe loader; NumPy's files without objects."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
            assert not FORBIDDEN & {name.split(".")[0] for name in names}, path
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
        where = f"{path} line {node.lineno}: {name}"
        assert name not in ("eval", "exec", "compile", "__import__", "os.system"), where
        assert not name.endswith("unsafe_deserialization") and "shell" not in given, where
        if name.startswith("yaml.") and "load" in name:
            loader = ast.unparse(node.args[1]) if len(node.args) > 1 else ""
            assert name == "yaml.safe_load" or (name, loader) == ("yaml.load", "_Plain"), where
        if name == "np.load":
            assert ast.unparse(given["allow_pickle"]) == "False", where
        if name.endswith("load_model"):
            assert "safe_mode" not in given, where


def test_edited_weights_are_mostly_judged_by_what_was_edited(tmp_path, rng):
    """The checksum, left in, would refuse them all: no edit would come to the code that reads."""
    runs = importlib.import_module("fuzzing.runs")
    path, content = tmp_path / "weights.safetensors", runs._valid_run()[runs.CHECKPOINT]
    faults = []
    for _ in range(CASES):
        path.write_bytes(runs._edit_weights(rng, content)[0])
        faults.append(fault_of(path))
    by_checksum = sum("checksum" in fault for fault in faults)
    assert 0 < by_checksum < CASES // 3
