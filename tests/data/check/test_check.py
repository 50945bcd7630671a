"""`--task=check` from end to end: what it reads, counts, finds, refuses and draws."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import main
from simclr_tf import plots
from simclr_tf.augment.recipe import OPERATIONS
from simclr_tf.config.settings import Config
from simclr_tf.data import images
from simclr_tf.data.check import copies, table
from simclr_tf.data.check import splits as checks
from simclr_tf.data.check.copies import keys_of_files
from simclr_tf.data.check.folders import check_folder
from simclr_tf.data.check.problems import KINDS, SEVERITIES, Problem
from simclr_tf.data.check.table import spell_problems, write_problems
from simclr_tf.data.files import NAMED
from simclr_tf.data.images import BadFile, read_header, read_image
from simclr_tf.data.loading import load
from simclr_tf.data.sets.folders import load_folder
from simclr_tf.errors import OutOfMemoryError, UserError
from simclr_tf.tasks import check
from simclr_tf.workflow import datasets

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


def table_of(folder: Path) -> list[dict]:
    with open(folder / "problems.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def kinds_of(folder: Path) -> list[str]:
    return [row["kind"] for row in table_of(folder)]


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
    assert "shapes (train): 4,096 images, 16x16, 10 classes" in out
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
    assert not (folder / "plots").exists()


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
    out, error = capsys.readouterr()
    assert code == 2
    assert "error: damaged (3)" in out and "6 images read: 3 errors, 0 warnings" in out
    assert all(f"    {path.relative_to(photos)}: " in out for path in torn)
    assert "3 errors" in error and "--skip_bad_images" in error and "Traceback" not in error
    assert [row["file"] for row in table_of(folder)] == list(map(str, torn))
    assert not (folder / "results.json").exists()

    monkeypatch.setattr(table, "NAMED", 1)  # and the check may run again
    assert run_check(f"--dataset=folder:{photos}")[0] == 2
    out = capsys.readouterr().out
    assert "    a/1.jpg: " in out and "a/3.jpg" not in out and "... and 2 more" in out
    assert len(table_of(folder)) == 3


def test_bad_files_of_both_sets_are_reported_at_once(run_check, photos, tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / "split" / split).mkdir(parents=True)
        for name in ("0.jpg", "1.jpg"):
            (tmp_path / "split" / split / name).write_bytes((photos / "a" / name).read_bytes())
        tear(tmp_path / "split" / split / "1.jpg")
    code, folder = run_check(f"--dataset=folder:{tmp_path / 'split'}")
    assert code == 2
    assert kinds_of(folder) == ["damaged", "damaged", "leak"]
    assert "train/1.jpg" in (out := capsys.readouterr().out) and "test/1.jpg" in out


def test_a_bad_file_does_not_keep_the_good_ones_from_being_shown(run_check, photos, capsys):
    tear(photos / "a" / "1.jpg")
    code, folder = run_check(f"--dataset=folder:{photos}", "--preview", "--crop_size=16")
    assert code == 2
    assert kinds_of(folder) == ["damaged"] and not (folder / "results.json").exists()
    assert sorted(path.name for path in (folder / "plots").iterdir()) == sorted(PREVIEWS)
    out, err = capsys.readouterr()
    assert "5 images, several sizes" in out and "a 3, b 2" in out and "sizes: " in out
    assert "got 1 error" in err


def test_without_a_size_the_table_of_bad_files_is_there_and_no_preview(run_check, photos, capsys):
    tear(photos / "a" / "1.jpg")
    code, folder = run_check(f"--dataset=folder:{photos}", "--preview")
    assert code == 2 and kinds_of(folder) == ["damaged"]
    assert "no preview: the images differ in size" in capsys.readouterr().out
    assert not (folder / "plots").exists()


def test_bad_files_may_be_left_out_and_are_counted(run_check, photos, capsys):
    tear(photos / "a" / "1.jpg")
    code, folder = run_check(f"--dataset=folder:{photos}", "--skip_bad_images")
    assert code == 0
    results = results_of(folder)
    assert (results["num_train"], results["num_skipped"]) == (5, 1)
    assert results["classes"] == {"train": {"a": 3, "b": 2}}
    assert results["problems"] == {"damaged": 1}
    assert table_of(folder)[0]["severity"] == "warning"
    assert "1 bad image left out" in capsys.readouterr().out


def test_a_finished_check_is_replaced_only_where_that_was_asked_for(run_check, photos, capsys):
    flags = (f"--dataset=folder:{photos}", "--crop_size=16")
    code, folder = run_check(*flags, "--preview")
    assert code == 0
    assert run_check(*flags)[0] == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run_check("--dataset=folder:/nowhere", "--overwrite")[0] == 2
    assert_drawn(folder)  # a check that cannot begin costs nobody the one before
    assert run_check(*flags, "--overwrite")[0] == 0
    assert not (folder / "plots").exists()


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

    for module in (plots, plots.images):  # `plot_views` draws by it, too
        monkeypatch.setattr(module, "plot_images", keep)
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


def test_a_nasty_folder(run_check, tmp_path, capsys, rng):
    root = tmp_path / "nasty"
    a, b = root / "train" / "a", root / "train" / "b"
    tested = root / "test" / "a"
    for folder in (a, b, tested, root / "train" / "empty", root / "test" / "zebra"):
        folder.mkdir(parents=True)

    def noise(side: int = 20) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))

    for folder in (a, b, tested, root / "test" / "zebra", root / "train"):
        noise().save(folder / "good.jpg")
    (a / "zero.png").touch()
    (a / "page.jpg").write_text("<!DOCTYPE html><html>404</html>")
    noise().save(a / "torn.jpg")
    tear(a / "torn.jpg")
    (a / "gone.jpg").symlink_to("/nowhere/x.jpg")
    (a / "loop.jpg").symlink_to("loop.jpg")
    (a / "up").symlink_to(root / "train")
    (root / "train" / "self").symlink_to(root / "train")
    noise().save(tmp_path / "outside.jpg")
    (a / "out.jpg").symlink_to(tmp_path / "outside.jpg")
    noise().convert("CMYK").save(a / "cmyk.jpg")
    noise().save(a / "lying.png", "JPEG")
    noise(4).save(b / "tiny.png")
    shutil.copy(a / "good.jpg", a / "copy.jpg")
    shutil.copy(b / "good.jpg", a / "relabelled.jpg")
    shutil.copy(a / "cmyk.jpg", tested / "leak.jpg")
    noise().save(os.fsencode(b) + b"/caf\xe9.jpg")
    (a / "notes.txt").write_text("mine")

    code, folder = run_check(f"--dataset=folder:{root}", "--crop_size=16")
    assert code == 2
    rows = [row for row in table_of(folder) if f"{os.sep}self{os.sep}" not in row["file"]]
    found = {(row["kind"], Path(row["file"]).name): row["detail"] for row in rows}
    assert found.keys() >= {
        ("empty folder", "empty"),
        ("link loop", "self"),
        ("linked folder", "up"),
        ("link out", "out.jpg"),
        ("outside the classes", "good.jpg"),
        ("not read", "notes.txt"),
        ("broken link", "gone.jpg"),
        ("broken link", "loop.jpg"),
        ("empty", "zero.png"),
        ("no image", "page.jpg"),
        ("damaged", "torn.jpg"),
        ("small", "tiny.png"),
        ("pixels", "cmyk.jpg"),
        ("extension", "lying.png"),
        ("odd name", "caf\\udce9.jpg"),
        ("leak", "leak.jpg"),
        ("duplicate", "good.jpg"),
    }
    assert "zebra" in found["unknown class", f"folder:{root} (test)".rpartition("/")[2]]
    assert "web page" in found["no image", "page.jpg"]
    assert "a/copy.jpg" in found["duplicate", "good.jpg"]
    assert "a/cmyk.jpg" in found["leak", "leak.jpg"]
    two = [row["detail"] for row in rows if row["kind"] == "two labels"]
    assert ["class b, but class a" in detail for detail in two] == [True]
    assert not any(name == "good.jpg" and kind in ("damaged", "leak") for kind, name in found)
    out = capsys.readouterr().out
    assert "error: empty (" in out and "    train/a/zero.png: the file is empty" in out
    assert set(kinds_of(folder)) <= KINDS.keys()


def test_a_nasty_list(run_check, photos, tmp_path, capsys):
    train, val = photos / "train.txt", photos / "val.txt"
    lines = [
        "# mine",
        "a/0.jpg,0",
        "a/1.jpg,cat",
        "a/2.jpg,7",
        "b/0.jpg",
        "none.jpg,1",
        "a/3.jpg,1",
    ]
    train.write_text("\n".join([*lines, "a/0.jpg,0"]))
    val.write_text("a/3.jpg,1\n")
    flags = (f"--train_file_path={train}", f"--val_file_path={val}")
    code, folder = run_check(*flags, "--num_classes=3")
    assert code == 2
    rows = [(row["kind"], row["file"], row["line"], row["list"]) for row in table_of(folder)]
    assert rows == [
        ("line", str(train), "6", ""),
        ("label", str(train), "3", ""),
        ("label", str(train), "4", ""),
        ("label", str(train), "5", ""),
        ("class without images", f"list:{train}", "", ""),
        ("class not tested", f"list:{val}", "", ""),
        ("leak", str(photos / "a/3.jpg"), "1", str(val)),
        ("duplicate", str(photos / "a/0.jpg"), "8", str(train)),
    ]
    assert "train.txt line 4: label 7 is outside 0..2" in capsys.readouterr().out

    train.write_text("a/0.jpg,a dog\na/1.jpg,\n")  # what pre-training leaves aside
    code, folder = run_check(f"--train_file_path={train}")
    assert code == 0 and kinds_of(folder) == ["other column"]


@pytest.fixture
def twice(tmp_path, rng) -> Path:
    """A folder of 2 classes of 5 images, each there twice."""
    for name in "ab":
        (tmp_path / "twice" / name).mkdir(parents=True)
        for i in range(5):
            image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            for copy in ("one", "two"):
                image.save(tmp_path / "twice" / name / f"{i}_{copy}.png")
    return tmp_path / "twice"


@pytest.mark.parametrize("form", ["folder", "list", "npz"])
def test_copies_across_a_share_held_back_leak(run_check, twice, form):
    train = load(f"folder:{twice}", cache="false").train
    flags, kept = (f"--dataset=folder:{twice}",), train.paths
    if form == "list":
        pairs = zip(train.paths, train.labels, strict=True)
        (twice / "list.txt").write_text("".join(f"{path},{label}\n" for path, label in pairs))
        flags = (f"--train_file_path={twice / 'list.txt'}",)
    elif form == "npz":
        images = [train.read(i) for i in range(len(train))]
        np.savez(twice / "all.npz", x=images, y=train.labels)
        flags = (f"--dataset=npz:{twice / 'all.npz'}",)
        kept = tuple(f"npz:{twice / 'all.npz'} (train)[{i}]" for i in range(len(train)))
    code, folder = run_check(*flags, "--val_fraction=0")
    assert code == 0 and results_of(folder)["problems"]["duplicate"] == 10
    assert "leak" not in kinds_of(folder)

    code, folder = run_check(*flags, "--overwrite")  # what a classification would hold back
    assert code == 0 and results_of(folder)["problems"] == {"leak": 2, "duplicate": 8}

    code, folder = run_check(*flags, "--val_fraction=0.4", "--seed=3", "--overwrite")
    assert code == 0
    held = load(f"folder:{twice}", val_fraction=0.4, seed=3).test.paths
    across, within = set(), 0
    for first, second in zip(train.paths[::2], train.paths[1::2], strict=True):
        in_first, in_second = first in held, second in held
        if in_first != in_second:
            across.add(kept[train.paths.index(first if in_first else second)])
        within += in_first == in_second
    assert across and within
    rows = table_of(folder)
    assert {row["file"] for row in rows if row["kind"] == "leak"} == across
    assert kinds_of(folder).count("duplicate") == within
    if form == "list":
        assert {row["list"] for row in rows if row["kind"] == "leak"} == {str(twice / "list.txt")}


def test_nothing_is_held_back_unasked_of_images_without_labels(run_check, twice):
    for path in list(twice.rglob("*.png")):
        path.rename(twice / f"{path.parent.name}{path.name}")
    for name in "ab":
        (twice / name).rmdir()
    code, folder = run_check(f"--dataset=folder:{twice}")
    assert code == 0 and results_of(folder)["problems"] == {"duplicate": 10}
    code, folder = run_check(f"--dataset=folder:{twice}", "--val_fraction=0.4", "--overwrite")
    assert code == 0 and "leak" in kinds_of(folder)


def test_a_share_that_cannot_be_held_back_is_a_problem(run_check, photos, capsys):
    for path in list(photos.rglob("*.jpg"))[1:]:
        path.unlink()
    for name in "ab":
        if not list((photos / name).iterdir()):
            (photos / name).rmdir()
    code, folder = run_check(f"--dataset=folder:{photos}", "--val_fraction=0.1")
    assert code == 2 and kinds_of(folder) == ["one class", "held back"]
    assert "both sides of --val_fraction=0.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("classes", "kinds"),
    [
        (["bus", "car", "train"], []),
        (["train", "Dev"], ["split as class"]),
        (["cat", "dog", "test"], ["split as class"]),
        (["Validation"], ["split as class"]),
        (["cat"], ["one class"]),
    ],
)
def test_classes_that_are_hardly_meant(tmp_path, run_check, capsys, classes, kinds):
    for i, name in enumerate(classes):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "set" / name / "0.png")
    code, folder = run_check(f"--dataset=folder:{tmp_path / 'set'}")
    assert code == 0 and kinds_of(folder) == kinds
    capsys.readouterr()
    datasets.load_splits(Config.resolve(task="pretrain", dataset=f"folder:{tmp_path / 'set'}"))
    out = capsys.readouterr().out
    assert [kind for kind in ("one class", "split as class") if f"warning: {kind}" in out] == kinds


def test_images_to_report_on_without_labels_are_named(run_check, photos):
    (photos / "train").mkdir()
    for name in "ab":
        (photos / name).rename(photos / "train" / name)
    (photos / "test").mkdir()
    Image.new("RGB", (8, 8)).save(photos / "test" / "0.jpg")
    code, folder = run_check(f"--dataset=folder:{photos}")
    assert code == 0 and kinds_of(folder) == ["test without labels"]


def test_names_without_the_label_pattern_are_problems(run_check, photos):
    flags = (f"--dataset=folder:{photos}", r"--label_pattern=^([0-2])\.")
    code, folder = run_check(*flags)
    assert code == 2
    found = [
        (row["file"], row["severity"]) for row in table_of(folder) if row["kind"] == "no label"
    ]
    assert found == [(str(photos / "a" / "3.jpg"), "error")]
    code, folder = run_check(*flags, "--skip_bad_images", "--overwrite")
    assert code == 0 and "no label" in kinds_of(folder)
    results = results_of(folder)
    assert results["classes"] == {"train": {"0": 2, "1": 2, "2": 1}}
    assert results["num_skipped"] == 1


def test_an_empty_class_is_named_once(run_check, photos):
    (photos / "aa").mkdir()
    code, folder = run_check(f"--dataset=folder:{photos}")
    assert code == 2 and kinds_of(folder) == ["empty folder"]
    train = load_folder(str(photos), report=lambda _: None).train
    assert train.class_names == ("a", "b") and train.labels.tolist() == [0] * 4 + [1] * 2


@pytest.fixture
def pairs(tmp_path, rng) -> Path:
    """Folders of 6 images and masks of 3 classes."""
    for name in ("images", "masks"):
        (tmp_path / "pairs" / name).mkdir(parents=True)
    for i in range(6):
        image, mask = (
            rng.integers(0, 256, (9, 9, 3), np.uint8),
            rng.integers(0, 3, (9, 9), np.uint8),
        )
        Image.fromarray(image).save(tmp_path / "pairs" / "images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "pairs" / "masks" / f"{i}.png")
    return tmp_path / "pairs"


def test_masks_are_checked_where_the_data_has_some(run_check, pairs, capsys):
    flags = (f"--dataset=folder:{pairs}", "--num_classes=3")
    assert run_check(*flags)[0] == 0
    masks = pairs / "masks"
    (masks / "0.png").unlink()
    Image.new("L", (9, 5)).save(masks / "1.png")
    Image.new("L", (9, 9), 200).save(masks / "2.png")
    (masks / "3.png").write_text("no mask")
    code, folder = run_check(*flags, "--overwrite")
    assert code == 2
    rows = {row["kind"]: Path(row["file"]).name for row in table_of(folder)}
    assert rows == {
        "pairing": "0.png",
        "bad mask": "3.png",
        "mask size": "1.png",
        "mask values": "2.png",
    }
    listed = pairs / "list.txt"
    listed.write_text("".join(f"images/{i}.png,masks/{i}.png\n" for i in (1, 4, 5)))
    code, folder = run_check(f"--train_file_path={listed}", "--num_classes=3")
    assert code == 2
    (row,) = table_of(folder)
    assert (row["kind"], row["line"], row["list"]) == ("mask size", "1", str(listed))
    capsys.readouterr()


def test_arrays_are_checked_image_by_image(run_check, tmp_path, rng, capsys):
    images = rng.random((5, 8, 8, 3))
    images[1, 0, 0], images[3, 0, 0] = np.nan, 3.0
    np.savez(tmp_path / "bad.npz", x=images, y=[0, 1, -1, 1, 0])
    code, folder = run_check(f"--dataset=npz:{tmp_path / 'bad.npz'}")
    assert code == 2
    assert [row["file"].split()[-1] for row in table_of(folder)] == ["x[1]", "x[3]", "y[2]"]

    images = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
    images[3] = images[0]
    held = {"x_test": images[1:2], "y_test": [0]}
    np.savez(tmp_path / "odd.npz", x=images, y=[0, 1, 3, 0, 3], **held)
    code, folder = run_check(f"--dataset=npz:{tmp_path / 'odd.npz'}")
    assert code == 0
    expected = {"class without images": 1, "class not tested": 2, "leak": 1, "two labels": 1}
    assert results_of(folder)["problems"] == expected | {"duplicate": 1}
    code, folder = run_check(
        f"--dataset=npz:{tmp_path / 'odd.npz'}", "--num_classes=3", "--overwrite"
    )
    assert code == 2 and kinds_of(folder).count("label") == 2
    capsys.readouterr()


@pytest.fixture
def limit(monkeypatch):
    """The limit of pixels, which a run sets for the process, is put back."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.mark.usefixtures("limit")
def test_the_limit_of_pixels_holds_in_every_task(run_check, photos, tmp_path, capsys):
    flags = (f"--dataset=folder:{photos}", "--max_pixels=1200")  # 33 x 32 passes, 90 x 40 not
    code, folder = run_check(*flags)
    assert code == 2
    assert [(row["kind"], Path(row["file"]).name) for row in table_of(folder)] == [
        ("too large", "3.jpg")
    ]
    assert "3,600 pixels" in capsys.readouterr().out
    path = f"--pretrain_save_path={tmp_path / 'pretrain'}"
    assert main.main(["--task=pretrain", *flags, path, "--input_size=16"]) == 2
    assert "3.jpg (3,600 pixels by its header)" in capsys.readouterr().err
    assert run_check(*flags, "--skip_bad_images")[0] == 0
    assert run_check(flags[0], "--overwrite")[0] == 0  # the limit of a run is not the next one's


def test_a_run_looks_at_a_sample_before_its_first_step(photos, tmp_path, monkeypatch, capsys):
    tear(photos / "b" / "0.jpg")
    path = f"--pretrain_save_path={tmp_path / 'pretrain'}"
    flags = [
        "--task=pretrain",
        f"--dataset=folder:{photos}",
        path,
        "--input_size=16",
        "--cache=false",
    ]
    assert main.main(flags) == 2
    error = capsys.readouterr().err
    assert "b/0.jpg: image file is truncated" in error and "--task=check" in error

    splits = load(f"folder:{photos}")
    read = []
    monkeypatch.setattr(
        checks, "read_facts", lambda path: read.append(path) or checks.Facts((9, 9), "", "")
    )
    monkeypatch.setattr(checks, "SAMPLE", 3)
    checks.look_at(splits, view=(8, 8), labels=True)
    assert sorted(read) == [splits.train.paths[i] for i in (0, 2, 5)]
    read.clear()
    monkeypatch.setattr(checks, "SAMPLE_PIXELS", 1200)  # of the three 1,489: fewer are spread anew
    checks.look_at(splits, view=(8, 8), labels=True)
    assert sorted(read) == [splits.train.paths[i] for i in (0, 5)]
    read.clear()
    monkeypatch.setattr(checks, "SAMPLE_PIXELS", 1)  # one is looked at, however large
    checks.look_at(splits, view=(8, 8), labels=True)
    assert read == [splits.train.paths[0]]


@pytest.mark.parametrize("behind", [False, True])
def test_the_header_of_a_png_is_read_without_its_pixels(tmp_path, monkeypatch, behind):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.new("RGB", (7, 4)).save(path, exif=exif)
    raw = path.read_bytes()
    at = raw.index(b"eXIf") - 4
    chunk = raw[at : at + 12 + int.from_bytes(raw[at : at + 4], "big")]
    without = raw.replace(chunk, b"")
    path.write_bytes(without[:-12] + chunk + without[-12:] if behind else without)
    assert read_header(path) == read_image(path).shape[:2] == ((7, 4) if behind else (4, 7))
    decoded = []
    load = PngImagePlugin.PngImageFile.load
    monkeypatch.setattr(
        PngImagePlugin.PngImageFile, "load", lambda image: decoded.append(1) or load(image)
    )
    read_header(path)
    assert bool(decoded) == behind


def test_what_the_system_refuses_is_unreadable(photos, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(images.Image, "open", refuse)
    with pytest.raises(BadFile, match="Permission denied") as caught:
        checks.read_facts(str(photos / "a" / "0.jpg"))
    assert caught.value.kind == "unreadable"


def test_only_files_of_equal_size_are_compared_and_each_once(tmp_path, monkeypatch):
    contents = {"a": b"same", "b": b"same", "c": b"else", "d": b"alone"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "other link").symlink_to("d")
    paths = [str(tmp_path / name) for name in (*contents, "link", "other link", "gone")]
    opened = []
    digest = copies._digest
    monkeypatch.setattr(copies, "_digest", lambda path: opened.append(path) or digest(path))
    a, b, c, d, link, other, gone = keys_of_files(paths)
    assert a == b == link != c and d == other != a and gone is None
    assert len(opened) == 3


@pytest.mark.parametrize("link", [False, True])
def test_a_pipe_among_the_images_is_named_and_not_waited_for(photos, link):
    pipe = photos / "pipe" if link else photos / "a" / "0.png"
    os.mkfifo(pipe)
    if link:
        (photos / "a" / "0.png").symlink_to(pipe)

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError("still waiting for a writer")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(5)
    try:
        with pytest.raises(BadFile, match="0.png .*no regular file") as caught:
            read_image(photos / "a" / "0.png")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert caught.value.kind == "unreadable"


def test_what_memory_runs_out_for_is_no_bad_image(photos, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(images, "_to_rgb", fail)
    with pytest.raises(BadFile, match="more memory than an image needs") as caught:
        read_image(photos / "a" / "0.jpg")  # while there is room for every image
    assert caught.value.kind == "damaged"
    monkeypatch.setattr(images, "_BYTES_PER_PIXEL", 1 << 30)
    with pytest.raises(OutOfMemoryError, match="memory to decode an image at .*0.jpg"):
        load(f"folder:{photos}", skip_bad_images=True)
    flags = (f"--dataset=folder:{photos}", "--skip_bad_images", "--input_size=16")
    path = f"--pretrain_save_path={tmp_path / 'pretrain'}"
    assert main.main(["--task=pretrain", *flags, path]) == 2
    assert capsys.readouterr().err.startswith("error: Expected memory to decode an image at ")


def test_a_folder_that_may_not_be_read_is_named_and_not_left_out(photos, monkeypatch):
    (photos / "a" / "more").mkdir()
    (photos / "a" / "0.jpg").rename(photos / "a" / "more" / "0.jpg")
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("more"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(UserError, match=r"a/more, got: Permission denied"):
        load_folder(str(photos))


def test_folders_of_links_are_walked_to_an_end(tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / ".git" / "b").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "a" / "1.png")
    for name in ("here", "a/up", ".hidden", ".git/b/up"):  # nothing reads the last two
        (tmp_path / "data" / name).symlink_to(tmp_path / "data")
    root = str(tmp_path / "data")
    paths = load_folder(root).train.paths
    found = {
        (problem.kind, os.path.relpath(problem.file, root)) for problem in check_folder(root, paths)
    }
    assert found == {("link loop", "here"), ("linked folder", "a/up")}


def test_every_name_can_be_printed_and_written(tmp_path, monkeypatch, photos):
    problem = Problem("odd name", "caf\udce9.jpg", "named so")
    write_problems(tmp_path / "problems.csv", [problem])
    assert "caf\\udce9.jpg" in (tmp_path / "problems.csv").read_text(encoding="utf-8")
    os.rename(photos / "a", os.fsencode(photos) + b"/caf\xe9")
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    flags = (f"--dataset=folder:{photos}", f"--finetune_save_path={tmp_path / 'run'}")
    assert main.main(["--task=check", *flags]) == 0
    screen.flush()
    assert b"caf\\udce9 4" in screen.buffer.getvalue()


def test_problems_are_grouped_counted_and_cut_off():
    damaged = [Problem("damaged", f"/d/{i}.jpg", f"after {i} bytes") for i in range(7)]
    alike = [Problem("pixels", f"/d/{i}.png", "16 bits: scaled to 8") for i in range(1200)]
    lines = spell_problems([*alike, *damaged], root="/d").splitlines()
    assert lines[0].startswith("error: damaged (7): ") and lines[1] == "    0.jpg: after 0 bytes"
    assert lines[NAMED + 1] == "    ... and 2 more"
    assert lines[-2].startswith("notice: pixels (1,200)")
    assert lines[-1] == "    1,200 times: 16 bits: scaled to 8; the first 0.png"
    skipped = spell_problems(damaged, skip_bad_images=True)
    assert skipped.startswith("warning: damaged")


def test_the_folder_is_left_out_where_names_begin_alone():
    problems = [
        Problem("leak", "d/good/d/1.jpg", "trained on as d/2.jpg"),
        Problem("line", "d/list.txt", "none at /d/3.jpg", line=3),
        Problem("mask size", "/d/4.jpg", line=4, list="d/more.txt"),
    ]
    shown = [line for line in spell_problems(problems, root="d").splitlines() if line[0] == " "]
    assert shown == [
        "    list.txt line 3: none at /d/3.jpg",
        "    /d/4.jpg (more.txt line 4)",
        "    good/d/1.jpg: trained on as d/2.jpg",
    ]


def test_each_kind_says_how_bad_it_is_and_every_check_names_one():
    assert {kind.severity for kind in KINDS.values()} == set(SEVERITIES)
    assert checks.IMAGE_CHECKS.keys() <= KINDS.keys()


def test_wrong_lines_stop_the_other_tasks_and_are_named_together(photos):
    train, val = photos / "train.txt", photos / "val.txt"
    files = {"test_list": str(val)}
    train.write_text("a/0.jpg,0\na/1.jpg,x\nnone.jpg,0\n")
    val.write_text("b/0.jpg\n")
    with pytest.raises(UserError) as caught:
        load(f"list:{train}", **files, need_labels=True)
    lines = str(caught.value).splitlines()
    assert "train.txt line 2: expected a label" in lines[0]
    assert "train.txt line 3: expected an image file" in lines[1]
    assert "val.txt line 1: expected the image's path, a comma and a label" in lines[2]
    assert len(lines) == 3
    train.write_text("".join(f"{i}.jpg,0\n" for i in range(1000)))
    with pytest.raises(UserError) as caught:
        load(f"list:{train}", **files)
    assert str(caught.value).endswith("... and 995 more\n`task=check` lists all of them.")


def test_a_list_of_wrong_lines_alone_is_checked_to_its_end(run_check, photos):
    (photos / "list.txt").write_text("none.jpg,0\nneither.jpg,1\n")
    code, folder = run_check(f"--train_file_path={photos / 'list.txt'}")
    assert code == 2 and kinds_of(folder) == ["line", "line", "no image left"]


@pytest.mark.parametrize("missing", ["a/1.jpg", "a/1.jpg,", "a/1.jpg,-1", "a/1.jpg,cat"])
def test_a_label_that_is_missing_is_an_error_but_to_who_needs_none(photos, capsys, missing):
    path = photos / "list.txt"
    path.write_text(f"a/0.jpg,0\n{missing}\nb/0.jpg,1\n")
    with pytest.raises(UserError, match=r"list.txt line 2: .*label"):
        load(f"list:{path}")
    assert capsys.readouterr().out == ""
    source = load(f"list:{path}", some_labels=True).train
    assert len(source) == 3 and source.labels is None
    assert "1 of the 3 lines of" in (said := capsys.readouterr().out) and "line 2" in said
    path.write_text("a/0.jpg,0\nb/0.jpg,1\n")
    assert load(f"list:{path}", some_labels=True).train.labels.tolist() == [0, 1]
    assert capsys.readouterr().out == ""
