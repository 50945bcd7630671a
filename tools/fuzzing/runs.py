"""What a run leaves behind: weights, and the files of its folder, as other tasks read them."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fuzzing.broken import broken
from fuzzing.case import Case, Wrong
from fuzzing.texts import VALUES
from simclr_tf.config.settings import Config
from simclr_tf.models.heads import classifier_head
from simclr_tf.report import build_report, read_report
from simclr_tf.runs.checkpoints import CHECKSUM, Checkpoints, named_variables
from simclr_tf.runs.folder import RunFolder
from simclr_tf.tasks import predict
from simclr_tf.workflow.encoder import build_encoder, load_encoder_weights
from simclr_tf.workflow.resume import begin_or_resume
from simclr_tf.workflow.run import Run
from simclr_tf.workflow.weights import adopt_encoder, adopt_run, pretrained_source

SMALL = {"width_multiplier": 0.0625, "stem": "small"}
STEP = 2
DTYPES = ("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "I4", "C64", "")
VALUES_OF_JSON = (
    "null", "0", "-1", "3", "1e999", "NaN", '"ab"', '""', "[]", "[1]", "[[]]", "[0, 0]", "[-3, 4]",
    '["a", "b"]', '["a", "b", "c"]', "[null, null]", "[1, 2, 3]", "{}", '{"a": 1}', "true",
    '"\\ud800"', '"\\u0000"', "[1e999, 2]", '["a", ["b"]]', "9" * 400, "[8.5, 8]", '["8", "8"]',
    '["a", "a"]', '[" ", "a\\nb"]', "[99999999999, 8]", "1e400", '"../../x"', '["../../x"]',
)  # fmt: skip


def weights(rng: np.random.Generator, folder: Path) -> Case:
    """A file of weights, as --init_weights."""
    file = folder / "weights.safetensors"
    content = _valid_run()["checkpoints/step-000000002.safetensors"]
    draw = rng.random()
    how: str
    if draw < 0.35:
        content, how = broken(rng, content)
    else:
        content, how = _edit_weights(rng, content)
    file.write_bytes(content)

    def read() -> None:
        encoder = _network()[0]
        load_encoder_weights(encoder, file)
        for variable in encoder.variables:
            if not np.isfinite(np.asarray(variable)).all():
                raise Wrong(f"{how}: {variable.path} is not finite")
        if how in WEIGHTS_THAT_DIFFER:
            raise Wrong(f"{how}: taken as weights")

    return Case(file, how, read)


def run_folder(rng: np.random.Generator, folder: Path) -> Case:
    """One broken file in the folder of a run: resumed, compared, evaluated or predicted with."""
    name, way = PARTS[rng.integers(len(PARTS))]
    valid = _valid_run()
    for each, content in valid.items():
        (folder / each).parent.mkdir(exist_ok=True)
        (folder / each).write_bytes(content)
    if name == "results.json" and way is _compare:
        (folder / name).write_text(json.dumps(EVALUATED))
    file = folder / name
    content, how = _break_text(rng, file.read_bytes(), file.suffix)
    file.write_bytes(content)
    if rng.random() < 0.03:
        file.unlink()
        file.mkdir()
        how = "folder"

    def read() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            way(folder)

    return Case(file, f"{name}, {way.__name__.strip('_')}: {how}", read)


def _resume(folder: Path) -> None:
    config = _config(folder, resume=True)
    run = Run(config, None, RunFolder(folder), 0.0)
    run.folder.begin("classification", resume=True, overwrite=False, flag="finetune_save_path")
    encoder, head = _network()
    step = begin_or_resume(run, _variables(encoder, head))
    if step != STEP or not all(row["step"] <= STEP for row in run.folder.rows):
        raise Wrong(f"step {step}, rows {run.folder.rows}")
    run.folder.add_row({"epoch": 3, "step": 3, "loss": 1.0})


def _clear(folder: Path) -> None:
    run = Run(_config(folder, overwrite=True), None, RunFolder(folder), 0.0)
    run.folder.begin("classification", resume=False, overwrite=True, flag="finetune_save_path")
    begin_or_resume(run, {})


def _adopt(folder: Path) -> None:
    """What embedding and evaluating take over from a run."""
    config = Config.resolve(task="embed", init_weights=str(folder))
    checkpoint = pretrained_source(config)
    adopted = adopt_run(adopt_encoder(config, checkpoint), checkpoint)
    adopted.validate()


def _predict(folder: Path) -> None:
    config = Config.resolve(task="predict", finetune_save_path=str(folder))
    trained = predict.read_run(config)
    predict.build_model(trained)
    if not all(isinstance(name, str) for name in trained.class_names):
        raise Wrong(f"names {trained.class_names}")
    for size in (trained.view_size, trained.trained_on):
        if size is not None and not (
            len(size) == 2 and all(type(s) is int and s > 0 for s in size)
        ):
            raise Wrong(f"size {size}")


def _compare(folder: Path) -> None:
    html = build_report([read_report(folder), read_report(folder)])
    html.encode()
    if "<script" in html:
        raise Wrong("a script in the report")


CHECKPOINT = f"checkpoints/step-{STEP:09d}.safetensors"
PARTS = (
    ("config.yaml", _resume), ("config.yaml", _clear), ("config.yaml", _adopt),
    ("config.yaml", _predict), ("metrics.csv", _resume), (CHECKPOINT, _resume),
    (CHECKPOINT, _predict), ("model.json", _predict), ("model.json", _predict),
    ("results.json", _compare), ("results.json", _compare),
)  # fmt: skip
EVALUATED: dict[str, Any] = {
    "task": "evaluate",
    "config": {"seed": 0},
    "knn": 0.5,
    "protocols": {"knn": {"accuracy": [0.5], "mean": 0.5, "confusion_matrix": [[1, 2], [3, 4]]}},
    "class_names": ["a", "b"],
    "num_train": 3,
    "health": {"alignment": 0.1, "per_dimension_spread": [0.1, 0.2]},
    "finetune": {"0.1": 0.5},
    "baselines": {"pca": 0.3},
    "pictures": ["tsne.png"],
    "pretrain_config": {"seed": 1},
    "date": "2024-01-01",
    "seconds": 3.0,
}


def _config(folder: Path, **changes: object) -> Config:
    return Config.resolve(task="classification", finetune_save_path=str(folder), **SMALL, **changes)


def _break_text(rng: np.random.Generator, content: bytes, suffix: str) -> tuple[bytes, str]:
    """Breaks a file of a run: a value of it, or its bytes."""
    if suffix == ".safetensors":
        edited = _edit_weights(rng, content) if rng.random() < 0.5 else broken(rng, content)
        return edited
    if rng.random() < 0.25:
        return broken(rng, content)
    if suffix == ".yaml":
        lines = content.decode().splitlines()
        place = int(rng.integers(len(lines)))
        name = lines[place].split(":")[0]
        if rng.random() < 0.3:
            name = str(rng.choice(["task", "stem", "model", "given", "? [a]\n", "- a"]))
        value = str(rng.choice(VALUES))
        lines[place] = f"{name}: {value}"
        return "\n".join(lines).encode(), f"{name}: {value[:40]}"
    if suffix == ".csv":
        cells = (
            "", "x", "nan", "inf", "1e400", "-1", "2.0", '"', "\0", "9" * 400, "1,2,3,4",
            "x" * 200_000, "٣", "1_0",
        )  # fmt: skip
        lines = content.decode().splitlines()
        place, cell = int(rng.integers(len(lines))), str(rng.choice(cells))
        words = lines[place].split(",")
        words[int(rng.integers(len(words)))] = cell
        lines[place] = ",".join(words)
        return "\n".join(lines).encode(), f"line {place} {cell[:20]!r}"
    facts = json.loads(content)
    key = str(rng.choice([*facts]))
    text = str(rng.choice([*VALUES_OF_JSON, "[" * 100_000, '{"a":' * 5000, "x"]))
    if rng.random() < 0.1:
        return text.encode(), f"all of it {text[:40]}"
    facts[key] = "HERE"
    return json.dumps(facts).replace('"HERE"', text).encode(), f"{key}: {text[:40]}"


WEIGHTS_THAT_DIFFER = (
    "nan", "infinite", "name missing", "header length", "offsets overlap", "offsets beyond",
    "shape", "scalar", "huge shape", "whole numbers", "deep",
)  # fmt: skip
WEIGHTS_THAT_MAY_DO = ("dtype", "whole", "metadata")


def _edit_weights(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    """Changes the header of a safetensors file, or a value."""
    (length,) = struct.unpack("<Q", content[:8])
    header, values = json.loads(content[8 : 8 + length]), content[8 + length :]
    if rng.random() < 0.8:  # else the checksum refuses the file before its content is looked at
        header["__metadata__"].pop(CHECKSUM)
    how = str(rng.choice([*WEIGHTS_THAT_DIFFER, *WEIGHTS_THAT_MAY_DO]))
    if how == "header length":
        size = int(rng.choice([0, 1, 7, length - 1, length + 1, 2**31, 2**32, 2**62, 2**63 - 1]))
        return struct.pack("<Q", size) + content[8:], how
    # Of the encoder: what else there is a task may leave aside.
    names = sorted(name for name in header if name.startswith("encoder/"))
    name = names[rng.integers(len(names))]
    start, _ = header[name]["data_offsets"]
    if how in ("nan", "infinite"):
        number = struct.pack("<f", float("nan") if how == "nan" else float("-inf"))
        values = values[:start] + number + values[start + 4 :]
    elif how == "name missing":
        header[name + "x"] = header.pop(name)
    elif how == "metadata":
        header["__metadata__"] = json.loads(str(rng.choice(['{"step": 1}', "[]", "null", '"x"'])))
    elif how == "deep":
        return struct.pack("<Q", 9000 * 5) + b'{"a":' * 9000, how
    else:
        _edit_entry(rng, how, header[name])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values, how


def _edit_entry(rng: np.random.Generator, how: str, entry: dict[str, Any]) -> None:
    """Changes what the header of a safetensors file says of one array."""
    start, end = entry["data_offsets"]
    earlier = start - 4 if start else 4
    changes: dict[str, dict[str, Any]] = {
        "offsets overlap": {"data_offsets": [earlier, earlier + end - start]},
        "offsets beyond": {"data_offsets": [start + 2**40, end + 2**40]},
        "shape": {"shape": [*entry["shape"], 1]},
        "scalar": {"shape": []},
        "huge shape": {"shape": [2**40, 2**40, 2**40]},
        "whole numbers": {"dtype": "I32"},
        "dtype": {"dtype": str(rng.choice(DTYPES))},
    }
    entry |= changes.get(how, {})
    width = {"F64": 8, "I64": 8, "C64": 8, "F16": 2, "BF16": 2}.get(entry["dtype"])
    if width is not None:
        entry["shape"] = [(end - start) // width]


@functools.cache
def _network() -> tuple[keras.Model, keras.Model]:
    keras.utils.set_random_seed(0)
    config = Config.resolve(task="classification", **SMALL)
    encoder = build_encoder(config)
    return encoder, classifier_head(encoder.output_shape[-1], 2, nonlinear=False, normalize=False)


def _variables(encoder: keras.Model, head: keras.Model) -> dict[str, keras.Variable]:
    return named_variables("encoder", encoder.variables) | named_variables(
        "classifier", head.variables
    )


@functools.cache
def _valid_run() -> dict[str, bytes]:
    """The files of a classification, by name; they name the folder that they lie in by "."."""
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(name)
        config = Config.resolve(task="classification", max_steps=STEP, **SMALL)
        folder.write_config(config.to_yaml())
        folder.write_model(class_names=["a", "b"], view_size=[8, 8], trained_on=[9, 9])
        folder.write_results({"task": "classification", "accuracy": 0.5})
        for step in range(STEP):
            folder.add_row({"epoch": step + 1, "step": step + 1, "loss": 0.5})
        Checkpoints(folder.path / "checkpoints").save(_variables(*_network()), step=STEP)
        files = {
            path.relative_to(name).as_posix(): path.read_bytes()
            for path in Path(name).rglob("*")
            if path.is_file()
        }
        shutil.rmtree(folder.path / "checkpoints")
    return files
