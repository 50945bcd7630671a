"""Prediction from end to end, with runs that are trained or made here: `main.main([...])`."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from tiny import write_colour_classes

import main
from simclr_tf import data, plots
from simclr_tf.config.settings import Config
from simclr_tf.data.images import read_image
from simclr_tf.data.source import Source
from simclr_tf.models import decoder_variables, resnet, unet
from simclr_tf.runs.checkpoints import Checkpoints, named_variables
from simclr_tf.tasks import predict
from simclr_tf.tasks.predict import segmenter
from simclr_tf.workflow.pace import Pace

CLASSES = ("blue", "green", "red")
NAMES = ("sky", "road, wet", "car")
SIZES = ((37, 53), (16, 16), (21, 64), (90, 33))


def predicted(*flags: object) -> int:
    return main.main(["--task=predict", "--precision=float32", *map(str, flags)])


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def tiny_unet(count=3):
    encoder = resnet(18, stem="small", width_multiplier=0.0625)
    return unet(encoder, count), encoder


def write_segmentation(folder: Path, *, seed=0, names=NAMES, best=True, **settings):
    """Writes a run as a segmentation leaves it, its weights drawn; returns its network."""
    keras.utils.set_random_seed(seed)
    model, encoder = tiny_unet(len(names))
    for variable in model.variables:  # running statistics and offsets too
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(np.random.default_rng(seed).uniform(0.5, 1.5, variable.shape))
    # Strong enough that classes change from pixel to pixel.
    model.get_layer("logits").kernel.assign(20 * model.get_layer("logits").kernel)
    settings = {"stem": "small", "width_multiplier": 0.0625, "num_classes": 3, **settings}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(Config.resolve(task="segmentation", **settings).to_yaml())
    (folder / "model.json").write_text(json.dumps({"class_names": names}))
    weights = {
        **named_variables("encoder", encoder.variables),
        **named_variables("decoder", decoder_variables(model, encoder)),
    }
    checkpoints = Checkpoints(folder / "checkpoints", keep=2)
    if best:
        checkpoints.save_best(weights, step=3)
        blank = {name: np.zeros(v.shape, np.float32) for name, v in weights.items()}
        checkpoints.save(blank, step=9)  # would be class 0 everywhere
    else:
        checkpoints.save(weights, step=9)
    return model


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    """A segmentation run and its network."""
    folder = tmp_path_factory.mktemp("runs") / "segmentation"
    return folder, write_segmentation(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Images of several sizes, formats and modes: {top, deep/inner, deep/inner twice, gray}."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(5)
    (root / "deep").mkdir()
    images = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in SIZES]
    images[0].save(root / "top.png")
    images[1].save(root / "deep" / "inner.png")
    images[2].save(root / "deep" / "inner.bmp")
    images[3].convert("LA").save(root / "gray.png")
    return root


@pytest.fixture
def listed(pictures, tmp_path) -> Path:
    """A list of those images, masks that are not there in the second column."""
    names = ("top.png", "deep/inner.png", "deep/inner.bmp", "gray.png")
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{pictures / name},nowhere_{name}\n" for name in names))
    return path


EXPECTED = {  # mask -> the image's size
    "masks/top.png": (37, 53),
    "masks/deep/inner.png.png": (16, 16),
    "masks/deep/inner.bmp.png": (21, 64),
    "masks/gray.png": (90, 33),
}


def test_masks_are_those_of_the_network_at_the_size_of_each_image(segmented, listed, tmp_path):
    run, model = segmented
    out = tmp_path / "out"
    flags = (f"--finetune_save_path={run}", f"--predict_save_path={out}")
    assert predicted(f"--train_file_path={listed}", *flags) == 0
    rows = {row["mask"]: row for row in rows_of(out)}
    assert list(rows) == list(EXPECTED)
    pixels = np.zeros(3, int)
    for name, size in EXPECTED.items():
        with Image.open(out / name) as picture:
            assert picture.mode == "P"
            mask = np.asarray(picture)
            assert picture.getpalette() == plots.mask_palette(3).ravel().tolist()
        assert mask.shape == size
        image = read_image(rows[name]["path"])
        logits = model(image[np.newaxis].astype(np.float32) / 255, training=False)
        np.testing.assert_array_equal(mask, np.argmax(logits[0], axis=-1))
        shares = [float(rows[name][f"share_{c}"]) for c in NAMES]
        np.testing.assert_allclose(
            shares, np.bincount(mask.ravel(), minlength=3) / mask.size, atol=1e-6
        )
        pixels += np.bincount(mask.ravel(), minlength=3)
    assert (pixels > 20).all()  # of all classes: the comparison says something
    overlays = {f"overlays/{name[6:-4]}.jpg" for name in EXPECTED}
    others = {"config.yaml", "predictions.csv", "contact_sheet.png", "results.json"}
    assert files_below(out) == {*EXPECTED, *overlays, *others}
    with Image.open(out / "overlays/gray.jpg") as overlay:
        assert overlay.size == (33, 90)
    results = results_of(out)
    common = {"task", "config", "versions", "device", "seconds", "images_per_second"}
    assert common <= results.keys()
    assert results["task"] == "predict" and results["num_images"] == 4
    assert results["pixels_per_class"] == pixels.tolist()
    assert results["class_names"] == list(NAMES)
    assert results["run"] == str(run)
    assert results["checkpoint"].endswith("best.safetensors")


def test_images_are_seen_at_the_scale_of_training(pictures, tmp_path, monkeypatch):
    run = tmp_path / "run"
    write_segmentation(run, best=False, input_size=(32, 24), num_classes=0)
    seen = {}

    def noting(segment, image, *, scale, tile, overlap):
        seen[image.shape[:2]] = (scale, tile, overlap)
        return np.zeros(image.shape[:2], np.uint8)

    monkeypatch.setattr(segmenter, "segment_image", noting)
    flags = (f"--init_weights={run}", "--tile_size=64 48", "--tile_overlap=0.5")
    assert predicted(f"--dataset=folder:{pictures}", *flags) == 0
    assert seen == {
        size: (max(32 / size[0], 24 / size[1]), (64, 48), 0.5) for size in SIZES[1:3]
    }  # of a folder with folders, those in them
    assert results_of(run / "predictions")["checkpoint"].endswith("step-000000009.safetensors")


def test_large_images_are_segmented_in_windows(segmented, tmp_path):
    run, _ = segmented
    folder = tmp_path / "large"
    folder.mkdir()
    image = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(image).save(folder / "one.png")
    masks = []
    for name, tile in (("whole", "0"), ("tiled", "24 32")):
        flags = (f"--predict_save_path={tmp_path / name}", f"--tile_size={tile}")
        assert predicted(f"--dataset=folder:{folder}", f"--init_weights={run}", *flags) == 0
        masks.append(np.asarray(Image.open(tmp_path / name / "masks/one.png")))
    assert masks[0].shape == masks[1].shape == (50, 70)
    differing = np.mean(masks[0] != masks[1])
    assert 0 < differing < 0.5  # at the windows' edges the network sees less


@pytest.mark.parametrize(
    ("facts", "scales"),
    [
        ({}, (1.0, 1.0)),
        ({"view_size": (8, 8), "trained_on": (32, 32)}, (0.5, 0.5)),
        ({"view_size": (8, 8), "trained_on": None}, (1.0, 16 / (21 * 64) ** 0.5)),
    ],
)
def test_images_are_seen_at_a_scale_that_training_showed(
    pictures, tmp_path, monkeypatch, facts, scales
):
    # Windows of 1/4 to all of an image are brought to 8 x 8 pixels.
    run, seen = tmp_path / "run", {}
    write_segmentation(run, crop_area_min=0.25)
    (run / "model.json").write_text(json.dumps(facts))

    def noting(segment, image, *, scale, tile, overlap):
        seen[image.shape[:2]] = scale
        return np.zeros(image.shape[:2], np.uint8)

    monkeypatch.setattr(segmenter, "segment_image", noting)
    assert predicted(f"--dataset=folder:{pictures / 'deep'}", f"--init_weights={run}") == 0
    assert seen == {size: pytest.approx(s) for size, s in zip(SIZES[1:3], scales, strict=True)}


def test_an_image_that_is_named_twice_is_predicted_twice(segmented, pictures, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(f"{pictures / 'top.png'}\n" * 3)
    out = tmp_path / "out"
    flags = (f"--init_weights={segmented[0]}", f"--predict_save_path={out}")
    assert predicted(f"--train_file_path={path}", *flags) == 0
    assert files_below(out / "masks") == {f"top.png_{i}.png" for i in range(3)}


def test_the_limit_of_pixels_holds(segmented, pictures, tmp_path, capsys):
    flags = (f"--init_weights={segmented[0]}", f"--predict_save_path={tmp_path / 'out'}")
    assert predicted(f"--dataset=folder:{pictures}", "--max_pixels=10", *flags) == 2
    assert "--max_pixels" in capsys.readouterr().err


def test_the_settings_of_the_run_may_be_given_as_a_file(segmented, pictures, tmp_path):
    run = tmp_path / "run"
    write_segmentation(run, init_weights="none")
    command = [f"--config={run / 'config.yaml'}", f"--finetune_save_path={run}"]
    assert predicted(f"--dataset=folder:{pictures}", *command) == 0
    assert results_of(run / "predictions")["run"] == str(run)


def test_the_network_is_traced_once(segmented, pictures, tmp_path, monkeypatch):
    run, _ = segmented
    made = []

    def noting(model, **settings):
        made.append(make(model, **settings))
        return made[-1]

    make = segmenter.make_segment
    monkeypatch.setattr(segmenter, "make_segment", noting)
    flags = (f"--init_weights={run}", f"--predict_save_path={tmp_path / 'out'}")
    assert predicted(f"--dataset=folder:{pictures}", "--tile_size=16", *flags) == 0
    (segment,) = made
    assert segment.experimental_get_tracing_count() == 1


def test_what_lies_in_the_folder_is_replaced_when_asked_for_and_nothing_else(
    segmented, listed, pictures, tmp_path, capsys
):
    run, out = segmented[0], tmp_path / "out"
    flags = (f"--finetune_save_path={run}", f"--predict_save_path={out}")
    assert predicted(f"--train_file_path={listed}", *flags) == 0
    (out / "notes.txt").write_text("mine")
    (out / "mine").mkdir()
    (out / "mine" / "a.png").write_bytes(b"")
    before = files_below(out)
    assert predicted(f"--train_file_path={listed}", *flags) == 2
    assert "--overwrite" in capsys.readouterr().err
    # A prediction that cannot begin costs nothing.
    assert predicted("--dataset=folder:/nowhere", "--overwrite", *flags) == 2
    assert files_below(out) == before
    assert predicted(f"--dataset=folder:{pictures / 'deep'}", "--overwrite", *flags) == 0
    names = ("inner.png", "inner.bmp")
    assert files_below(out) == {
        "notes.txt",
        "mine/a.png",
        "predictions.csv",
        "config.yaml",
        "contact_sheet.png",
        "results.json",
        *(f"masks/{name}.png" for name in names),
        *(f"overlays/{name}.jpg" for name in names),
    }


def test_masks_that_no_prediction_wrote_are_not_removed(segmented, pictures, tmp_path, capsys):
    out = tmp_path / "set"
    (out / "masks").mkdir(parents=True)
    (out / "masks" / "truth.png").write_bytes(b"mine")
    flags = (f"--finetune_save_path={segmented[0]}", f"--predict_save_path={out}", "--overwrite")
    assert predicted(f"--dataset=folder:{pictures}", *flags) == 2
    assert "masks" in capsys.readouterr().err
    assert files_below(out) == {"masks/truth.png"}
    (out / "masks" / "truth.png").unlink()
    (out / "masks").rmdir()
    (out / "notes.txt").write_text("mine")
    assert predicted(f"--dataset=folder:{pictures}", *flags) == 0
    assert (out / "notes.txt").exists()


def test_the_images_beside_masks_are_predicted(segmented, tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
            for index in range(count):
                picture = Image.new("RGB" if kind == "images" else "L", (20, 18))
                picture.save(tmp_path / split / kind / f"{index}.png")
    flags = (f"--init_weights={segmented[0]}", f"--predict_save_path={tmp_path / 'out'}")
    assert predicted(f"--dataset=folder:{tmp_path}", *flags) == 0
    assert [Path(row["path"]).parts[-3:] for row in rows_of(tmp_path / "out")] == [
        ("test", "images", "0.png"),
        ("test", "images", "1.png"),
    ]
    # `train` alone has no test beside it.
    assert predicted(f"--dataset=folder:{tmp_path / 'train'}", "--overwrite", *flags) == 0
    assert results_of(tmp_path / "out")["num_images"] == 3


def test_images_in_memory_are_numbered(segmented, tmp_path):
    x = np.random.default_rng(2).integers(0, 256, (5, 17, 19, 3), np.uint8)
    np.savez(tmp_path / "set.npz", x_train=x, y_train=np.arange(5) % 3)
    flags = (f"--init_weights={segmented[0]}", f"--predict_save_path={tmp_path / 'out'}")
    assert predicted(f"--dataset=npz:{tmp_path / 'set.npz'}", *flags) == 0
    rows = rows_of(tmp_path / "out")
    assert [row["path"] for row in rows] == [f"{index:04d}" for index in range(5)]
    assert (tmp_path / "out" / "masks" / "0004.png").exists()
    for row in rows:
        shares = [float(value) for name, value in row.items() if name.startswith("share_")]
        assert sum(shares) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/x/a.jpg", "/x/b.jpg"], ["a", "b"]),
        (["/x/a.jpg", "/x/a.png", "/x/b.png"], ["a.jpg", "a.png", "b"]),
        (["/x/a.jpg", "/x/a.png", "/x/a.jpg.bmp"], ["a.jpg", "a.png", "a.jpg.bmp"]),
        (["/x/1/a.jpg", "/x/2/a.jpg"], ["1/a", "2/a"]),
        (["/x/y/../a.jpg", "/x/z/a.jpg"], ["a", "z/a"]),
        (["/x/only.tar.jpg"], ["only.tar"]),
    ],
)
def test_each_image_has_a_name_of_its_own(paths, expected):
    assert predict.output_names(Source("set", paths=tuple(paths))) == expected


def test_odd_names_stay_in_the_folder(segmented, tmp_path):
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    (tmp_path / "deep").mkdir()
    names = ["-rf.png", "a\nb.png", 'quo"ted, twice.png', "=1+1.png", "x" * 251 + ".png", "$_{.png"]
    names += ["no utf-8 \udcff.png", "..png"]
    for name in names:
        Image.new("RGB", (9, 8)).save(given / name, format="PNG")
    path = tmp_path / "list.txt"
    lines = [f"deep/../given/{'x' * 251}.png", f"{given}/../deep/../given/-rf.png"]
    path.write_text("\n".join(lines))
    for flag in (f"--dataset=folder:{given}", f"--train_file_path={path}"):
        before = {p for p in tmp_path.rglob("*") if out not in p.parents}
        flags = (f"--init_weights={segmented[0]}", f"--predict_save_path={out}", "--overwrite")
        assert predicted(flag, *flags) == 0
        assert {p for p in tmp_path.rglob("*") if out not in p.parents} - before <= {out}
        with open(out / "predictions.csv", newline="", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == (len(lines) if "list" in flag else len(names) - 1)  # ..png is hidden
        for row in rows:
            assert Path(row["path"]).is_file()
            assert (out / row["mask"]).resolve().parent == (out / "masks").resolve()
            assert (out / row["mask"]).is_file()


def test_what_is_done_when_it_is_interrupted_is_whole(segmented, listed, tmp_path, monkeypatch):
    out, real = tmp_path / "out", segmenter.segment_image
    flags = (f"--finetune_save_path={segmented[0]}", f"--predict_save_path={out}")
    done = []

    def interrupted(*arguments, **named):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return real(*arguments, **named)

    monkeypatch.setattr(segmenter, "segment_image", interrupted)
    monkeypatch.setattr(segmenter, "AHEAD", 1)
    assert predicted(f"--train_file_path={listed}", *flags) == 130
    assert not [name for name in files_below(out) if name.endswith(".partial")]
    rows = rows_of(out)
    assert rows and all((out / row["mask"]).exists() for row in rows)
    monkeypatch.undo()
    assert predicted(f"--train_file_path={listed}", *flags) == 2
    assert predicted(f"--train_file_path={listed}", "--overwrite", *flags) == 0


def test_the_pace_is_told_every_two_seconds_and_leaves_out_the_first(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("simclr_tf.workflow.pace.time.monotonic", lambda: now[0])
    pace = Pace(500)
    for seconds in (30.0, 1.0, 0.5, 1.0, 1.0):
        now[0] += seconds
        pace.add(10)
    assert pace.images_per_second == pytest.approx(40 / 3.5, abs=0.01)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "20 of 500 images  10.0 images/s  0:48 left",
        "50 of 500 images  11.4 images/s  0:39 left",
    ]
    single = Pace(1)
    now[0] += 4.0
    single.add(1)
    assert single.images_per_second == 0.25


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> Path:
    """A folder of 3 classes of 12 images, 16 pixels each, class by colour."""
    root = tmp_path_factory.mktemp("coloured")
    write_colour_classes(root, CLASSES, np.random.default_rng(0))
    return root


def classify(folder: Path, pictures: Path, *flags: str) -> None:
    words = [
        "--task=classification",
        f"--dataset=folder:{pictures}",
        f"--finetune_save_path={folder}",
        "--width_multiplier=0.0625",
        "--batch_size=8",
        "--precision=float32",
        "--init_weights=none",
        *flags,
    ]
    assert main.main(words) == 0


@pytest.fixture(scope="module")
def frozen(coloured, tmp_path_factory) -> Path:
    """A run of a head on a frozen encoder, judged on half of the images."""
    folder = tmp_path_factory.mktemp("frozen")
    classify(folder, coloured, "--val_fraction=0.5", "--freeze", "--num_epochs=20")
    return folder


def test_classes_are_those_that_the_run_reported(frozen, coloured, tmp_path):
    check_classes(frozen, coloured, tmp_path)


@pytest.mark.slow
def test_classes_of_a_whole_network_are_those_that_the_run_reported(coloured, tmp_path):
    classify(tmp_path / "run", coloured, "--val_fraction=0.5", "--num_epochs=2")
    check_classes(tmp_path / "run", coloured, tmp_path)


def check_classes(run, coloured, tmp_path):
    """Predicts the images that the run reported on, and compares."""
    held = data.load(f"folder:{coloured}", val_fraction=0.5, seed=0).test
    (tmp_path / "list.txt").write_text("\n".join(held.paths))
    source = f"--train_file_path={tmp_path / 'list.txt'}"
    assert predicted(source, f"--finetune_save_path={run}") == 0
    out = run / "predictions"
    rows = rows_of(out)
    assert [row["path"] for row in rows] == list(held.paths)
    matrix = np.zeros((3, 3), int)
    for row, truth in zip(rows, held.labels, strict=True):
        matrix[truth, CLASSES.index(row["class"])] += 1
        top = [entry.split("=") for entry in row["top5"].split("; ")]
        assert {name for name, _ in top} == set(CLASSES)
        assert (top[0][0], top[0][1]) == (row["class"], row["probability"])
        odds = [float(share) for _, share in top]
        assert odds == sorted(odds, reverse=True)
        assert sum(odds) == pytest.approx(1, abs=2e-4)
    assert matrix.tolist() == results_of(run)["confusion_matrix"]
    assert results_of(out)["images_per_class"] == matrix.sum(axis=0).tolist()
    written = {"config.yaml", "predictions.csv", "contact_sheet.png", "results.json"}
    assert files_below(out) == written
    assert (run / "results.json").exists()  # the run is as it was


@pytest.mark.parametrize("kind", ["segmented", "frozen"])
def test_a_bad_file_costs_nobody_the_predictions_of_the_others(kind, request, tmp_path, capsys):
    """Cut off behind its header: only who decodes it finds out."""
    given = request.getfixturevalue(kind)
    run = given[0] if kind == "segmented" else given
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (9, 40, 40, 3), np.uint8)
    for index, pixels in enumerate(noise):
        Image.fromarray(pixels).save(photos / f"{index}.png")
    whole = (photos / "4.png").read_bytes()
    (photos / "4.png").write_bytes(whole[:2000])
    words = (f"--dataset=folder:{photos}", f"--init_weights={run}", f"--predict_save_path={out}")
    for attempt in range(2):  # the folder of the first refuses nobody a second
        assert predicted(*words) == 2
        said, error = capsys.readouterr()
        assert "got 1 of 9 in " in error and "damaged (1): cut off" in error
        assert "4.png" in error and "Traceback" not in error
        assert f"predictions of the other 8 are in {out}" in error
        assert ("which bad files were left out of" in said) == (attempt == 1)
        assert [os.path.basename(row["path"]) for row in rows_of(out)] == [
            f"{index}.png" for index in range(9) if index != 4
        ]
        with open(out / "bad_files.csv", newline="") as file:
            assert [row["path"] for row in csv.DictReader(file)] == [str(photos / "4.png")]
        assert (out / "contact_sheet.png").exists() and not (out / "results.json").exists()
    if kind == "segmented":
        assert not (out / "masks/4.png").exists() and (out / "masks/8.png").exists()
    before = rows_of(out)
    assert predicted(*words, "--skip_bad_images") == 0
    assert rows_of(out) == before and results_of(out)["num_skipped"] == 1
    assert not (out / "bad_files.csv").exists()
    (photos / "4.png").write_bytes(whole)
    assert predicted(*words) == 2  # these have come to their end
    assert "--overwrite" in capsys.readouterr().err
    assert predicted(*words, "--overwrite") == 0
    assert [row for row in rows_of(out) if not row["path"].endswith("4.png")] == before


def test_of_bad_files_alone_nothing_is_predicted(frozen, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(noise).save(tmp_path / "photos/a.png")
    (tmp_path / "photos/a.png").write_bytes((tmp_path / "photos/a.png").read_bytes()[:2000])
    words = (f"--dataset=folder:{tmp_path / 'photos'}", f"--predict_save_path={tmp_path / 'out'}")
    assert predicted(*words, f"--init_weights={frozen}") == 2
    assert "got 1 of 1 in" in capsys.readouterr().err


def test_mistakes_have_one_clear_line(segmented, frozen, pictures, tmp_path, capsys):
    run = segmented[0]
    (tmp_path / "empty").mkdir()
    pretrained = tmp_path / "pretrained"
    pretrained.mkdir()
    (pretrained / "config.yaml").write_text(Config.resolve(task="pretrain").to_yaml())
    unborn = tmp_path / "unborn"
    unborn.mkdir()
    (unborn / "config.yaml").write_text((run / "config.yaml").read_text())
    renamed = tmp_path / "renamed"
    write_segmentation(renamed)
    (renamed / "model.json").write_text('{"class_names": ["one"]}')
    torn = tmp_path / "torn"
    torn.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(torn / "b.png")
    (torn / "a.png").write_bytes((torn / "b.png").read_bytes()[:2000])
    ready = (f"--dataset=folder:{pictures}", f"--predict_save_path={tmp_path / 'out'}")
    bad = (f"--dataset=folder:{torn}", f"--predict_save_path={tmp_path / 'bad'}")
    cases = {
        "--finetune_save_path or --init_weights": (
            *ready,
            f"--finetune_save_path={tmp_path / 'empty'}",
        ),
        "got one of --task=pretrain": (*ready, f"--init_weights={pretrained}"),
        "Expected weights in": (*ready, f"--init_weights={unborn}"),
        "no config.yaml": (*ready, "--init_weights=none"),
        "names of 3 classes": (*ready, f"--init_weights={renamed}"),
        "--overwrite to replace": (*ready, f"--init_weights={run}", "--resume"),
        f"{torn / 'a.png'}: image file": (*bad, f"--init_weights={run}"),
        "damaged (1): cut off": (*bad, f"--init_weights={frozen}", "--overwrite"),
        "Expected a folder at": ("--dataset=folder:/nowhere", f"--init_weights={run}"),
    }
    for expected, flags in cases.items():
        code = predicted(*flags)
        error = capsys.readouterr().err
        assert code == 2, (expected, error)
        assert expected in error, (expected, error)
        assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
    assert predicted(*bad, f"--init_weights={frozen}", "--overwrite", "--skip_bad_images") == 0
    assert results_of(tmp_path / "bad")["num_skipped"] == 1
    assert [os.path.basename(row["path"]) for row in rows_of(tmp_path / "bad")] == ["b.png"]
