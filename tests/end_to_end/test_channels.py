"""Images of one, two or four channels: through the augmentation, and through every task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import main
from simclr_tf import data
from simclr_tf.augment import Recipe
from simclr_tf.augment.colour import LUMA, apply_colour
from simclr_tf.augment.colour_sequence import apply_colour_in_order
from simclr_tf.augment.views import draw_views, make_views
from simclr_tf.data.images import resize_pixels, resize_to_fill
from simclr_tf.data.sets.arrays import to_channels
from simclr_tf.errors import UserError
from simclr_tf.workflow.pixel_normalization import mean_std

SIZE = (10, 8)
GEOMETRY = Recipe(jitter=False, colordrop=False, blur=True, rotate=True)


def draw_of(recipe: Recipe, count: int):
    return draw_views(recipe, count, seed=3, step=1, size=SIZE, aspect=16 / 12)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_each_channel_has_the_geometry_that_it_would_have_as_one_of_three(channels, rng):
    images = rng.integers(0, 256, (6, 12, 16, channels), np.uint8)
    draw = draw_of(GEOMETRY, 12)
    made = make_views(tf.constant(images), draw, SIZE)
    for channel in range(channels):
        three = np.repeat(images[..., channel : channel + 1], 3, axis=-1)
        expected = make_views(tf.constant(three), draw, SIZE)
        for view, same in zip(made, expected, strict=True):
            assert view.shape == (6, *SIZE, channels)
            np.testing.assert_allclose(view[..., channel], same[..., 0], atol=1e-6)


def jittered(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """Brightness, then contrast about the mean of all channels: the slow reference."""
    bright = image * brightness
    mean = bright.mean(axis=(0, 1)).mean()
    return np.clip((bright - mean) * contrast + mean, 0.0, 1.0)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_jitter_changes_brightness_and_contrast_of_other_channels(channels, rng):
    images = rng.random((16, 9, 7, channels)).astype(np.float32)
    colour = draw_of(Recipe(strength=1.0, jitter_prob=0.9, color_prob=0.9), 16).colour
    found = apply_colour(tf.constant(images), colour).numpy()
    expected = [
        jittered(image, *numbers)
        for image, *numbers in zip(
            images, colour.brightness.numpy(), colour.contrast.numpy(), strict=True
        )
    ]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(found - images).max() > 0.1


def test_in_order_too_and_what_needs_colours_leaves_others_alone(rng):
    images = rng.random((24, 9, 7, 2)).astype(np.float32)
    recipe = Recipe(strength=1.0, jitter_prob=0.8, jitter_mode="reference")
    colour = draw_of(recipe, 24).colour
    found = apply_colour_in_order(tf.constant(images), colour).numpy()
    expected = images.copy()
    for row, (image, order) in enumerate(zip(images, colour.order.numpy(), strict=True)):
        for operation in order:
            if operation == 0:
                image = image * colour.brightness.numpy()[row]
            elif operation == 1:
                mean = image.mean(axis=(0, 1))
                image = (image - mean) * colour.contrast.numpy()[row] + mean
            image = np.clip(image, 0.0, 1.0)
        expected[row] = image
    np.testing.assert_allclose(found, expected, atol=2e-6)
    still = colour._replace(brightness=tf.ones(24), contrast=tf.ones(24))
    unchanged = apply_colour_in_order(tf.constant(images), still)
    np.testing.assert_allclose(unchanged, images, atol=1e-6)


def test_gray_becomes_colour_colour_gray_and_nothing_else_anything(rng):
    colours = rng.integers(0, 256, (2, 3, 4, 3), np.uint8)
    gray = to_channels(colours, 1, "x")
    np.testing.assert_array_equal(gray[..., 0], np.rint(colours @ LUMA))
    np.testing.assert_array_equal(to_channels(gray, 3, "x"), np.repeat(gray, 3, axis=-1))
    assert to_channels(colours, 3, "x") is colours
    for there, asked in ((4, 3), (3, 4), (1, 2), (2, 1)):
        with pytest.raises(UserError, match=f"`channels={there}`"):
            to_channels(np.zeros((1, 2, 2, there), np.uint8), asked, "x")


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_resizing_treats_each_channel_as_a_gray_image(channels, rng):
    image = rng.integers(0, 256, (20, 31, channels), np.uint8)
    image[..., -1] = 0  # as opacity, it would hide all others
    for change in (resize_to_fill, resize_pixels):
        found = change(image, SIZE)
        assert found.shape == (*SIZE, channels)
        for channel in range(channels):
            three = np.repeat(image[..., channel : channel + 1], 3, axis=-1)
            np.testing.assert_array_equal(found[..., channel], change(three, SIZE)[..., 0])


def test_pixels_are_normalised_by_two_numbers_a_channel():
    assert mean_std("0.1 0.2 0.3 0.4", 2) == ((0.1, 0.2), (0.3, 0.4))
    for text in ("imagenet", "0.1 0.2 0.3 0.4 0.5 0.6"):
        assert mean_std(text, 3) is not None
        with pytest.raises(UserError, match="4 numbers"):
            mean_std(text, 2)


# -- from end to end --

CHANNELS = 4
QUICK = (
    "--width_multiplier=0.0625",
    "--batch_size=8",
    "--num_epochs=1",
    "--precision=float32",
)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> Path:
    """Images of four channels in two classes that the fourth alone tells apart, with masks."""
    rng = np.random.default_rng(0)
    parts = {}
    for split, count in (("train", 32), ("test", 16)):
        labels = np.arange(count) % 2
        images = rng.integers(0, 60, (count, 16, 16, CHANNELS), np.uint8)
        images[..., 3] += (150 * labels).astype(np.uint8)[:, np.newaxis, np.newaxis]
        parts |= {f"x_{split}": images, f"y_{split}": labels}
        parts[f"masks_{split}"] = np.zeros((count, 16, 16), np.uint8) + (images[..., 3] > 100)
    path = tmp_path_factory.mktemp("arrays") / "four.npz"
    np.savez(path, **parts)
    return path


@pytest.fixture(scope="module")
def run(arrays, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    flags = (f"--dataset=npz:{arrays}", f"--channels={CHANNELS}", "--cutout")
    assert main.main(["--task=pretrain", f"--pretrain_save_path={folder}", *flags, *QUICK]) == 0
    return folder


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_pretraining_sees_all_channels(run, arrays, capsys):
    assert results_of(run)["knn_accuracy"] > 0.8  # by the fourth
    assert main.main(["--task=check", f"--dataset=npz:{arrays}", "--channels=4", "--preview",
                      f"--finetune_save_path={run.parent / 'check'}"]) == 0  # fmt: skip
    assert "4 channels are no red, green and blue: no saturation and hue and no gray" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_later_tasks_take_the_channels_of_the_run(task, run, arrays, tmp_path):
    flags = (f"--dataset=npz:{arrays}", f"--pretrain_save_path={run}")
    folder = f"--finetune_save_path={tmp_path / 'run'}"
    assert main.main([f"--task={task}", *flags, folder, *QUICK]) == 0
    assert results_of(tmp_path / "run")["config"]["channels"] == CHANNELS
    predicted = ["--task=predict", f"--dataset=npz:{arrays}", folder, "--precision=float32"]
    assert main.main(predicted) == 0
    lines = (tmp_path / "run" / "predictions" / "predictions.csv").read_text().splitlines()
    assert len(lines) == 1 + 16


def test_features_neighbours_and_exports_are_of_all_channels(run, tmp_path):
    of_run = f"--pretrain_save_path={run}"
    flags = ("--with_z", "--index", "--projector", f"--finetune_save_path={tmp_path / 'embedded'}")
    assert main.main(["--task=embed", of_run, *flags]) == 0
    assert results_of(tmp_path / "embedded")["neighbour_label_agreement"] > 0.8
    flags = ("--protocols=knn,baselines", f"--finetune_save_path={tmp_path / 'evaluated'}")
    assert main.main(["--task=evaluate", of_run, *flags]) == 0
    assert results_of(tmp_path / "evaluated")["baselines"]["raw_pixels"] > 0.8
    exported = tmp_path / "exported"
    flags = ("--format=safetensors", f"--export_path={exported}")
    assert main.main(["--task=export", of_run, *flags]) == 0
    card = (exported / "README.md").read_text()
    assert "float32 [N, 4, H, W]" in card and "RGB" not in card
    again = ("--task=embed", f"--init_weights={exported / 'model.safetensors'}")
    data_of_run = results_of(run)["config"]["dataset"]
    folder = f"--finetune_save_path={tmp_path / 'again'}"
    assert main.main([*again, f"--dataset={data_of_run}", folder]) == 0  # channels by the file
    with np.load(tmp_path / "again" / "features.npz") as found:
        with np.load(tmp_path / "embedded" / "features.npz") as expected:
            np.testing.assert_allclose(found["h"], expected["h"], rtol=0.02, atol=1e-3)


def test_wrong_channels_are_named(run, arrays, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "pictures" / "a.png")
    cases = {
        (f"--dataset=npz:{arrays}",): "Pass --channels=4",
        (
            f"--dataset=folder:{tmp_path / 'pictures'}",
            "--channels=1",
        ): "--channels=3 of image files",
    }
    for flags, remedy in cases.items():
        folder = f"--pretrain_save_path={tmp_path / 'x'}"
        assert main.main(["--task=pretrain", *flags, folder]) == 2
        assert remedy in capsys.readouterr().err
    flags = (f"--pretrain_save_path={run}", "--channels=3", f"--dataset=npz:{arrays}")
    assert main.main(["--task=classification", *flags, f"--finetune_save_path={tmp_path}/c"]) == 2
    assert "Expected --channels=4" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_arrays_and_drawn_shapes_come_in_gray_or_colour(channels, tmp_path, rng):
    gray = rng.integers(0, 256, (4, 9, 9), np.uint8)
    np.savez(tmp_path / "gray.npz", x_train=gray)
    train = data.load(f"npz:{tmp_path / 'gray.npz'}", channels=channels).train
    assert train.channels == channels
    np.testing.assert_array_equal(train.images, np.repeat(gray[..., np.newaxis], channels, -1))
    assert data.load("shapes", input_size=(16, 16), channels=channels).train.channels == channels
