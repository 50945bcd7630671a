"""`--task=check` from end to end: what it reads, counts, refuses and draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
from simclr_tf import plots
from simclr_tf.augment.recipe import OPERATIONS
from simclr_tf.config import Config
from simclr_tf.tasks import check

PREVIEWS = ["preview_operations.png", "preview_views.png", "preview_colours.png"]


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of JPEGs of several sizes: 4 in class "a", 2 in class "b"."""
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    sizes = {"a": [(20, 30), (48, 24), (17, 17), (90, 40)], "b": [(33, 32), (20, 30)]}
    for name, shapes in sizes.items():
        (root / name).mkdir(parents=True)
        for i, (height, width) in enumerate(shapes):
            image = rng.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(image).save(root / name / f"{i}.jpg", quality=95)
    return root


@pytest.fixture
def run_check(tmp_path):
    """Runs the task in one run folder: flags -> (exit code, the folder)."""
    folder = tmp_path / "run"

    def run(*flags: str) -> tuple[int, Path]:
        return main.main(["--task=check", f"--finetune_save_path={folder}", *flags]), folder

    return run


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def tear(path: Path) -> None:
    """Cuts a JPEG file off where its header is whole: only who decodes it finds out."""
    content = path.read_bytes()
    path.write_bytes(content[: -len(content) // 3])


def assert_drawn(folder: Path) -> None:
    assert results_of(folder)["pictures"] == PREVIEWS
    for name in PREVIEWS:
        with Image.open(folder / "plots" / name) as picture:
            assert picture.format == "PNG"
            assert 300 < picture.height < 3_000 and 600 < picture.width < 2_000


def test_shapes_are_counted_and_drawn(run_check, capsys):
    code, folder = run_check("--preview", "--input_size=16")
    assert code == 0
    results = results_of(folder)
    contract = {"task", "config", "versions", "device", "seconds", "images_per_second"}
    assert contract <= results.keys()
    assert (results["task"], results["num_train"], results["num_test"]) == ("check", 4096, 1000)
    assert results["image_size"] == [16, 16]
    assert results["images_per_second"] > 0
    for split, count in (("train", 4096), ("test", 1000)):
        assert len(results["classes"][split]) == 10
        assert sum(results["classes"][split].values()) == count
    assert_drawn(folder)
    out = capsys.readouterr().out
    assert "shapes (train): 4096 images, 16x16, 10 classes" in out
    assert "disc 410" in out
    assert (folder / "config.yaml").exists()


def test_files_of_several_sizes_are_read_and_drawn(run_check, photos, capsys):
    code, folder = run_check(f"--dataset=folder:{photos}", "--preview", "--crop_size=24 32")
    assert code == 0
    results = results_of(folder)
    assert (results["num_train"], results["num_test"]) == (6, 0)
    assert results["classes"] == {"train": {"a": 4, "b": 2}}
    assert results["image_size"] is None
    assert (results["smallest_sides"], results["largest_sides"]) == ([17, 17], [90, 40])
    assert_drawn(folder)
    out = capsys.readouterr().out
    assert "  a 4, b 2\n" in out
    assert "sizes: 5, heights 17 to 90 and widths 17 to 40 pixels" in out


def test_without_preview_nothing_is_drawn_and_no_size_is_needed(run_check, photos):
    code, folder = run_check(f"--dataset=folder:{photos}")
    assert code == 0
    assert results_of(folder)["pictures"] == []
    assert not list((folder / "plots").iterdir())


def test_a_preview_of_several_sizes_asks_for_one(run_check, photos, capsys):
    code, folder = run_check(f"--dataset=folder:{photos}", "--preview")
    assert code == 2
    assert "--input_size=" in capsys.readouterr().err
    assert not (folder / "results.json").exists()


def test_a_single_image_without_a_label_is_enough(run_check, tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "one" / "red.png")
    code, folder = run_check(f"--dataset=folder:{tmp_path / 'one'}", "--preview")
    assert code == 0
    assert results_of(folder)["classes"] == {}
    assert_drawn(folder)


def test_bad_files_are_named_and_counted(run_check, photos, monkeypatch, capsys):
    torn = [photos / "a" / "1.jpg", photos / "a" / "3.jpg", photos / "b" / "0.jpg"]
    for path in torn:
        tear(path)
    code, folder = run_check(f"--dataset=folder:{photos}")
    error = capsys.readouterr().err
    assert code == 2
    assert "3 of 6 images do not decode" in error
    assert "--skip_bad_images" in error and "Traceback" not in error
    assert all(str(path) in error for path in torn)
    assert not (folder / "results.json").exists()

    monkeypatch.setattr(check, "BAD_NAMED", 1)
    code, _ = run_check(f"--dataset=folder:{photos}")
    error = capsys.readouterr().err
    assert str(torn[0]) in error and str(torn[1]) not in error
    assert "... and 2 more" in error


def test_bad_files_of_both_sets_are_reported_at_once(run_check, photos, tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / "split" / split).mkdir(parents=True)
        for name in ("0.jpg", "1.jpg"):
            (tmp_path / "split" / split / name).write_bytes((photos / "a" / name).read_bytes())
        tear(tmp_path / "split" / split / "1.jpg")
    assert run_check(f"--dataset=folder:{tmp_path / 'split'}")[0] == 2
    error = capsys.readouterr().err
    assert "2 of 4 images do not decode" in error
    assert "train/1.jpg" in error and "test/1.jpg" in error


def test_bad_files_may_be_left_out_and_are_counted(run_check, photos, capsys):
    tear(photos / "a" / "1.jpg")
    code, folder = run_check(f"--dataset=folder:{photos}", "--skip_bad_images")
    assert code == 0
    results = results_of(folder)
    assert (results["num_train"], results["num_skipped"]) == (5, 1)
    assert results["classes"] == {"train": {"a": 3, "b": 2}}
    assert "1 bad images left out" in capsys.readouterr().out


def test_a_finished_check_is_replaced_only_where_that_was_asked_for(run_check, photos, capsys):
    flags = (f"--dataset=folder:{photos}", "--crop_size=16")
    code, folder = run_check(*flags, "--preview")
    assert code == 0
    assert run_check(*flags)[0] == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run_check("--dataset=folder:/nowhere", "--overwrite")[0] == 2
    assert_drawn(folder)  # a check that cannot begin costs nobody the one before
    assert run_check(*flags, "--overwrite")[0] == 0
    assert not list((folder / "plots").iterdir())


def test_of_many_classes_the_smallest_and_largest_are_printed(run_check, tmp_path, capsys):
    labels = np.repeat(np.arange(check.CLASSES_LISTED + 1), 2)
    labels = np.append(labels, [4, 4, 4])
    np.savez(tmp_path / "many.npz", x=np.zeros((len(labels), 8, 8), np.uint8), y=labels)
    code, folder = run_check(f"--dataset=npz:{tmp_path / 'many.npz'}")
    assert code == 0
    assert "2 (0) to 5 (4) images per class" in capsys.readouterr().out
    assert results_of(folder)["classes"]["train"]["4"] == 5


def test_each_operation_is_drawn_alone_on_every_view(run_check, photos, monkeypatch):
    drawn = {}

    def keep(grid, path, **titles):
        drawn[path.name] = (grid, titles)

    monkeypatch.setattr(plots, "plot_images", keep)
    flags = ("--crop_size=16", "--noise", "--noise_prob=0.25", "--no-flip")
    assert run_check(f"--dataset=folder:{photos}", "--preview", *flags)[0] == 0
    grid, titles = drawn["preview_operations.png"]
    names = [title.partition(" (")[0] for title in titles["row_titles"]]
    assert names == [*OPERATIONS, *["whole recipe"] * check.RECIPE_ROWS]
    for title in ("noise (25 %)", "flip (off)", "blur (off)", "crop (100 %)", "colordrop (20 %)"):
        assert title in titles["row_titles"]
    assert all(len(row) == 1 + check.VIEWS for row in grid)
    rows = {
        name: [cell.astype(int) for cell in row[1:]] for name, row in zip(names, grid, strict=True)
    }

    gray = [np.ptp(view, axis=-1).max() for view in rows["colordrop"]]
    assert max(gray) <= 1
    still = rows["flip"][0][:, ::-1]  # mirrored back: the image in the views' shape
    for name in ("crop", "jitter", "colordrop", "blur", "noise", "cutout"):
        assert max(np.abs(view - still).max() for view in rows[name]) > 3, name
    for view in rows["flip"]:
        np.testing.assert_array_equal(view, rows["flip"][0])
    images, views = drawn["preview_views.png"][0], check.VIEWS
    assert len(images) == check.IMAGES and all(len(row) == 1 + views for row in images)


def test_large_images_are_shrunk_before_they_are_drawn(run_check, tmp_path, monkeypatch):
    (tmp_path / "large").mkdir()
    Image.new("RGB", (600, 450), "blue").save(tmp_path / "large" / "blue.png")
    cells = []
    monkeypatch.setattr(
        plots, "plot_images", lambda grid, path, **_: cells.extend(c for row in grid for c in row)
    )
    flags = (f"--dataset=folder:{tmp_path / 'large'}", "--preview", "--crop_size=240 300")
    assert run_check(*flags)[0] == 0
    assert {cell.shape[:2] for cell in cells} == {(168, 224), (179, 224)}


def test_colours_are_those_of_the_same_crops_without_and_with_distortion(
    run_check, photos, monkeypatch
):
    kept = {}
    monkeypatch.setattr(
        plots, "plot_histograms", lambda images, values, path, **_: kept.update(values=values)
    )
    flags = (f"--dataset=folder:{photos}", "--preview", "--crop_size=16")
    assert run_check(*flags, "--jitter_prob=1")[0] == 0
    without, distorted = np.moveaxis(kept["values"], 1, 0)  # [images, crops, bins] each
    assert without.shape[:2] == (check.CROPPED_IMAGES, check.CROPS)
    np.testing.assert_allclose(kept["values"].sum(axis=-1), 1.0)
    assert (np.abs(without - distorted).sum(axis=-1) > 0.01).all()
    assert run_check(*flags, "--no-jitter", "--no-colordrop", "--overwrite")[0] == 0
    same, unchanged = np.moveaxis(kept["values"], 1, 0)
    np.testing.assert_array_equal(same, unchanged)
    np.testing.assert_allclose(same, without, atol=0.02)


def test_shapes_are_shown_as_pretraining_sees_them():
    seen, shown = (Config.resolve(task=task).recipe() for task in ("pretrain", "check"))
    assert seen == shown
