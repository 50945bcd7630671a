"""Figures: written, holding what they were given, with no change to matplotlib's global state."""

from __future__ import annotations

import csv
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from simclr_tf import plots

NAMES = ["cat", "dog", "bird"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "plots" / "figure.png"


def pixels(path):
    """The figure, uint8 [H, W, 3]."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def shows(path, colour):
    """Tells whether at least 20 pixels are about this colour, "#rrggbb" or (r, g, b)."""
    if isinstance(colour, str):
        colour = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(pixels(path).astype(int) - colour).max(axis=-1) <= 4).sum() >= 20


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_columns_of_a_csv_file_are_numbers_or_nan(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,loss,knn\n1,6.5,\n2,5.25,NA\n3,nan,0.5\n")
    with open(tmp_path / "metrics.csv", newline="") as file:
        series = plots.series_of(csv.DictReader(file))
    np.testing.assert_array_equal(series["epoch"], [1, 2, 3])
    np.testing.assert_array_equal(series["loss"], [6.5, 5.25, np.nan])
    np.testing.assert_array_equal(series["knn"], [np.nan, np.nan, 0.5])
    assert plots.series_of([]) == {}


def test_curves_leave_out_what_was_not_measured():
    series = {"train": [3.0, 2.0, 1.5], "validation": [np.nan, 2.5, np.nan]}
    figure = plots.plot_curves(
        series, title="Loss", x=[2, 4, 6], levels={"start": 3.2, "floor": 0.5}
    )
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["train"] == [[2, 3.0], [4, 2.0], [6, 1.5]]
    assert lines["validation"] == [[4, 2.5]]
    assert texts(axes) == ["start 3.20", "floor 0.50"]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"train", "validation"}


def test_curves_as_percentages_and_with_one_name(path):
    plots.plot_curves({"kNN": np.linspace(0.1, 0.9, 40)}, path, title="Accuracy", percent=True)
    assert shows(path, plots.COLOURS[0])


def test_curves_of_a_run_that_measured_nothing(path):
    plots.plot_curves({"train": [np.nan, np.nan]}, path, title="Loss")
    assert pixels(path).size


def test_a_confusion_matrix_writes_each_count_at_its_place():
    matrix = np.array([[10, 2, 0], [1, 30, 4], [0, 0, 5]])
    figure = plots.plot_confusion_matrix(matrix, NAMES)
    axes = figure.axes[0]
    written = {text.get_position(): int(text.get_text()) for text in axes.texts}
    assert written == {(c, r): matrix[r, c] for r in range(3) for c in range(3)}
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES


@pytest.mark.parametrize("count", [1, 2, 25, 100])
def test_a_confusion_matrix_of_any_number_of_classes(path, count):
    names = [f"class {index}" for index in range(count)]
    plots.plot_confusion_matrix(np.zeros((count, count), int), names, path)
    height, width, _ = pixels(path).shape
    assert max(height, width) < 2_000


def test_bars_write_their_values():
    shares = plots.plot_bars(NAMES, [0.18, 0.3, 0.876], title="Accuracy", percent=True)
    speeds = plots.plot_bars(NAMES, [1.0, 25.0, 300.0], title="Speed", errors=[0.1, 2.0, 9.0])
    percentages, numbers = shares.axes[0], speeds.axes[0]
    assert texts(percentages) == ["18.0 %", "30.0 %", "87.6 %"]
    assert texts(numbers) == ["1", "25", "300"]
    assert [bar.get_width() for bar in numbers.patches] == [1.0, 25.0, 300.0]
    assert [label.get_text() for label in percentages.get_yticklabels()] == NAMES
    # Shares are seen as shares of the whole width, however small the largest is.
    assert percentages.get_xlim()[1] >= 1.0 and numbers.get_xlim()[1] < 400.0


def test_bars_that_are_all_zero(path):
    plots.plot_bars(NAMES, np.zeros(3), path, title="Accuracy", percent=True)
    assert pixels(path).size


def test_an_embedding_gives_each_class_its_points(rng):
    points, labels = rng.normal(size=(30, 2)), rng.integers(0, 2, 30)
    figure = plots.plot_embedding(points, labels, NAMES, title="t-SNE")
    (axes,) = figure.axes
    for index, drawn in enumerate(axes.collections):
        np.testing.assert_allclose(drawn.get_offsets(), points[labels == index])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == NAMES


def test_an_embedding_of_more_classes_than_colours(path, rng):
    names = [f"class {index}" for index in range(23)]
    plots.plot_embedding(rng.normal(size=(46, 2)), np.arange(46) % 23, names, path, title="PCA")
    assert pixels(path).size


def test_images_are_shown_pixel_by_pixel(path):
    red, green = np.full((4, 4, 3), (200, 10, 20), np.uint8), np.full((4, 8, 3), (0.0, 0.8, 0.2))
    plots.plot_images([[red, green]], path, row_titles=["row"], column_titles=["left", "right"])
    assert shows(path, (200, 10, 20))
    assert shows(path, (0, 204, 51))


def test_rows_of_images_may_differ_in_length_and_size(path, rng):
    grid = [[rng.random((5, 9, 3)), rng.random((7, 7, 3)) * 3.0 - 1.0], [rng.random((2, 2, 3))]]
    plots.plot_images(grid, path, title="Sizes")
    assert pixels(path).size


def test_views_stand_beside_their_image(images):
    views = images[:3, np.newaxis, :6, :6].repeat(4, axis=1) / 255.0  # [3, 4, 6, 6, 3]
    figure = plots.plot_views(images[:3], views)
    (axes,) = figure.axes
    shown = [np.asarray(drawn.get_array()) for drawn in axes.images]
    assert [s.shape[:2] for s in shown[:5]] == [(12, 16), *[(6, 6)] * 4]
    np.testing.assert_array_equal(shown[5], images[1])
    assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["image", "view 1"]


def test_views_need_as_many_images(path, images):
    with pytest.raises(ValueError):
        plots.plot_views(images[:3], [[images[0]]] * 2, path)


def test_histograms_count_the_values_of_all_channels(rng):
    images = rng.random((3, 5, 7, 3), np.float32)
    images[0, 0, 0] = 0.0, 1.0, 0.999  # the last bin holds its upper edge
    histograms = plots.histograms_of(images, bins=4)
    bins = np.minimum(np.floor(4 * images.astype(np.float64)), 3).reshape(3, -1)
    expected = [[np.mean(row == number) for number in range(4)] for row in bins]
    np.testing.assert_allclose(histograms, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(histograms.sum(axis=1), 1.0)


def test_histograms_stand_beside_their_image(images, rng):
    histograms = rng.random((2, 3, 4, 8))  # 2 images, 3 columns, 4 lines, 8 bins
    histograms[..., -1] = 5.0  # what is cut off at white hides nothing else
    figure = plots.plot_histograms(images[:2], histograms, column_titles=NAMES, title="Values")
    panels = np.reshape(figure.axes, (2, 4))
    for row, (left, *right) in enumerate(panels):
        np.testing.assert_array_equal(left.images[0].get_array(), images[row])
        for panel, lines in zip(right, histograms[row], strict=True):
            drawn = [line.get_data() for line in panel.patches if not line.get_fill()]
            np.testing.assert_array_equal([line.values for line in drawn], lines)
            np.testing.assert_allclose(drawn[0].edges, np.arange(9) / 8)
            assert panel.get_ylim() == right[0].get_ylim()
            assert panel.get_ylim()[1] < 1.2
    assert [panel.get_title() for panel in panels[0]] == ["", *NAMES]


@pytest.mark.parametrize("rows", [1, 4])
def test_histograms_of_few_and_of_black_images(path, rows):
    black = np.zeros((rows, 6, 6, 3))
    histograms = plots.histograms_of(black).reshape(rows, 1, 1, -1)
    plots.plot_histograms(black, histograms, path, column_titles=["black"])
    height, width, _ = pixels(path).shape
    assert max(height, width) < 2_000


def test_the_palette_has_a_colour_for_each_class_and_one_for_the_rest():
    palette = plots.mask_palette(21).astype(int)
    assert plots.mask_palette(21).dtype == np.uint8 and palette.shape == (256, 3)
    assert palette[0].max() < 64  # dark
    for number, colour in enumerate(plots.COLOURS, start=1):
        assert bytes(palette[number].tolist()).hex() == colour[1:]
    assert (palette[21:] == palette[255]).all() and palette[255].min() > 200  # light gray
    np.testing.assert_array_equal(plots.mask_palette(150)[:21], palette[:21])
    for count, least in ((12, 30), (60, 30), (255, 15)):
        own = plots.mask_palette(count)[: count + 1].astype(int)
        gaps = np.abs(own[:, np.newaxis] - own).sum(axis=-1) + 999 * np.eye(len(own), dtype=int)
        assert gaps.min() >= least, (count, gaps.min())
    assert len(np.unique(plots.mask_palette(256), axis=0)) == 256


def test_masks_in_colours_and_over_an_image(rng):
    mask = np.array([[0, 1, 2], [3, 255, 1]], np.uint8)
    palette = plots.mask_palette(3)
    coloured = plots.colour_masks(mask, 3)
    assert coloured.dtype == np.uint8
    np.testing.assert_array_equal(coloured[0], palette[:3])
    np.testing.assert_array_equal(coloured[1, :2], palette[[255, 255]])
    image = rng.integers(0, 256, (2, 3, 3), np.uint8)
    over = plots.overlay_masks(image, mask, 3, alpha=0.25)
    assert over.dtype == np.uint8
    expected = 0.75 * image + 0.25 * coloured
    expected[1, :2] = image[1, :2]  # no class
    np.testing.assert_allclose(over, expected, atol=1)
    np.testing.assert_allclose(plots.overlay_masks(image / 255.0, mask, 3, 0.25), over, atol=1)
    np.testing.assert_array_equal(plots.overlay_masks(image, mask, 256, 0.0), image)
    np.testing.assert_array_equal(
        plots.overlay_masks(image, mask, 256, 1.0), plots.colour_masks(mask, 256)
    )


def shown_in(figure):
    return [np.asarray(drawn.get_array()) for drawn in figure.axes[0].images]


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("ignore_label", [255, 2, None])
def test_a_segmentation_shows_where_it_is_wrong(ignore_label):
    image = np.full((2, 4, 3), 90, np.uint8)
    truth = np.array([[0, 1, 1, 0], [0, 2 if ignore_label is None else ignore_label, 0, 1]])
    prediction = np.array([[0, 1, 0, 0], [1, 0, 0, 1]], np.uint8)
    figure = plots.plot_segmentation(
        [image, image[:, :1]],
        [truth.astype(np.uint8), truth[:, :1].astype(np.uint8)],
        [prediction, prediction[:, :1]],
        class_names=NAMES,
        ignore_label=ignore_label,
        title="Test",
        iou=[0.5, float("nan")],
    )
    first = shown_in(figure)[:4]
    palette = plots.mask_palette(3)
    np.testing.assert_array_equal(first[0], image)
    np.testing.assert_array_equal(first[2], palette[prediction])
    ignored = np.zeros((2, 4), bool)
    ignored[1, 1] = ignore_label is not None
    np.testing.assert_array_equal(first[1][~ignored], palette[truth[~ignored]])
    np.testing.assert_array_equal(first[1][ignored], np.tile(palette[255], (ignored.sum(), 1)))
    red = np.array([0xE0, 0x18, 0x2D])
    wrong = (prediction != truth) & ~ignored
    np.testing.assert_array_equal((first[3] == red).all(axis=-1), wrong)
    assert len(np.unique(first[3][~wrong & ~ignored], axis=0)) == 1  # the gray image
    assert (first[3][ignored] == palette[255]).all()
    assert shown_in(figure)[7].shape == (2, 1, 3)
    names = ["cat", "dog"] + (["bird"] if ignore_label is None else ["ignored"])
    assert legend_of(figure) == [*names, "wrong"]
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ticks == ["IoU 0.50", ""]


@pytest.mark.parametrize("count", [1, 3, 16])
def test_a_segmentation_without_truth_shows_overlays(rng, count):
    sizes = rng.integers(1, 40, (count, 2))
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    masks = [rng.integers(0, 2, size).astype(np.uint8) for size in sizes]
    figure = plots.plot_segmentation(images, None, masks, class_names=NAMES)
    drawn = shown_in(figure)
    assert len(drawn) == 3 * count
    for image, mask, *shown in zip(
        images, masks, drawn[::3], drawn[1::3], drawn[2::3], strict=True
    ):
        np.testing.assert_array_equal(shown[0], image)
        np.testing.assert_array_equal(shown[1], plots.colour_masks(mask, 3))
        np.testing.assert_array_equal(shown[2], plots.overlay_masks(image, mask, 3))
    extents = np.array([shown.get_extent() for shown in figure.axes[0].images])
    right, bottom = figure.axes[0].get_xlim()[1], figure.axes[0].get_ylim()[0]
    assert (extents[:, 0] >= -0.5).all() and (extents[:, 1] <= right).all()
    assert (extents[:, 3] >= 0).all() and (extents[:, 2] <= bottom).all()


@pytest.mark.parametrize("count", [2, 256])
def test_a_segmentation_of_few_and_of_many_classes_is_readable(path, count):
    mask = (np.arange(256) % count).reshape(16, 16).astype(np.uint8)
    names = [f"class {index}" for index in range(count)]
    image = np.zeros((16, 16, 3), np.uint8)
    plots.plot_segmentation([image], [mask], [mask], path, class_names=names)
    height, width, _ = pixels(path).shape
    assert height < width < 2_000
    assert shows(path, plots.COLOURS[0])
    # The legend of many leaves the images their room: black is that of the first one.
    assert (pixels(path).max(axis=-1) == 0).sum() > 0.01 * height * width


def test_captions_stand_with_their_images(images):
    captions = [f"class {index}" for index in range(5)]
    figure = plots.plot_captioned(images[:5], captions, title="Classes")
    panels = figure.axes
    assert [panel.get_title() for panel in panels if panel.images] == captions
    for panel, image in zip(panels, images[:5], strict=False):
        np.testing.assert_array_equal(panel.images[0].get_array(), image)


def test_figures_leave_the_global_state_of_matplotlib_alone(path):
    script = (
        "import sys; from simclr_tf import plots; assert 'matplotlib' not in sys.modules\n"
        f"plots.plot_bars(['a'], [1.0], {str(path)!r}, title='t')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_figure_is_returned_and_written_only_where_a_path_is_given(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    images = np.zeros((2, 3, 8, 8, 3), np.uint8)
    assert len(plots.plot_images(images).axes[0].images) == 6
    assert list(tmp_path.iterdir()) == []
    assert len(plots.plot_views(images[:, 0], images, path).axes[0].images) == 8
    assert path.exists()


def test_fractions_have_a_point_for_each_share_and_bars_over_seeds():
    finetune = {"1.0": 0.9, "0.01": [0.4, 0.6], "0.1": [0.7, np.nan]}
    figure = plots.plot_fractions(finetune, {"0.1": np.nan, "1.0": 0.8})
    (axes,) = figure.axes
    first, second = axes.containers
    np.testing.assert_allclose(first[0].get_xydata(), [[0.01, 0.5], [0.1, 0.7], [1.0, 0.9]])
    np.testing.assert_allclose(second[0].get_xydata(), [[1.0, 0.8]])
    (bars,) = first[2]
    np.testing.assert_allclose(bars.get_segments()[0], [[0.01, 0.4], [0.01, 0.6]])
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1 %", "10 %", "100 %"]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["fine-tuned", "supervised"]


@pytest.mark.parametrize("finetune", [{}, {"0.5": 0.3}, {0.1: np.nan}])
def test_fractions_of_little_are_drawn(path, finetune):
    plots.plot_fractions(finetune, {}, path)
    assert pixels(path).size


def test_a_pair_of_maps_has_one_legend_and_tells_test_from_train(rng):
    first, second = rng.normal(size=(2, 30, 2))
    labels, is_test = np.arange(30) % 3, np.arange(30) >= 20
    figure = plots.plot_pair(first, second, labels, NAMES, is_test=is_test)
    for panel, points in zip(figure.axes, (first, second), strict=True):
        drawn = panel.collections
        assert len(drawn) == 6  # classes of train, then of test
        for index in range(3):
            own = labels == index
            np.testing.assert_array_equal(drawn[index].get_offsets(), points[own & ~is_test])
            np.testing.assert_array_equal(drawn[3 + index].get_offsets(), points[own & is_test])
            assert drawn[index].get_linewidths()[0] == 0 < drawn[3 + index].get_linewidths()[0]
        assert panel.get_legend() is None
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*NAMES, "train", "test"]


@pytest.mark.parametrize("count", [1, 57])
def test_a_pair_of_maps_without_splits_of_any_number_of_classes(path, rng, count):
    points, names = rng.normal(size=(60, 2)), [f"class {index}" for index in range(count)]
    plots.plot_pair(points, points, np.arange(60) % count, names, path, title="t-SNE")
    assert shows(path, plots.COLOURS[0]) or count > 1
    assert pixels(path).size


def test_a_dollar_in_a_name_is_no_formula(tmp_path):
    names = ["a $x_$", "b^{$", r"$\frac$"]
    image = np.zeros((6, 6, 3), np.uint8)
    plots.plot_captioned([image] * 3, names, tmp_path / "a.png", title="/x/$a_$/b")
    plots.plot_bars(names, [1.0, 2.0, 3.0], tmp_path / "b.png", title="$_$")
    plots.plot_confusion_matrix(np.eye(3, dtype=int), names, tmp_path / "c.png")
    masks = [np.arange(36, dtype=np.uint8).reshape(6, 6) % 3]
    plots.plot_segmentation([image], masks, masks, tmp_path / "d.png", class_names=names)
    assert {path.stat().st_size > 1000 for path in tmp_path.iterdir()} == {True}
