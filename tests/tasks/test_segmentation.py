"""Segmentation from images and masks to numbers, and the task from end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import main
from simclr_tf import metrics, plots
from simclr_tf.augment import Recipe
from simclr_tf.data import Source
from simclr_tf.data.batches.evaluation import plain_masked_batches
from simclr_tf.data.batches.train import masked_batches
from simclr_tf.evaluation.segmentation import (
    count_pixels,
    judged_scale,
    make_segment,
    scale_rule,
)
from simclr_tf.runs.checkpoints import Checkpoints, read_arrays, step_of
from simclr_tf.tasks import segmentation
from simclr_tf.training.callbacks import best_row

ALL_BUT_COLOUR = Recipe(
    jitter=False, colordrop=False, blur=True, rotate=True, rotate_prob=1.0, max_rotation=180.0
)
pytestmark = pytest.mark.usefixtures("shallow")

TINY = ["--width_multiplier=0.0625", "--batch_size=4", "--precision=float32", "--num_epochs=2"]
VOID = 200  # value of the pixels that do not count


def coded_images(
    count: int = 12, size: tuple[int, int] = (13, 18)
) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks that both hold their number everywhere."""
    numbers = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1) * 20 + 7
    masks = np.broadcast_to(numbers, (count, *size)).copy()
    return np.repeat(masks[..., np.newaxis], 3, axis=-1), masks


def files_of(folder: Path, images: np.ndarray, masks: np.ndarray) -> Source:
    """Writes images and masks as PNG files and returns them as a source that is not in memory."""
    paths, mask_paths = [], []
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        paths.append(folder / f"{i}.png")
        mask_paths.append(folder / f"{i}_mask.png")
        Image.fromarray(image).save(paths[-1])
        Image.fromarray(mask).save(mask_paths[-1])
    return Source(
        "files",
        paths=tuple(map(str, paths)),
        mask_paths=tuple(map(str, mask_paths)),
        file_sizes=np.array([image.shape[:2] for image in images], np.int32),
    )


def batches_of(source: Source, recipe: Recipe, size=(16, 16), steps=5, **arguments):
    batches = masked_batches(
        source,
        batch_size=4,
        recipe=recipe,
        seed=3,
        size=size,
        first_step=0,
        last_step=steps,
        **arguments,
    )
    return [(views.numpy(), masks.numpy()) for views, masks in batches]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_mask_that_holds_its_images_number_still_does_after_the_whole_pipeline(
    tmp_path, in_memory
):
    images, masks = coded_images()
    source = (
        Source("array", images, masks=masks) if in_memory else files_of(tmp_path, images, masks)
    )
    seen = set()
    for views, labels in batches_of(source, ALL_BUT_COLOUR):
        assert (views.dtype, labels.dtype) == (np.float32, np.uint8)
        assert labels.shape == (4, 16, 16)
        for view, label in zip(views, labels, strict=True):
            assert len(np.unique(label)) == 1
            np.testing.assert_allclose(view * 255.0, float(label[0, 0]), atol=0.01)
            seen.add(int(label[0, 0]))
    assert seen == set(masks[:, 0, 0].tolist())


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_mask_has_no_values_but_its_own_after_the_whole_pipeline(tmp_path, rng, in_memory):
    """Cropped, resized and turned: between 3 and 200 lie other classes."""
    images = rng.integers(0, 256, (12, 20, 20, 3), np.uint8)
    masks = rng.choice(np.array([3, 200], np.uint8), (12, 20, 20))
    source = (
        Source("array", images, masks=masks) if in_memory else files_of(tmp_path, images, masks)
    )
    for _, labels in batches_of(source, ALL_BUT_COLOUR):
        assert np.unique(labels).tolist() == [3, 200]


def test_what_is_done_to_colours_is_not_done_to_masks(rng):
    images = rng.integers(0, 256, (12, 20, 20, 3), np.uint8)
    masks = rng.integers(0, 256, (12, 20, 20), np.uint8)
    source = Source("array", images, masks=masks)
    geometry = Recipe(jitter=False, colordrop=False, rotate=True)
    everything = Recipe(rotate=True, blur=True, noise=True, cutout=True, cutout_prob=1.0)
    for (plain, one), (changed, other) in zip(
        batches_of(source, geometry), batches_of(source, everything), strict=True
    ):
        np.testing.assert_array_equal(one, other)
        assert np.abs(plain - changed).mean() > 0.02


def test_masks_follow_their_images(rng):
    # Two halves, of which the image shows the same as the mask: all but the edge must agree.
    masks = np.zeros((12, 40, 30), np.uint8)
    for i, edge in enumerate(rng.integers(8, 32, 12)):
        masks[i, edge:] = 1
        masks[i, :, : edge // 2] = 1 - masks[i, :, : edge // 2]
    images = np.repeat(masks[..., np.newaxis] * 255, 3, axis=-1)
    recipe = Recipe(jitter=False, colordrop=False, rotate=True, max_rotation=90.0)
    for views, labels in batches_of(Source("array", images, masks=masks), recipe, size=(32, 32)):
        agree = (views[..., 0] > 0.5) == labels
        assert agree.mean() > 0.97


def test_files_and_arrays_give_the_same_masks(tmp_path, rng):
    images = rng.integers(0, 256, (12, 21, 18, 3), np.uint8)
    masks = rng.integers(0, 256, (12, 21, 18), np.uint8)
    held = Source("array", images, masks=masks)
    recipe = Recipe(rotate=True)
    pairs = zip(
        batches_of(held, recipe), batches_of(files_of(tmp_path, images, masks), recipe), strict=True
    )
    for (_, one), (_, other) in pairs:
        np.testing.assert_array_equal(one, other)


def test_whole_images_come_once_in_their_order_at_their_own_size(tmp_path, rng):
    sizes = [(9, 14), (16, 5), (9, 14), (11, 11)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    masks = [rng.integers(0, 4, size, np.uint8) for size in sizes]
    batches = list(plain_masked_batches(files_of(tmp_path, images, masks), batch_size=3))
    assert [tuple(mask.shape) for _, mask in batches] == [(1, *size) for size in sizes]
    for (image, mask), raw, truth in zip(batches, images, masks, strict=True):
        np.testing.assert_array_equal(mask[0], truth)
        np.testing.assert_allclose(image[0], raw / 255.0, atol=1e-6)


def test_pixels_are_counted_as_one_would_by_hand(tmp_path, rng):
    sizes = [(9, 14), (16, 5), (7, 7)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    masks = [rng.choice([0, 1, 2, VOID], size).astype(np.uint8) for size in sizes]

    def segment(batch: tf.Tensor) -> tf.Tensor:
        return batch  # the brightest channel is the class

    def loss(truth: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(logits)

    counts = count_pixels(
        segment, files_of(tmp_path, images, masks), 3, ignore_label=VOID, loss=loss
    )
    expected = np.zeros((3, 3), int)
    hits, union = np.zeros(3), np.zeros(3)
    for image, mask in zip(images, masks, strict=True):
        for row in range(mask.shape[0]):
            for column in range(mask.shape[1]):
                truth = int(mask[row, column])
                guess = int(np.argmax(image[row, column]))
                if truth == VOID:
                    continue
                expected[truth, guess] += 1
                hits[truth] += truth == guess
                for k in {truth, guess}:
                    union[k] += 1
    np.testing.assert_array_equal(counts.matrix, expected)
    assert counts.mean_iou == pytest.approx(np.mean(hits / union))
    assert counts.pixel_accuracy == pytest.approx(hits.sum() / expected.sum())
    assert counts.loss == pytest.approx(np.mean([image.mean() / 255 for image in images]), rel=1e-5)


def test_the_best_row_is_the_first_of_the_highest():
    rows = [{"x": float("nan")}, {"x": ""}, {"y": 9.0}, {"x": 0.5, "n": 1}, {"x": 0.5, "n": 2}]
    assert best_row(rows, "x") == {"x": 0.5, "n": 1}
    assert best_row(rows[:3], "x") is None


# -- the task --


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """images/ and masks/ of 14 pictures of three sizes: a bright square on a dark ground, with a
    frame that does not count."""
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    (root / "masks").mkdir()
    for i in range(14):
        height, width = [(24, 31), (27, 24), (24, 24)][i % 3]
        image = rng.integers(0, 90, (height, width, 3), np.uint8)
        mask = np.zeros((height, width), np.uint8)
        top, left = rng.integers(2, 12, 2)
        image[top : top + 10, left : left + 10] += 150
        mask[top : top + 10, left : left + 10] = 1
        mask[0] = VOID
        Image.fromarray(image).save(root / "images" / f"{i:02d}.jpg", quality=95)
        Image.fromarray(mask).save(root / "masks" / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def pretrained(scenes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "pretrain"
    flags = [f"--dataset=folder:{scenes}", "--input_size=16 16", f"--pretrain_save_path={folder}"]
    assert main.main(["--task=pretrain", *flags, "--zdim=8", *TINY]) == 0
    return folder


def segment_scenes(folder: Path, scenes: Path, *flags: str) -> int:
    named = any(flag.startswith(("--init_weights", "--pretrain_save_path")) for flag in flags)
    return main.main(
        [
            "--task=segmentation",
            f"--dataset=folder:{scenes}",
            f"--ignore_label={VOID}",
            f"--finetune_save_path={folder}",
            "--crop_size=16 16",
            *([] if named else ["--init_weights=none"]),
            *TINY,
            *flags,
        ]
    )


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def final_arrays(folder: Path) -> dict[str, np.ndarray]:
    return read_arrays(Checkpoints(folder / "checkpoints").newest())


def test_a_segmentation_leaves_what_the_contract_names(scenes, tmp_path, monkeypatch):
    drawn, draw = [], plots.plot_segmentation
    monkeypatch.setattr(
        plots, "plot_segmentation", lambda *a, **k: (drawn.append((a, k)), draw(*a, **k))
    )
    assert segment_scenes(tmp_path, scenes, "--val_fraction=0.2", "--num_epochs=3") == 0
    results = results_of(tmp_path)
    common = {"task", "config", "versions", "device", "seconds", "images_per_second"}
    own = {"mean_iou", "pixel_accuracy", "iou_per_class", "num_train", "num_test"}
    assert common | own <= results.keys()
    assert results["num_test"] == 3 and results["num_validation"] == 2
    assert results["num_train"] == 14 - 3 - 2
    assert len(results["iou_per_class"]) == len(results["class_names"]) == 2
    assert results["mean_iou"] == pytest.approx(np.mean(results["iou_per_class"]), abs=1e-3)
    matrix = np.array(results["confusion_matrix"])
    assert results["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum(), abs=1e-4)
    assert results["config"]["stem"] == "small"
    assert results["checkpoint"] == "best"
    assert step_of(tmp_path / "checkpoints/best.safetensors") == results["best_step"]
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {
        "iou_per_class.png",
        "loss.png",
        "mean_iou.png",
        "pixel_accuracy.png",
        "segmentation.png",
    }
    (((_, truths, found, _), options),) = drawn
    for truth, classes, iou in zip(truths, found, options["iou"], strict=True):
        both = [np.sum((truth == k) & (classes == k)) for k in (0, 1)]
        either = [np.sum(((truth == k) | (classes == k)) & (truth != VOID)) for k in (0, 1)]
        assert iou == pytest.approx(
            np.mean([b / e for b, e in zip(both, either, strict=True) if e])
        )
    facts = json.loads((tmp_path / "model.json").read_text())
    assert facts.pop("initial_weights") == "random"
    assert facts == {"class_names": ["0", "1"], "view_size": [16, 16], "trained_on": None}
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3 and "val_mean_iou" in header


@pytest.mark.slow
def test_it_learns_to_segment(full_depth, scenes, tmp_path):
    flags = ("--num_epochs=25", "--learning_rate=0.01", "--crop_area_min=0.5")
    assert (
        segment_scenes(tmp_path, scenes, *flags, "--dice_weight=1", "--class_weights=balanced") == 0
    )
    assert results_of(tmp_path)["mean_iou"] > 0.8


def test_it_begins_with_the_pretrained_encoder_and_says_so(scenes, pretrained, tmp_path, capsys):
    flags = (f"--pretrain_save_path={pretrained}", "--num_epochs=0")
    assert segment_scenes(tmp_path, scenes, *flags) == 0
    assert f"encoder: weights of {pretrained}" in capsys.readouterr().out
    results = results_of(tmp_path)
    assert str(pretrained) in results["initial_weights"]
    assert results["checkpoint"] == "last"
    assert segment_scenes(tmp_path, scenes, "--overwrite", "--num_epochs=0") == 0
    assert "encoder: random weights" in capsys.readouterr().out


def test_images_of_several_sizes_are_seen_as_the_run_saw_its_views(
    scenes, pretrained, tmp_path, capsys
):
    """Of images of one size views are these, as before."""
    command = ["--task=segmentation", f"--dataset=folder:{scenes}", f"--ignore_label={VOID}", *TINY]
    command += [f"--init_weights={pretrained}", "--num_epochs=0"]
    assert main.main([*command, f"--finetune_save_path={tmp_path / 'a'}"]) == 0
    assert "size of the views: that of the run, --crop_size='16 16'" in capsys.readouterr().out
    results = results_of(tmp_path / "a")
    sizes = results["config"]["input_size"], results["config"]["crop_size"]
    assert sizes == ("0 0", "16 16")
    size = "--input_size=24 24"
    assert main.main([*command, size, f"--finetune_save_path={tmp_path / 'b'}"]) == 0
    assert json.loads((tmp_path / "b/model.json").read_text())["view_size"] == [24, 24]


def test_a_frozen_encoder_stays_as_it_is_and_the_decoder_does_not(scenes, pretrained, tmp_path):
    flags = (f"--init_weights={pretrained}", "--freeze=True")
    assert segment_scenes(tmp_path, scenes, *flags) == 0
    before, after = final_arrays(pretrained), final_arrays(tmp_path)
    encoder = [name for name in after if name.startswith("encoder/")]
    assert encoder and any("moving_mean" in name for name in encoder)
    for name in encoder:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    whole = tmp_path / "whole"
    assert segment_scenes(whole, scenes, f"--init_weights={pretrained}") == 0
    name = "encoder/stem_conv/kernel"
    assert not np.array_equal(before[name], final_arrays(whole)[name])
    few, many = (results_of(folder)["trainable_parameters"] for folder in (tmp_path, whole))
    assert few < many


def test_an_encoder_with_its_own_rate_of_nearly_nothing_hardly_moves(scenes, pretrained, tmp_path):
    flags = (f"--init_weights={pretrained}", "--encoder_learning_rate=1e-9")
    assert segment_scenes(tmp_path, scenes, *flags) == 0
    before, after = final_arrays(pretrained), final_arrays(tmp_path)
    name = "encoder/stem_conv/kernel"
    np.testing.assert_allclose(before[name], after[name], atol=1e-7)
    assert any(n.startswith("decoder/") for n in after)


@pytest.mark.parametrize("every", [1, 0])
def test_a_resumed_run_equals_one_that_was_not_stopped(scenes, tmp_path, every):
    # Ends within an epoch, and at the end of one that would not have been judged.
    flags, end = ("--num_epochs=4", f"--eval_every_epochs={every}", "--seed=1"), 5 if every else 6
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert segment_scenes(whole, scenes, *flags) == 0
    assert segment_scenes(parts, scenes, *flags, f"--max_steps={end}") == 0
    assert results_of(parts)["checkpoint"] == ("best" if every else "last")
    assert segment_scenes(parts, scenes, *flags, "--resume") == 0
    one, other = final_arrays(whole), final_arrays(parts)
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
    for key in ("mean_iou", "last", "validation_mean_iou", "best_step"):
        assert results_of(whole)[key] == results_of(parts)[key], key


def test_without_validation_the_last_weights_are_reported(scenes, tmp_path):
    lines = [f"images/{i:02d}.jpg,masks/{i:02d}.png" for i in range(14)]
    for name, part in (("train", lines[:10]), ("val", lines[10:])):
        (scenes / f"{name}.txt").write_text("\n".join(part))
    flags = [f"--{name}_file_path={scenes / name}.txt" for name in ("train", "val")]
    command = ["--task=segmentation", *flags, f"--finetune_save_path={tmp_path}", "--crop_size=16"]
    none = "--init_weights=none"
    ignore = f"--ignore_label={VOID}"
    assert (
        main.main([*command, none, ignore, "--val_fraction=0", "--label_fraction=0.5", *TINY]) == 0
    )
    results = results_of(tmp_path)
    assert (results["num_train"], results["num_test"]) == (5, 4)
    assert results["checkpoint"] == "last" and results["best_step"] is None
    assert results["mean_iou"] == results["last"]["mean_iou"]
    assert not (tmp_path / "checkpoints/best.safetensors").exists()


def test_best_weights_are_not_lost_or_taken_for_those_of_another_run(scenes, tmp_path, capsys):
    assert segment_scenes(tmp_path, scenes, "--save_every_epochs=1000") == 0
    for path in (tmp_path / "results.json", *(tmp_path / "checkpoints").glob("step-*")):
        path.unlink()  # as a run that was killed before its first checkpoint
    assert segment_scenes(tmp_path, scenes) == 2
    assert "an unfinished one" in capsys.readouterr().err
    assert segment_scenes(tmp_path, scenes, "--val_fraction=0", "--overwrite") == 2  # no test set
    assert (tmp_path / "checkpoints/best.safetensors").exists()


def test_classes_that_are_hardly_found_are_named(capsys):
    names = ("road", "pole", "bicycle", "absent")
    segmentation._name_hardly_found(names, np.array([0.8, 0.0, 0.009, np.nan]))
    assert "IoU below 1 %: pole, bicycle. " in capsys.readouterr().out
    segmentation._name_hardly_found(names, np.array([0.8, 0.01, 0.2, np.nan]))
    assert capsys.readouterr().out == ""


def test_a_class_that_is_ignored_is_never_predicted(tmp_path):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 6, 6, 3)).astype(np.float32)
    logits[..., 1] += 5.0
    inputs = keras.Input((None, None, 3))
    outputs = keras.layers.Lambda(lambda x: x + logits)(inputs)
    segment = make_segment(keras.Model(inputs, outputs), ignore_label=1)
    source = Source("one", np.zeros((1, 6, 6, 3), np.uint8), masks=np.eye(6, dtype=np.uint8)[None])
    counts = count_pixels(segment, source, 3, ignore_label=1)
    assert counts.matrix[:, 1].sum() == counts.matrix[1].sum() == 0
    assert counts.mean_iou == pytest.approx(np.mean(logits[0, ..., 0] > logits[0, ..., 2]), abs=0.5)
    assert np.isnan(metrics.iou_per_class(counts.matrix)[1])
    other = make_segment(keras.Model(inputs, outputs), ignore_label=200)
    assert count_pixels(other, source, 3, ignore_label=200).matrix[:, 1].sum() > 30


def test_whole_images_are_seen_at_a_scale_that_training_showed():
    # Windows of 1/4 to all of the image, brought to the view: 0.08 to 0.16 of the image's pixels.
    assert judged_scale((3000, 4000), (240, 320), area_min=0.25) == pytest.approx(0.16)
    assert judged_scale((180, 240), (120, 160), area_min=0.1) == 1.0
    assert judged_scale((180, 240), (180, 240), area_min=0.25) == 1.0
    assert judged_scale((32, 32), (64, 64), area_min=0.25) == pytest.approx(2.0)
    assert judged_scale((64, 64), (32, 32), area_min=1.0) == pytest.approx(0.5)
    fixed = scale_rule((32, 32), trained_on=(64, 64), area_min=1.0)
    assert fixed((500, 500)) == pytest.approx(0.5)
    free = scale_rule((32, 32), trained_on=None, area_min=1.0)
    assert free((320, 320)) == pytest.approx(0.1)


def test_images_are_judged_at_their_scale(rng):
    images = rng.integers(0, 256, (2, 20, 30, 3), np.uint8)
    source = Source("two", images, masks=np.argmax(images, axis=-1).astype(np.uint8))
    seen = []

    def segment(batch: tf.Tensor) -> tf.Tensor:
        seen.append(tuple(batch.shape))
        return tf.convert_to_tensor(batch)

    def loss(truth: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        assert tuple(truth.shape) == tuple(logits.shape[:3])
        return tf.reduce_mean(logits)

    counts = count_pixels(segment, source, 3, scale_of=lambda size: 0.5, loss=loss)
    assert seen == [(1, 10, 15, 3)] * 2
    assert counts.matrix.sum() == 2 * 20 * 30
    assert counts.loss == pytest.approx(images.mean() / 255, abs=0.01)


def test_weights_that_are_not_finite_are_neither_judged_nor_saved(scenes, tmp_path, capsys):
    flags = ("--optimizer=sgd", "--learning_rate=1e30", "--init_weights=none", "--num_epochs=2")
    assert segment_scenes(tmp_path, scenes, *flags) == 2
    error = capsys.readouterr().err
    assert "Expected a finite loss" in error and "at a learning rate of 1e+30" in error
    assert not list((tmp_path / "checkpoints").glob("*"))


@pytest.mark.slow
def test_what_only_training_finds_broken_is_named(scenes, tmp_path, capsys):
    folder = tmp_path / "scenes"
    shutil.copytree(scenes, folder)
    broken = folder / "images/05.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    assert segment_scenes(tmp_path / "run", folder) == 2
    error = capsys.readouterr().err
    assert "05.jpg" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--encoder_learning_rate=0.1", "--freeze"], "--encoder_learning_rate"),
        (["--num_classes=300"], "at most 256"),
        (["--class_weights=0,0"], "above 0"),
        (["--ignore_label=-1", "--num_classes=2"], "value 200"),
        (["--num_classes=1"], "outside 0..0"),
        (["--class_weights=1,2,3"], "2 numbers"),
        (["--class_weights=heavy"], "balanced"),
        (["--mask_colors=nowhere.txt"], "nowhere.txt"),
        (["--crop_size=0 0"], "images of one size"),
        (["--strategy=mirrored"], "--strategy=none"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(scenes, tmp_path, capsys, flags, message):
    assert segment_scenes(tmp_path, scenes, *flags) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_a_default_folder_with_another_tasks_run_is_left_alone(
    scenes, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    flags = [f"--dataset=folder:{scenes}", "--crop_size=16", f"--ignore_label={VOID}", *TINY]
    other = tmp_path / "logs/finetune"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("task: classification\n")
    (other / "results.json").write_text("{}")
    for more in ([], ["--overwrite"]):
        assert main.main(["--task=segmentation", *flags, "--num_epochs=0", *more]) == 0
        assert "logs/finetune_segmentation" in capsys.readouterr().out
    assert (other / "results.json").read_text() == "{}"
    assert (tmp_path / "logs/finetune_segmentation/results.json").exists()
    named = ["--finetune_save_path=logs/finetune"]
    assert main.main(["--task=segmentation", *flags, *named]) == 2
