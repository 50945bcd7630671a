"""Rotation, cutout and blur against tensorflow-addons, live.

tensorflow-addons ended with TensorFlow 2.15, so it runs in an environment of its own:
addons_reference.py, started once, works off all cases.
"""

from __future__ import annotations

import pathlib
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from simclr_tf.augment import cutout, gaussian_blur, rotate
from simclr_tf.augment.blur import BLUR_RADIUS
from simclr_tf.augment.cut_out import CUTOUT_VALUE, Squares

HERE = pathlib.Path(__file__).parent
ENVIRONMENT = HERE.parents[1] / ".venv-addons"

pytestmark = pytest.mark.skipif(
    not (ENVIRONMENT / "installed").exists(),
    reason=".venv-addons is missing: it needs Python 3.10 or 3.11 and, once, a network; "
    "run make addons",
)

# Both parities, both ways of being longer, and sides so short that a turn reflects several times.
SIZES = [(32, 32), (33, 33), (17, 24), (24, 17), (9, 40), (40, 7)]
DEGREES = np.float32(
    [0, 1, -1, 12.5, -12.5, 30, -30, 45, -45, 60, 77.7, -77.7, 90, -90, 133.3, -133.3, 180, -180]
)
FILL = 0.3
# Each side adds up, in float32, three terms of up to 40 pixels to the position that a pixel's value
# comes from: some roundings of 2e-6, and cosines that are off by 6e-8, make up to 1e-5.
POSITION_ERROR = 1e-5


def draw_case(size):
    """Random images, as many as there are angles, each with its own sigma and square."""
    rng = np.random.default_rng(size)
    count = len(DEGREES)
    height, width = size
    side = rng.integers(2, min(size) // 2 + 2, count)
    top = rng.integers(0, height - side + 1)
    left = rng.integers(0, width - side + 1)
    top[0], left[0] = 0, 0
    top[1], left[1] = height - side[1], width - side[1]
    side[2] = 0
    return {
        "images": rng.random((count, height, width, 3), np.float32),
        "degrees": DEGREES,
        "sigma": rng.permutation(np.linspace(0.3, 2.0, count, dtype=np.float32)),
        "top": top.astype(np.int32),
        "left": left.astype(np.int32),
        "side": side.astype(np.int32),
    }


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """By size: inputs by field, and what tensorflow-addons makes of them by operation."""
    folder = tmp_path_factory.mktemp("addons")
    drawn = {size: draw_case(size) for size in SIZES}
    np.savez(
        folder / "inputs.npz",
        fill=FILL,
        gray=CUTOUT_VALUE,
        window=2 * BLUR_RADIUS + 1,
        **{f"{h}x{w}/{k}": array for (h, w), case in drawn.items() for k, array in case.items()},
    )
    # -I: neither PYTHONPATH nor the folder of the tests is searched for what it imports.
    # -W: tensorflow-addons warns of its end of life.
    command = [ENVIRONMENT / "bin" / "python", "-I", "-Wignore", HERE / "addons_reference.py"]
    command += [folder / "inputs.npz", folder / "outputs.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "outputs.npz") as arrays:
        outputs = dict(arrays)
    return {
        (h, w): (case, {k.split("/")[1]: outputs[k] for k in outputs if k.startswith(f"{h}x{w}/")})
        for (h, w), case in drawn.items()
    }


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def case(request, cases):
    return cases[request.param]


BEYOND = pytest.mark.parametrize(
    ("mode", "beyond"), [("reflect", {}), ("constant", {"fill": FILL})]
)


@BEYOND
def test_rotation_agrees_everywhere(case, mode, beyond):
    ours, theirs = case
    turned = rotate(ours["images"], ours["degrees"], **beyond)
    # Neighbouring pixels differ by up to 1, so a value is off by what its position is. As both ways
    # of going beyond the edge are continuous, no pixel needs to be left out.
    np.testing.assert_allclose(turned, theirs[f"{mode}_bilinear"], rtol=0, atol=2 * POSITION_ERROR)


@BEYOND
def test_rotation_to_the_nearest_pixel_agrees_where_one_is_nearest(case, mode, beyond):
    ours, theirs = case
    turned = rotate(ours["images"], ours["degrees"], nearest=True, **beyond)
    # Half-way between two pixels both are nearest, and the last bit of the position or the rule for
    # halves (tensorflow-addons rounds them up, tf.round to even) decides. That is all of a quarter
    # turn of an image with one odd and one even side, and a line of pixels at 30, 45 or 60 degrees.
    halfway = distance_to_halfway(ours["degrees"], *ours["images"].shape[1:3]) < POSITION_ERROR
    assert halfway.mean() < 0.12  # two quarter turns of 18 angles
    different = (turned != theirs[f"{mode}_nearest"]).numpy().any(axis=-1)
    assert not (different & ~halfway).any()


def distance_to_halfway(degrees, height, width):
    """How far each pixel's source is from the middle between two pixels: float64 [N, H, W]."""
    angle = np.deg2rad(degrees.astype(np.float64))[:, np.newaxis, np.newaxis]
    y = np.arange(height)[:, np.newaxis] - (height - 1) / 2
    x = np.arange(width)[np.newaxis, :] - (width - 1) / 2
    rows = np.sin(angle) * x + np.cos(angle) * y + (height - 1) / 2
    columns = np.cos(angle) * x - np.sin(angle) * y + (width - 1) / 2
    return np.minimum(*(np.abs(p - np.floor(p) - 0.5) for p in (rows, columns)))


def test_blur_agrees(case):
    ours, theirs = case
    blurred = gaussian_blur(ours["images"], ours["sigma"]).numpy()
    close = {"rtol": 0, "atol": 3e-6}  # sums of 289 products of at most 1; eps is 1.2e-7
    interior = theirs["share"][..., 0] > 1 - 1e-6
    assert interior.any()
    np.testing.assert_allclose(blurred[interior], theirs["blur"][interior], **close)
    # At the edge they blur the padding in, here zeros; ours cuts the kernel there and lets the rest
    # weigh 1: theirs, divided by the share of the kernel that lies within the image.
    np.testing.assert_allclose(blurred, theirs["blur"] / theirs["share"], **close)


def test_cutout_agrees_exactly(case):
    ours, theirs = case
    squares = Squares(*(tf.cast(ours[field], tf.float32) for field in Squares._fields))
    np.testing.assert_array_equal(cutout(ours["images"], squares), theirs["cutout"])
