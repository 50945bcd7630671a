"""Masks: every kind of file, the same windows as the images', every layout, every clear error."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from simclr_tf.augment.crop import Boxes, crop_nearest, draw_boxes
from simclr_tf.data import source as sources
from simclr_tf.data.images import read_image, resize_to_fill
from simclr_tf.data.loading import load
from simclr_tf.data.masks import (
    MaskRules,
    crop_masks,
    read_colour_table,
    read_mask,
    resize_mask_to_fill,
)
from simclr_tf.data.sets.shapes import CLASS_NAMES, make_shapes
from simclr_tf.data.source import Source
from simclr_tf.data.splitting import hold_back
from simclr_tf.errors import UserError

# Row 1 and 3 agree in gray: what is looked up is all three channels.
COLOURS = np.array([[0, 0, 0], [255, 255, 255], [200, 30, 40], [9, 9, 9], [40, 30, 200]], np.uint8)
BLANK = "0 0 0 background\n255 255 255 object\n"


def save(path, pixels, mode=None, **options):
    """Writes pixels as a file of a Pillow mode, that of the array's type if None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def palette_image(values):
    """A palette image of these indices; every entry has a colour, none of them its number."""
    image = Image.fromarray(values, "L")
    image.putpalette(np.random.default_rng(1).integers(1, 256, 768, np.uint8).tobytes())
    assert image.mode == "P"
    return image


def write_png(path, width, bits, kind, rows):
    """Writes a PNG of a depth that Pillow does not write; rows of packed bytes."""

    def chunk(name, data):
        checked = name + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    return path


@pytest.fixture
def values(rng) -> np.ndarray:
    """uint8 [9, 7] of 0..4."""
    return rng.integers(0, 5, (9, 7), np.uint8)


# -- Reading a mask ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.tif"])
def test_gray_levels_are_the_values(tmp_path, rng, name):
    levels = rng.permutation(256).astype(np.uint8).reshape(32, 8)  # all: else GIF numbers anew
    mask = read_mask(save(tmp_path / name, levels))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, levels)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif"])
@pytest.mark.parametrize("colours", [None, COLOURS])
def test_palette_indices_are_the_values_whatever_their_colours(tmp_path, values, name, colours):
    path = save(tmp_path / name, palette_image(values))
    np.testing.assert_array_equal(read_mask(path, colours), values)


def test_a_transparent_palette_entry_is_a_value_too(tmp_path, values):
    path = save(tmp_path / "a.png", palette_image(values), transparency=3)
    np.testing.assert_array_equal(read_mask(path), values)


def test_one_bit_is_0_or_1(tmp_path, values):
    path = save(tmp_path / "a.png", values > 2)
    np.testing.assert_array_equal(read_mask(path), values > 2)


def test_16_bits_that_fit_into_8(tmp_path, rng):
    levels = rng.integers(0, 256, (9, 7)).astype(np.uint16)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", levels)), levels)
    levels[4, 2], levels[8, 6] = 300, 300
    message = r"b.png: value 300 \(2 pixels, the first at row 4, column 2\) is outside 0..255"
    with pytest.raises(UserError, match=message):
        read_mask(save(tmp_path / "b.png", levels))


def test_grays_of_few_bits_are_numbers(tmp_path):
    two = write_png(tmp_path / "2.png", 4, 2, 0, [b"\x1b", b"\xe4"])
    assert read_mask(two).tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    four = write_png(tmp_path / "4.png", 4, 4, 0, [b"\x01\x23", b"\xcd\xef"])
    assert read_mask(four).tolist() == [[0, 1, 2, 3], [12, 13, 14, 15]]
    # As colours they are the grays that one sees.
    table = np.repeat(np.arange(0, 256, 17, dtype=np.uint8)[:, None], 3, axis=1)[::-1]
    assert read_mask(four, table).tolist() == [[15, 14, 13, 12], [3, 2, 1, 0]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_equal_channels_are_the_values(tmp_path, values, mode):
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", values, mode)), values)


def test_transparency_is_left_aside(tmp_path, values, rng):
    pixels = np.stack([values] * 3 + [rng.integers(0, 256, values.shape, np.uint8)], axis=-1)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", pixels)), values)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_looked_up(tmp_path, values, mode):
    path = save(tmp_path / "a.png", COLOURS[values], mode)
    rows = {tuple(colour): row for row, colour in enumerate(COLOURS.tolist())}
    looked_up = [[rows[tuple(pixel)] for pixel in line] for line in COLOURS[values].tolist()]
    np.testing.assert_array_equal(read_mask(path, COLOURS), looked_up)
    np.testing.assert_array_equal(looked_up, values)


def test_256_colours(tmp_path, rng):
    colours = rng.permutation(np.unique(rng.integers(0, 2**24, 300)))[:256]
    colours = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1).astype(np.uint8)
    numbers = rng.permutation(256).astype(np.uint8).reshape(16, 16)
    path = save(tmp_path / "a.png", colours[numbers])
    np.testing.assert_array_equal(read_mask(path, colours), numbers)


def test_grays_are_looked_up_as_colours(tmp_path):
    gray = np.array([[0, 255, 9], [9, 0, 255]], np.uint8)
    expected = [[0, 1, 3], [3, 0, 1]]
    assert read_mask(save(tmp_path / "8.png", gray), COLOURS).tolist() == expected
    assert (
        read_mask(save(tmp_path / "16.png", gray.astype(np.uint16)), COLOURS).tolist() == expected
    )
    bits = np.array([[True, False]])
    assert read_mask(save(tmp_path / "1.png", bits), COLOURS).tolist() == [[1, 0]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["gray", "palette", "bits", "colours"])
def test_the_orientation_is_that_of_images(tmp_path, values, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = read_image(save(tmp_path / "image.png", values, exif=exif))[..., 0]
    stored = {
        "gray": values,
        "palette": palette_image(values),
        "bits": values > 0,
        "colours": COLOURS[values],
    }
    path = save(tmp_path / "mask.png", stored[kind], exif=exif)
    mask = read_mask(path, COLOURS if kind == "colours" else None)
    np.testing.assert_array_equal(mask, seen > 0 if kind == "bits" else seen)


def test_an_unknown_colour_is_named_and_placed(tmp_path, values):
    pixels = COLOURS[values]
    pixels[3, 2:7], pixels[5, 1] = (12, 200, 3), (1, 1, 1)
    message = (
        r"a.png: colour 12 200 3 \(5 pixels, the first at row 3, column 2\) is not in .*"
        r"`mask_colors`. .*`12 200 3 name`"
    )
    with pytest.raises(UserError, match=message):
        read_mask(save(tmp_path / "a.png", pixels), COLOURS)


def test_colours_need_a_table(tmp_path, values):
    message = r"a.png: .* colour .* \(.* pixels?, .*\). Pass `mask_colors=FILE`"
    with pytest.raises(UserError, match=message):
        read_mask(save(tmp_path / "a.png", COLOURS[values]))


@pytest.mark.parametrize(
    ("name", "kind"), [("a.jpg", "JPEG"), ("renamed.png", "JPEG"), ("a.webp", "WEBP")]
)
def test_what_may_be_lossy_is_refused(tmp_path, values, name, kind):
    with pytest.raises(UserError, match=f"{name}: .*{kind}.*PNG"):
        read_mask(save(tmp_path / name, values, format=kind))


def test_files_that_are_no_masks(tmp_path, values):
    with pytest.raises(UserError, match="a mask at .*none.png"):
        read_mask(tmp_path / "none.png")
    whole = save(tmp_path / "a.png", np.tile(values, (30, 30))).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a mask that decodes, got .*cut.png") as caught:
        read_mask(tmp_path / "cut.png")
    assert "skip_bad_images" not in str(caught.value)
    with pytest.raises(UserError, match="cmyk.tif: .*CMYK"):
        read_mask(save(tmp_path / "cmyk.tif", values, "CMYK"))
    deep = write_png(tmp_path / "deep.png", 2, 16, 2, [b"\0\7" * 6])
    with pytest.raises(UserError, match="deep.png: .*8 bits a channel, got 16"):
        read_mask(deep)


# -- The table of colours ------------------------------------------------------------------------


def read_table(path, text):
    path.write_text(text, encoding="utf-8")
    return read_colour_table(path)


def test_a_table_of_colours(tmp_path):
    text = (
        "# classes\n\n0 0 0 background\n 128,64, 0 , road with  trees # mended\n\t1\t2 3\n4,5,6,\n"
    )
    colours, names = read_table(tmp_path / "colours.txt", text)
    assert colours.tolist() == [[0, 0, 0], [128, 64, 0], [1, 2, 3], [4, 5, 6]]
    assert colours.dtype == np.uint8
    assert names == ("background", "road with  trees", "2", "3")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2", "line 3: expected three numbers 0..255 .*got '1 2'"),
        ("1 2 256 sky", "line 3: .*0..255"),
        ("-1 2 3 sky", "line 3: .*0..255"),
        ("1.5 2 3 sky", "line 3: .*0..255"),
        ("sky 1 2 3", "line 3: .*0..255"),
        ("0 0 0 sky", r"line 3: .*got 0 0 0 again, as in .*c.txt line 1"),
        ("1 2 3 ground", r"line 3: .*got 'ground' again, as in .*c.txt line 1"),
    ],
)
def test_wrong_lines_of_the_table_are_named(tmp_path, line, message):
    with pytest.raises(UserError, match=rf"c.txt {message}"):
        read_table(tmp_path / "c.txt", f"0 0 0 ground\n# next is wrong\n{line}\n")


def test_a_table_that_is_missing_empty_or_too_long(tmp_path):
    with pytest.raises(UserError, match="table of colours at .*none.txt"):
        read_colour_table(tmp_path / "none.txt")
    with pytest.raises(UserError, match="got 0"):
        read_table(tmp_path / "c.txt", "# nothing\n")
    with pytest.raises(UserError, match="got 257"):
        read_table(tmp_path / "c.txt", "".join(f"{i % 256} {i // 256} 0\n" for i in range(257)))


# -- Resizing and windows ------------------------------------------------------------------------

SIZES = [
    ((40, 60), (20, 30)),
    ((41, 67), (20, 20)),
    ((67, 41), (20, 20)),
    ((33, 47), (16, 45)),
    ((47, 33), (45, 16)),
    ((17, 29), (40, 51)),
    ((25, 25), (24, 25)),
]


def fill_slowly(mask, size):
    """The pixel of the mask under each centre, in exact fractions."""
    (height, width), (h, w) = mask.shape, size
    scale = min(Fraction(height, h), Fraction(width, w))
    filled = np.empty(size, mask.dtype)
    for y in range(h):
        for x in range(w):
            row = (height - scale * h) / 2 + scale * (y + Fraction(1, 2))
            column = (width - scale * w) / 2 + scale * (x + Fraction(1, 2))
            filled[y, x] = mask[int(row), int(column)]
    return filled


@pytest.mark.parametrize(("before", "size"), SIZES)
def test_resizing_takes_the_pixel_under_each_centre(rng, before, size):
    mask = rng.integers(0, 256, before, np.uint8)
    resized = resize_mask_to_fill(mask, size)
    assert resized.shape == size and resized.dtype == np.uint8
    differ = resized != fill_slowly(mask, size)
    # A centre on the border of two pixels is either's.
    assert differ.mean() < 0.05 if before != (40, 60) else not differ.any()


def blobs(rng, size):
    """A few filled discs, uint8 0 or 1 of this size."""
    y, x = np.mgrid[: size[0], : size[1]]
    centres = rng.uniform(0, 1, (4, 2)) * size
    return np.any([np.hypot(y - a, x - b) < min(size) / 4 for a, b in centres], 0).astype(np.uint8)


@pytest.mark.parametrize(("before", "size"), SIZES)
def test_a_resized_mask_lies_on_its_image(rng, before, size):
    mask = blobs(rng, before)
    image = np.repeat(200 * mask[..., None], 3, axis=-1)
    bright = resize_to_fill(image, size)[..., 0] > 100
    resized = resize_mask_to_fill(mask, size)
    assert 0.1 < resized.mean() < 0.9
    near = np.lib.stride_tricks.sliding_window_view(np.pad(resized, 1, "edge"), (3, 3))
    assert (bright <= near.max((2, 3))).all() and (bright >= near.min((2, 3))).all()


@pytest.mark.parametrize(("before", "size"), SIZES)
@pytest.mark.parametrize("crop", [True, False])
def test_windows_are_those_of_the_augmentation(rng, before, size, crop):
    mask = rng.integers(0, 256, before, np.uint8)
    boxes = draw_boxes(
        64, [3, size[0]], area_min=0.05, flip_prob=0.5, aspect=before[1] / before[0], crop=crop
    )
    windows = np.stack([field.numpy() for field in boxes], axis=1)
    assert 0 < windows[:, 4].sum() < 64
    cut = crop_masks(mask, windows, size)
    assert cut.dtype == np.uint8
    expected = crop_nearest(np.tile(mask[None, ..., None], (64, 1, 1, 1)), boxes, size)
    np.testing.assert_array_equal(cut, expected[..., 0])


def test_windows_at_the_edges(rng):
    mask = rng.integers(0, 256, (7, 11), np.uint8)
    windows = np.array([[0, 0, 1, 1, 0], [0, 0, 1, 1, 1], [0.5, 0.5, 0.5, 0.5, 1]], np.float32)
    cut = crop_masks(mask, windows, (7, 11))
    np.testing.assert_array_equal(cut[0], mask)
    np.testing.assert_array_equal(cut[1], mask[:, ::-1])
    expected = crop_nearest(
        np.tile(mask[None, ..., None], (3, 1, 1, 1)), Boxes(*windows.T), (7, 11)
    )
    np.testing.assert_array_equal(cut, expected[..., 0])


# -- Source --------------------------------------------------------------------------------------


def test_take_keeps_masks_in_step():
    numbers = np.arange(5, dtype=np.uint8)[:, None, None]
    images = numbers[..., None] * np.ones((1, 2, 3, 3), np.uint8)
    paths = tuple(f"{i}.png" for i in range(5))
    source = Source("a", images, masks=numbers * np.ones((1, 2, 3), np.uint8), mask_paths=paths)
    part = source.take(np.array([3, 1, 3]))
    assert part.has_masks and not Source("b", images).has_masks
    assert [int(part.read_mask(i)[0, 0]) for i in range(3)] == [3, 1, 3]
    assert part.mask_paths == ("3.png", "1.png", "3.png")


# -- Sets with masks -----------------------------------------------------------------------------


def pair(root, stem, value, size=(8, 8), folders=("images", "masks")):
    """Writes an image of one gray, and its mask: the gray in the upper half, 0 below."""
    image, mask = (root / folder / f"{stem}.png" for folder in folders)
    save(image, np.full((*size, 3), value, np.uint8))
    pixels = np.full(size, value, np.uint8)
    pixels[size[0] // 2 :] = 0
    save(mask, pixels)
    return image, mask


def grays(source):
    """For each image its gray, after it was compared with what its mask says."""
    found = []
    for i in range(len(source)):
        image, mask = source.read(i), source.read_mask(i)
        assert mask.shape == image.shape[:2] and mask.dtype == np.uint8
        assert mask[0, 0] == image[0, 0, 0] and mask[-1, 0] == 0
        found.append(int(mask[0, 0]))
    return found


@pytest.fixture
def folder(tmp_path):
    """Five pairs of grays 0 to 4 under set/images and set/masks, one in a sub-folder."""
    for i in range(4):
        pair(tmp_path / "set", f"{i}.x", i)
    pair(tmp_path / "set", "more/0.x", 4)
    return tmp_path / "set"


def load_masks(dataset, rules=None, **options):
    return load(str(dataset), masks=rules or MaskRules(), **options)


@pytest.mark.parametrize("cache", ["auto", "true", "false"])
def test_a_folder_of_pairs(folder, cache):
    save(folder / "masks" / ".hidden.png", np.zeros((8, 8), np.uint8))
    splits = load_masks(f"folder:{folder}", cache=cache)
    train = splits.train
    assert grays(train) == [0, 1, 2, 3, 4] and splits.test is None
    assert train.has_masks and train.labels is None
    assert (train.masks is None) == (train.images is None) == (cache == "false")
    assert train.class_names == ("0", "1", "2", "3", "4") and train.num_classes == 5
    assert len(train.mask_paths) == 5


@pytest.mark.parametrize(("train_name", "test_name"), [("train", "val"), ("Train", "Test")])
@pytest.mark.parametrize("inside", [True, False])
def test_folders_of_pairs_with_splits(tmp_path, train_name, test_name, inside):
    for split, numbers in ((train_name, (0, 1, 2)), (test_name, (3, 1))):
        for i in numbers:
            folders = ("images", "masks") if inside else (f"images/{split}", f"masks/{split}")
            pair(tmp_path / split if inside else tmp_path, str(i), i, folders=folders)
    splits = load_masks(f"folder:{tmp_path}", val_fraction=0.5)
    assert grays(splits.train) == [0, 1, 2] and grays(splits.test) == [1, 3]
    assert splits.train.class_names == splits.test.class_names == ("0", "1", "2", "3")
    assert splits.test.name == f"folder:{tmp_path} ({test_name})"
    # Pre-training sees the images, and no classes "images" and "masks".
    plain = load(f"folder:{tmp_path}")
    assert [len(plain.train), len(plain.test)] == [3, 2]
    for source in (plain.train, plain.test):
        assert source.labels is None and not source.has_masks and source.class_names == ()
        assert all("masks" not in path for path in source.paths)


def test_without_rules_the_images_alone_are_read(tmp_path):
    for i in range(4):
        pair(tmp_path, f"{'cat' if i < 2 else 'dog'}/{i}", i)
    train = load(f"folder:{tmp_path}", need_labels=True).train
    assert train.class_names == ("cat", "dog") and train.labels.tolist() == [0, 0, 1, 1]
    assert load_masks(f"folder:{tmp_path}").train.class_names == ("0", "1", "2", "3")


def test_partners_that_are_missing_are_named(folder):
    (folder / "masks" / "1.x.png").unlink()
    (folder / "images" / "2.x.png").unlink()
    save(folder / "masks" / "3.x.gif", np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError) as caught:
        load_masks(f"folder:{folder}")
    lines = str(caught.value).splitlines()
    assert "got 3 without" in lines[0]
    assert lines[1] == f"{folder}/images/1.x.png and no mask"
    assert lines[2] == (
        f"{folder}/images/3.x.png and {folder}/masks/3.x.gif, {folder}/masks/3.x.png"
    )
    assert lines[3] == f"no image and {folder}/masks/2.x.png"
    for i in range(10, 17):
        save(folder / "images" / f"{i}.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match=r"got 10 without(.|\n)*\.\.\. and 5 more"):
        load_masks(f"folder:{folder}")


def test_folders_without_masks(tmp_path):
    save(tmp_path / "cat" / "0.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match="folders images and masks in .*got cat"):
        load_masks(f"folder:{tmp_path}")
    pair(tmp_path / "train", "0", 1)
    (tmp_path / "test" / "images").mkdir(parents=True)
    save(tmp_path / "test" / "images" / "1.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match="Expected masks .*test/masks"):
        load_masks(f"folder:{tmp_path}")


def load_pairs(path, lines, rules=None, **options):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_masks(f"list:{path}", rules, **options)


def test_lists_of_pairs(folder):
    (folder / "val.txt").write_text('"images/3.x.png","masks/3.x.png"\n')
    lines = [
        "# a comment",
        "images/2.x.png,masks/2.x.png",
        "",
        f" images/1.x.png , {folder}/masks/1.x.png",
    ]
    splits = load_pairs(folder / "list.txt", lines, test_list=str(folder / "val.txt"))
    assert grays(splits.train) == [2, 1] and grays(splits.test) == [3]
    assert splits.test.class_names == ("0", "1", "2", "3")
    # The same list is one for pre-training.
    plain = load(f"list:{folder}/list.txt").train
    assert len(plain) == 2 and plain.labels is None and not plain.has_masks


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/1.x.png", "line 3: expected .* the mask's path, got 'images/1.x.png'"),
        ("images/1.x.png,", "line 3: expected .* the mask's path"),
        ("images/1.x.png,masks/9.png", "line 3: expected a mask file, got none at .*masks/9.png"),
        ("images/9.png,masks/1.x.png", "line 3: expected an image file, got none at .*/9.png"),
        (",masks/1.x.png", "line 3: expected an image file"),
    ],
)
def test_wrong_lines_are_named(folder, line, message):
    lines = ["images/0.x.png,masks/0.x.png", "# next is wrong", line]
    with pytest.raises(UserError, match=f"list.txt {message}"):
        load_pairs(folder / "list.txt", lines)


def test_masks_come_into_memory_with_their_images(tmp_path):
    for i, size in enumerate([(8, 8), (8, 12), (12, 8)]):
        pair(tmp_path, str(i), 40 * i, size)
    files = load_masks(f"folder:{tmp_path}", MaskRules(256)).train
    assert files.images is None and files.masks is None
    assert [files.read_mask(i).shape for i in range(3)] == [(8, 8), (8, 12), (12, 8)]
    held = load_masks(f"folder:{tmp_path}", MaskRules(256), cache="true", input_size=(6, 4)).train
    assert held.images.shape == (3, 6, 4, 3) and held.masks.shape == (3, 6, 4)
    assert grays(held) == grays(files) == [0, 40, 80]


def test_coloured_masks_by_a_table(tmp_path):
    drawn = np.array([[0, 1], [2, 2]], np.uint8)
    save(tmp_path / "images" / "a.png", np.zeros((2, 2, 3), np.uint8))
    save(tmp_path / "masks" / "a.png", COLOURS[drawn])
    colours, names = read_table(tmp_path / "c.txt", "0 0 0 ground\n255 255 255 sky\n200 30 40\n")
    rules = MaskRules(colours=colours, class_names=names)
    for cache in ("true", "false"):
        train = load_masks(f"folder:{tmp_path}", rules, cache=cache).train
        np.testing.assert_array_equal(train.read_mask(0), drawn)
        np.testing.assert_array_equal(train.take(np.array([0])).read_mask(0), drawn)
        assert train.class_names == ("ground", "sky", "2")
    ignoring = MaskRules(ignore_label=2, colours=colours, class_names=names)
    assert load_masks(f"folder:{tmp_path}", ignoring).train.class_names == ("ground", "sky")
    save(tmp_path / "masks" / "a.png", COLOURS[drawn + 2])
    with pytest.raises(UserError, match=r"a.png: colour 9 9 9 \(1 pixel, at row 0, column 1\)"):
        load_masks(f"folder:{tmp_path}", rules)


def test_bad_images_are_left_out_with_their_masks_and_bad_masks_are_not(folder):
    (folder / "images" / "1.x.png").write_text("no image")  # by its header
    (folder / "images" / "2.x.png").unlink()
    cut = save(folder / "images" / "2.x.bmp", np.zeros((8, 8, 3), np.uint8))
    cut.write_bytes(cut.read_bytes()[:120])  # by its pixels
    for cache in ("auto", "false"):
        train = load_masks(f"folder:{folder}", skip_bad_images=True, cache=cache).train
        assert grays(train) == [0, 3, 4] and train.skipped == 2
        assert len(train.mask_paths) == 3
    (folder / "masks" / "3.x.png").write_text("no mask")
    with pytest.raises(UserError, match="a mask that decodes, got .*masks/3.x.png"):
        load_masks(f"folder:{folder}", skip_bad_images=True)


def test_held_back_images_have_their_masks(folder):
    splits = load_masks(f"folder:{folder}", val_fraction=0.4)
    assert sorted(grays(splits.train) + grays(splits.test)) == [0, 1, 2, 3, 4]
    assert len(splits.test) == 2
    files = load_masks(f"folder:{folder}", cache="false").train
    assert sorted(sum(map(grays, hold_back(files, 0.4, 1)), [])) == [0, 1, 2, 3, 4]


# -- Values --------------------------------------------------------------------------------------


@pytest.fixture
def one(tmp_path):
    """(pixels, ...) -> a folder of such masks and images of their size."""

    def write(*masks):
        for i, pixels in enumerate(masks):
            save(tmp_path / "masks" / f"{i}.png", np.asarray(pixels, np.uint8))
            blank = np.zeros((*np.shape(pixels), 3), np.uint8)
            save(tmp_path / "images" / f"{i}.png", blank)
        return f"folder:{tmp_path}"

    return write


def message_of(dataset, rules=None, **options):
    with pytest.raises(UserError) as caught:
        load_masks(dataset, rules, **options)
    return str(caught.value)


def test_each_mask_is_read_once_for_the_check(one, monkeypatch):
    dataset, read = one([[0, 1]], [[1, 0]]), []
    reader = sources.read_mask
    monkeypatch.setattr(sources, "read_mask", lambda *a: (read.append(a[0]), reader(*a))[1])
    load_masks(dataset, cache="false")
    assert len(read) == len(set(read)) == 2


@pytest.mark.parametrize(
    ("masks", "rules", "classes"),
    [
        (([[0, 1]], [[0, 6]]), MaskRules(), 7),
        (([[0, 1]], [[6, 11]]), MaskRules(ignore_label=11), 7),
        (([[0, 1]], [[255, 3]]), MaskRules(ignore_label=255), 4),
        (([[1, 2]],), MaskRules(ignore_label=0), 3),
        (([[0, 1]],), MaskRules(5), 5),
        (([[0, 9]],), MaskRules(5, 9), 5),
        (([[0, 254]],), MaskRules(), 255),
        (([[0, 255]],), MaskRules(256), 256),
    ],
)
def test_the_number_of_classes(one, masks, rules, classes):
    train = load_masks(one(*masks), rules).train
    assert train.class_names == tuple(map(str, range(classes)))


def test_names_come_from_the_table(one):
    dataset = one([[0, 1, 7]])
    for classes, expected in ((2, "ab"), (4, "abc3")):
        rules = MaskRules(classes, 7, class_names=("a", "b", "c"))
        assert "".join(load_masks(dataset, rules).train.class_names) == expected


def test_values_outside_are_placed_and_mended(one):
    pixels = np.zeros((6, 9))
    pixels[3, 7:], pixels[5] = 12, 12
    dataset = one([[0, 1]], pixels)
    message = message_of(dataset, MaskRules(11))
    assert message.endswith(
        "/masks/1.png: value 12 (11 pixels, the first at row 3, column 7) is outside 0..10 "
        "(`num_classes=11`). Pass `num_classes=13`, `ignore_label=12`, or mend the mask."
    )
    assert "Pass `num_classes=13`, or mend" in message_of(dataset, MaskRules(11, 255))


def test_a_table_is_offered_that_lacks_the_names_alone(one, tmp_path):
    dataset = one([[0, 2, 2]], [[2, 4, 4]], [[0, 0, 0]])
    for i, pixels in enumerate(([[0, 2, 2]], [[2, 4, 4]])):
        save(tmp_path / "masks" / f"{i}.png", COLOURS[np.array(pixels)])
    message = message_of(dataset)
    assert message.count("expected the number") == 1 and "2 masks are coloured" in message
    lines = message.split("table:\n")[1].splitlines()
    spelled = [" ".join(map(str, COLOURS[k])) for k in (2, 4, 0)]  # the most frequent first
    assert lines == [f"{c} # {s} %" for c, s in zip(spelled, (50, 33, 17), strict=True)]
    (tmp_path / "table.txt").write_text("\n".join(lines))
    colours, names = read_colour_table(tmp_path / "table.txt")
    assert load_masks(dataset, MaskRules(0, None, colours, names)).train.class_names == names


def test_photographs_are_no_masks_that_lack_a_table(one, tmp_path, rng):
    dataset = one(*np.zeros((3, 20, 20)))
    for i in range(2):
        save(tmp_path / "masks" / f"{i}.png", rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    save(tmp_path / "masks" / "2.png", np.zeros((20, 21), np.uint8))
    message = message_of(dataset)
    assert "in more than 256 colours" in message and "2.png: expected 20x20" in message


def test_indices_outside_the_table(one, tmp_path):
    dataset = one([[0, 1]])
    save(tmp_path / "masks" / "0.png", palette_image(np.array([[0, 5]], np.uint8)))
    message = message_of(dataset, MaskRules(colours=COLOURS))
    assert "value 5 (1 pixel, at row 0, column 1) is outside 0..4 (the lines of" in message
    assert "Add a line to the table, pass `ignore_label=5`, or mend the mask." in message


def test_all_wrong_values_of_a_mask_are_named(one):
    message = message_of(one([[0, 1, 7, 9, 200, 9, 3]]), MaskRules(2))
    assert "value 200 (1 pixel, at row 0, column 4), value 9 (2 pixels, the first at" in message
    assert "1 more values are outside 0..1" in message and "Pass `num_classes=201`" in message


def test_no_more_classes_than_a_mask_can_hold(one):
    assert "at most 256 classes" in message_of(one([[0, 1]]), MaskRules(300))


def test_all_wrong_masks_of_an_array_are_named(tmp_path):
    masks = np.zeros((6, 4, 4), np.int32)
    masks[1, 2, 3], masks[4] = 700, -1
    images = np.zeros((6, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, masks=masks)
    message = message_of(f"npz:{tmp_path}/a.npz")
    assert "masks[1]: value 700" in message and "masks[4]: value -1" in message


def test_all_wrong_masks_are_in_one_message(one, tmp_path):
    dataset = one(*[[[0, 1, 9]]] * 25)
    (tmp_path / "masks" / "1.png").write_text("no mask")
    save(tmp_path / "masks" / "3.png", np.zeros((4, 5), np.uint8))
    lines = message_of(dataset, MaskRules(2)).splitlines()
    assert len(lines) == 21 and lines[20] == "... and 5 more"
    assert "masks/0.png: value 9" in lines[0] and "got " in lines[1] and "1.png" in lines[1]
    (line,) = (line for line in lines if "masks/3.png" in line)
    assert f"{tmp_path}/masks/3.png: expected 1x3 (height x width)" in line
    assert f"{tmp_path}/images/3.png, got 4x5" in line
    # Without a number of classes the values may all be right.
    assert len(message_of(dataset).splitlines()) == 2


def test_the_size_is_that_of_the_image_as_it_is_seen(one, tmp_path):
    dataset, exif = one([[0, 1, 1], [1, 0, 1]]), Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "images" / "0.png", np.zeros((3, 2, 3), np.uint8), exif=exif)
    assert load_masks(dataset).train.image_size == (2, 3)
    save(tmp_path / "images" / "0.png", np.zeros((2, 3, 3), np.uint8), exif=exif)
    assert "expected 3x2 (height x width)" in message_of(dataset)


def test_255_is_rarely_a_class(one, tmp_path):
    dataset = one([[0, 1]], [[2, 255]])
    message = message_of(dataset)
    assert "got 255 in 1 of 2" in message and "/masks/1.png (1 pixel, at row 0" in message
    assert "pass `ignore_label=255`, or `num_classes=256`." in message


def test_0_and_255_are_two_colours(one, tmp_path):
    dataset = one([[0, 255]], [[0, 0]])
    for rules in (MaskRules(), MaskRules(2)):
        message = message_of(dataset, rules)
        assert "`0 0 0 background`" in message and "`255 255 255 object`" in message
        assert "`mask_colors=FILE`" in message and "`num_classes=256`" not in message
    colours, names = read_table(tmp_path / "c.txt", BLANK)
    train = load_masks(dataset, MaskRules(colours=colours, class_names=names)).train
    assert train.class_names == ("background", "object")
    assert train.read_mask(0).tolist() == [[0, 1]]


def test_there_are_two_classes_and_pixels_that_count(one, tmp_path):
    dataset = one([[0, 0]])
    for rules in (MaskRules(), MaskRules(1), MaskRules(ignore_label=255)):
        assert "at least 2 classes" in message_of(dataset, rules)
    for split, value in (("train", 1), ("test", 3)):
        pair(tmp_path / "splits" / split, "0", value)
    lower = tmp_path / "splits" / "test" / "masks" / "0.png"
    save(lower, np.full((8, 8), 3, np.uint8))
    message = message_of(f"folder:{tmp_path / 'splits'}", MaskRules(ignore_label=3))
    assert "pixels that count" in message and "(test)" in message and "`ignore_label=3`" in message


# -- Arrays --------------------------------------------------------------------------------------


def load_npz(path, rules=None, **arrays):
    np.savez(path, **arrays)
    return load_masks(f"npz:{path}", rules)


@pytest.mark.parametrize("key", ["masks_train", "train_masks", "masks", "mask", "y_train", "y"])
@pytest.mark.parametrize("last", [(), (1,)])
def test_npz_masks(tmp_path, rng, key, last):
    images = rng.integers(0, 256, (6, 4, 5, 3), np.uint8)
    masks = rng.integers(0, 3, (6, 4, 5))
    arrays = {"images": images, "x_test": images[:2], "masks_test": masks[:2] > 0}
    splits = load_npz(tmp_path / "a.npz", **arrays, **{key: masks.reshape(6, 4, 5, *last)})
    np.testing.assert_array_equal(splits.train.masks, masks)
    np.testing.assert_array_equal(splits.test.masks, masks[:2] > 0)
    assert splits.train.masks.dtype == splits.test.masks.dtype == np.uint8
    assert splits.train.labels is None and splits.test.class_names == ("0", "1", "2")
    # Masks where labels would be do not stop pre-training.
    plain = load(f"npz:{tmp_path / 'a.npz'}").train
    assert plain.labels is None and not plain.has_masks


def test_npz_masks_go_before_labels(tmp_path):
    images, masks = np.zeros((2, 4, 4, 3), np.uint8), np.eye(4, dtype=int)[None].repeat(2, 0)
    splits = load_npz(tmp_path / "a.npz", x=images, y=np.array([0, 3]), masks=masks)
    np.testing.assert_array_equal(splits.train.masks, masks)
    assert load(f"npz:{tmp_path / 'a.npz'}").train.labels.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"masks for x in .* masks_train, .* got x \[2, 4, 4, 3\]"),
        ({"y": np.array([0, 1])}, r"masks for x .* y \[2\]"),
        ({"masks": np.zeros((2, 4, 5), int)}, r"\[2, 4, 4\].* as masks, got int64 \[2, 4, 5\]"),
        ({"masks": np.zeros((2, 4, 4))}, "integers .* as masks, got float64"),
        ({"masks": np.full((2, 4, 4), -1)}, r"masks\[0\]: value -1 \(16 pixels, .* 0..255"),
        ({"masks": np.arange(32).reshape(2, 4, 4)}, r"\(train\), mask 0: value 15 .* 0..4 \(`num"),
        ({"masks": np.ones((2, 4, 4), int), "x_test": np.zeros((1, 4, 4))}, "masks for x_test"),
    ],
)
def test_npz_masks_that_are_wrong(tmp_path, arrays, message):
    images = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(UserError, match=message):
        load_npz(tmp_path / "a.npz", MaskRules(5), x=images, **arrays)


def test_npz_masks_are_resized_with_their_images(tmp_path, rng):
    masks = np.stack([blobs(rng, (30, 41)) for _ in range(3)])
    np.savez(tmp_path / "a.npz", x=200 * masks, masks=masks)
    train = load_masks(f"npz:{tmp_path / 'a.npz'}", input_size=(15, 15)).train
    for image, mask, whole in zip(train.images, train.masks, masks, strict=True):
        np.testing.assert_array_equal(mask, resize_mask_to_fill(whole, (15, 15)))
        assert ((image[..., 0] > 100) == mask).mean() > 0.95


def test_npz_grays_are_looked_up_in_a_table(tmp_path):
    arrays = {"x": np.zeros((1, 1, 2, 3), np.uint8), "masks": np.array([[[0, 255]]])}
    rules = MaskRules(colours=COLOURS[:2], class_names=("a", "b"))
    assert load_npz(tmp_path / "a.npz", rules, **arrays).train.masks.tolist() == [[[0, 1]]]


def test_shapes_have_masks():
    splits = load_masks("shapes", input_size=(16, 20))
    assert splits.train.class_names == splits.test.class_names == ("background", *CLASS_NAMES)
    assert splits.train.labels is None and splits.train.masks.shape == (4096, 16, 20)
    images, _, masks = make_shapes(1000, size=(16, 20), seed=1)
    np.testing.assert_array_equal(splits.test.images, images)
    np.testing.assert_array_equal(splits.test.masks, masks)


# -- TensorFlow Datasets -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tfds(tmp_path_factory):
    """Prepared sets: `outlined` with masks, of two sizes, and `bare` without."""
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = str(tmp_path_factory.mktemp("tfds"))
    rng = np.random.default_rng(0)

    def split(count):
        for i in range(count):
            mask = 3 * blobs(rng, (20, 30) if i % 2 else (30, 20))[..., None]
            features = {
                "image": np.repeat(50 * mask, 3, axis=-1),
                "annotation": np.zeros_like(mask),
            }
            yield i, {**features, "segmentation_mask": mask, "label": i % 2}

    def store(name, features, **splits):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            data_dir=folder,
            split_datasets={
                key: ((i, {f: example[f] for f in features}) for i, example in examples)
                for key, examples in splits.items()
            },
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    image, mask = (tfds.features.Image(shape=(None, None, c)) for c in (3, 1))
    label = tfds.features.ClassLabel(names=["cat", "dog"])
    both = {"image": image, "segmentation_mask": mask, "annotation": mask, "label": label}
    store("outlined", both, train=split(5), test=split(2))
    store("bare", {"image": image, "label": label}, train=split(2))
    tfds.core.add_data_dir(folder)
    return tfds


def test_tfds_masks(tfds):
    splits = load_masks("tfds:outlined", input_size=(16, 16))
    assert [len(splits.train), len(splits.test)] == [5, 2] and splits.unlabelled is None
    # The names of the labels are none of the masks' values.
    assert splits.train.class_names == ("0", "1", "2", "3") and splits.train.labels is None
    for image, mask in zip(splits.train.images, splits.train.masks, strict=True):
        assert set(np.unique(mask)) == {0, 3}
        assert ((image[..., 0] > 75) == (mask > 0)).mean() > 0.95
    assert load("tfds:outlined", input_size=(16, 16)).train.labels.tolist() == [0, 1, 0, 1, 0]


def test_tfds_masks_are_checked(tfds):
    with pytest.raises(UserError, match=r"outlined \(train\), mask 0: value 3 .* outside 0..2"):
        load_masks("tfds:outlined", MaskRules(3), input_size=(16, 16))
    with pytest.raises(
        UserError, match="masks in tfds:bare .*segmentation_mask.* got image, label"
    ):
        load_masks("tfds:bare", input_size=(16, 16))
