"""Every augmentation against a slow reference, its identity, its modes, and the draws'
statistics."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import reference
import tensorflow as tf

from simclr_tf.augment import (
    Recipe,
    add_noise,
    apply_colour,
    apply_colour_in_order,
    apply_masks,
    apply_views,
    crop_resize,
    cutout,
    draw_views,
    gaussian_blur,
    make_views,
    rotate,
)
from simclr_tf.augment.colour import ColourDraw
from simclr_tf.augment.crop import Boxes, crop_nearest
from simclr_tf.augment.cut_out import Squares
from simclr_tf.augment.noise import NoiseDraw, standard_normal
from simclr_tf.augment.recipe import JITTER_MODES, OPERATIONS
from simclr_tf.errors import UserError

COUNT = 4_096  # draws in a statistical test
SIZE = (16, 16)
ORDERS = list(itertools.permutations(range(4)))
EVERYTHING = Recipe(blur=True, noise=True, rotate=True, cutout=True)
NOTHING = Recipe(**dict.fromkeys(OPERATIONS, False))
NAMES = ("flip", "jitter", "color", "blur", "noise", "rotate", "cutout")  # of probabilities


def only(operation, prob=1.0):
    recipe = dataclasses.replace(NOTHING, **{operation: True})
    if operation == "crop":
        return recipe
    return dataclasses.replace(recipe, **{f"{operation.replace('colordrop', 'color')}_prob": prob})


def drawn(recipe, count=COUNT, *, seed=0, step=0, size=SIZE, **arguments):
    return draw_views(recipe, count, seed=seed, step=step, size=size, **arguments)


def boxes(*rows):
    """One window per row: top, left, height, width, flip."""
    return Boxes(*(tf.constant(field, tf.float32) for field in zip(*rows, strict=True)))


def colour_draw(**fields):
    identity = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, "gray": 0.0}
    return ColourDraw(
        **{k: tf.constant([v], tf.float32) for k, v in {**identity, **fields}.items()}
    )


def apply_in_order(images, draw):
    return apply_colour_in_order(images, draw._replace(order=tf.constant([[0, 1, 2, 3]])))


@pytest.fixture(scope="module")
def pixels():
    """uint8 photographs' worth of noise, not square, of odd height."""
    return np.random.default_rng(0).integers(0, 256, (8, 13, 18, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def images(pixels):
    return tf.constant(pixels[:, :, :13] / 255.0, tf.float32)


# --- Each operation against its reference ---

WINDOWS = {
    "whole": (0, 0, 1, 1, 0),
    "mirrored": (0, 0, 1, 1, 1),
    "corner": (0, 0, 0.4, 0.3, 0),
    "other corner": (0.6, 0.7, 0.4, 0.3, 1),
    "inside": (0.13, 0.27, 0.51, 0.62, 1),
    "one pixel": (0.5, 0.5, 1 / 13, 1 / 18, 0),
    "tall": (0, 0.45, 1, 0.1, 0),
}


@pytest.mark.parametrize("size", [(4, 4), (13, 18), (20, 9)])
@pytest.mark.parametrize("window", WINDOWS)
def test_crop_resize_agrees_with_the_reference(pixels, window, size):
    expected = reference.crop_resize(pixels[0], *WINDOWS[window], size)
    ours = crop_resize(tf.constant(pixels[:1]), boxes(WINDOWS[window]), size)
    # Positions are float32 shares of at most 18 pixels (1e-6), neighbours differ by up to 255.
    np.testing.assert_allclose(ours[0], expected, atol=1e-3)


def test_crop_resize_agrees_with_tensorflows_own_kernel_on_drawn_windows():
    image = np.random.default_rng(1).integers(0, 256, (61, 47, 3), dtype=np.uint8)
    draw = drawn(Recipe(), 32, aspect=47 / 61).boxes
    ours = crop_resize(tf.constant(np.repeat(image[np.newaxis], 32, axis=0)), draw, (24, 24))
    for view, top, left, height, width, flip in zip(ours, *draw, strict=True):
        scale = tf.constant([24 / 61, 24 / 47]) / tf.stack([height, width])
        theirs = tf.raw_ops.ScaleAndTranslate(
            images=image[np.newaxis],
            size=(24, 24),
            scale=scale,
            translation=-tf.stack([top * 61, left * 47]) * scale,
            kernel_type="triangle",
            antialias=True,
        )[0]
        np.testing.assert_allclose(view, theirs[:, ::-1] if flip else theirs, atol=2e-3)


@pytest.mark.parametrize("size", [(4, 4), (13, 18), (20, 9)])
@pytest.mark.parametrize("window", WINDOWS)
def test_crop_nearest_agrees_with_the_reference(pixels, window, size):
    mask = pixels[:1, :, :, :1]
    expected = reference.crop_nearest(mask[0], *WINDOWS[window], size)
    np.testing.assert_array_equal(
        crop_nearest(tf.constant(mask), boxes(WINDOWS[window]), size)[0], expected
    )


def test_crop_resize_in_bfloat16_is_within_a_step_and_a_half():
    image = np.random.default_rng(1).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    draw = drawn(Recipe(), 16).boxes
    exact = crop_resize(tf.constant(image), draw, (32, 32))
    short = crop_resize(tf.cast(image, tf.bfloat16), draw, (32, 32))
    assert short.dtype == tf.bfloat16
    error = np.abs(tf.cast(short, tf.float32) - exact)
    assert error.mean() < 0.5  # of 255
    assert error.max() < 3.0


@pytest.mark.parametrize("degrees", [-180.0, -33.3, -1.0, 0.0, 12.5, 45.0, 90.0, 179.0])
def test_rotate_agrees_with_the_reference(images, degrees):
    for picture in (images[:1], images[:1, :, :8], images[:1, :6]):
        turned = rotate(picture, tf.constant([degrees]))
        np.testing.assert_allclose(turned[0], reference.rotate(picture[0], degrees), atol=2e-5)


@pytest.mark.parametrize("degrees", [-33.3, 45.0, 90.0, 179.0])
def test_rotate_fills_what_lies_beyond_the_edge(images, degrees):
    for picture in (images[:1], images[:1, :, :8]):
        turned = rotate(picture, tf.constant([degrees]), fill=0.3)
        expected = reference.rotate(picture[0], degrees, fill=0.3)
        np.testing.assert_allclose(turned[0], expected, atol=2e-5)


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("side", [8, 13])
def test_a_quarter_turn_is_counter_clockwise(images, side, nearest):
    picture = images[:, :side, :side]
    turned = rotate(picture, tf.fill([8], 90.0), nearest=nearest)
    np.testing.assert_allclose(turned, np.rot90(picture, axes=(1, 2)), atol=1e-5)


def test_nearest_rotation_keeps_labels():
    masks = np.random.default_rng(0).integers(0, 11, (4, 9, 9, 1), dtype=np.uint8)
    turned = rotate(tf.constant(masks), tf.constant([10.0, -77.0, 90.0, 0.0]), nearest=True)
    assert turned.dtype == tf.uint8
    assert set(np.unique(turned)) <= set(np.unique(masks))
    np.testing.assert_array_equal(turned[2], np.rot90(masks[2]))
    np.testing.assert_array_equal(turned[3], masks[3])


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.7, 2.0])
def test_blur_agrees_with_the_reference(images, sigma):
    wide = tf.tile(images[:1], [1, 1, 2, 1])  # wider than the kernel
    for picture in (images[:1], images[:1, :, :6], wide):
        blurred = gaussian_blur(picture, tf.constant([sigma]))
        np.testing.assert_allclose(
            blurred[0], reference.gaussian_blur(picture[0], sigma), atol=2e-6
        )


FIELDS = ("brightness", "contrast", "saturation", "hue", "gray")
COLOURS = {
    "identity": {},
    "brighter": {"brightness": 1.4},
    "black": {"brightness": 0.0},
    "contrast": {"contrast": 0.3},
    "saturation": {"saturation": 1.7},
    "hue": {"hue": 0.1},
    "opposite hue": {"hue": -0.5},
    "gray": {"gray": 1.0},
    "all": {"brightness": 0.8, "contrast": 1.3, "saturation": 0.6, "hue": -0.07},
    "all, gray": {"brightness": 1.2, "contrast": 0.6, "saturation": 1.4, "hue": 0.2, "gray": 1.0},
}


@pytest.mark.parametrize("name", COLOURS)
def test_colour_agrees_with_five_operations_one_after_the_other(images, name):
    draw = colour_draw(**COLOURS[name])
    fields = {field: float(value[0]) for field, value in zip(FIELDS, draw, strict=False)}
    expected = reference.colour(images[0], **fields)
    np.testing.assert_allclose(apply_colour(images[:1], draw)[0], expected, atol=3e-6)


@pytest.mark.parametrize("name", COLOURS)
def test_colour_in_order_agrees_with_the_reference_in_every_order(images, name):
    draw = colour_draw(**COLOURS[name])
    fields = {field: float(value[0]) for field, value in zip(FIELDS, draw, strict=False)}
    together = ColourDraw(*(tf.tile(field, [24]) for field in draw[:5]), tf.constant(ORDERS))
    ours = apply_colour_in_order(tf.tile(images[:1], [24, 1, 1, 1]), together)
    for view, order in zip(ours, ORDERS, strict=True):
        expected = reference.colour_in_order(images[0], order, **fields)
        np.testing.assert_allclose(view, expected, atol=3e-5)


def test_colour_in_order_leaves_what_was_not_drawn_bit_for_bit(images):
    draw = colour_draw()._replace(order=tf.constant([[2, 3, 0, 1]]))
    np.testing.assert_array_equal(apply_colour_in_order(images[:1], draw), images[:1])


def test_fused_colours_stay_near_those_in_order_where_nothing_is_clipped(images):
    muted = images * 0.2 + 0.4
    draw = drawn(Recipe(jitter_mode="reference", jitter_prob=1.0), 8).colour
    apart = np.abs(apply_colour(muted, draw) - apply_colour_in_order(muted, draw))
    assert 0.0 < apart.mean() < 0.03  # contrast and hue are not the same functions


def test_hue_turns_red_green_and_blue_into_each_other_and_leaves_gray():
    gray = tf.fill([1, 2, 2, 3], 0.4)
    np.testing.assert_allclose(apply_colour(gray, colour_draw(hue=0.3)), gray, atol=1e-6)
    red = tf.reshape(tf.constant([0.6, 0.3, 0.3]), [1, 1, 1, 3])
    for change in (apply_colour, apply_in_order):
        for turn, nearer in ((0.1, 1), (-0.1, 2)):  # to yellow, to magenta
            turned = np.array(change(red, colour_draw(hue=turn)))[0, 0, 0]
            assert turned[nearer] > turned[3 - nearer] + 0.05
    for turn in (1 / 3, -1 / 3):
        turned = np.array(apply_colour(red, colour_draw(hue=turn)))[0, 0, 0]
        assert turned.argmax() != 0
        np.testing.assert_allclose(
            reference.luma(turned), reference.luma(red.numpy()).item(), atol=1e-6
        )


def test_noise_has_the_drawn_deviation_and_is_independent():
    gray = tf.fill([3, 64, 64, 3], 0.5)
    draw = drawn(only("noise"), 3).noise._replace(stddev=tf.constant([0.0, 0.02, 0.1]))
    noise = np.array(add_noise(gray, draw) - gray)
    np.testing.assert_array_equal(noise[0], 0.0)
    np.testing.assert_allclose(noise.std(axis=(1, 2, 3)), [0.0, 0.02, 0.1], rtol=0.05)
    np.testing.assert_allclose(noise.mean(axis=(1, 2, 3)), 0.0, atol=0.005)
    channels = np.corrcoef(noise[2].reshape(-1, 3).T) - np.eye(3)
    assert np.abs(channels).max() < 0.07


def test_normal_numbers_are_normal_independent_and_the_same_everywhere():
    key = drawn(only("noise"), 64).noise.key
    shape = (16, 15, 3)
    numbers = np.array(standard_normal(key, shape)).reshape(64, -1)
    for form in (tf.function(standard_normal), tf.function(standard_normal, jit_compile=True)):
        np.testing.assert_array_equal(np.reshape(form(key, shape), numbers.shape), numbers)
    count = numbers.size
    assert abs(numbers.mean()) < 4 / np.sqrt(count)
    assert abs(numbers.var() - 1) < 4 * np.sqrt(2 / count)
    assert abs((numbers**3).mean()) < 4 * np.sqrt(15 / count)
    assert abs((numbers**4).mean() - 3) < 4 * np.sqrt(96 / count)
    share = (np.abs(numbers) > 3).mean()
    assert abs(share - 0.0027) < 4 * np.sqrt(0.0027 / count)
    between = np.corrcoef(numbers) - np.eye(64)
    assert np.abs(between).max() < 5 / np.sqrt(numbers.shape[1])
    for lag in (1, 2, 3, 45, 360):  # neighbours, rows, and the two halves of a hash
        together = (numbers[:, lag:] * numbers[:, :-lag]).mean()
        assert abs(together) < 4 / np.sqrt(count)


def test_an_image_keeps_its_noise_where_the_batch_is_cut(images):
    noise = drawn(only("noise"), 8).noise
    whole = add_noise(images, noise)
    part = add_noise(images[3:5], NoiseDraw(noise.stddev[3:5], noise.key[3:5]))
    np.testing.assert_array_equal(part, whole[3:5])


def test_cutout_grays_exactly_the_square(images):
    squares = Squares(*(tf.constant(v, tf.float32) for v in ([2, 0], [5, 0], [4, 0])))
    expected = images[:2].numpy()
    expected[0, 2:6, 5:9] = 0.5
    np.testing.assert_array_equal(cutout(images[:2], squares), expected)


# --- Whole recipes ---


def test_identity_parameters_change_nothing(images):
    still = tf.zeros([8])
    identity = [tf.tile(field, [8]) for field in colour_draw()[:5]]
    np.testing.assert_array_equal(rotate(images, still), images)
    np.testing.assert_array_equal(gaussian_blur(images, still), images)
    np.testing.assert_array_equal(cutout(images, Squares(still, still, still)), images)
    key = tf.zeros([8, 2], tf.uint32)
    np.testing.assert_array_equal(add_noise(images, NoiseDraw(still, key)), images)
    np.testing.assert_allclose(apply_colour(images, ColourDraw(*identity)), images, atol=1e-6)
    whole = boxes(*[WINDOWS["whole"]] * 8)
    np.testing.assert_allclose(crop_resize(images, whole, (13, 13)), images, atol=1e-6)


def test_an_empty_recipe_only_resizes(pixels):
    views = apply_views(pixels, drawn(NOTHING, 8), (13, 18))
    np.testing.assert_allclose(views, pixels / 255.0, atol=1e-6)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_acts_at_probability_one_and_not_at_zero(operation, pixels):
    plain = apply_views(pixels, drawn(NOTHING, 8), SIZE).numpy()
    always = apply_views(pixels, drawn(only(operation), 8), SIZE).numpy()
    changed = np.abs(always - plain).reshape(8, -1).max(axis=1)
    assert (changed > 0.01).sum() >= 6  # a blur of 0.1 pixels or a noise of 0.001 is not seen
    if operation != "crop":  # which has a switch and no probability
        never = apply_views(pixels, drawn(only(operation, 0.0), 8), SIZE)
        np.testing.assert_allclose(never, plain, atol=1e-6)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_switch_overrides_its_probability(operation):
    off = dataclasses.replace(EVERYTHING, **{operation: False})
    draw = drawn(off, 64)
    if operation == "crop":
        assert np.min(draw.boxes.height) == 1.0
    elif operation == "flip":
        assert np.max(draw.boxes.flip) == 0.0
    elif operation == "jitter":
        assert np.ptp(draw.colour.brightness) == np.ptp(draw.colour.hue) == 0.0
    elif operation == "colordrop":
        assert np.max(draw.colour.gray) == 0.0
    else:
        field = {"blur": "sigma", "rotate": "degrees", "cutout": "squares"}.get(
            operation, operation
        )
        assert getattr(draw, field) is None


@pytest.mark.parametrize("mode", JITTER_MODES)
def test_eager_graph_and_xla_agree(pixels, mode):
    draw = drawn(dataclasses.replace(EVERYTHING, jitter_mode=mode), 8)

    def run(images):
        return apply_views(images, draw, SIZE)

    eager = run(tf.constant(pixels))
    # Within a computation that is compiled whole, as a training step on a device is.
    np.testing.assert_allclose(tf.function(run)(pixels), eager, atol=1e-6)
    np.testing.assert_allclose(tf.function(run, jit_compile=True)(pixels), eager, atol=1e-4)


OPERATIONS_ALONE = {
    "crop": lambda images, draw: crop_resize(images, draw.boxes, (9, 11)),
    "rotate": lambda images, draw: rotate(images, draw.degrees),
    "colour": lambda images, draw: apply_colour(images, draw.colour),
    "blur": lambda images, draw: gaussian_blur(images, draw.sigma),
    "noise": lambda images, draw: add_noise(images, draw.noise),
    "cutout": lambda images, draw: cutout(images, draw.squares),
}


@pytest.mark.parametrize("name", OPERATIONS_ALONE)
def test_each_operation_agrees_eager_in_a_graph_and_under_xla(images, name):
    draw = drawn(dataclasses.replace(EVERYTHING, **{f"{n}_prob": 1.0 for n in NAMES}), 8)
    eager = OPERATIONS_ALONE[name](images, draw)
    for compiled in (False, True):
        form = tf.function(OPERATIONS_ALONE[name], jit_compile=compiled)
        np.testing.assert_allclose(form(images, draw), eager, atol=5e-5)


def test_bfloat16_views_are_within_two_steps_of_eight_bits():
    image = np.random.default_rng(2).integers(0, 256, (32, 40, 40, 3), dtype=np.uint8)
    draw = drawn(Recipe(blur=True), 32, size=(32, 32))
    exact = apply_views(image, draw, (32, 32))
    short = apply_views(image, draw, (32, 32), tf.bfloat16)
    assert short.dtype == tf.bfloat16
    error = 255 * np.abs(tf.cast(short, tf.float32) - exact)
    assert error.mean() < 0.5
    # Of noise: neighbouring pixels of a photograph differ less.
    assert np.quantile(error, 0.999) < 2.5


def test_views_that_come_cropped_get_the_rest(pixels):
    draw = drawn(EVERYTHING, 8)
    crops = crop_resize(tf.constant(pixels), draw.boxes, SIZE)
    (rest,) = make_views(crops, draw, SIZE, views=1, cropped=True)
    np.testing.assert_allclose(rest, apply_views(pixels, draw, SIZE), atol=1e-5)
    (bare,) = make_views(crops, drawn(only("flip"), 8), SIZE, views=1, cropped=True)
    np.testing.assert_allclose(bare, crops / 255.0, atol=1e-6)


@pytest.mark.parametrize("mode", JITTER_MODES)
def test_several_views_of_an_image_are_those_made_one_by_one(pixels, mode):
    draw = drawn(dataclasses.replace(EVERYTHING, jitter_mode=mode), 24)
    together = make_views(pixels, draw, SIZE, views=3)
    one_by_one = apply_views(np.repeat(pixels, 3, axis=0), draw, SIZE)
    for number, view in enumerate(together):
        np.testing.assert_allclose(view, one_by_one[number::3], atol=1e-5)


def test_masks_follow_their_images(pixels):
    # Masks that are pictures of their own coordinates: where the image's pixel came from, the
    # mask's did too, to within half a pixel.
    rows, columns = np.indices((64, 64), dtype=np.float32)
    coordinates = np.stack([rows, columns, rows], axis=-1) * 4
    images = np.repeat(coordinates[np.newaxis], 16, axis=0)
    recipe = dataclasses.replace(only("crop"), flip=True, rotate=True, rotate_prob=0.5)
    draw = drawn(recipe, 16, size=(48, 48))
    seen = 255 * apply_views(images, draw, (48, 48)).numpy() / 4
    for axis, mask in ((0, rows), (1, columns)):
        masks = np.repeat(mask[np.newaxis, ..., np.newaxis], 16, axis=0).astype(np.int32)
        followed = apply_masks(tf.constant(masks), draw, (48, 48))
        assert followed.shape == (16, 48, 48, 1)
        assert followed.dtype == tf.int32
        apart = np.abs(followed[..., 0] - seen[..., axis])
        assert apart.mean() < 0.5
        assert np.quantile(apart, 0.95) < 1.5  # edges and mirrors smooth the image


def test_masks_do_not_change_under_photometric_operations(pixels):
    masks = np.random.default_rng(0).integers(0, 11, (8, 13, 18, 1), dtype=np.uint8)
    photometric = dataclasses.replace(EVERYTHING, crop=False, flip=False, rotate=False)
    kept = apply_masks(tf.constant(masks), drawn(photometric, 8), (13, 18))
    np.testing.assert_array_equal(kept, masks)


def test_eager_and_graph_draw_the_same_numbers():
    graph = tf.function(lambda step: drawn(EVERYTHING, 16, step=step))
    for step in (0, 5):
        eager = tf.nest.flatten(drawn(EVERYTHING, 16, step=step))
        for ours, theirs in zip(tf.nest.flatten(graph(tf.constant(step))), eager, strict=True):
            if ours is None:
                continue
            np.testing.assert_array_equal(ours, theirs)


def test_xla_draws_within_the_same_ranges():
    compiled = tf.function(lambda step: drawn(EVERYTHING, 512, step=step), jit_compile=True)
    draw = compiled(tf.constant(1))
    check_ranges(draw, EVERYTHING)
    assert abs(np.mean(draw.boxes.flip) - 0.5) < 0.1
    other = compiled(tf.constant(2))
    assert np.any(draw.degrees != other.degrees)


def test_an_image_does_not_depend_on_its_neighbours(pixels):
    draw = drawn(EVERYTHING, 8)
    others = pixels.copy()
    others[np.arange(8) != 3] = 255 - others[np.arange(8) != 3]
    kept = apply_views(pixels, draw, SIZE), apply_views(others, draw, SIZE)
    np.testing.assert_allclose(kept[0][3], kept[1][3], atol=1e-6)
    assert np.abs(kept[0][2] - kept[1][2]).max() > 0.1


def test_uint8_and_float_images_give_the_same_views(pixels):
    draw = drawn(EVERYTHING, 8)
    views = apply_views(pixels, draw, SIZE)
    assert (views.dtype, views.shape) == (tf.float32, (8, *SIZE, 3))
    as_float = apply_views(pixels.astype(np.float32), draw, SIZE)
    np.testing.assert_allclose(views, as_float, atol=1e-6)


@pytest.mark.parametrize("recipe", [Recipe(), EVERYTHING, NOTHING], ids=["default", "all", "none"])
@pytest.mark.parametrize("form", ["eager", "graph"])
def test_views_are_within_zero_and_one(recipe, form):
    # White and black: the weights of a resampled pixel sum to 1 only up to rounding.
    rng = np.random.default_rng(0)
    images = rng.choice(np.uint8([0, 255]), (16, 70, 70, 3))
    images[:8] = 255
    run = (lambda f: f) if form == "eager" else tf.function
    for step in range(3):
        draw = drawn(recipe, 16, step=step, size=(66, 66))
        views = run(lambda d: apply_views(images, d, (66, 66)))(draw)
        assert np.min(views) >= 0.0
        assert np.max(views) <= 1.0


def test_two_views_of_an_image_differ(pixels):
    draw = drawn(Recipe(), 16)
    views = apply_views(np.concatenate([pixels, pixels]), draw, SIZE)
    apart = np.abs(views[:8] - views[8:]).reshape(8, -1).mean(axis=1)
    assert apart.min() > 0.02


# --- Draws ---


def flags(recipe, draw):
    """Which images each operation was drawn for."""
    applied = {
        "flip": draw.boxes.flip,
        "jitter": draw.colour.brightness != 1.0,
        "colordrop": draw.colour.gray,
        "blur": draw.sigma > 0,
        "noise": draw.noise.stddev > 0,
        "rotate": draw.degrees != 0,
        "cutout": draw.squares.side > 0,
    }
    return {name: np.array(value, bool) for name, value in applied.items()}


def check_ranges(draw, recipe):
    b = draw.boxes
    area = b.height * b.width
    assert np.min(area) >= recipe.crop_area_min - 1e-6
    assert np.max(area) <= 1.0
    assert 3 / 4 - 1e-6 <= np.min(b.width / b.height)
    assert np.max(b.width / b.height) <= 4 / 3 + 1e-6
    assert np.min([b.top, b.left]) >= 0.0
    assert np.max([b.top + b.height, b.left + b.width]) <= 1.0 + 1e-6
    assert np.max(np.abs(draw.degrees)) <= recipe.max_rotation
    low = 1 - 0.8 * recipe.strength
    for factor in (draw.colour.brightness, draw.colour.contrast, draw.colour.saturation):
        assert low <= np.min(factor) <= np.max(factor) <= 2 - low
    assert np.max(np.abs(draw.colour.hue)) <= 0.2 * recipe.strength
    sigma = np.array(draw.sigma)
    assert 0.1 <= sigma[sigma > 0].min() <= sigma.max() <= 2.0
    assert 0.0 <= np.min(draw.noise.stddev) <= np.max(draw.noise.stddev) <= 0.1


def check_uniform(values, low, high):
    """Within the range, near both of its ends, with its mean and hardly a value twice."""
    values = np.array(values)
    width = high - low
    assert low - 1e-6 <= values.min() < low + 0.01 * width
    assert high - 0.01 * width < values.max() <= high + 1e-6
    assert abs(values.mean() - (low + high) / 2) < 4 * width / np.sqrt(12 * len(values))
    assert len(np.unique(values)) > 0.95 * len(values)


@pytest.mark.parametrize("prob", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_an_operation_is_applied_as_often_as_its_probability_says(prob):
    recipe = dataclasses.replace(EVERYTHING, **{f"{name}_prob": prob for name in NAMES})
    deviation = np.sqrt(prob * (1 - prob) / COUNT)
    for name, applied in flags(recipe, drawn(recipe)).items():
        assert abs(applied.mean() - prob) <= 3 * deviation, name


def test_operations_are_drawn_independently_of_each_other():
    recipe = dataclasses.replace(EVERYTHING, jitter_prob=0.5, color_prob=0.5, noise_prob=0.5)
    applied = np.stack(list(flags(recipe, drawn(recipe)).values()))
    correlation = np.corrcoef(applied) - np.eye(len(applied))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(COUNT)


def test_the_two_views_are_drawn_independently():
    draw = drawn(dataclasses.replace(EVERYTHING, rotate_prob=1.0, blur_prob=1.0, jitter_prob=1.0))
    fields = (draw.boxes.height, draw.boxes.top, draw.degrees, draw.sigma, draw.colour.brightness)
    for values in fields:
        first, second = np.split(np.array(values), 2)
        assert abs(np.corrcoef(first, second)[0, 1]) < 4.5 / np.sqrt(COUNT / 2)


def test_orders_of_the_colour_operations_are_drawn_per_image_and_equally_often():
    draw = drawn(Recipe(jitter_mode="reference"), 24 * 400).colour
    _, counts = np.unique(draw.order, axis=0, return_counts=True)
    assert len(counts) == 24
    assert np.abs(counts - 400).max() < 4.5 * np.sqrt(400)
    assert drawn(Recipe()).colour.order is None


def test_factors_vary_within_a_batch_over_their_whole_range():
    always = dataclasses.replace(EVERYTHING, **{f"{name}_prob": 1.0 for name in NAMES})
    draw = drawn(always)
    check_ranges(draw, always)
    for factor in (draw.colour.brightness, draw.colour.contrast, draw.colour.saturation):
        check_uniform(factor, 0.6, 1.4)
    check_uniform(draw.colour.hue, -0.1, 0.1)
    check_uniform(draw.degrees, -30.0, 30.0)
    check_uniform(draw.sigma, 0.1, 2.0)
    check_uniform(draw.noise.stddev, 0.0, 0.1)
    together = np.stack([draw.colour.brightness, draw.colour.contrast, draw.colour.hue])
    assert np.abs(np.corrcoef(together) - np.eye(3)).max() < 4.5 / np.sqrt(COUNT)


def test_how_strong_an_operation_is_does_not_depend_on_how_often_it_is_applied():
    rare = dataclasses.replace(EVERYTHING, **{f"{name}_prob": 0.3 for name in NAMES})
    draw = drawn(rare)
    applied = flags(rare, draw)
    check_uniform(draw.degrees[applied["rotate"]], -30.0, 30.0)
    check_uniform(draw.sigma[applied["blur"]], 0.1, 2.0)
    check_uniform(draw.noise.stddev[applied["noise"]], 0.0, 0.1)
    check_uniform(draw.colour.saturation[applied["jitter"]], 0.6, 1.4)
    check_uniform(draw.colour.hue[applied["jitter"]], -0.1, 0.1)
    huge = drawn(rare, size=(1_000_000, 1_000_000)).squares  # sides are whole pixels
    check_uniform(huge.side[applied["cutout"]], 1e5, 5e5)


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0, 2.0])
def test_strength_sets_the_range_of_the_colours(strength):
    colour = drawn(Recipe(jitter_prob=1.0, strength=strength)).colour
    low, high = max(0.0, 1 - 0.8 * strength), 1 + 0.8 * strength
    if strength == 0.0:
        assert np.ptp(colour.saturation) == np.ptp(colour.hue) == 0.0
    else:
        check_uniform(colour.saturation, low, high)
        check_uniform(colour.hue, -0.2 * strength, 0.2 * strength)


@pytest.mark.parametrize("max_rotation", [0.0, 5.0, 180.0])
def test_rotation_is_in_degrees(max_rotation):
    degrees = drawn(Recipe(rotate=True, rotate_prob=1.0, max_rotation=max_rotation)).degrees
    if max_rotation == 0.0:
        assert np.ptp(degrees) == 0.0
    else:
        check_uniform(degrees, -max_rotation, max_rotation)


@pytest.mark.parametrize("aspect", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("area_min", [0.08, 0.5])
def test_crops_have_the_papers_area_aspect_and_place(aspect, area_min):
    b = Boxes(*map(np.array, drawn(Recipe(crop_area_min=area_min), aspect=aspect).boxes))
    area, ratio = b.height * b.width, b.width * aspect / b.height  # in shares; in pixels
    assert area_min - 1e-6 <= area.min() < area_min + 0.02
    if area_min < 0.1:  # of a narrow image, half cannot be covered at every aspect
        assert ratio.min() < 0.76
        assert ratio.max() > 1.31
    if aspect == 1.0:
        assert area.max() > 0.95
    assert 3 / 4 - 1e-6 <= ratio.min() < ratio.max() <= 4 / 3 + 1e-6
    assert b.top.min() >= 0.0
    assert (b.top + b.height).max() <= 1.0 + 1e-6
    assert (b.left + b.width).max() <= 1.0 + 1e-6
    # The place is uniform in what the window leaves free, but for those that touch both edges:
    # there no draw fitted, and the middle is taken.
    placed = np.maximum(b.height, b.width) < 1
    for start, extent in ((b.top, b.height), (b.left, b.width)):
        room = placed & (1 - extent > 0.05)
        check_uniform(start[room] / (1 - extent[room]), 0.0, 1.0)


def test_area_and_logarithm_of_the_aspect_are_uniform_where_all_fits():
    b = Boxes(*map(np.array, drawn(Recipe(crop_area_min=0.08)).boxes))
    small = b.height * b.width < 0.5  # here any aspect fits, so nothing is drawn again
    check_uniform((b.height * b.width)[small], 0.08, 0.5)
    check_uniform(np.log(b.width / b.height)[small], np.log(3 / 4), np.log(4 / 3))


@pytest.mark.parametrize("aspect", [0.02, 50.0])
def test_a_strip_of_an_image_gives_its_middle(aspect):
    b = Boxes(*map(np.array, drawn(Recipe(), 64, aspect=aspect).boxes))
    ratio = b.width * aspect / b.height
    np.testing.assert_allclose(ratio, 3 / 4 if aspect < 1 else 4 / 3, rtol=1e-5)
    np.testing.assert_allclose(b.top, (1 - b.height) / 2, atol=1e-6)
    np.testing.assert_allclose(b.left, (1 - b.width) / 2, atol=1e-6)
    np.testing.assert_allclose(np.maximum(b.height, b.width), 1.0, rtol=1e-5)


def test_each_image_may_have_its_own_aspect():
    aspect = np.float32([0.6, 1.0, 1.7] * 100)
    b = Boxes(*map(np.array, drawn(Recipe(), 300, aspect=aspect).boxes))
    ratio = b.width * aspect / b.height
    assert 3 / 4 - 1e-5 <= ratio.min() < ratio.max() <= 4 / 3 + 1e-5


@pytest.mark.parametrize("size", [(8, 8), (32, 20)])
def test_squares_lie_within_the_view(size):
    squares = drawn(only("cutout"), size=size).squares
    top, left, side = map(np.array, squares)
    assert (side == np.round(side)).all()
    assert side.min() == round(0.1 * min(size))
    assert side.max() == round(0.5 * min(size))
    for start, length in ((top, size[0]), (left, size[1])):
        assert start.min() == 0
        assert (start + side).max() == length
        assert (start == np.floor(start)).all()


def test_draws_are_a_function_of_seed_step_and_stream():
    def numbers(**arguments):
        draw = drawn(EVERYTHING, 16, **arguments)
        fields = [field for field in tf.nest.flatten(draw) if field is not None]
        return np.concatenate([np.ravel(field) for field in fields])

    same = numbers(seed=3, step=7)
    np.testing.assert_array_equal(numbers(seed=3, step=tf.constant(7, tf.int64)), same)
    for other in ({"seed": 4, "step": 7}, {"seed": 3, "step": 8}, {"seed": 7, "step": 3}):
        assert (numbers(**other) != same).mean() > 0.5
    assert (numbers(seed=3, step=7, stream="validation") != same).mean() > 0.5


def test_draws_do_not_touch_the_global_generator():
    tf.random.set_seed(1)
    first = tf.random.uniform([4])
    tf.random.set_seed(1)
    apply_views(np.zeros((4, 8, 8, 3), np.uint8), drawn(EVERYTHING, 4), (8, 8))
    np.testing.assert_array_equal(tf.random.uniform([4]), first)


# --- Recipe ---


@pytest.mark.parametrize(
    ("field", "value"),
    [(f"{name}_prob", value) for name in NAMES for value in (-0.1, 1.1)]
    + [("crop_area_min", 0.0), ("crop_area_min", 1.5), ("strength", -1.0)]
    + [("max_rotation", -1.0), ("max_rotation", 181.0)],
)
def test_a_wrong_number_names_its_parameter(field, value):
    with pytest.raises(UserError, match=rf"Expected `{field}` .*got {value}"):
        Recipe(**{field: value})


@pytest.mark.parametrize(
    ("size", "blur", "expected"),
    [
        ((63, 80), None, False),
        ((64, 64), None, True),
        ((32, 32), True, True),
        ((96, 96), False, False),
    ],
)
def test_blur_is_on_from_64_pixels_up_unless_asked(size, blur, expected):
    assert Recipe(blur=blur).blurs(size) is expected
    assert (drawn(Recipe(blur=blur), 4, size=size).sigma is not None) is expected
