"""Exports from end to end, of runs that are made here: `main.main([...])`."""

from __future__ import annotations

import csv
import json
import pathlib
import re
import resource
import subprocess
import sys

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from resnet_reference import features
from safetensors import safe_open
from torch_side import in_torch, needs_torch

import main
from simclr_tf import data
from simclr_tf.config.settings import FORMATS, SETTINGS, Config
from simclr_tf.data.images import resize_to_fill
from simclr_tf.interop import export_formats
from simclr_tf.interop.torch_names import to_torch
from simclr_tf.models import classifier_head, decoder_variables, unet
from simclr_tf.runs.checkpoints import Checkpoints, named_variables, read_arrays
from simclr_tf.runs.lock import lock_folder
from simclr_tf.tasks import export
from simclr_tf.workflow.encoder import build_encoder
from simclr_tf.workflow.weights import adopt_encoder, pretrained_source

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZE = (24, 32)
SIX = "0.5 0.4 0.3 0.2 0.3 0.25"
NAMES = ("ant", "bee", "cow")
KINDS = ("pretrain", "classification", "segmentation")


def write_run(folder, task, *, width=0.0625, **settings):
    """Writes a run as its task leaves it, weights drawn; returns images [0, 1] -> its output."""
    settings = {"stem": "small", "width_multiplier": width, "normalize_input": SIX, **settings}
    settings |= {"dataset": "folder:/private/place", "precision": "mixed_bfloat16"}
    keras.utils.set_random_seed(5)
    config = Config.resolve(task=task, freeze=task == "classification", **settings)
    encoder = build_encoder(config)
    weights = named_variables("encoder", encoder.variables)
    model = encoder
    if task == "segmentation":
        model = unet(encoder, 3)
        weights |= named_variables("decoder", decoder_variables(model, encoder))
    rng = np.random.default_rng(5)
    for variable in model.variables:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith(("beta", "moving_mean")):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    forward = model
    if task == "classification":
        nonlinear = config.include_nonlinearity
        head = classifier_head(encoder.output_shape[-1], 3, nonlinear=nonlinear, normalize=True)
        head.get_layer("normalize").adapt(rng.uniform(0, 3, (50, encoder.output_shape[-1])))
        weights |= named_variables("classifier", head.variables)

        def forward(images, training=False):
            return head(encoder(images))

    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    names = {} if task == "pretrain" else {"class_names": NAMES}
    (folder / "model.json").write_text(json.dumps({**names, "view_size": SIZE}))
    (folder / "results.json").write_text(json.dumps({"loss": 1.25, "mean_iou": 0.5, "x": 3}))
    Checkpoints(folder / "checkpoints").save(weights, step=4)
    return lambda images: np.asarray(forward(images, training=False))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """task -> (folder, images -> output)"""
    root = tmp_path_factory.mktemp("runs")
    return {task: (root / task, write_run(root / task, task)) for task in KINDS}


@pytest.fixture(params=KINDS)
def run(request, runs):
    """(task, folder, images -> output)"""
    return request.param, *runs[request.param]


def exported(folder, task, format, *flags):
    words = ["--task=export", f"--format={format}", *flags]
    if task == "pretrain":
        return main.main([*words, f"--pretrain_save_path={folder}"])
    return main.main([*words, "--export_of=model", f"--finetune_save_path={folder}"])


def images_of(size=SIZE, count=3):
    return np.random.default_rng(2).integers(0, 256, (count, *size, 3), np.uint8)


def scaled(images):
    return images.astype(np.float32) / 255


def check_close(got, expected):
    np.testing.assert_allclose(got, expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=1e-4)
    assert np.ptp(expected, axis=0).max() > 1e-3  # images differ: the comparison says something


@pytest.mark.parametrize("format", FORMATS)
def test_readme_and_help_name_what_is_written(format):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| `export/{format}/{export_formats.NAMES[format]}` |" in readme
    meaning = SETTINGS["export_path"].metadata["help"]
    assert "model.FORMAT" in meaning and "SavedModel saved_model" in meaning
    assert export_formats.NAMES[format] == f"model.{format}" or format == "saved_model"


LOAD_ELSEWHERE = """
import sys, numpy as np, keras, tensorflow as tf
for folder, name in zip(sys.argv[1::2], sys.argv[2::2]):
    images, odd = np.load(folder + "/images.npy"), np.load(folder + "/odd.npy")
    model = keras.models.load_model(folder + "/keras/model.keras")
    np.save(folder + "/keras.npy", model(images))
    np.save(folder + "/keras_odd.npy", model(odd))
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    served = tf.saved_model.load(folder + "/saved_model/saved_model").signatures["serving_default"]
    assert list(served.structured_outputs) == [name]
    np.save(folder + "/saved_model.npy", served(images=tf.constant(images))[name])
    np.save(folder + "/saved_model_odd.npy", served(images=tf.constant(odd))[name])
assert "simclr_tf" not in sys.modules
"""


@pytest.mark.slow
def test_plain_keras_and_tensorflow_load_it_and_compute_the_same(runs, tmp_path):
    """In a process that cannot import this library."""
    odd = {task: images_of((48, 40) if task == "segmentation" else (60, 64), 2) for task in runs}
    words = []
    for task, (folder, _) in runs.items():
        place = tmp_path / task
        for format in ("keras", "saved_model"):
            assert exported(folder, task, format, f"--export_path={place / format}") == 0
        np.save(place / "images.npy", images_of())
        np.save(place / "odd.npy", odd[task])
        words += [str(place), "features" if task == "pretrain" else "logits"]
    command = [sys.executable, "-I", "-c", LOAD_ELSEWHERE, *words]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for task, (_, forward) in runs.items():
        for format in ("keras", "saved_model"):
            check_close(np.load(tmp_path / task / f"{format}.npy"), forward(scaled(images_of())))
            got = np.load(tmp_path / task / f"{format}_odd.npy")
            if task == "segmentation":
                check_close(got, forward(scaled(odd[task])))
            else:  # brought to the run's size inside, as the library brings files, but not rounded
                filled = np.stack([resize_to_fill(image, SIZE) for image in odd[task]])
                expected = forward(scaled(filled))
                np.testing.assert_allclose(got, expected, atol=0.05 * np.ptp(expected))


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated.*")
def test_tflite_computes_the_same(run, tmp_path):
    task, folder, forward = run
    assert exported(folder, task, "tflite", f"--export_path={tmp_path / 'out'}") == 0
    interpreter = tf.lite.Interpreter(str(tmp_path / "out" / "model.tflite"))
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert taken["shape_signature"].tolist() == [-1, *SIZE, 3] and taken["dtype"] == np.uint8
    for count in (1, 3):
        images = images_of(count=3)[:count]
        interpreter.resize_tensor_input(taken["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(taken["index"], images)
        interpreter.invoke()
        expected = forward(scaled(images_of()))
        got = interpreter.get_tensor(given["index"])
        np.testing.assert_allclose(got, expected[:count], atol=1e-4)


def test_onnx_computes_the_same(run, tmp_path):
    pytest.importorskip("tf2onnx", reason="no tf2onnx here: pip install -r requirements-dev.txt")
    onnxruntime = pytest.importorskip("onnxruntime", reason="no onnxruntime here")
    task, folder, forward = run
    assert exported(folder, task, "onnx", f"--export_path={tmp_path / 'out'}") == 0
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    output = "features" if task == "pretrain" else "logits"
    sizes = [SIZE, (37, 50)] if task == "segmentation" else [SIZE]
    for size in sizes:
        (got,) = session.run([output], {"images": images_of(size)})
        check_close(got, forward(scaled(images_of(size))))


@pytest.mark.slow
def test_a_run_in_bfloat16_is_exported_at_full_precision_in_every_format(tmp_path):
    """Numbers of bfloat16 would be off by a hundred times what is allowed here."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="no onnxruntime here")
    pytest.importorskip("tf2onnx", reason="no tf2onnx here: pip install -r requirements-dev.txt")
    images, run = images_of((16, 16), 8), tmp_path / "run"
    np.savez(tmp_path / "images.npz", images=images)
    words = ["--task=pretrain", f"--dataset=npz:{tmp_path / 'images.npz'}", "--max_steps=2"]
    words += ["--precision=mixed_bfloat16", "--width_multiplier=0.0625", "--zdim=4"]
    assert main.main([*words, "--batch_size=8", f"--pretrain_save_path={run}"]) == 0
    assert json.loads((run / "results.json").read_text())["precision"] == "mixed_bfloat16"
    weights = {}
    for path, array in read_arrays(Checkpoints(run / "checkpoints").newest()).items():
        if path.startswith("encoder/"):
            weights[path.removeprefix("encoder/")] = array
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    expected = features(to_torch(weights), np.moveaxis(scaled(images), 3, 1))

    for format in FORMATS:
        assert exported(run, "pretrain", format, f"--export_path={tmp_path / format}") == 0
    model = keras.models.load_model(tmp_path / "keras/model.keras")
    check_close(model(images), expected)
    served = tf.saved_model.load(tmp_path / "saved_model/saved_model")
    given = served.signatures["serving_default"](images=tf.constant(images))
    check_close(given["features"], expected)
    session = onnxruntime.InferenceSession(tmp_path / "onnx/model.onnx")
    check_close(session.run(["features"], {"images": images})[0], expected)
    interpreter = tf.lite.Interpreter(str(tmp_path / "tflite/model.tflite"))
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    given = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    check_close(given, expected)
    with safe_open(tmp_path / "safetensors/model.safetensors", "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    check_close(features(arrays, np.moveaxis(scaled(images), 3, 1)), expected)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_safetensors_hold_encoder_and_head_in_torchs_names(nonlinear, tmp_path):
    forward = write_run(tmp_path / "run", "classification", include_nonlinearity=nonlinear)
    assert exported(tmp_path / "run", "classification", "safetensors") == 0
    with safe_open(tmp_path / "run/export/safetensors/model.safetensors", "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        assert file.metadata()["normalize_input"] == SIX
    mean, std = np.array(SIX.split(), float).reshape(2, 3, 1, 1)
    planes = np.moveaxis(scaled(images_of()), 3, 1)
    x = features(arrays, (planes - mean) / std)
    names = ("fc.0", "fc.2") if nonlinear else ("fc",)
    for name in names:
        x = x if name == names[0] else np.maximum(x, 0)
        x = x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]
    check_close(x, forward(scaled(images_of())))
    # And in again, without a word on the normalisation.
    config = Config.resolve(init_weights=str(tmp_path / "run/export/safetensors/model.safetensors"))
    source = pretrained_source(config)
    assert adopt_encoder(config, source).normalize_input == SIX


def test_card_tells_what_it_is_and_no_paths(run, tmp_path):
    task, folder, _ = run
    flags = ("--export_license=cc-by-4.0", f"--export_path={tmp_path / 'out'}")
    assert exported(folder, task, "keras", *flags) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    assert "/private" not in card and str(tmp_path) not in card and "folder:place" in card
    assert "| loss | 1.25 |" in card and "| mean_iou | 0.5 |" in card and "| x |" not in card
    assert f"| normalize_input | {SIX} |" in card
    expected = {
        "pretrain": "`features`, float32 [N, 32]",
        "classification": "Classes: ant, bee, cow",
        "segmentation": "multiples of 8",
    }
    assert expected[task] in card


def test_nothing_is_overwritten_unasked_and_no_file_of_others_ever(tmp_path, capsys):
    write_run(tmp_path / "run", "pretrain")
    first = (tmp_path / "run", "pretrain", "safetensors")
    assert exported(*first) == 0
    path = tmp_path / "run" / "export" / "safetensors"
    assert sorted(p.name for p in path.iterdir()) == ["README.md", "model.safetensors"]
    assert sorted(p.name for p in path.parent.iterdir()) == ["safetensors"]
    assert exported(*first) == 2
    assert "Pass --overwrite to replace" in capsys.readouterr().err
    (path / "mine.txt").write_text("mine")
    assert exported(*first, "--overwrite") == 0 and (path / "mine.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    for flags in ((), ("--overwrite",)):
        assert exported(*first, f"--export_path={tmp_path / 'mine'}", *flags) == 2
    assert "that no export wrote" in capsys.readouterr().err
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"


@pytest.mark.parametrize("format", ["safetensors", "keras", "saved_model"])
def test_a_full_disk_leaves_the_export_that_was_there(tmp_path, capsys, format):
    write_run(tmp_path / "run", "pretrain")
    folder = tmp_path / "run" / "export" / format
    command = (tmp_path / "run", "pretrain", format)
    assert exported(*command) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / f"{export.PARTIAL}x").mkdir()  # of one that was killed
    (folder / f"{export.PARTIAL}x" / "model").write_text("half")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, unlimited[1]))
    try:
        code = exported(*command, "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    error = capsys.readouterr().err
    assert code == 2 and "File too large" in error and str(folder) in error
    assert "--overwrite then begins again" in error
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not list(folder.glob(f"{export.PARTIAL}*"))


def test_one_export_at_a_time_writes_into_a_folder(tmp_path, capsys):
    write_run(tmp_path / "run", "pretrain")
    folder = tmp_path / "run" / "export" / "safetensors"
    with lock_folder(folder, task="export", flag="export_path"):
        assert exported(tmp_path / "run", "pretrain", "safetensors", "--overwrite") == 2
    error = capsys.readouterr().err
    assert "got --task=export, process" in error and "--export_path" in error
    assert not folder.exists()


def test_mistakes_end_with_their_remedy(tmp_path, capsys, monkeypatch):
    write_run(tmp_path / "run", "pretrain")
    write_run(tmp_path / "deep", "pretrain", depthwise=True)
    write_run(tmp_path / "early", "pretrain", model=50, stride_in_1x1=True)
    (tmp_path / "run" / "model.json").unlink()
    (bare,) = (tmp_path / "run" / "checkpoints").iterdir()
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(bare.read_bytes())
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    of = "--pretrain_save_path="
    for flags, part in {
        (f"{of}{tmp_path / 'nowhere'}",): "Expected a trained encoder",
        (f"{of}{tmp_path / 'run'}", "--resume"): "got --resume",
        (f"{of}{tmp_path / 'run'}", "--format=tflite"): "Expected the size",
        (f"{of}{tmp_path / 'run'}", "--format=onnx"): "Expected the package tf2onnx",
        (f"{of}{tmp_path / 'deep'}", "--format=safetensors"): "got depth-wise convolutions",
        (f"{of}{tmp_path / 'early'}", "--format=safetensors"): "stride in the first 1x1",
        (f"--init_weights={copy}",): "Expected --export_path",
        ("--export_of=model", f"--finetune_save_path={tmp_path / 'run'}"): "--task=pretrain",
        ("--format=h5",): "one of keras, saved_model",
    }.items():
        assert main.main(["--task=export", *flags]) == 2
        assert part in capsys.readouterr().err
    assert not list(tmp_path.rglob("export/*"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Image files as people have them: large, on their side, transparent, gray, odd sizes."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(3)

    def draw(name, height, width, mode="RGB", **options):
        rough = rng.integers(0, 256, (5, 6, len(mode)), np.uint8).squeeze()
        sides, smooth = (width, height), PIL.Image.Resampling.BICUBIC
        planes = [PIL.Image.fromarray(p).resize(sides, smooth) for p in np.atleast_3d(rough).T]
        noise = rng.normal(0, 25, (len(planes), height, width))
        pixels = np.clip(np.stack(planes) + noise, 0, 255).astype(np.uint8)
        whole = PIL.Image.merge(mode, [PIL.Image.fromarray(plane) for plane in pixels])
        whole.save(folder / name, **options)

    on_its_side = PIL.Image.Exif()
    on_its_side[0x0112] = 6
    draw("a_large.jpg", 240, 320, quality=95)
    draw("b_odd.jpg", 301, 333)
    draw("c_on_its_side.jpg", 320, 210, exif=on_its_side)
    draw("d_gray.jpg", 101, 67, "L")
    draw("e_transparent.png", 70, 90, "RGBA")
    draw("f_small.png", 15, 20)
    draw("g_as_it_is.png", *SIZE)
    return folder


def code_of(card):
    """The Python that a card shows."""
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    return code


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("format", ["onnx", "tflite", "keras", "saved_model"])
def test_the_cards_code_gives_what_predict_gives(format, runs, files, tmp_path, monkeypatch):
    folder, _ = runs["classification"]
    out = tmp_path / "out"
    assert exported(folder, "classification", format, f"--export_path={out}") == 0
    words = ["--task=predict", f"--dataset=folder:{files}", f"--finetune_save_path={folder}"]
    words += ["--precision=float32", f"--predict_save_path={tmp_path / 'predicted'}"]
    assert main.main(words) == 0
    with open(tmp_path / "predicted/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    predicted = [dict(pair.split("=") for pair in row["top5"].split("; ")) for row in rows]
    code = code_of(out / "README.md")
    named = code.replace('["image.jpg"]', repr([row["path"] for row in rows]))
    assert named != code
    monkeypatch.chdir(out)
    values: dict = {}
    exec(named, values)
    odds = tf.nn.softmax(values["outputs"]).numpy()
    expected = np.array([[float(each[name]) for name in NAMES] for each in predicted])
    assert len(rows) == 7 and np.ptp(expected, axis=0).max() > 0.02
    np.testing.assert_allclose(odds, expected, atol=3e-4)  # the table is rounded


def test_the_cards_code_reads_files_as_evaluation_does(runs, files, tmp_path):
    folder, _ = runs["pretrain"]
    assert exported(folder, "pretrain", "onnx", f"--export_path={tmp_path}") == 0
    code = code_of(tmp_path / "README.md").partition("images = np.stack")[0]
    values: dict = {}
    exec(code, values)
    source = data.load(f"folder:{files}", need_labels=False).train
    (ours,) = data.plain_batches(source, batch_size=99, size=SIZE)
    for path, image in zip(source.paths, 255 * ours.numpy(), strict=True):
        distance = np.abs(values["read"](path) - image)  # levels
        assert distance.mean() < 0.05 and distance.max() <= 1.01, (path, distance.max())


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("task", ["pretrain", "classification"])
@pytest.mark.parametrize(
    "settings",
    [
        {"model": 18},
        {"model": 34, "stem": "imagenet", "normalize_input": "none"},
        {"model": 50, "stem": "imagenet", "include_nonlinearity": True},
    ],
    ids=lambda settings: str(settings["model"]),
)
def test_the_cards_code_loads_it_strictly_into_torchvision(task, settings, tmp_path):
    forward = write_run(tmp_path / "run", task, width=1.0, **settings)
    out = tmp_path / "out"
    assert exported(tmp_path / "run", task, "safetensors", f"--export_path={out}") == 0
    (code,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert "strict=True" in code
    (out / "code.py").write_text(code)
    np.save(out / "images.npy", images_of((45, 38)))
    in_torch("run", out)
    check_close(np.load(out / "outputs.npy"), forward(scaled(images_of((45, 38)))))
