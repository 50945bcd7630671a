"""Data sets by name: folders, lists, arrays, TFDS; what stays together, and every clear error."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from simclr_tf.data import files
from simclr_tf.data.loading import load
from simclr_tf.data.masks import MaskRules
from simclr_tf.data.source import Source, from_arrays
from simclr_tf.data.splitting import hold_back, stratified_split
from simclr_tf.errors import UserError


def write(path, value=0, size=(8, 8)):
    """Writes a PNG of one plain gray, (height, width) in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (value, value, value)).save(path)
    return path


def values(source: Source) -> list[int]:
    """The gray of every image."""
    return [int(source.read(i)[0, 0, 0]) for i in range(len(source))]


def load_list(path, lines, **options):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load(f"list:{path}", **options)


@pytest.fixture
def folder(tmp_path):
    """Two classes, gray 10 * label + number: cat 0 1 2, dog 10 11 12 13 (one in a sub-folder)."""
    for i in range(3):
        write(tmp_path / "pets" / "cat" / f"{i}.png", i)
    for i in range(3):
        write(tmp_path / "pets" / "dog" / f"{i}.png", 10 + i)
    write(tmp_path / "pets" / "dog" / "more" / "x.PNG", 13)
    return tmp_path / "pets"


# -- Source --------------------------------------------------------------------------------------


def test_take_keeps_everything_in_step():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 3), np.uint8)
    paths = tuple(f"{i}.png" for i in range(5))
    source = Source("a", images, np.arange(5, dtype=np.int32), ("k",) * 5, paths)
    part = source.take(np.array([3, 1, 3]))
    assert values(part) == part.labels.tolist() == [3, 1, 3]
    assert part.paths == ("3.png", "1.png", "3.png")
    assert len(part) == 3 and part.image_size == (2, 3) and part.num_classes == 5


def test_number_of_classes():
    images = np.zeros((3, 2, 2, 3), np.uint8)
    assert from_arrays(images).num_classes == 0
    assert from_arrays(images, np.array([0, 4, 1])).num_classes == 5


def test_from_arrays_wants_bytes_in_step():
    with pytest.raises(UserError, match="uint8.*float32"):
        from_arrays(np.zeros((3, 2, 2, 3), np.float32))
    with pytest.raises(UserError, match="got 2 for 3"):
        from_arrays(np.zeros((3, 2, 2, 3), np.uint8), np.array([0, 1]))


# -- Splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
def test_stratified_split_draws_from_every_class(rng, fraction):
    labels = rng.permutation(np.repeat(np.arange(4), [3, 20, 50, 200]))
    drawn, rest = stratified_split(labels, fraction, 7)
    assert sorted([*drawn, *rest]) == list(range(len(labels)))
    expected = [max(1, round(fraction * n)) for n in (3, 20, 50, 200)]
    assert np.bincount(labels[drawn], minlength=4).tolist() == expected


def test_stratified_split_is_a_function_of_the_seed(rng):
    labels = rng.integers(0, 5, 300)
    same = [stratified_split(labels, 0.2, 3)[0] for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert same[0].tolist() != stratified_split(labels, 0.2, 4)[0].tolist()


def test_hold_back_parts_are_disjoint_and_in_step(rng):
    images = rng.integers(0, 256, (60, 4, 4, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(60)
    source = from_arrays(images, np.arange(60) % 3)
    rest, held = hold_back(source, 0.2, 0)
    assert len(rest) == 48 and len(held) == 12
    assert not set(values(rest)) & set(values(held))
    for part in (rest, held):
        np.testing.assert_array_equal(part.labels, np.array(values(part)) % 3)


def test_hold_back_leaves_a_class_of_one_for_training():
    source = from_arrays(np.zeros((7, 2, 2, 3), np.uint8), np.array([0, 1, 1, 1, 1, 1, 1]))
    rest, held = hold_back(source, 0.3, 0)
    assert rest.labels.tolist().count(0) == 1 and held.labels.tolist() == [1, 1]


def test_hold_back_needs_images_on_both_sides():
    source = from_arrays(np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(UserError, match="both sides of `val_fraction=0.5`"):
        hold_back(source, 0.5, 0)


# -- Shapes --------------------------------------------------------------------------------------


def test_shapes_by_default():
    splits = load("shapes")
    assert splits.train.images.shape == (4096, 32, 32, 3)
    assert splits.test.images.shape == (1000, 32, 32, 3)
    assert splits.train.num_classes == splits.test.num_classes == 10
    small = {image.tobytes() for image in splits.train.images}
    assert not small & {image.tobytes() for image in splits.test.images}


def test_shapes_of_another_size():
    assert load("shapes", input_size=(20, 28)).train.image_size == (20, 28)


# -- Folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["auto", "true", "false"])
def test_folder_classes_are_sorted_and_labels_stay_with_images(folder, cache):
    train = load(f"folder:{folder}", cache=cache).train
    assert train.class_names == ("cat", "dog")
    assert values(train) == [0, 1, 2, 10, 11, 12, 13]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert (train.images is None) == (cache == "false")
    assert len(train.paths) == 7


def test_folder_leaves_hidden_and_other_files_aside(folder):
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "cat" / "Thumbs.db").write_bytes(b"x")
    write(folder / "cat" / ".hidden.png", 99)
    write(folder / ".cache" / "x.png", 99)
    write(folder / "dog" / ".git" / "x.png", 99)
    assert values(load(f"folder:{folder}").train) == [0, 1, 2, 10, 11, 12, 13]


def test_folder_without_classes_has_no_labels(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png", i)
    train = load(f"folder:{tmp_path}").train
    assert train.labels is None and train.class_names == () and values(train) == [0, 1, 2]
    with pytest.raises(UserError, match="labels for folder:.*one folder a class"):
        load(f"folder:{tmp_path}", need_labels=True)


@pytest.mark.parametrize(
    ("train_name", "test_name"),
    [
        ("train", "test"),
        ("train", "val"),
        ("train", "valid"),
        ("Train", "Test"),
        ("TRAIN", "Validation"),
    ],
)
def test_folder_with_splits(tmp_path, train_name, test_name):
    for name, value in {"cat": 0, "dog": 10}.items():
        write(tmp_path / train_name / name / "a.png", value)
    write(tmp_path / test_name / "dog" / "b.png", 11)  # no cat: dog keeps its number
    splits = load(f"folder:{tmp_path}", val_fraction=0.5)
    assert splits.train.labels.tolist() == [0, 1]
    assert splits.test.labels.tolist() == [1] and splits.test.class_names == ("cat", "dog")
    is_first = test_name.lower() == "test"
    write(tmp_path / ("val" if is_first else "Test") / "cat" / "c.png", 1)
    assert values(load(f"folder:{tmp_path}").test) == ([11] if is_first else [1])


def test_folder_with_a_class_that_was_not_trained(tmp_path):
    write(tmp_path / "train" / "cat" / "a.png")
    write(tmp_path / "test" / "zebra" / "a.png")
    with pytest.raises(UserError, match="zebra"):
        load(f"folder:{tmp_path}")


def test_folder_holds_back_class_by_class(folder):
    first, again, other = (
        load(f"folder:{folder}", val_fraction=0.4, seed=seed) for seed in (0, 0, 1)
    )
    assert np.bincount(first.test.labels).tolist() == [1, 2]
    assert first.test.paths == again.test.paths != other.test.paths
    assert not set(first.test.paths) & set(first.train.paths)


def test_folder_that_is_missing_or_empty(tmp_path):
    with pytest.raises(UserError, match="Expected a folder at .*nowhere"):
        load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match="got none"):
        load(f"folder:{tmp_path}")
    write(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match="dog"):
        load(f"folder:{tmp_path}")


# -- Into memory ---------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    write(tmp_path / "a" / "0.png", 10, (8, 8))
    write(tmp_path / "a" / "1.png", 20, (8, 12))
    write(tmp_path / "b" / "2.png", 30, (8, 8))
    return tmp_path


def test_images_of_several_sizes_are_read_from_files(mixed):
    train = load(f"folder:{mixed}").train
    assert train.images is None and train.image_size is None
    assert [train.read(i).shape[:2] for i in range(3)] == [(8, 8), (8, 12), (8, 8)]


def test_cache_true_brings_sizes_together_where_told_to(mixed):
    train = load(f"folder:{mixed}", cache="true", input_size=(6, 6)).train
    assert train.images.shape == (3, 6, 6, 3) and values(train) == [10, 20, 30]
    with pytest.raises(UserError, match="one size.*`input_size`"):
        load(f"folder:{mixed}", cache="true")


def test_cache_auto_keeps_files_that_would_be_resized(folder):
    assert load(f"folder:{folder}", input_size=(6, 6)).train.images is None
    assert load(f"folder:{folder}", input_size=(8, 8)).train.images is not None


def test_cache_minds_the_free_memory(folder, monkeypatch):
    need = 7 * 8 * 8 * 3
    monkeypatch.setattr(files, "free_memory", lambda: need * 3.0)
    assert load(f"folder:{folder}").train.images is None  # more than a quarter
    assert load(f"folder:{folder}", cache="true").train.images is not None
    monkeypatch.setattr(files, "free_memory", lambda: need * 0.5)
    with pytest.raises(UserError, match="`cache=true`.*smaller `input_size` or `cache=false`"):
        load(f"folder:{folder}", cache="true")


def test_progress_is_shown_where_it_takes_long(folder, monkeypatch, capsys):
    monkeypatch.setattr(files, "PROGRESS_AFTER_SECONDS", -1.0)
    load(f"folder:{folder}")
    assert "of 7" in capsys.readouterr().err
    monkeypatch.undo()
    load(f"folder:{folder}")
    assert capsys.readouterr().err == ""


# -- Bad images ----------------------------------------------------------------------------------


def break_image(path):
    """Leaves the header and cuts off half of the pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:120])


@pytest.mark.parametrize("cache", ["auto", "false"])
def test_bad_images_are_left_out_and_counted(folder, cache):
    break_image(folder / "cat" / "1.png")
    (folder / "dog" / "0.png").write_text("no image")
    train = load(f"folder:{folder}", skip_bad_images=True, cache=cache).train
    assert train.skipped == 2
    assert values(train) == [0, 2, 11, 12, 13]
    assert train.labels.tolist() == [0, 0, 1, 1, 1]


def test_bad_images_are_named(folder):
    break_image(folder / "cat" / "1.png")
    with pytest.raises(UserError, match=r"cat/1.png.*`skip_bad_images`"):
        load(f"folder:{folder}")


def test_the_first_bad_images_are_named_and_the_others_counted(tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.png").write_text("no image")
    with pytest.raises(UserError) as caught:
        load(f"folder:{tmp_path}")
    message = str(caught.value)
    assert "0.png" in message and "8.png" not in message and "4 more" in message
    with pytest.raises(UserError, match="got none"):
        load(f"folder:{tmp_path}", skip_bad_images=True)


def test_headers_are_checked_without_a_cache(folder):
    (folder / "dog" / "0.png").write_text("no image")
    with pytest.raises(UserError, match="dog/0.png"):
        load(f"folder:{folder}", cache="false")


# -- Labels in names -----------------------------------------------------------------------------


@pytest.fixture
def ages(tmp_path):
    """Files AGE_SIDE.png, gray by age; one of them in a folder below."""
    for age in (7, 10, 35, 102):
        write(tmp_path / "faces" / f"{age}_left.png", age)
    write(tmp_path / "faces" / "more" / "38_right.png", 38)
    return tmp_path / "faces"


def by_class(source):
    names = [source.class_names[label] for label in source.labels]
    return dict(zip(values(source), names, strict=True))


@pytest.mark.parametrize("cache", ["auto", "false"])
def test_a_pattern_finds_the_classes_in_the_names(ages, cache):
    def found(pattern):
        return load(f"folder:{ages}", label_pattern=pattern, cache=cache, need_labels=True).train

    decades = found(r"^(\d*)\d_")
    assert decades.class_names == ("0", "1", "3", "10")
    assert by_class(decades) == {7: "0", 10: "1", 35: "3", 38: "3", 102: "10"}
    assert found(r"^(?:(\d+)\d|\d)_").class_names == decades.class_names  # a group without a part
    sides = found(r"_([a-z]+)\.")
    assert by_class(sides) == {7: "left", 10: "left", 35: "left", 38: "right", 102: "left"}


def test_classes_of_a_pattern_sort_numbers_first_and_as_numbers(tmp_path):
    for name in ("b", "10", "9", "a", "09"):
        write(tmp_path / f"x-{name}.png")
    train = load(f"folder:{tmp_path}", label_pattern=r"-(\w+)").train
    assert train.class_names == ("09", "9", "10", "a", "b")


def test_a_pattern_stands_for_folders_and_for_the_labels_of_a_list(folder):
    pattern = r"^([12x])"
    train = load(f"folder:{folder}", label_pattern=pattern, skip_bad_images=True).train
    assert by_class(train) == {1: "1", 2: "2", 11: "1", 12: "2", 13: "x"}
    for lines in (["cat/2.png,7", "dog/1.png,3"], ["cat/2.png", "dog/1.png,unknown"]):
        options = {"label_pattern": pattern, "need_labels": True, "num_classes": 2}
        train = load_list(folder / "list.txt", lines, **options).train
        assert by_class(train) == {2: "2", 11: "1"} and train.lines == (1, 2)


def test_a_pattern_numbers_both_splits_alike(tmp_path):
    for name in ("train/a_0", "train/b_1", "train/c_2", "test/c_3"):
        write(tmp_path / f"{name}.png")
    splits = load(f"folder:{tmp_path}", label_pattern="^([a-z])_")
    assert splits.test.labels.tolist() == [2] and splits.test.class_names == ("a", "b", "c")
    write(tmp_path / "test" / "d_4.png")
    with pytest.raises(UserError, match="got d too"):
        load(f"folder:{tmp_path}", label_pattern="^([a-z])_")


def test_names_without_the_pattern_are_named_or_left_out(ages):
    write(ages / "left.png")
    with pytest.raises(UserError, match=r"got 1 of 6 without:\n.*left.png\n.*`skip_bad_images`"):
        load(f"folder:{ages}", label_pattern=r"^(\d+)_")
    train = load(f"folder:{ages}", label_pattern=r"^(\d+)_", skip_bad_images=True).train
    assert train.skipped == 1 and values(train) == [102, 10, 35, 7, 38]
    for skip in (False, True):
        with pytest.raises(UserError, match=r"names of the files of .*got none in 6.*102_left.png"):
            load(f"folder:{ages}", label_pattern="nose(.)", skip_bad_images=skip)


@pytest.mark.parametrize("pattern", ["a", "(a)(b)", "(", "(?P<name>a)(?P<name>b)"])
def test_a_pattern_has_one_group(ages, pattern):
    with pytest.raises(UserError, match="one group.*`label_pattern`"):
        load(f"folder:{ages}", label_pattern=pattern)


def test_a_pattern_needs_files(ages, tmp_path):
    with pytest.raises(UserError, match="`label_pattern`, got `dataset=shapes`"):
        load("shapes", label_pattern="(a)")
    with pytest.raises(UserError, match="`label_pattern`, got masks"):
        load(f"folder:{ages}", label_pattern="(a)", masks=MaskRules())


# -- Lists ---------------------------------------------------------------------------------------


def test_list_with_labels(folder):
    lines = ["# a comment", "cat/2.png,1", "", "  dog/0.png , 0", '"cat/0.png",1']
    train = load_list(folder / "list.txt", lines, need_labels=True).train
    assert values(train) == [2, 10, 0]
    assert train.labels.tolist() == [1, 0, 1]


def test_list_with_quoted_commas_and_absolute_paths(tmp_path):
    a, b = write(tmp_path / "x,y.png", 5), write(tmp_path / "deep" / "b.png", 6)
    train = load_list(tmp_path / "l.txt", ['"x,y.png",0', f"{b},1"], need_labels=True).train
    assert values(train) == [5, 6] and train.paths[0] == str(a)


def test_list_without_labels(folder):
    train = load_list(folder / "list.txt", ["cat/0.png", "dog/1.png"]).train
    assert train.labels is None and values(train) == [0, 11]


def test_list_written_by_a_spreadsheet(folder):
    (folder / "list.csv").write_bytes(b"\xef\xbb\xbfcat/0.png,0\r\ndog/0.png,1\r\n")
    train = load(f"list:{folder}/list.csv", need_labels=True).train
    assert train.labels.tolist() == [0, 1]


def test_lists_for_training_and_validation_share_their_classes(folder):
    (folder / "val.txt").write_text("dog/0.png,2\n")
    splits = load_list(
        folder / "list.txt",
        ["cat/0.png,0", "cat/1.png,1"],
        test_list=str(folder / "val.txt"),
        need_labels=True,
    )
    assert splits.train.num_classes == splits.test.num_classes == 3
    assert values(splits.test) == [10]


def test_list_holds_back_without_a_validation_list(folder):
    lines = [f"dog/{i}.png,0" for i in range(3)] + [f"cat/{i}.png,1" for i in range(3)]
    splits = load_list(folder / "l.txt", lines, need_labels=True, val_fraction=0.34)
    assert np.bincount(splits.test.labels).tolist() == [1, 1] and len(splits.train) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat/1.png", "list.txt line 3: expected .* a label, got 'cat/1.png'"),
        ("cat/1.png,", "list.txt line 3: expected .* a label"),
        ("cat/1.png,dog", "list.txt line 3: expected a label as an integer from 0, got 'dog'"),
        ("cat/1.png,1.5", "list.txt line 3: .*'1.5'"),
        (
            "cat/1.png,12",
            r"list.txt line 3: label 12 is outside 0..9 \(`num_classes=10`\). "
            "Pass `num_classes=13` or fix the line.",
        ),
        ("cat/1.png,-1", r"list.txt line 3: label -1 is outside 0..9 .* Fix the line"),
        ("cat/9.png,1", "list.txt line 3: expected an image file, got none at .*cat/9.png"),
        (",1", "list.txt line 3"),
        ("x" * 5000, "list.txt line 3"),
    ],
)
def test_wrong_lines_are_named(folder, line, message):
    lines = ["cat/0.png,0", "# next is wrong", line, "dog/0.png,1"]
    with pytest.raises(UserError, match=message):
        load_list(folder / "list.txt", lines, need_labels=True, num_classes=10)


def test_lists_that_are_missing_empty_or_binary(tmp_path):
    with pytest.raises(UserError, match="none.txt, got: No such file"):
        load(f"list:{tmp_path}/none.txt")
    with pytest.raises(UserError, match="Expected lines with images"):
        load_list(tmp_path / "empty.txt", ["# nothing", ""])
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(UserError, match="no UTF-8 text"):
        load(f"list:{tmp_path}/image.png")
    with pytest.raises(UserError, match="`train_file_path` beside `val_file_path`"):
        load("shapes", test_list=str(tmp_path / "image.png"))


# -- Arrays --------------------------------------------------------------------------------------


def load_npz(path, **arrays):
    np.savez(path, **arrays)
    return load(f"npz:{path}")


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), ("x", "y"), ("X", "y"), ("x_train", "y_train")]
)
def test_npz_names(tmp_path, rng, images, labels):
    x, y = rng.integers(0, 256, (6, 4, 5, 3), np.uint8), np.arange(6) % 3
    train = load_npz(tmp_path / "a.npz", **{images: x, labels: y}).train
    np.testing.assert_array_equal(train.images, x)
    np.testing.assert_array_equal(train.labels, y)
    assert train.labels.dtype == np.int32


@pytest.mark.parametrize("names", [("x_test", "y_test"), ("test_images", "test_labels")])
def test_npz_with_a_test_set(tmp_path, rng, names):
    x, y = rng.integers(0, 256, (6, 4, 4, 3), np.uint8), np.arange(6) % 2
    arrays = {"x_train": x, "y_train": y, names[0]: x[:2], names[1]: y[:2, None]}
    test = load_npz(tmp_path / "a.npz", **arrays).test
    np.testing.assert_array_equal(test.images, x[:2])
    assert test.labels.tolist() == [0, 1]


def test_npz_splits_share_their_classes(tmp_path):
    x = np.zeros((3, 4, 4, 3), np.uint8)
    arrays = {"x_train": x, "y_train": [0, 1, 0], "x_test": x, "y_test": [0, 3, 1]}
    splits = load_npz(tmp_path / "a.npz", **arrays)
    assert splits.train.num_classes == splits.test.num_classes == 4


@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 4, 5, 1)])
def test_npz_of_grays(tmp_path, rng, shape):
    gray = rng.integers(0, 256, shape, np.uint8)
    images = load_npz(tmp_path / "a.npz", images=gray).train.images
    assert images.shape == (6, 4, 5, 3)
    np.testing.assert_array_equal(images[..., 2].ravel(), gray.ravel())


def test_npz_of_floats_is_scaled(tmp_path):
    x = np.linspace(0, 1, 4 * 4 * 3, dtype=np.float32).reshape(1, 4, 4, 3)
    images = load_npz(tmp_path / "a.npz", x=x).train.images
    assert images.dtype == np.uint8 and images.min() == 0 and images.max() == 255


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros((2, 4, 4, 3), np.uint8)}, r"got pictures \[2, 4, 4, 3\]"),
        ({"x": np.zeros((2, 4, 4, 3), np.float32) - 1}, "0..1.*-1"),
        ({"x": np.full((2, 4, 4, 3), np.nan)}, "0..1"),
        ({"x": np.full((2, 4, 4, 3), 300)}, "0..255"),
        ({"x": np.zeros((2, 4), np.uint8)}, r"\[2, 4\]"),
        ({"x": np.zeros((9, 8, 3), np.uint8)}, "looks like a single one"),
        ({"x": np.zeros((0, 4, 4, 3), np.uint8)}, r"\[0, 4, 4, 3\]"),
        ({"x": np.zeros((2, 4, 4, 3), np.uint8), "y": np.zeros(3, int)}, "2 labels"),
        ({"x": np.zeros((2, 4, 4, 3), np.uint8), "y": np.array([-1, 0])}, "from 0"),
        ({"x": np.zeros((2, 4, 4, 3), np.uint8), "y": np.array(["a", "b"])}, "integers"),
        ({"x": np.array([{}, 1], object)}, "plain arrays.*allow_pickle"),
    ],
)
def test_npz_errors(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        load_npz(tmp_path / "a.npz", **arrays)


def test_the_name_of_a_set_can_be_printed_whatever_its_path_is(folder):
    path = folder.rename(folder.with_name("by\udcfftes"))
    train = load(f"folder:{path}").train
    assert train.name.encode().endswith(rb"by\udcfftes") and len(train) == 7


def test_npz_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="none.npz"):
        load(f"npz:{tmp_path / 'none.npz'}")
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4, 3), np.uint8))
    whole = (tmp_path / "a.npz").read_bytes()
    for raw in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "b.npz").write_bytes(raw)
        with pytest.raises(UserError, match="b.npz"):
            load(f"npz:{tmp_path / 'b.npz'}")


def test_npz_is_resized_and_held_back(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 8, 8, 3), np.uint8), y=np.arange(10) % 2)
    splits = load(f"npz:{tmp_path / 'a.npz'}", input_size=(4, 6), val_fraction=0.2)
    assert splits.train.images.shape == (8, 4, 6, 3)
    assert splits.test.labels.tolist().count(0) == 1


# -- TensorFlow Datasets -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tfds(tmp_path_factory):
    """A folder of prepared sets as a download leaves them, with gray i as their image i."""
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = str(tmp_path_factory.mktemp("tfds"))

    def split(count, *, labelled=True, sides=(8,)):
        for i in range(count):
            image = np.full((sides[i % len(sides)], 8, 3), i, np.uint8)
            yield i, {"image": image, "label": i % 3 if labelled else -1}

    def store(name, labels=("label",), **splits):
        image = tfds.features.Image(shape=(None, None, 3))
        classes = tfds.features.ClassLabel(names=["a", "b", "c"])
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            data_dir=folder,
            split_datasets={
                key: (
                    (i, {"image": e["image"], **dict.fromkeys(labels, e["label"])}) for i, e in of
                )
                for key, of in splits.items()
            },
            features=tfds.features.FeaturesDict({"image": image, **dict.fromkeys(labels, classes)}),
            disable_shuffling=True,
        )

    store("tiny", train=split(7), test=split(4), unlabelled=split(5, labelled=False))
    store("uneven", train=split(4, sides=(8, 10)))
    store("three", train=split(4), test=split(3), validation=split(2))
    store("only_test", test=split(4))
    store("kinds", ("kind",), train=split(2))
    store("several", ("coarse", "fine"), train=split(2))
    tfds.core.add_data_dir(folder)
    return tfds


def test_tfds_reads_every_split(tfds):
    splits = load("tfds:tiny")
    assert values(splits.train) == list(range(7))
    assert splits.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert splits.train.class_names == ("a", "b", "c")
    assert len(splits.test) == 4
    assert values(splits.unlabelled) == list(range(5)) and splits.unlabelled.labels is None
    assert load("tfds:tiny", unlabelled=False).unlabelled is None


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("tiny:1.0.0", [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3]),
        ("tiny:1.*.*", [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3]),
        ("tiny:train[:2]", [0, 1], [0, 1, 2, 3]),
        ("tiny:1.0.0:train[5:]+test[:1]", [5, 6, 0], None),  # test is trained on
        ("tiny:train[:50%]:train[50%:]", [0, 1, 2, 3], [4, 5, 6]),
        ("tiny::test[:-3]", [0, 1, 2, 3, 4, 5, 6], [0]),
        ("tiny:test:train[:1]", [0, 1, 2, 3], [0]),
        ("tiny: train[:1] + train[2:3] : test", [0, 2], [0, 1, 2, 3]),
        ("tiny:unlabelled", [0, 1, 2, 3, 4], [0, 1, 2, 3]),
    ],
)
def test_tfds_splits_by_name(tfds, name, train, test):
    splits = load(f"tfds:{name}")
    assert values(splits.train) == train
    assert (splits.test and values(splits.test)) == test
    if splits.train.labels is not None:
        assert splits.train.labels.tolist() == [value % 3 for value in train]


def test_tfds_images_beyond_the_split_that_is_named_are_not_trained_on(tfds):
    assert load("tfds:tiny:train").unlabelled is None
    assert len(load("tfds:tiny::test").unlabelled) == 5


def test_tfds_reports_on_the_next_split_where_the_first_is_trained_on(tfds):
    assert values(load("tfds:three:train+test").test) == [0, 1]
    assert len(load("tfds:three").test) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny:nowhere", r"train \(7\), test \(4\), unlabelled \(5\).*'nowhere'.*tfds:tiny:TRAIN"),
        ("tiny:train:nowhere", "'nowhere'"),
        ("tiny:train[:", "format"),
        ("tiny:train[:0]", r"without an image \('train\[:0\]'\)"),
        ("tiny:train[5:2]", "without an image"),
        ("tiny:train[:900]", "incompatible with 7"),
        ("tiny:train:test:unlabelled", "tfds:NAME:TRAIN:TEST.*train.validation"),
        ("tiny:train+test:test", "got 4 of the 4 of 'test' in 'train.test' too"),
        ("tiny:train[:3]:train[2:5]", "got 1 of the 3"),
        ("only_test", "test \\(4\\).*got one 'train'"),
        ("uc_mercd", "uc_mercd"),
        ("tiny:9.9.9", "9.9.9"),
    ],
)
def test_tfds_wrong_splits_are_named(tfds, name, message):
    with pytest.raises(UserError, match=message):
        load(f"tfds:{name}")


def test_tfds_names_may_have_a_namespace(tfds, tmp_path, monkeypatch):
    from tensorflow_datasets.core import community
    from tensorflow_datasets.core.community.config import NamespaceRegistry
    from tensorflow_datasets.core.community.registry import DatasetRegistry

    place = tfds.core.Path(tfds.builder("tiny").data_dir).parent.parent
    listed = tfds.core.Path(tmp_path / "namespaces.toml")
    listed.write_text(f'[ours]\npaths = ["{place}"]\n[empty]\npaths = ["{tmp_path}"]\n')
    registry = DatasetRegistry(NamespaceRegistry(listed))
    monkeypatch.setattr(community, "community_register", lambda: registry)
    assert len(load("tfds:ours:tiny").test) == 4
    splits = load("tfds:ours:tiny:1.0.0:train[:2]:test[:1]")
    assert (values(splits.train), values(splits.test)) == ([0, 1], [0])
    with pytest.raises(UserError, match="'nowhere'.*tfds:ours:tiny:TRAIN"):
        load("tfds:ours:tiny:nowhere")
    with pytest.raises(UserError, match="'empty:tiny'.*catalog lists them"):
        load("tfds:empty:tiny:train")
    with pytest.raises(UserError, match="'theirs'.*namespaces it knows empty, ours"):
        load("tfds:theirs:tiny")


def test_tfds_labels_are_the_feature_label_or_the_only_classes(tfds):
    train = load("tfds:kinds", need_labels=True).train
    assert train.class_names == ("a", "b", "c") and train.labels.tolist() == [0, 1]
    assert load("tfds:several").train.labels is None
    wanted = r"'label'.*got coarse \(ClassLabel\), fine \(ClassLabel\), image \(Image\)"
    with pytest.raises(UserError, match=wanted):
        load("tfds:several", need_labels=True)


def test_tfds_sizes_must_agree_or_be_given(tfds):
    with pytest.raises(UserError, match="one size.*8x8.*10x8.*`input_size="):
        load("tfds:uneven")
    splits = load("tfds:uneven", input_size=(4, 4), val_fraction=0.25)
    assert splits.train.image_size == (4, 4) and splits.test is not None


def test_tfds_unknown_name(tfds):
    with pytest.raises(UserError, match="no_such_set"):
        load("tfds:no_such_set")


def test_tfds_says_how_to_get_what_cannot_be_downloaded(tfds, monkeypatch, tmp_path):
    def refuse(*args, **options):
        raise ConnectionError("no network")

    builder = tfds.builder
    monkeypatch.setattr(tfds, "builder", lambda name: builder(name, data_dir=tmp_path))
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
    with pytest.raises(UserError) as caught:
        load("cifar100")
    message = str(caught.value)
    assert "\n" not in message
    assert "no network" in message and "TFDS_DATA_DIR" in message and "cifar100" in message


# -- Imports -------------------------------------------------------------------------------------


def test_data_is_had_without_tensorflow(folder):
    code = (
        "import sys; import simclr_tf.data as d; "
        f"d.load('shapes'); d.load('folder:{folder}'); d.make_shapes, d.read_image, d.Source; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
