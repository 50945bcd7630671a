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


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, for a look at what they hold."""
    saved = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: saved.append(figure))
    return saved


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


def test_curves_leave_out_what_was_not_measured(figures, path):
    series = {"train": [3.0, 2.0, 1.5], "validation": [np.nan, 2.5, np.nan]}
    plots.plot_curves(series, path, title="Loss", x=[2, 4, 6], levels={"start": 3.2, "floor": 0.5})
    (axes,) = figures[0].axes
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


def test_a_confusion_matrix_writes_each_count_at_its_place(figures, path):
    matrix = np.array([[10, 2, 0], [1, 30, 4], [0, 0, 5]])
    plots.plot_confusion_matrix(matrix, NAMES, path)
    axes = figures[0].axes[0]
    written = {text.get_position(): int(text.get_text()) for text in axes.texts}
    assert written == {(c, r): matrix[r, c] for r in range(3) for c in range(3)}
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES


@pytest.mark.parametrize("count", [1, 2, 25, 100])
def test_a_confusion_matrix_of_any_number_of_classes(path, count):
    names = [f"class {index}" for index in range(count)]
    plots.plot_confusion_matrix(np.zeros((count, count), int), names, path)
    height, width, _ = pixels(path).shape
    assert max(height, width) < 2_000


def test_bars_write_their_values(figures, path):
    plots.plot_bars(NAMES, [0.18, 0.3, 0.876], path, title="Accuracy", percent=True)
    plots.plot_bars(NAMES, [1.0, 25.0, 300.0], path, title="Speed", errors=[0.1, 2.0, 9.0])
    percentages, numbers = (figure.axes[0] for figure in figures)
    assert texts(percentages) == ["18.0 %", "30.0 %", "87.6 %"]
    assert texts(numbers) == ["1", "25", "300"]
    assert [bar.get_width() for bar in numbers.patches] == [1.0, 25.0, 300.0]
    assert [label.get_text() for label in percentages.get_yticklabels()] == NAMES


def test_bars_that_are_all_zero(path):
    plots.plot_bars(NAMES, np.zeros(3), path, title="Accuracy", percent=True)
    assert pixels(path).size


def test_an_embedding_gives_each_class_its_points(figures, path, rng):
    points, labels = rng.normal(size=(30, 2)), rng.integers(0, 2, 30)
    plots.plot_embedding(points, labels, NAMES, path, title="t-SNE")
    (axes,) = figures[0].axes
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


def test_views_stand_beside_their_image(figures, path, images):
    views = images[:3, np.newaxis, :6, :6].repeat(4, axis=1) / 255.0  # [3, 4, 6, 6, 3]
    plots.plot_views(images[:3], views, path)
    (axes,) = figures[0].axes
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


def test_histograms_stand_beside_their_image(figures, path, images, rng):
    histograms = rng.random((2, 3, 4, 8))  # 2 images, 3 columns, 4 lines, 8 bins
    histograms[..., -1] = 5.0  # what is cut off at white hides nothing else
    plots.plot_histograms(images[:2], histograms, path, column_titles=NAMES, title="Values")
    panels = np.reshape(figures[0].axes, (2, 4))
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


def test_figures_leave_the_global_state_of_matplotlib_alone(path):
    script = (
        "import sys; from simclr_tf import plots; assert 'matplotlib' not in sys.modules\n"
        f"plots.plot_bars(['a'], [1.0], {str(path)!r}, title='t')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
