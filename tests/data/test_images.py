"""Reading image files: every format and mode that Pillow writes, and every way to fail."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from PIL import Image, JpegImagePlugin
from sklearn.datasets import load_sample_image

from simclr_tf.augment.crop import Boxes
from simclr_tf.augment.resampling import crop_resize
from simclr_tf.data.images import EXTENSIONS, read_header, read_image, read_windows, resize_to_fill
from simclr_tf.errors import UserError

COLOURS = ((200, 30, 40), (20, 180, 60), (30, 60, 220), (250, 240, 30))  # four quarters
# top, left, height, width, flip: a corner, a mirrored inside, the far corner, all of it.
WINDOWS = np.array(
    [
        [0.0, 0.0, 0.4, 0.5, 0],
        [0.21, 0.13, 0.62, 0.55, 1],
        [0.45, 0.3, 0.55, 0.7, 0],
        [0, 0, 1, 1, 1],
    ],
    np.float32,
)


@pytest.fixture
def picture() -> np.ndarray:
    """Four quarters of plain colour, uint8 [16, 24, 3]."""
    a, b, c, d = (np.full((8, 12, 3), colour, np.uint8) for colour in COLOURS)
    return np.block([[[a], [b]], [[c], [d]]])


@pytest.fixture
def noise(rng) -> np.ndarray:
    """uint8 [13, 19, 3] in which every pixel counts."""
    return rng.integers(0, 256, (13, 19, 3), np.uint8)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A photograph, uint8 [427, 640, 3]."""
    return load_sample_image("china.jpg")


def one_window(path):
    return read_windows(path, WINDOWS[3:], (4, 5))


def save(path, array_or_image, **options):
    image = array_or_image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_format(tmp_path, picture, extension):
    jpeg = {"quality": 95, "subsampling": 0}
    options = {".webp": {"lossless": True}, ".jpg": jpeg, ".jpeg": jpeg}
    path = save(tmp_path / f"a{extension}", picture, **options.get(extension, {}))
    image = read_image(path)
    assert image.shape == (16, 24, 3) and image.dtype == np.uint8
    # JPEG rings at the edges of the quarters.
    tolerance = 40 if extension.startswith(".j") else 3
    assert np.abs(image.astype(int) - picture).max() <= tolerance
    assert read_header(path) == (16, 24)


def test_gray_is_spread_over_the_channels(tmp_path, rng):
    gray = rng.integers(0, 256, (9, 7), np.uint8)
    image = read_image(save(tmp_path / "a.png", gray))
    np.testing.assert_array_equal(image, np.repeat(gray[..., None], 3, axis=-1))


def test_one_bit(tmp_path, rng):
    bits = rng.integers(0, 2, (9, 7)).astype(bool)
    image = read_image(save(tmp_path / "a.png", Image.fromarray(bits)))
    np.testing.assert_array_equal(image[..., 1], 255 * bits)


def test_palette(tmp_path, picture):
    palette = Image.fromarray(picture).quantize(4)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", palette)), picture)


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_transparent_palette_entry_is_white(tmp_path, picture, name):
    palette = Image.fromarray(picture).quantize(4)
    hidden = int(np.asarray(palette)[0, 0])
    image = read_image(save(tmp_path / name, palette, transparency=hidden))
    assert (image[:8, :12] == 255).all()
    np.testing.assert_array_equal(image[8:], picture[8:])


def test_palette_with_a_table_of_alphas(tmp_path, picture):
    palette = Image.fromarray(picture).quantize(4)
    index = np.asarray(palette)
    alphas = bytearray([255, 255, 255, 255])
    alphas[int(index[0, 0])] = 0
    image = read_image(save(tmp_path / "a.png", palette, transparency=bytes(alphas)))
    assert (image[:8, :12] == 255).all()


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_alpha_is_laid_on_white(tmp_path, picture, name):
    alpha = np.zeros((16, 24, 1), np.uint8)
    alpha[:, 12:] = 255
    alpha[8:, :12] = 128
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    path = save(tmp_path / name, np.concatenate([picture, alpha], axis=-1), **options)
    image = read_image(path)
    assert (image[:8, :12] == 255).all()  # the hidden colour does not show
    np.testing.assert_array_equal(image[:, 12:], picture[:, 12:])
    half = 255 + (picture[8:, :12].astype(float) - 255) * 128 / 255
    np.testing.assert_allclose(image[8:, :12], half, atol=1.01)


def test_gray_with_alpha(tmp_path):
    la = np.stack([np.full((5, 6), 10, np.uint8), np.zeros((5, 6), np.uint8)], axis=-1)
    assert (read_image(save(tmp_path / "a.png", Image.fromarray(la, "LA"))) == 255).all()


def test_transparent_colour_of_an_rgb_png(tmp_path, picture):
    image = read_image(save(tmp_path / "a.png", picture, transparency=COLOURS[0]))
    assert (image[:8, :12] == 255).all()
    np.testing.assert_array_equal(image[:, 12:], picture[:, 12:])


def test_16_bit_gray_is_scaled(tmp_path):
    levels = np.array([[0, 256, 257, 32896, 65535]], np.uint16)
    image = read_image(save(tmp_path / "a.png", levels))
    assert image[0, :, 0].tolist() == [0, 1, 1, 128, 255]
    assert image.shape == (1, 5, 3)


def test_cmyk_jpeg(tmp_path, picture):
    path = save(tmp_path / "a.jpg", Image.fromarray(picture).convert("CMYK"), quality=95)
    assert b"Adobe" in path.read_bytes()[:200]  # Adobe stores CMYK inverted
    image = read_image(path).astype(int)
    assert np.abs(image[2:6, 2:10] - COLOURS[0]).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_exif_orientation(tmp_path, picture, orientation, name):
    turned = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / name, picture, exif=exif)
    image = read_image(path)
    assert image.shape == turned.shape
    assert read_header(path) == turned.shape[:2]
    assert np.abs(image.astype(int) - turned)[::5, ::5].mean() < 8


def test_first_frame_of_an_animation(tmp_path, picture):
    first, second = Image.fromarray(picture), Image.fromarray(255 - picture)
    path = tmp_path / "a.gif"
    first.save(path, save_all=True, append_images=[second])
    assert np.abs(read_image(path).astype(int) - picture).max() < 4


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_cut_off_files_are_named(tmp_path, rng, extension, share):
    noise = rng.integers(0, 256, (48, 48, 3), np.uint8)
    whole = save(tmp_path / f"whole{extension}", noise).read_bytes()
    path = tmp_path / f"cut{extension}"
    path.write_bytes(whole[: int(share * len(whole))])
    for read in (read_image, one_window):
        with pytest.raises(UserError, match=f"cut{extension}.*`skip_bad_images`"):
            read(path)


def test_damaged_files_raise_user_errors_only(tmp_path, rng):
    whole = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(whole, "PNG")
    path = tmp_path / "a.png"
    for _ in range(200):
        damaged = bytearray(whole.getvalue())
        for position in rng.integers(0, 300, 4):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        for read in (read_image, one_window, read_header):
            try:
                read(path)
            except UserError as error:
                assert "a.png" in str(error)


@pytest.mark.parametrize("read", [read_image, one_window, read_header])
def test_missing_empty_and_foreign_files(tmp_path, read):
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(UserError, match="empty.png.*empty"):
        read(tmp_path / "empty.png")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match="text.jpg.*no known image format"):
        read(tmp_path / "text.jpg")
    with pytest.raises(UserError, match=tmp_path.name):
        read(tmp_path)


def bomb(path, side):
    """A PNG whose header claims side x side pixels."""
    Image.new("L", (4, 4)).save(path)
    raw = bytearray(path.read_bytes())
    raw[16:24] = struct.pack(">II", side, side)
    raw[29:33] = struct.pack(">I", zlib.crc32(bytes(raw[12:29])))
    path.write_bytes(bytes(raw))
    return path


@pytest.mark.parametrize("side", [12_000, 40_000])  # beyond Pillow's limit, and beyond twice
@pytest.mark.parametrize("read", [read_image, one_window, read_header])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused(tmp_path, side, read):
    with pytest.raises(UserError, match="bomb.png"):
        read(bomb(tmp_path / "bomb.png", side))


def test_resize_to_fill_cuts_about_the_centre():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert resize_to_fill(wide, (5, 5)).min() > 200  # the middle third, its edges blended
    tall = wide.transpose(1, 0, 2)
    assert resize_to_fill(tall, (20, 20)).shape == (20, 20, 3)
    assert resize_to_fill(wide, (10, 30)) is wide


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize_to_fill(stripes, (8, 8)).astype(int) - 127).max() < 6


def test_threads_leave_the_warning_filters_alone(tmp_path, picture):
    path = save(tmp_path / "a.png", picture)
    before = list(warnings.filters)
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read_image, [path] * 200))
    assert list(warnings.filters) == before


def assert_windows(path, windows, size, atol=1.0):
    """Holds `read_windows` against the definition, applied to the whole image."""
    image = read_image(path)
    views = read_windows(path, windows, size)
    assert views.shape == (len(windows), *size, 3) and views.dtype == np.uint8
    for view, window in zip(views, windows, strict=True):
        np.testing.assert_allclose(view, reference.crop_resize(image, *window, size), atol=atol)


def exact_windows(image, windows, size):
    """The same in one go, for large images."""
    boxes = Boxes(*windows.T)
    return crop_resize(np.stack([image] * len(windows)), boxes, size).numpy()


@pytest.mark.parametrize("views", [1, 2, 3, 4])
def test_windows_of_one_image(tmp_path, noise, views):
    path = save(tmp_path / "a.png", noise)
    assert_windows(path, WINDOWS[-views:], (9, 7))


@pytest.mark.parametrize("size", [(1, 1), (12, 16), (30, 8)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_windows_of_a_jpeg_that_hardly_shrink(tmp_path, noise, size, options):
    path = save(tmp_path / "a.jpg", noise, **options)
    windows = np.concatenate([WINDOWS, [[0.5, 0.5, 0.03, 0.03, 0]]])  # one pixel: no scaling
    assert_windows(path, windows, size)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (2, 3)])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_windows_of_tiny_images(tmp_path, noise, shape, name):
    path = save(tmp_path / name, noise[: shape[0], : shape[1]])
    assert_windows(path, WINDOWS, (6, 4))


def modes(noise):
    """Every kind of pixel that a file may hold, by file name."""
    whole = Image.fromarray(noise)
    gray, palette = whole.convert("L"), whole.quantize(16)
    alpha = Image.fromarray(noise[..., 0])
    deep = noise[..., 0].astype(np.uint16) * 256 + noise[..., 1]
    return {
        "gray.png": (gray, {}),
        "gray.jpg": (gray, {}),
        "bits.png": (gray.convert("1"), {}),
        "gray_alpha.png": (Image.merge("LA", (gray, alpha)), {}),
        "gray_transparent.png": (gray, {"transparency": int(noise[0, 0, 0])}),
        "deep.png": (Image.fromarray(deep), {}),
        "palette.png": (palette, {}),
        "palette.gif": (palette, {"transparency": 3}),
        "palette_alphas.png": (palette, {"transparency": bytes(range(0, 256, 16))}),
        "alpha.png": (Image.merge("RGBA", (*whole.split(), alpha)), {}),
        "colour.png": (whole, {"transparency": tuple(noise[0, 0].tolist())}),
        "cmyk.jpg": (whole.convert("CMYK"), {}),
        "several.mpo": (whole, {"save_all": True, "append_images": [gray]}),
        "lossy.webp": (whole, {}),
        "plain.bmp": (whole, {}),
    }


@pytest.mark.parametrize("name", modes(np.zeros((2, 2, 3), np.uint8)))
def test_windows_of_every_kind_of_pixel(tmp_path, noise, name):
    image, options = modes(noise)[name]
    path = save(tmp_path / name, image, **options)
    # A gray or CMYK JPEG is not scaled either where a window grows.
    assert_windows(path, WINDOWS[1:], (14, 20))


@pytest.mark.parametrize("orientation", [*range(9), 9])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_windows_are_those_of_the_turned_image(tmp_path, noise, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / name, noise, exif=exif)
    assert read_header(path) == read_image(path).shape[:2]
    assert_windows(path, WINDOWS[1:3], (13, 17))


@pytest.fixture
def scales(monkeypatch):
    """The scales at which JPEGs are decoded, in order; none where one is decoded whole."""
    seen = []
    draft = JpegImagePlugin.JpegImageFile.draft

    def spy(image, mode, size):
        before = image.width
        drafted = draft(image, mode, size)
        seen.append(before / drafted[1][2])
        return drafted

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", spy)
    return seen


@pytest.mark.parametrize(
    ("smallest", "scale"), [(0.19, []), (0.21, [2]), (0.39, [2]), (0.41, [4]), (0.81, [8])]
)
@pytest.mark.parametrize("kind", ["colour", "gray", "cmyk", "progressive", "turned", "mpo"])
def test_the_decoder_shrinks_where_every_window_does(
    tmp_path, photo, scales, smallest, scale, kind
):
    image = Image.fromarray(photo[:401, :601])
    image = image.convert({"gray": "L", "cmyk": "CMYK"}.get(kind, "RGB"))
    exif = Image.Exif()
    exif[0x0112] = 6 if kind == "turned" else 1
    options = {"save_all": True, "append_images": [image]} if kind == "mpo" else {}
    path = tmp_path / ("a.mpo" if kind == "mpo" else "a.jpg")
    save(path, image, quality=90, progressive=kind == "progressive", exif=exif, **options)
    size = (60, 40) if kind == "turned" else (40, 60)  # 401 x 601 pixels are ten times that
    windows = np.array([[0.05, 0.1, 0.85, 0.9, 1], [0.1, 0.12, smallest, 0.82, 0]], np.float32)
    views = read_windows(path, windows, size)
    assert scales == scale
    error = np.abs(views - exact_windows(read_image(path), windows, size))
    if scale:
        assert error.mean() < 3 and np.quantile(error, 0.99) < 16
    else:
        assert error.max() <= 1.01


def test_scaled_pixels_lie_where_they_were(tmp_path, scales):
    ramp = np.repeat(np.arange(30, 225, 3, np.uint8)[:, None], 65, axis=1)  # 65 pixels are 8 1/8
    image = np.stack([ramp, ramp.T, np.full_like(ramp, 128)], axis=-1)
    path = save(tmp_path / "a.jpg", image, quality=100, subsampling=0)
    windows = np.array([[0.0, 0.08, 0.9, 0.9, 0], [0.09, 0.0, 0.8, 0.85, 1]], np.float32)
    views = read_windows(path, windows, (6, 6))
    assert scales == [8]
    # One pixel is three levels; in shares of 9 instead of 8 1/8 pixels it would be 19 levels.
    np.testing.assert_allclose(views, exact_windows(image, windows, (6, 6)), atol=3.5)


def test_a_window_depends_on_the_others_by_the_scale_alone(tmp_path, photo, scales):
    path = save(tmp_path / "a.jpg", photo, quality=90)
    large, small, smaller = np.array(
        [[0.1, 0.1, 0.8, 0.8, 0], [0.3, 0.3, 0.5, 0.5, 0], [0.3, 0.3, 0.1, 0.1, 0]], np.float32
    )

    def read(*windows):
        return read_windows(path, np.stack(windows), (64, 64))

    np.testing.assert_array_equal(read(large, small)[1], read(small)[0])  # both of scale 2
    np.testing.assert_array_equal(read(large, smaller)[1], read(smaller)[0])
    assert scales == [2, 2]
    whole = read(large, smaller)[0].astype(int)
    assert 0 < np.abs(read(large)[0] - whole).mean() < 2
