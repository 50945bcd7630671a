"""Weights of other libraries as --init_weights.

Compared with what torchvision and timm compute, where there is an environment that has them
(`make interop`), and everywhere with a NumPy ResNet and a list of torchvision's names.
"""

from __future__ import annotations

import functools
import pathlib
import shutil

import keras
import numpy as np
import pytest
import yaml
from PIL import Image
from resnet_reference import features
from safetensors.numpy import save_file
from torch_side import in_torch, needs_torch

import main
from simclr_tf.cli import parse
from simclr_tf.config.settings import Config
from simclr_tf.errors import UserError
from simclr_tf.interop import keras_applications
from simclr_tf.interop.torch_names import check_fit, find_encoder, to_torch, torch_name
from simclr_tf.models import resnet, unet
from simclr_tf.runs.checkpoints import named_variables
from simclr_tf.runs.folder import RunFolder
from simclr_tf.workflow.encoder import prepare_encoder
from simclr_tf.workflow.pixel_normalization import IMAGENET
from simclr_tf.workflow.weights import adopt_encoder, initial_weights, pretrained_source

MEAN, STD = (np.array(values)[:, np.newaxis, np.newaxis] for values in IMAGENET)
TABLE = pathlib.Path(__file__).parent / "torchvision_resnets.txt"


def torchvision_shapes(depth):
    """Names and shapes as torchvision 0.29 lists them, without `fc` and counters."""
    rows = (line.split() for line in TABLE.read_text().splitlines())
    shapes = {name: tuple(map(int, shape)) for d, name, *shape in rows if int(d) == depth}
    return {n: s for n, s in shapes.items() if not n.startswith("fc") and "tracked" not in n}


def drawn(shapes, seed=0):
    """Weights of those shapes with which the features of a ResNet stay of order 1."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            return rng.uniform(0.5, 1.5, shape)
        if len(shape) == 1:
            return rng.normal(0, 0.1, shape)
        return rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)

    return {name: draw(name, shape).astype(np.float32) for name, shape in shapes.items()}


@functools.cache
def small_shapes():
    """Shapes of our smallest encoder by torchvision's names."""
    encoder = resnet(18, width_multiplier=0.0625, stem="small")
    return {
        n: a.shape for n, a in to_torch({v.path: np.asarray(v) for v in encoder.variables}).items()
    }


def imported(path, **settings):
    """Returns the encoder that a command would begin with, and its settings."""
    config = Config.resolve(init_weights=str(path), **settings)
    source = pretrained_source(config)
    config = adopt_encoder(config, source)
    return prepare_encoder(config, source), config


def images_of(count=2, size=(45, 38), seed=1):
    """float32 [N, H, W, 3] in [0, 1]; odd sizes, bright borders: padding shows."""
    return np.random.default_rng(seed).uniform(0.3, 1, (count, *size, 3)).astype(np.float32)


def planes(images):
    return np.moveaxis(images.astype(np.float64), 3, 1)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_torchvision_weights_give_torchvision_features(depth, tmp_path, capsys):
    arrays = drawn(torchvision_shapes(depth))
    save_file({**arrays, "fc.weight": np.zeros((10, 4))}, tmp_path / "weights.safetensors")
    encoder, config = imported(tmp_path / "weights.safetensors")
    assert (config.model, config.stem, config.width_multiplier) == (depth, "imagenet", 1.0)
    assert config.normalize_input == "imagenet"
    assert "1 other left aside" in capsys.readouterr().out
    images = images_of()
    expected = features(arrays, (planes(images) - MEAN) / STD)
    np.testing.assert_allclose(encoder(images), expected, atol=1e-4, rtol=1e-4)
    assert np.ptp(expected, axis=0).max() > 1e-2
    # And back: the very names, shapes and values that torchvision has.
    ours = {v.path: np.asarray(v) for v in encoder.variables if "normalize" not in v.path}
    back = to_torch(ours)
    check_fit(torchvision_shapes(depth), {n: a.shape for n, a in back.items()}, "")
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


def test_normalisation_is_told_by_file_or_flag_and_counts_at_the_border(tmp_path):
    path = tmp_path / "weights.npz"
    arrays = drawn(small_shapes())
    np.savez(path, **arrays)
    images = images_of()
    plain, config = imported(path, normalize_input="none")
    assert (config.stem, config.width_multiplier) == ("small", 0.0625)
    np.testing.assert_allclose(plain(images), features(arrays, planes(images)), atol=1e-4)
    six, _ = imported(path, normalize_input="0.5 0.4 0.3 0.2 0.3 0.4")
    mean, std = np.array([[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]])[:, :, np.newaxis, np.newaxis]
    expected = features(arrays, (planes(images) - mean) / std)
    np.testing.assert_allclose(six(images), expected, atol=1e-4)
    save_file(arrays, tmp_path / "a.safetensors", metadata={"normalize_input": "none"})
    assert imported(tmp_path / "a.safetensors")[1].normalize_input == "none"
    for wrong in ("0.5", "1 2 3 4 5 0", "a b c d e f", "imagnet"):
        with pytest.raises(UserError, match="6 numbers"):
            imported(path, normalize_input=wrong)


def test_normalisation_is_float32_and_of_no_gradient_and_saved():
    encoder = resnet(18, stem="small", width_multiplier=0.0625, mean_std=IMAGENET)
    layer = encoder.get_layer("normalize_input")
    assert [v.path for v in layer.non_trainable_variables] == [
        "normalize_input/mean",
        "normalize_input/std",
    ]
    assert not {"encoder/normalize_input/mean", "encoder/normalize_input/std"} - set(
        named_variables("encoder", encoder.variables)
    )
    again = type(layer).from_config(layer.get_config())
    images = images_of()
    np.testing.assert_array_equal(again(images), layer(images))
    np.testing.assert_allclose(
        np.moveaxis(np.asarray(layer(images)), 3, 1), (planes(images) - MEAN) / STD, atol=1e-5
    )
    # A U-Net takes its maps from behind the layer.
    plain = resnet(18, stem="small", width_multiplier=0.0625)
    plain.set_weights([w for w in encoder.get_weights() if w.shape != (3,)])
    deep, flat = unet(encoder, 2), unet(plain, 2)
    count = len(encoder.variables)
    for variable, other in zip(deep.variables[2:], flat.variables, strict=True):
        other.assign(variable)
    assert count == len(plain.variables) + 2
    np.testing.assert_allclose(deep(images), flat(layer(images)), atol=1e-5)


def numbered(arrays, prefix):
    """As `nn.Sequential(*list(resnet.children())[:-1])` names the children."""
    place = {"conv1": "0", "bn1": "1", **{f"layer{i}": str(i + 3) for i in (1, 2, 3, 4)}}
    return renamed(
        arrays, lambda name: prefix + place[name.split(".")[0]] + name[name.index(".") :]
    )


def numbered_small(arrays, prefix):
    """As lightly's own ResNet, which has no pool, and calls its shortcuts so."""
    place = {"conv1": "0", "bn1": "1", **{f"layer{i}": str(i + 1) for i in (1, 2, 3, 4)}}
    arrays = renamed(arrays, lambda name: name.replace("downsample", "shortcut"))
    return renamed(
        arrays, lambda name: prefix + place[name.split(".")[0]] + name[name.index(".") :]
    )


def renamed(arrays, rename):
    return {rename(name): array for name, array in arrays.items()}


def prefixed(arrays, prefix):
    return renamed(arrays, lambda name: prefix + name)


@pytest.mark.parametrize(
    "prefix", ["", "backbone.", "encoder.", "module.encoder_q.", "model.", "resnet.", "features."]
)
def test_whatever_stands_before_the_names_goes(prefix):
    arrays = drawn(small_shapes())
    counters = {f"{prefix}bn1.num_batches_tracked": np.zeros(())}
    head = {"projection_head.layers.0.weight": np.zeros((2, 2)), f"{prefix}fc.bias": np.zeros(2)}
    for rename in (prefixed, numbered, numbered_small):
        found = find_encoder({**rename(arrays, prefix), **counters, **head}, "a file")
        assert found.prefix == prefix and found.left_aside == 2
        assert found.arrays.keys() == arrays.keys()
        assert all(found.arrays[name] is arrays[name] for name in arrays)
    for second in ("momentum_encoder.", "teacher.", "module.encoder_k."):
        both = prefixed(arrays, prefix) | prefixed(drawn(small_shapes(), 1), second)
        assert find_encoder(both, "a file").prefix == prefix
        assert find_encoder(prefixed(arrays, second), "a file").prefix == second


def refusal(tmp_path, arrays, **settings):
    save_file(arrays, tmp_path / "w.safetensors")
    with pytest.raises(UserError) as error:
        imported(tmp_path / "w.safetensors", **settings)
    return str(error.value)


def test_what_does_not_fit_is_listed_and_the_flags_that_fit_are_named(tmp_path):
    arrays = drawn(small_shapes())
    without = {n: a for n, a in arrays.items() if n != "layer2.0.bn2.weight"}
    odd = {**without, "layer1.0.se.fc.weight": np.zeros(3), "layer1.1.bn1.bias": np.zeros(3)}
    said = refusal(tmp_path, odd)
    assert "got 3 that do not fit" in said
    for line in (
        "- missing layer2.0.bn2.weight (8,)",
        "- layer1.1.bn1.bias: expected (4,), got (3,)",
        "- unknown layer1.0.se.fc.weight (3,)",
    ):
        assert line in said
    some = {n: a for n, a in arrays.items() if not n.startswith("layer4") or "conv" in n}
    said = refusal(tmp_path, some)
    assert said.count("\n- ") + said.count("\n...") <= 21 and "missing layer4.0.bn1.weight" in said
    wide = {n: np.zeros((*a.shape[:-1], a.shape[-1] + 1)) for n, a in arrays.items()}
    wide["conv1.weight"] = arrays["conv1.weight"]
    assert "\n... " in refusal(tmp_path, wide)
    assert "--model=18" in refusal(tmp_path, arrays, model=50)
    assert "--width_multiplier=0.0625" in refusal(tmp_path, arrays, width_multiplier=1.0)
    assert "--stem=small" in refusal(tmp_path, arrays, stem="imagenet")
    assert "--depthwise=False" in refusal(tmp_path, arrays, depthwise=True)
    deeper = {**arrays, **{f"layer3.{i}.conv1.weight": np.zeros(1) for i in range(23)}}
    assert "stages of 2, 2, 23, 2 basic blocks" in refusal(tmp_path, deeper)
    two = prefixed(arrays, "a.") | prefixed(arrays, "b.")
    assert "a.*, b.*" in refusal(tmp_path, two)
    assert "2 other names:\n- x\n- y" in refusal(tmp_path, {"x": np.zeros(1), "y": np.zeros(1)})
    gray = {**arrays, "conv1.weight": np.zeros((4, 1, 3, 3))}
    assert "--channels=1" in refusal(tmp_path, gray, channels=3)
    five = {**arrays, "conv1.weight": np.zeros((4, 3, 5, 5))}
    assert "got [4, 3, 5, 5]" in refusal(tmp_path, five)


def test_weights_for_gray_images_come_in_unnormalised_unless_asked(tmp_path):
    arrays = drawn(small_shapes())
    arrays["conv1.weight"] = arrays["conv1.weight"][:, :1]
    np.savez(tmp_path / "weights.npz", **arrays)
    gray = images_of()[..., :1]
    encoder, config = imported(tmp_path / "weights.npz")
    assert (config.channels, config.normalize_input) == (1, "none")
    np.testing.assert_allclose(encoder(gray), features(arrays, planes(gray)), atol=1e-4)
    encoder, _ = imported(tmp_path / "weights.npz", normalize_input="0.5 0.25")
    expected = features(arrays, (planes(gray) - 0.5) / 0.25)
    np.testing.assert_allclose(encoder(gray), expected, atol=1e-4)


def test_other_kinds_of_files_are_refused_with_what_helps(tmp_path):
    def said(name, content=b"x"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            imported(tmp_path / name)
        return str(error.value)

    for name in ("a.pth", "a.pt", "a.ckpt"):
        assert f"torch.load('{name}'" in said(name) and "'a.safetensors')" in said(name)
    assert "Expected a run folder, or a .safetensors or .npz" in said("a.txt")
    assert "Expected weights in safetensors format" in said("a.safetensors")
    assert "Expected weights in npz format" in said("a.npz")
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], object))
    with pytest.raises(UserError, match="Expected weights in npz format"):
        imported(tmp_path / "pickled.npz")
    with pytest.raises(UserError, match="Expected keras:ResNet50"):
        imported("keras:VGG16")


def test_half_precision_and_counters_come_in(tmp_path):
    arrays = {n: a.astype(np.float16) for n, a in drawn(small_shapes()).items()}
    save_file(
        {**arrays, "bn1.num_batches_tracked": np.zeros((), np.int64)}, tmp_path / "w.safetensors"
    )
    encoder, _ = imported(tmp_path / "w.safetensors")
    kernel = np.asarray(encoder.get_layer("stem_conv").kernel)
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), arrays["conv1.weight"])


def keras_resnet50():
    """Keras' ResNet50 as it downloads it, weights and statistics drawn."""
    source = keras.applications.ResNet50(include_top=False, weights=None)
    rng = np.random.default_rng(3)
    for variable in source.variables:
        if variable.path.endswith(("gamma", "moving_variance")):
            # Small variances: there the other epsilon shows.
            variable.assign(
                rng.uniform(1e-4, 2e-4, variable.shape)
                if "variance" in variable.path
                else rng.uniform(0.005, 0.02, variable.shape)
            )
        elif len(variable.shape) == 1:
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return source


@pytest.mark.slow
def test_keras_resnet50_gives_keras_features(monkeypatch, capsys):
    source = keras_resnet50()

    def download(include_top, weights):
        assert not include_top and weights == "imagenet"
        return source

    monkeypatch.setattr(keras.applications, "ResNet50", download)
    encoder, config = imported("keras:ResNet50")
    assert config.stride_in_1x1 and config.model == 50
    assert "encoder: weights of keras:ResNet50" in capsys.readouterr().out
    images = images_of(size=(45, 70))
    levels = keras.applications.resnet.preprocess_input(255 * images)
    expected = np.asarray(source(levels, training=False)).mean(axis=(1, 2))
    np.testing.assert_allclose(encoder(images), expected, atol=1e-4 * np.abs(expected).max())
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()

    def offline(**_):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "ResNet50", offline)
    with pytest.raises(UserError, match="Expected to download .* URL fetch failure"):
        keras_applications.load_weights()


def test_strides_of_bottlenecks_are_where_they_are_said_to_be():
    encoder = resnet(50, stem="small", width_multiplier=0.0625, stride_in_1x1=True)
    arrays = {v.path: np.asarray(v) for v in encoder.variables}
    drawn_ones = drawn({torch_name(p): a.shape for p, a in to_torch_shapes(arrays).items()})
    for variable in encoder.variables:
        array = drawn_ones[torch_name(variable.path)]
        variable.assign(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)
    images = images_of()
    expected = features(drawn_ones, planes(images), stride_in_1x1=True)
    np.testing.assert_allclose(encoder(images), expected, atol=1e-4)
    other = features(drawn_ones, planes(images), stride_in_1x1=False)
    assert np.abs(other - expected).max() > 1e-2


def to_torch_shapes(arrays):
    turned = {p: a.transpose(3, 2, 0, 1) if a.ndim == 4 else a for p, a in arrays.items()}
    return turned


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 2 classes of 8 images, 12 x 12 pixels."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(16):
        name = "ab"[index % 2]
        (root / name).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def embedded(folder, source, pictures):
    words = ["--task=embed", f"--dataset=folder:{pictures}", "--precision=float32"]
    words += [f"--init_weights={source}", f"--finetune_save_path={folder}", "--input_size=12 12"]
    assert main.main(words) == 0
    with np.load(folder / "features.npz", allow_pickle=False) as file:
        return file["h"], file["path"]


def test_normalisation_goes_with_the_weights_from_task_to_task(pictures, tmp_path):
    """File -> pre-training -> its run, resumed or not, and its checkpoint alone."""
    arrays = drawn(small_shapes())
    save_file(prefixed(arrays, "backbone."), tmp_path / "w.safetensors")
    first, paths = embedded(tmp_path / "first", tmp_path / "w.safetensors", pictures)
    images = np.stack([np.asarray(Image.open(path)) for path in paths]) / np.float32(255)
    expected = features(arrays, (planes(images) - MEAN) / STD)
    np.testing.assert_allclose(first, expected, atol=1e-4)

    run = tmp_path / "run"
    words = [f"--dataset=folder:{pictures}", "--batch_size=8", "--learning_rate=0"]
    words += [f"--init_weights={tmp_path / 'w.safetensors'}", f"--pretrain_save_path={run}"]
    words += ["--weight_decay=0", "--precision=float32", "--zdim=4", "--eval_every_epochs=0"]
    assert main.main([*words, "--task=pretrain", "--max_steps=1"]) == 0
    (tmp_path / "w.safetensors").unlink()
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["normalize_input"] == "imagenet" and settings["width_multiplier"] == 0.0625
    (checkpoint,) = (run / "checkpoints").iterdir()
    resumed = parse([*words, "--task=pretrain", "--resume"])
    assert initial_weights(resumed, RunFolder(run).checkpoints) == checkpoint
    assert adopt_encoder(resumed, checkpoint).normalize_input == "imagenet"
    shutil.copy(checkpoint, tmp_path / "alone.safetensors")
    # Training with a rate of 0 moves the running statistics alone: so does the reference's.
    encoder, config = imported(run)
    assert config.normalize_input == "imagenet"
    moved = to_torch({v.path: np.asarray(v) for v in encoder.variables if "input" not in v.path})
    np.testing.assert_array_equal(moved["conv1.weight"], arrays["conv1.weight"])
    assert np.abs(moved["bn1.running_mean"] - arrays["bn1.running_mean"]).max() > 1e-3
    of_run = encoder(images)
    expected = features(moved, (planes(images) - MEAN) / STD)
    np.testing.assert_allclose(of_run, expected, atol=1e-4)
    np.testing.assert_array_equal(imported(tmp_path / "alone.safetensors")[0](images), of_run)
    with pytest.raises(UserError, match="--normalize_input=imagenet"):
        imported(run, normalize_input="none")


# -- against the libraries themselves --


@pytest.fixture(scope="module")
def torch_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torch")
    rng = np.random.default_rng(1)
    np.save(folder / "images.npy", rng.integers(0, 256, (2, 96, 85, 3), np.uint8))
    in_torch("make", folder)
    return folder


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize("library", ["torchvision", "timm", "numbered"])
def test_features_equal_those_of_the_library(library, depth, torch_folder):
    encoder, _ = imported(torch_folder / f"{library}{depth}.safetensors")
    images = np.load(torch_folder / "images.npy") / np.float32(255)
    expected = np.load(torch_folder / f"{library}{depth}.npy")
    np.testing.assert_allclose(encoder(images), expected, atol=1e-4 * np.abs(expected).max())
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()


@needs_torch
@pytest.mark.slow
def test_the_list_of_names_is_torchvisions(torch_folder):
    assert TABLE.read_text() == (torch_folder / "names.txt").read_text()


@needs_torch
@pytest.mark.slow
def test_the_two_lines_convert_a_pickled_file(torch_folder):
    with pytest.raises(UserError) as error:
        imported(torch_folder / "pickled.pth")
    lines = [line.strip() for line in str(error.value).splitlines() if line.startswith("  ")]
    (torch_folder / "code.py").write_text("\n".join(lines))
    in_torch("run", torch_folder)
    encoder, _ = imported(torch_folder / "pickled.safetensors")
    images = np.load(torch_folder / "images.npy") / np.float32(255)
    expected = np.load(torch_folder / "torchvision50.npy")
    np.testing.assert_allclose(encoder(images), expected, atol=1e-4 * np.abs(expected).max())
