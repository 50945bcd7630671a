"""Embedding from end to end, with a run that is made here: `main.main([...])`."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tiny import write_colour_classes

import main
from simclr_tf import data
from simclr_tf.atomic_write import NotWritten, write_whole
from simclr_tf.config.settings import Config
from simclr_tf.data import loading
from simclr_tf.data.images import read_image, resize_to_fill
from simclr_tf.evaluation import feature_files, projector
from simclr_tf.losses.contrastive import NTXent
from simclr_tf.runs.checkpoints import Checkpoints, named_variables, read_arrays
from simclr_tf.tasks import embed as task
from simclr_tf.tasks import pretrain

CLASSES = ("blue", "green", "red")
SIZE = (16, 12)  # of the views that the run is trained on
COUNTS = {"train": 5, "test": 3}  # of each class


def embedded(*flags: object) -> int:
    return main.main(["--task=embed", "--precision=float32", *map(str, flags)])


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "features.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "neighbours.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of train and test images of 3 classes, 20 x 20 pixels, class by colour."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        write_colour_classes(root / split, CLASSES, rng, count=count, side=20, file="{}é.png")
    return root


@pytest.fixture(scope="module")
def run_and_networks(pictures, tmp_path_factory):
    """A run as pre-training leaves it, weights drawn; its encoder and its projection head, which no
    default builds.
    """
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    folder.mkdir()
    config = Config.resolve(
        dataset=f"folder:{pictures}",
        crop_size=SIZE,
        stem="small",
        width_multiplier=0.0625,
        zdim=6,
        projection_layers=3,
        projection_hidden=10,
    )
    (folder / "config.yaml").write_text(config.to_yaml())
    keras.utils.set_random_seed(7)
    model = pretrain._build_model(config, None)
    model.compile(keras.optimizers.SGD(), NTXent(0.1))
    rng = np.random.default_rng(7)
    for variable in (*model.encoder.variables, *model.head.variables):
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif "projection_head" in variable.path and len(variable.shape) == 2:
            variable.assign(variable.value * 30.0)  # strong enough that images differ
    variables = named_variables("encoder", model.encoder.variables)
    variables |= named_variables("head", model.head.variables)
    Checkpoints(folder / "checkpoints").save(variables, step=2)
    return folder, (model.encoder, model.head)


@pytest.fixture(scope="module")
def pretrained(run_and_networks) -> Path:
    return run_and_networks[0]


@pytest.fixture(scope="module")
def networks(run_and_networks):
    return run_and_networks[1]


@pytest.fixture(scope="module")
def of_run(pretrained, tmp_path_factory) -> Path:
    """All that is written of the run's own data, with no flag that names data or size."""
    folder = tmp_path_factory.mktemp("out") / "run"
    flags = (f"--pretrain_save_path={pretrained}", f"--finetune_save_path={folder}")
    assert embedded(*flags, "--with_z", "--index", "--projector") == 0
    return folder


def test_the_projector_has_features_names_and_thumbnails(of_run, pictures):
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    folder = of_run / "tensorboard" / "projector"
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    arrays = arrays_of(of_run)
    points = np.loadtxt(folder / embedding.tensor_path, delimiter="\t")
    np.testing.assert_allclose(points, arrays["h"], rtol=1e-4, atol=1e-7)
    heading, *lines = (folder / embedding.metadata_path).read_text("utf-8").splitlines()
    assert heading.split("\t") == ["path", "label", "split"]
    cells = [line.split("\t") for line in lines]
    names = [CLASSES[label] for label in arrays["label"]]
    assert cells == [list(row) for row in zip(arrays["path"], names, arrays["split"], strict=True)]
    height, width = embedding.sprite.single_image_dim
    with Image.open(folder / embedding.sprite.image_path) as file:
        sprite = np.asarray(file)
    across = sprite.shape[1] // width
    for point in (0, 7, len(points) - 1):  # each is filled by its own picture
        y, x = (
            side * place for side, place in zip((height, width), divmod(point, across), strict=True)
        )
        image = resize_to_fill(read_image(arrays["path"][point]), (height, width))
        np.testing.assert_array_equal(sprite[y : y + height, x : x + width], image)


@pytest.mark.parametrize("count", [1, 2, 64, 10_000])
def test_the_thumbnails_fit_into_one_picture(count):
    side = projector.thumbnail_side(count)
    assert 1 <= side <= projector.MOST_THUMBNAIL
    assert int(np.ceil(np.sqrt(count))) * side <= projector.SPRITE_SIDE


def expected_h(encoder, images) -> np.ndarray:
    pixels = np.stack([resize_to_fill(image, SIZE) for image in images]).astype(np.float32) / 255
    return encoder.predict(pixels, verbose=0)


def test_data_and_sizes_are_those_of_the_run(of_run, pictures, networks):
    arrays = arrays_of(of_run)
    splits = data.load(f"folder:{pictures}")
    train, test = splits.train, splits.test
    assert set(arrays) == {"path", "label", "split", "h", "z"}
    assert arrays["path"].tolist() == [*train.paths, *test.paths]
    assert arrays["label"].dtype == np.int32
    assert arrays["label"].tolist() == [*train.labels, *test.labels]
    assert arrays["split"].tolist() == ["train"] * len(train) + ["test"] * len(test)
    assert arrays["h"].dtype == arrays["z"].dtype == np.float32
    # Antialiased resizing of the pipeline and of the library of images differ by a little.
    batches = [b for s in (train, test) for b in data.plain_batches(s, batch_size=7, size=SIZE)]
    plain = np.concatenate(batches)
    h = networks[0].predict(plain, verbose=0)
    assert np.ptp(h, axis=0).max() > 0.01  # images differ: the comparison says something
    np.testing.assert_allclose(arrays["h"], h, atol=1e-5)
    by_hand = expected_h(networks[0], [read_image(path) for path in arrays["path"]])
    np.testing.assert_allclose(arrays["h"], by_hand, atol=0.05 * np.ptp(h))


def test_z_are_the_projections_of_h(of_run, networks):
    arrays = arrays_of(of_run)
    z = np.asarray(networks[1](arrays["h"], training=False))
    assert z.shape == (24, 6) and np.ptp(z) > 1e-3
    np.testing.assert_allclose(arrays["z"], z, atol=1e-6 + 1e-5 * np.abs(z).max())


def test_results_tell_what_was_written(of_run, pretrained):
    results = results_of(of_run)
    common = {"task", "config", "versions", "device", "seconds", "images_per_second"}
    assert common <= results.keys()
    assert results["num_images"] == 24
    assert results["images_per_split"] == {"train": 15, "test": 9}
    assert (results["feature_width"], results["projection_width"]) == (32, 6)
    assert results["view_size"] == list(SIZE)
    assert results["class_names"] == list(CLASSES)
    assert results["checkpoint"].startswith(str(pretrained))
    neighbours = ["neighbours.csv", "plots/neighbours.png"]
    names = (projector.FEATURES, projector.METADATA, projector.SPRITE, projector.CONFIG)
    shown = [f"tensorboard/projector/{name}" for name in names]
    assert results["files"] == ["features.npz", *neighbours, *shown]
    assert files_below(of_run) == {*results["files"], "config.yaml", "results.json"}


def test_a_table_holds_what_the_arrays_hold(of_run, pretrained, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(feature_files, "GROUP_ELEMENTS", 400)  # of (32 + 6) a row
    out = tmp_path / "out"
    flags = (f"--pretrain_save_path={pretrained}", f"--finetune_save_path={out}", "--with_z")
    assert embedded(*flags, "--embed_format=parquet") == 0
    assert files_below(out) == {"features.parquet", "config.yaml", "results.json"}
    assert results_of(out)["files"] == ["features.parquet"]
    file, arrays = parquet.ParquetFile(out / "features.parquet"), arrays_of(of_run)
    assert file.metadata.num_row_groups == 3  # 24 rows, 10 together
    table = file.read()
    kinds = {name: str(table.schema.field(name).type) for name in table.column_names}
    wide = "fixed_size_list<element: float>"
    assert kinds == {
        "path": "string", "label": "int32", "split": "string", "h": f"{wide}[32]", "z": f"{wide}[6]"
    }  # fmt: skip
    for name, expected in arrays.items():
        np.testing.assert_array_equal(np.array(table[name].to_pylist()), expected)


def test_a_table_is_whole_or_not_there_and_takes_names_that_are_no_text(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"path": ["a", "b\udce9"], "h": np.ones((2, 3), np.float32)}
    path = tmp_path / "features.parquet"
    feature_files.write_columns(path, columns, "parquet")
    assert parquet.read_table(path)["path"].to_pylist() == ["a", "b\\udce9"]
    path.unlink()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_table", full)
    with pytest.raises(NotWritten):
        write_whole(path, lambda part: feature_files.write_columns(part, columns, "parquet"))
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_its_library_is_refused_before_anything_is_read(
    pretrained, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    flags = (f"--pretrain_save_path={pretrained}", f"--finetune_save_path={tmp_path / 'out'}")
    assert embedded(*flags, "--embed_format=parquet") == 2
    error = capsys.readouterr().err
    assert "Expected the library pyarrow" in error and "pip install" in error
    assert not (tmp_path / "out").exists()


def test_neighbours_are_those_of_a_slow_search(of_run):
    arrays, rows = arrays_of(of_run), rows_of(of_run)
    unit = arrays["h"] / np.linalg.norm(arrays["h"], axis=1, keepdims=True)
    is_test = arrays["split"] == "test"
    assert [row["path"] for row in rows] == arrays["path"][is_test].tolist()
    numbers = range(1, 8)
    names = [f"neighbour_{n}" for n in numbers], [f"similarity_{n}" for n in numbers]
    assert list(rows[0]) == ["path", *names[0], *names[1]]
    paths, labels = arrays["path"][~is_test], arrays["label"][~is_test]
    agree = 0
    for row, query, label in zip(rows, unit[is_test], arrays["label"][is_test], strict=True):
        cosines = unit[~is_test] @ query
        cosine_of = dict(zip(paths, cosines, strict=True))
        similarities = [float(row[name]) for name in names[1]]
        np.testing.assert_allclose(similarities, np.sort(cosines)[::-1][:7], atol=2e-6)
        found = [row[name] for name in names[0]]
        assert len(set(found)) == 7
        np.testing.assert_allclose([cosine_of[path] for path in found], similarities, atol=2e-6)
        agree += labels[list(paths).index(found[0])] == label
    assert results_of(of_run)["neighbour_label_agreement"] == round(agree / len(rows), 4)
    assert results_of(of_run)["num_queries"] == len(rows)


def test_a_list_of_images_of_several_sizes_without_labels(pretrained, networks, tmp_path):
    rng = np.random.default_rng(1)
    lines = []
    for index, shape in enumerate([(16, 12), (40, 30), (21, 50), (16, 12), (9, 9)]):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(path)
        lines.append(str(path))
    (tmp_path / "list.txt").write_text("\n".join(reversed(lines)))
    out = tmp_path / "out"
    flags = (f"--init_weights={pretrained}", f"--finetune_save_path={out}", "--index")
    assert embedded(f"--train_file_path={tmp_path / 'list.txt'}", *flags) == 0
    arrays = arrays_of(out)
    assert set(arrays) == {"path", "label", "split", "h"}
    assert arrays["path"].tolist() == lines[::-1]
    assert arrays["label"].tolist() == [-1] * 5
    assert set(arrays["split"]) == {"train"}
    as_they_are = [1, 4]  # of the size of the views: nothing is resized
    h = expected_h(networks[0], [read_image(lines[::-1][index]) for index in as_they_are])
    np.testing.assert_allclose(arrays["h"][as_they_are], h, atol=1e-5)
    rows = rows_of(out)
    for row in rows:  # of 5 images, the 4 others
        near = [row[f"neighbour_{n}"] for n in range(1, 5)]
        assert {row["path"], *near} == set(lines)
    assert "neighbour_5" not in rows[0]
    results = results_of(out)
    assert "neighbour_label_agreement" not in results
    assert results["class_names"] == [] and results["projection_width"] is None


def test_arrays_are_numbered_and_what_was_written_is_replaced_when_asked_for(
    tmp_path, capsys, monkeypatch
):
    rng = np.random.default_rng(2)
    arrays = {
        "x_train": rng.integers(0, 256, (6, 9, 11, 3), np.uint8),
        "y_train": np.arange(6) % 3,
        "x_test": rng.integers(0, 256, (5, 9, 11, 3), np.uint8),
        "y_test": np.arange(5) % 2,
    }
    np.savez(tmp_path / "set.npz", **arrays)
    out = tmp_path / "out"
    monkeypatch.setattr(task, "MOST_QUERIES", 3)
    flags = (
        f"--dataset=npz:{tmp_path / 'set.npz'}",
        "--init_weights=none",
        f"--finetune_save_path={out}",
        "--width_multiplier=0.0625",
    )
    assert embedded(*flags, "--index") == 0
    assert "random weights" in capsys.readouterr().out
    found = arrays_of(out)
    train, test = [f"{n:04d}" for n in range(6)], [f"{n:04d}" for n in range(5)]
    assert found["path"].tolist() == train + test
    assert found["split"].tolist() == ["train"] * 6 + ["test"] * 5
    assert found["label"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 0]
    results = results_of(out)
    assert results["checkpoint"] == "random"
    assert results["class_names"] == ["0", "1", "2"]
    # Three of the five are looked up, spread over them.
    assert [row["path"] for row in rows_of(out)] == ["0000", "0002", "0004"]
    bank = found["h"][:6] / np.linalg.norm(found["h"][:6], axis=1, keepdims=True)
    for row in rows_of(out):
        cosines = bank @ found["h"][6 + int(row["path"])]
        assert cosines[int(row["neighbour_1"])] == pytest.approx(cosines.max(), rel=1e-5)

    (out / "notes.txt").write_text("mine")
    before = files_below(out)
    assert embedded(*flags) == 2
    assert "--overwrite" in capsys.readouterr().err
    # What cannot begin costs nothing.
    assert embedded(*flags, "--overwrite", "--with_z") == 2
    assert "projection head" in capsys.readouterr().err
    assert files_below(out) == before
    (out / "features.parquet").write_bytes(b"of the run before")
    assert embedded(*flags, "--overwrite") == 0
    kept = {"features.npz", "config.yaml", "results.json", "notes.txt"}
    assert files_below(out) == kept
    # The same weights were drawn again.
    np.testing.assert_array_equal(arrays_of(out)["h"], found["h"])


def test_shapes_are_drawn_by_the_seed(pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "SHAPES_TRAIN", 10)
    monkeypatch.setattr(loading, "SHAPES_TEST", 6)
    flags = (f"--init_weights={pretrained}", f"--finetune_save_path={tmp_path / 'out'}")
    assert embedded("--dataset=shapes", "--input_size=24 20", "--seed=4", *flags) == 0
    splits = data.load("shapes", input_size=(24, 20), seed=4)
    arrays = arrays_of(tmp_path / "out")
    assert arrays["label"].tolist() == [*splits.train.labels, *splits.test.labels]
    # A size that was given wins over both of the run.
    assert results_of(tmp_path / "out")["view_size"] == [24, 20]


def test_images_that_no_task_labels_come_last(networks, monkeypatch):
    rng = np.random.default_rng(3)
    images = {name: rng.integers(0, 256, (n, 8, 8, 3), np.uint8) for name, n in
              (("train", 2), ("unlabelled", 3))}  # fmt: skip
    sources = {name: data.Source(name, pixels) for name, pixels in images.items()}
    monkeypatch.setattr(
        task.datasets,
        "load_splits",
        lambda config: data.Splits(sources["train"], None, sources["unlabelled"]),
    )
    loaded = task._load_sources(Config())
    assert list(loaded) == ["train", "unlabelled"]
    # Batches that do not end where a split does.
    monkeypatch.setattr("simclr_tf.data.batches.evaluation.MOST_TOGETHER", 2)
    h = task._embed_all(networks[0], loaded, (8, 8), task.Pace(5))
    pixels = np.concatenate(list(images.values())).astype(np.float32) / 255
    np.testing.assert_allclose(h, networks[0].predict(pixels, verbose=0), atol=1e-5)


def test_odd_names_stay_whole_in_the_table(tmp_path):
    names = ['a\nb "c", d.png', "-rf.png", "../../x.png", "\udcff.png", "\r.png"]
    run = SimpleNamespace(folder=SimpleNamespace(path=tmp_path))
    found = np.arange(len(names))[::-1, None]
    task._write_table(run, names, names, found, np.ones((len(names), 1)))
    with open(tmp_path / task.TABLE, newline="", errors="surrogateescape") as file:
        _, *rows = csv.reader(file)
    assert [row[0] for row in rows] == names and [row[1] for row in rows] == names[::-1]


def test_mistakes_have_one_clear_line(pretrained, pictures, tmp_path, capsys):
    checkpoint = Checkpoints(pretrained / "checkpoints").newest()
    arrays = read_arrays(checkpoint)
    headless = tmp_path / "headless.safetensors"
    save_file({n: a for n, a in arrays.items() if n.startswith("encoder/")}, headless)
    diverged = tmp_path / "diverged" / "checkpoints" / checkpoint.name
    diverged.parent.mkdir(parents=True)
    # Numbers still, whose products with the features are none.
    last = max(name for name in arrays if "stage4" in name and name.endswith("gamma"))
    large = {last: 3e38, last.replace("gamma", "moving_variance"): 0.0}
    save_file({**arrays, **{n: np.full_like(arrays[n], v) for n, v in large.items()}}, diverged)
    infinite = tmp_path / "infinite.safetensors"
    save_file({**arrays, last: np.full_like(arrays[last], np.inf)}, infinite)
    shutil.copy(pretrained / "config.yaml", tmp_path / "diverged")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "features.npz").write_bytes(b"mine")
    single = tmp_path / "single"
    single.mkdir()
    Image.new("RGB", (9, 9)).save(single / "a.png")
    torn = tmp_path / "torn"
    torn.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(torn / "b.png")
    (torn / "a.png").write_bytes((torn / "b.png").read_bytes()[:2000])
    run, out = f"--init_weights={pretrained}", f"--finetune_save_path={tmp_path / 'out'}"
    files = f"--dataset=folder:{pictures}"
    small = ("--width_multiplier=0.0625", "--stem=small")
    cases = {
        "Expected a run folder with checkpoints": (f"--init_weights={single}", out),
        "Expected a file or run folder": ("--init_weights=/nowhere", out),
        "the one of the weights": (run, f"--finetune_save_path={pretrained}", "--overwrite"),
        "Run --task=pretrain first": (f"--pretrain_save_path={single}", out),
        "got features.npz of other origin": (run, f"--finetune_save_path={mine}", "--overwrite"),
        "Pass --overwrite to replace": (run, out, "--resume"),
        "--strategy=none": (run, out, "--strategy=mirrored"),
        "Expected --model=18": (run, out, "--model=50"),
        "Expected --zdim=6": (run, out, "--zdim=7", "--with_z"),
        f"projection head for --with_z in {headless}": (
            f"--init_weights={headless}", out, files, "--with_z", *small,
        ),
        "in a checkpoint, got none": ("--init_weights=none", out, files, "--with_z", *small),
        "Expected a folder at": (run, out, "--dataset=folder:/nowhere"),
        "at least 2 images": (run, out, f"--dataset=folder:{single}", "--index"),
        f"{torn / 'a.png'}: image file": (run, out, f"--dataset=folder:{torn}", "--cache=false"),
        "nan or infinity for 24 of 24": (f"--init_weights={diverged.parent.parent}", out),
        f"numbers in {infinite}": (f"--init_weights={infinite}", out, files, *small),
    }  # fmt: skip
    for expected, flags in cases.items():
        code = embedded(*flags)
        error = capsys.readouterr().err
        assert code == 2, (expected, error)
        assert expected in error, (expected, error)
        assert "Traceback" not in error
    assert (mine / "features.npz").read_bytes() == b"mine"
    assert checkpoint.exists()
    assert not (tmp_path / "out" / "features.npz").exists()
    # An embedding that ended early is no run that would have to be overwritten.
    assert embedded(run, out, f"--dataset=folder:{torn}", "--skip_bad_images") == 0
    assert results_of(tmp_path / "out")["num_skipped"] == 1


def test_a_checkpoint_without_its_settings_takes_those_of_the_flags(
    pretrained, pictures, networks, tmp_path
):
    file = tmp_path / "weights.safetensors"
    shutil.copy(Checkpoints(pretrained / "checkpoints").newest(), file)
    flags = (
        f"--dataset=folder:{pictures}",
        f"--crop_size={SIZE[0]} {SIZE[1]}",
        f"--finetune_save_path={tmp_path / 'out'}",
        "--width_multiplier=0.0625",
        "--zdim=6",
        "--projection_layers=3",
        "--projection_hidden=10",
    )
    assert embedded(f"--init_weights={file}", "--with_z", *flags) == 0
    arrays = arrays_of(tmp_path / "out")
    z = np.asarray(networks[1](arrays["h"], training=False))
    np.testing.assert_allclose(arrays["z"], z, atol=1e-6 + 1e-5 * np.abs(z).max())
