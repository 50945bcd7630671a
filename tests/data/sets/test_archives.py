"""Images read in place: from ZIP and tar archives the same as from the folder that was packed."""

from __future__ import annotations

import copy
import io
import os
import pickle
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import main
from simclr_tf.augment import Recipe
from simclr_tf.data import members
from simclr_tf.data.batches.train import two_views
from simclr_tf.data.images import BadFile, read_header, read_image
from simclr_tf.data.loading import load
from simclr_tf.data.sets.archives import open_archive
from simclr_tf.data.sets.folders import load_folder
from simclr_tf.errors import UserError
from simclr_tf.workflow.fingerprint import record_of

KINDS = ("tar", "stored.zip", "deflated.zip")
WINDOWS = np.array([[0.1, 0.2, 0.5, 0.6, 1.0], [0.0, 0.0, 1.0, 1.0, 0.0]], np.float32)


def picture(rng, height=9, width=12):
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def folder(tmp_path, rng) -> Path:
    """train and test with classes, names in no order, every format, a hidden file, a text."""
    root = tmp_path / "pets"
    names = ("b.jpg", "a.PNG", "deep/z.webp", "deep/er/y.bmp", "c.gif", ".hidden.png")
    for split, classes in (("train", ("dog", "Cat")), ("test", ("Cat", "dog"))):
        for number, name in enumerate(classes):
            for file in names[number:]:
                path = root / split / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(rng).save(path, format=None, **({"quality": 90} if number else {}))
    (root / "notes.txt").write_text("not an image")
    # The orientation of this one stands behind its pixels, where reading a part would miss it.
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(rng, 7, 9).save(root / "train" / "dog" / "turned.jpg", exif=turned)
    return root


def pack(folder: Path, kind: str, *, wrap: str = "") -> Path:
    """Packs a folder's files, backwards so that no order of theirs helps."""
    archive = folder.parent / f"{folder.name}.{kind}"
    files = sorted((p for p in folder.rglob("*") if p.is_file()), reverse=True)
    if kind == "tar":
        with tarfile.open(archive, "w") as tar:
            for path in files:
                tar.add(path, os.path.join(wrap or ".", path.relative_to(folder)))
        return archive
    method = zipfile.ZIP_STORED if kind == "stored.zip" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(archive, "w", method) as zipped:
        for path in files:
            zipped.write(path, os.path.join(wrap, path.relative_to(folder)))
    return archive


@pytest.mark.parametrize("wrap", ["", "data/pets"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_reads_as_the_folder_that_was_packed(folder, kind, wrap):
    archive = pack(folder, kind, wrap=wrap)
    inside = f"{archive}/{wrap}".rstrip("/")
    for packed, plain in zip(
        load(f"folder:{archive}", cache="false").present(),
        load(f"folder:{folder}", cache="false").present(),
        strict=True,
    ):
        names = [str(path).removeprefix(f"{folder}/") for path in plain.paths]
        assert [str(path).removeprefix(f"{inside}/") for path in packed.paths] == names
        assert packed.class_names == plain.class_names == ("Cat", "dog")
        np.testing.assert_array_equal(packed.labels, plain.labels)
        np.testing.assert_array_equal(packed.file_sizes, plain.file_sizes)
        for index in range(len(plain)):
            np.testing.assert_array_equal(packed.read(index), plain.read(index))
            views = [s.read_windows(index, WINDOWS, (4, 4)) for s in (packed, plain)]
            np.testing.assert_array_equal(*views)


def test_a_set_in_memory_is_that_of_the_folder(folder):
    for size in ((8, 8), (0, 0)):
        of_folder, of_tar = (
            load(f"folder:{path}", input_size=size, cache="auto" if size == (0, 0) else "true")
            for path in (folder, pack(folder, "tar"))
        )
        if size != (0, 0):
            np.testing.assert_array_equal(of_tar.train.images, of_folder.train.images)
        assert of_tar.train.image_size == of_folder.train.image_size


def test_the_records_of_the_images_are_the_same(folder):
    """What a resumed run compares sees the same images."""
    sources = (load(f"folder:{path}").train for path in (folder, pack(folder, "tar")))
    folder_record, tar_record = (record_of(s, steps_per_epoch=1, labels=True) for s in sources)
    assert folder_record == tar_record


def test_training_sees_the_same_views(folder):
    """In the same order, from any step on, to the bit."""
    batches = []
    for path in (folder, pack(folder, "deflated.zip")):
        source = load(f"folder:{path}", cache="false").train
        options = {"recipe": Recipe(), "seed": 3, "size": (8, 8), "first_step": 2, "last_step": 4}
        batches.append([*two_views(source, batch_size=2, **options)])
    for ours, theirs in zip(*batches, strict=True):
        for view, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(view, expected)


def test_masks_beside_images(tmp_path, rng):
    root = tmp_path / "pairs"
    for split in ("train", "val"):
        for name in ("images", "masks"):
            (root / split / name).mkdir(parents=True)
        for i in range(3):
            picture(rng).save(root / split / "images" / f"{i}.jpg")
            mask = rng.integers(0, 3, (9, 12), np.uint8)
            Image.fromarray(mask).save(root / split / "masks" / f"{i}.png")
    plain, packed = (load_folder(str(p), masks=True) for p in (root, pack(root, "tar")))
    for a, b in zip(plain.present(), packed.present(), strict=True):
        for index in range(len(a)):
            np.testing.assert_array_equal(a.read_mask(index), b.read_mask(index))
    assert len(packed.train) == len(packed.test) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_threads_share_one_descriptor(folder, kind):
    source = load(f"folder:{pack(folder, kind)}", cache="false").train
    expected = [source.read(i) for i in range(len(source))]
    members._open.cache_clear()
    asked = list(range(len(source))) * 20
    with ThreadPoolExecutor(8) as pool:
        for index, image in zip(asked, pool.map(source.read, asked), strict=True):
            np.testing.assert_array_equal(image, expected[index])
    assert members._open.cache_info().currsize == 1


def test_few_archives_are_held_open(tmp_path, rng):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(members._OPEN_FILES + 20):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w") as tar:
            add(tar, "a.png", png(rng))
        (member,) = open_archive(str(path)).members.values()
        read_image(member)
    assert len(os.listdir("/proc/self/fd")) - before <= members._OPEN_FILES


# -- what is odd, and what is broken -----------------------------------------------------------


def png(rng) -> bytes:
    buffer = io.BytesIO()
    picture(rng).save(buffer, "PNG")
    return buffer.getvalue()


def add(tar, name, content=b"", **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


def reasons(archive) -> dict[str, str]:
    """What is wrong with each image of a set, in the words of its error; "" where it is read."""
    found = {}
    for path in load_folder(str(archive)).train.paths:
        try:
            read_image(path)
            reason = ""
        except BadFile as error:
            assert str(archive) in str(error)
            reason = f"{error.kind}: {error.reason}"
        found[path.removeprefix(f"{archive}/")] = reason
    return found


def test_links_in_a_tar(tmp_path, rng):
    path = tmp_path / "links.tar"
    content = png(rng)
    with tarfile.open(path, "w") as tar:
        add(tar, "a/hard.png", type=tarfile.LNKTYPE, linkname="a/real.png")
        add(tar, "a/real.png", content)
        add(tar, "b/soft.png", type=tarfile.SYMTYPE, linkname="../a/real.png")
        add(tar, "b/twice.png", type=tarfile.SYMTYPE, linkname="soft.png")
        add(tar, "b/out.png", type=tarfile.SYMTYPE, linkname="../../../etc/a.png")
        add(tar, "b/root.png", type=tarfile.SYMTYPE, linkname="/etc/a.png")
        add(tar, "b/loop.png", type=tarfile.SYMTYPE, linkname="loop.png")
        add(tar, "b/pipe.png", type=tarfile.FIFOTYPE)
    found = reasons(path)
    assert [name for name, reason in found.items() if not reason] == [
        "a/hard.png", "a/real.png", "b/soft.png", "b/twice.png"
    ]  # fmt: skip
    for name in ("b/out.png", "b/root.png", "b/loop.png"):
        assert found[name].startswith("broken link: a link to what is no file in the archive")
    assert found["b/pipe.png"].startswith("unreadable: no regular file")


def test_a_link_in_a_zip(tmp_path, rng):
    path = tmp_path / "links.zip"
    link = zipfile.ZipInfo("b/soft.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/real.png", png(rng))
        file.writestr(link, "../a/real.png")
    assert reasons(path) == {"a/real.png": "", "b/soft.png": ""}


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "x/../../a.png", "d/" * 101 + "a.png"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_leave_the_archive(tmp_path, rng, name, kind):
    path = tmp_path / f"outside.{kind}"
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            add(tar, "in/b.png", png(rng))
            add(tar, name, png(rng))
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("in/b.png", png(rng))
            file.writestr(name, png(rng))
    with pytest.raises(UserError, match=f"outside.{kind}/.*(leads out of the archive|names as l)"):
        load_folder(str(path))
    problems = []
    splits = load_folder(str(path), report=problems.append)
    assert len(splits.train) == 1 and [p.kind for p in problems] == ["outside name"]


def test_members_of_a_zip_that_are_not_read(tmp_path, rng):
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("damaged", "fine", "locked", "longer", "shifted"):
            file.writestr(f"{name}.png", png(rng), zipfile.ZIP_STORED)
        file.writestr("bzip2.png", png(rng), zipfile.ZIP_BZIP2)
        file.writestr("inflates.png", png(rng) + bytes(9000), zipfile.ZIP_DEFLATED)
        file.writestr("empty.png", b"")
        infos = {info.filename: info for info in file.infolist()}
    content = bytearray(path.read_bytes())
    content[infos["damaged.png"].header_offset + 80] ^= 1
    content[infos["shifted.png"].header_offset] ^= 1
    inflates = infos["inflates.png"]
    content[inflates.header_offset + 30 + len("inflates.png") + 40] ^= 255
    directory = content.index(b"PK\x01\x02")
    content[content.index(b"locked.png", directory) - 46 + 8] |= 1  # the flag of encryption
    path.write_bytes(content)
    found = reasons(path)
    assert found.pop("fine.png") == found.pop("longer.png") == ""
    assert found.pop("inflates.png").startswith("damaged")
    assert found == {
        "damaged.png": "damaged: its bytes do not fit the CRC-32 in the archive",
        "shifted.png": "damaged: the archive has no member at its place",
        "locked.png": "unreadable: encrypted, pack it anew without a password",
        "bzip2.png": "unreadable: ZIP's method 12, pack it anew with store or deflate",
        "empty.png": "empty: the file is empty",
    }


def test_what_inflates_to_more_than_an_image_needs(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(200_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert reasons(path) == {"a.png": "damaged: it asks for more memory than an image needs"}


def test_windows_names_and_what_macos_adds(tmp_path, rng):
    path = tmp_path / "dos.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("set\\cat\\a.png", "set\\dog\\a.png"):
            info = zipfile.ZipInfo(name)
            info.create_system = 0
            file.writestr(info, png(rng))
        file.writestr("__MACOSX/set/cat/._a.png", b"of a Mac")
    train = load_folder(str(path)).train
    assert train.class_names == ("cat", "dog")
    assert train.paths == (f"{path}/set/cat/a.png", f"{path}/set/dog/a.png")


def test_an_archive_that_was_changed_is_not_read_as_it_was(tmp_path, rng):
    path = tmp_path / "changed.tar"
    for number in range(2):
        with tarfile.open(path, "w") as tar:
            for name in "ab"[: number + 1]:
                add(tar, f"{name}.png", png(rng))
        if not number:
            source = load_folder(str(path)).train
    with pytest.raises(BadFile, match="a.png .*changed.tar was changed after it was listed"):
        source.read(0)
    load_folder(str(path)).train.read(0)


def whole(rng, kind):
    buffer = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for i in range(4):
                add(tar, f"{i}.png", png(rng))
    else:
        with zipfile.ZipFile(buffer, "w") as file:
            for i in range(4):
                file.writestr(f"{i}.png", png(rng))
    return buffer.getvalue()


def test_archives_that_are_broken_are_named(tmp_path, rng):
    tar, zipped = whole(rng, "tar"), whole(rng, "zip")
    damaged = bytearray(tar)
    damaged[damaged.index(b"1.png")] ^= 1
    cases = {
        "empty": (b"", "got another file"),
        "text": (b"hello" * 999, "got another file"),
        "zeros": (bytes(2048), "got another file"),
        "cut.zip": (zipped[:-30], "ZIP archive that is cut off"),
        "cut.tar": (tar[: tar.index(b"2.png") + 600], "unexpected end of data"),
        "between.tar": (tar[: tar.index(b"2.png")], "cut off or damaged at byte"),
        "header.tar": (bytes(damaged), "cut off or damaged at byte"),
        "set.tar.gz": (b"\x1f\x8b" + bytes(99), "Take the compression off .gunzip"),
        "set.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(99), "got another file"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            load_folder(str(tmp_path / name))
    with tarfile.open(tmp_path / "none.tar", "w") as file:
        add(file, "notes.txt")
    with pytest.raises(UserError, match="images .* in .*none.tar .*got none"):
        load_folder(str(tmp_path / "none.tar"))


def test_the_check_finds_in_an_archive_what_it_finds_in_the_folder(folder, tmp_path, rng, capsys):
    (folder / "train" / "dog" / "torn.jpg").write_bytes(
        (folder / "train" / "dog" / "turned.jpg").read_bytes()[:-200]
    )
    shutil.copy(folder / "train" / "dog" / "b.jpg", folder / "test" / "Cat" / "copy.png")
    picture(rng).save(folder / "lost.png")
    tables = []
    for path in (folder, pack(folder, "deflated.zip"), pack(folder, "tar")):
        run = tmp_path / f"run {path.suffix}"
        assert (
            main.main(["--task=check", f"--dataset=folder:{path}", f"--finetune_save_path={run}"])
            == 2
        )
        assert "torn.jpg" in capsys.readouterr().out
        tables.append((run / "problems.csv").read_text().replace(str(path), "SET").splitlines())
    assert "damaged" in str(tables[0]) and "leak" in str(tables[0]) and "not read" in str(tables[0])
    assert len(tables[0]) > 5
    assert sorted(tables[1]) == sorted(tables[0]) == sorted(tables[2])


def test_bad_members_are_left_out_and_counted(tmp_path, rng):
    path = tmp_path / "some.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(3):
            add(tar, f"{i}.png", png(rng)[: 20 if i == 1 else None])
    with pytest.raises(UserError, match="some.tar/1.png"):
        load(f"folder:{path}")
    train = load(f"folder:{path}", skip_bad_images=True).train
    assert train.skipped == 1 and len(train) == 2


def test_headers_of_a_tar_are_read_without_the_pixels(tmp_path, rng, monkeypatch):
    path = tmp_path / "large.tar"
    buffer = io.BytesIO()
    picture(rng, 400, 300).save(buffer, "PNG")
    with tarfile.open(path, "w") as tar:
        add(tar, "a.png", buffer.getvalue())
    (member,) = open_archive(str(path)).members.values()
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *args: read.append(args[1]) or pread(*args))
    assert read_header(member) == (400, 300)
    assert sum(read) < len(buffer.getvalue()) / 4


# -- a table of labels, as Hugging Face has it ---------------------------------------------------


@pytest.fixture
def tabled(tmp_path, rng) -> Path:
    """train with the labels 10, 9, 10 and test with 9, one image in a sub-folder."""
    root = tmp_path / "tabled"
    for split, labels in (("train", (10, 9, 10)), ("test", (9,))):
        (root / split / "sub").mkdir(parents=True)
        lines = ["text,label,file_name"]
        for i, label in enumerate(labels):
            file = f"sub/{i}.png" if i == 2 else f"{i}.png"
            (root / split / file).write_bytes(png(rng))
            lines.append(f'"a, b",{label},{file}')
        (root / split / "metadata.csv").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_labels_from_a_table(tabled, form):
    splits = load_folder(str(tabled if form == "folder" else pack(tabled, "tar")))
    assert splits.train.class_names == splits.test.class_names == ("9", "10")
    assert [os.path.basename(path) for path in splits.train.paths] == ["0.png", "1.png", "2.png"]
    assert splits.train.labels.tolist() == [1, 0, 1] and splits.test.labels.tolist() == [0]


def test_tables_that_do_not_fit_their_images(tabled, rng):
    train = tabled / "train"
    (train / "new.png").write_bytes(png(rng))
    with pytest.raises(UserError, match="new.png: expected a line in metadata.csv"):
        load_folder(str(tabled))
    (train / "new.png").unlink()
    (train / "1.png").unlink()
    with pytest.raises(UserError, match="1.png: metadata.csv names it"):
        load_folder(str(tabled))
    (train / "metadata.csv").write_text("file_name,label\n0.png,\n")
    with pytest.raises(UserError, match="metadata.csv line 2: expected file_name and label"):
        load_folder(str(tabled))
    (train / "metadata.csv").write_bytes(b"file_name,label\n\xff,1\n")
    with pytest.raises(UserError, match="UTF-8 at .*train/metadata.csv"):
        load_folder(str(tabled))
    (train / "metadata.csv").write_text("file_name,text\n0.png,words\n")
    assert load_folder(str(train)).train.class_names == ("sub",)


# -- TFRecord files ------------------------------------------------------------------------------


def example(**features) -> bytes:
    """A tf.train.Example; `__` in a name stands for `/`."""

    def feature(value):
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    named = {name.replace("__", "/"): feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write_records(path, records) -> Path:
    with tf.io.TFRecordWriter(str(path)) as file:
        for record in records:
            file.write(record)
    return path


@pytest.fixture
def images(rng) -> list[bytes]:
    return [png(rng) for _ in range(6)]


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_records_are_read_where_they_lie(tmp_path, images):
    parts = {"train-1-of-2": (2, 3), "train-0-of-2": (0, 1), "validation-0-of-1": (4, 5)}
    for name, numbers in parts.items():
        write_records(
            tmp_path / f"pets-{name}.tfrecord",
            [
                example(
                    image__encoded=images[i],
                    image__class__label=1 + i % 2,
                    image__class__text=(b"cat", b"dog")[i % 2],
                )
                for i in numbers
            ],
        )
    splits = load(f"tfrecord:{tmp_path}/*.tfrecord", cache="false")
    for source, numbers in ((splits.train, (0, 1, 2, 3)), (splits.test, (4, 5))):
        for index, number in enumerate(numbers):
            np.testing.assert_array_equal(source.read(index), pixels(images[number]))
        assert source.labels.tolist() == [1 + i % 2 for i in numbers]
        assert source.class_names == ("0", "cat", "dog")  # as they are, counted from 0
        assert source.name.endswith(": image/encoded, image/class/label")
    assert splits.train.paths[:3] == (
        f"{tmp_path}/pets-train-0-of-2.tfrecord/0",
        f"{tmp_path}/pets-train-0-of-2.tfrecord/1",
        f"{tmp_path}/pets-train-1-of-2.tfrecord/0",
    )


def test_records_without_splits_or_labels(tmp_path, images):
    write_records(tmp_path / "a.tfrecord", [example(image=i, label=-1) for i in images])
    splits = load(f"tfrecord:{tmp_path}/a.tfrecord", val_fraction=0.5)
    assert len(splits.train) == len(splits.test) == 3 and splits.train.labels is None
    write_records(tmp_path / "a.tfrecord", [example(image=i, label=0) for i in images])
    assert load(f"tfrecord:{tmp_path}/a.tfrecord").train.class_names == ("0",)


def test_record_files_that_are_broken_are_named(tmp_path, images):
    records = [example(image=image, label=0) for image in images]
    content = write_records(tmp_path / "whole.tfrecord", records).read_bytes()
    place = len(records[0]) + 16  # of record 1

    def flipped(at):
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    cases = {
        "data": (flipped(place + 12 + 30), r"record 1 .from 0.: corrupted record"),
        "length": (flipped(place), "record 1 .from 0.: corrupted record"),
        "cut": (content[: place + 50], "record 1 .from 0.: truncated record"),
        "cut header": (content[: place + 5], "record 1 .from 0.: 5 bytes after the last record"),
        "text": (b"hello" * 99, "record 0 .from 0.: corrupted record"),
        "empty": (b"", ", got none"),
    }
    for name, (broken, message) in cases.items():
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            load(f"tfrecord:{tmp_path / name}")
    others = {
        "no example": (b"\xff" * 30, "expected a tf.train.Example"),
        "no image": (example(picture=images[0]), "image/encoded or image, got .* picture"),
        "large label": (example(image=images[0], label=10**7), "below 1,000,000, got 10000000"),
    }
    for name, (record, message) in others.items():
        write_records(tmp_path / name, [records[0], record])
        with pytest.raises(UserError, match=f"{name}.*record 1 .*{message}"):
            load(f"tfrecord:{tmp_path / name}")
    with pytest.raises(UserError, match="none.tfrecord, got none"):
        load(f"tfrecord:{tmp_path}/none.tfrecord")


def test_the_check_of_records_lists_what_is_wrong(tmp_path, images, capsys):
    torn = images[:3] + [images[3][:-90], images[0]]
    path = write_records(tmp_path / "a.tfrecord", [example(image=i, label=0) for i in torn])
    write_records(tmp_path / "b.tfrecord", [example(image=images[4], label=1), b"\xff"])
    run = tmp_path / "run"
    flags = [f"--dataset=tfrecord:{tmp_path}/*.tfrecord", f"--finetune_save_path={run}"]
    assert main.main(["--task=check", *flags]) == 2
    capsys.readouterr()
    found = [line.split(",")[:3] for line in (run / "problems.csv").read_text().splitlines()[1:]]
    assert found == [
        ["record", "error", f"{tmp_path}/b.tfrecord"],
        ["damaged", "error", f"{path}/3"],
        ["duplicate", "notice", f"{path}/4"],
    ]


def test_a_table_beside_the_splits_is_theirs(tabled):
    rows = [
        "file_name,label",
        "train/0.png,x",
        "train/1.png,y",
        "train/sub/2.png,x",
        "test/0.png,y",
    ]
    (tabled / "metadata.csv").write_text("\n".join(rows))
    for split in ("train", "test"):
        (tabled / split / "metadata.csv").unlink()
    for path in (tabled, pack(tabled, "tar")):
        splits = load_folder(str(path))
        assert splits.train.class_names == ("x", "y")
        assert splits.train.labels.tolist() == [0, 1, 0] and splits.test.labels.tolist() == [1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_wraps_an_archive_is_no_class_and_hides_no_table(kind, tmp_path, rng):
    flat, table = tmp_path / "flat", tmp_path / "tab"
    for file in (flat / "0.png", flat / "1.png", table / "data/a/0.png", table / "data/b/1.png"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(rng))
    source = load_folder(str(pack(flat, kind, wrap="flat"))).train
    assert source.labels is None and len(source) == 2
    (table / "metadata.csv").write_text("file_name,label\ndata/a/0.png,cat\ndata/b/1.png,cat\n")
    for wrap in ("", "tab"):
        assert load_folder(str(pack(table, kind, wrap=wrap))).train.class_names == ("cat",)


def test_one_image_has_one_label(tabled):
    (tabled / "train" / "metadata.csv").write_text("file_name,label\n0.png,a\n./0.png,b\n")
    with pytest.raises(UserError, match="line 3: expected one label for ./0.png, got 'a' and 'b'"):
        load_folder(str(tabled))


@pytest.mark.parametrize("target", ["dogs.v1", "dogs.v1/sub", ".", "again.v3"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_link_to_a_folder_is_named_though_it_has_a_dot(tmp_path, rng, kind, target):
    path = tmp_path / f"links.{kind}"
    links = {"dogs.v2": target, "again.v3": "dogs.v1", "notes.txt": "../../notes"}
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            for name, leads_to in links.items():  # before what they lead to
                add(tar, name, type=tarfile.SYMTYPE, linkname=leads_to)
            add(tar, "dogs.v1/sub/a.png", png(rng))
    else:
        with zipfile.ZipFile(path, "w") as file:
            for name, leads_to in links.items():
                info = zipfile.ZipInfo(name)
                info.create_system, info.external_attr = 3, 0o120777 << 16
                file.writestr(info, leads_to)
            file.writestr("dogs.v1/sub/a.png", png(rng))
    problems = []
    splits = load_folder(str(path), report=problems.append)
    assert list(splits.train.paths) == [f"{path}/dogs.v1/sub/a.png"]
    left_out = {problem.file: problem.detail for problem in problems}
    assert left_out.keys() == {f"{path}/dogs.v2", f"{path}/again.v3"}
    assert all("pack what it leads to" in reason for reason in left_out.values())


def test_a_link_to_a_folder_is_not_left_out_in_silence(tmp_path, rng):
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "cat/a.png", png(rng))
        add(tar, "dogs/b.png", png(rng))
        add(tar, "dog", type=tarfile.SYMTYPE, linkname="dogs")
    with pytest.raises(UserError, match="links.tar/dog.*pack what it leads to"):
        load_folder(str(path))


def test_what_is_no_image_may_be_packed_in_any_way(tmp_path, rng):
    path = tmp_path / "pets.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("cat/a.png", png(rng))
        file.writestr("cat/README", b"not an image", zipfile.ZIP_LZMA)
    assert len(load_folder(str(path)).train) == 1


def test_a_name_with_a_null_is_refused(tmp_path, rng):
    path = tmp_path / "null.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "cat/a.png", png(rng))
        info = tarfile.TarInfo("x.png")
        info.pax_headers = {"path": "cat/b\0.png"}
        tar.addfile(info)
    with pytest.raises(UserError, match="no file has such a name"):
        load_folder(str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_sources_of_archives_can_be_copied(folder, kind):
    source = load_folder(str(pack(folder, kind))).train
    for twin in (pickle.loads(pickle.dumps(source)), copy.deepcopy(source)):
        assert twin.paths == source.paths
        np.testing.assert_array_equal(twin.read(0), source.read(0))


def test_record_files_of_neither_split_and_of_odd_names(tmp_path, images, capsys):
    for name in ("a-train", "a-test", "a-extra", "b-valid"):
        write_records(tmp_path / f"{name}.tfrecord", [example(image=images[0], label=0)])
    splits = load(f"tfrecord:{tmp_path}/*.tfrecord")
    assert len(splits.train) == len(splits.test) == 1
    said = capsys.readouterr().out
    assert f"2 files of neither train nor test are left out, the first {tmp_path}/a-extra" in said
    odd = tmp_path / "[1]" / "g\udcffod.tfrecord"
    odd.parent.mkdir()
    (tmp_path / "a-extra.tfrecord").rename(odd)
    assert len(load(f"tfrecord:{odd}").train) == 1
