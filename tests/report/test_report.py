"""The report of an evaluation: valid, closed in itself, escaped, and never at a loss."""

from __future__ import annotations

import base64
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from simclr_tf.errors import UserError
from simclr_tf.report import Report, build_report, read_report
from simclr_tf.report.comparison import best_of, differing_settings
from simclr_tf.report.measures import Measure, fractions_of, measure_of, protocol_name

HOSTILE = "</td><script>alert('x')</script>\"'&amp;"
VOID = {"br", "col", "img", "meta"}
NAMES = ["cat", "dog", "bird", "fish", "cow", "hen"]


class Page(HTMLParser):
    """Parses a document strictly: every element is closed, in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, first):
        return next(row for row in self.rows if row[0] == first)

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def protocol(*accuracies, **settings):
    return {
        "accuracy": list(accuracies),
        "mean": float(np.mean(accuracies)),
        "std": float(np.std(accuracies)),
        "top5": 0.987,
        "f1_macro": accuracies[0] - 0.1,
        "confusion_matrix": (np.eye(6, dtype=int) * 40 + np.arange(36).reshape(6, 6)).tolist(),
        "settings": settings,
        "seconds": 12.5,
    }


@pytest.fixture
def results():
    return {
        "task": "evaluate",
        "date": "2025-03-04",
        "config": {"dataset": "shapes", "temperature": 0.1, "finetune_save_path": "a"},
        "versions": {"simclr_tf": "0.1.0"},
        "device": "CPU",
        "seconds": 90.0,
        "num_train": 5000,
        "num_test": 1000,
        "class_names": NAMES,
        "command": ["python", "main.py", "--task=evaluate", "--pretrain_save_path=a b"],
        "protocols": {
            "knn": protocol(0.8123, k=20, chosen_on="a held-back tenth"),
            "linear_probe": protocol(0.80, 0.84, learning_rate=0.1),
        },
        "baselines": {"raw_pixels": 0.31, "pca": 0.36, "random_encoder": 0.45},
        "finetune": {"0.01": 0.5, "0.1": [0.70, 0.72], "1.0": 0.9},
        "supervised": {"0.01": 0.2, "1.0": 0.85},
        "health": {
            "alignment": 0.3, "uniformity": -3.1, "effective_rank": 77.0, "feature_spread": 0.9,
            "per_dimension_spread": [2.0, 1.0, 0.001],
        },
        "z": {"knn": 0.7623},
    }  # fmt: skip


@pytest.fixture
def pictures(tmp_path):
    names = ["fractions.png", "tsne.png", "confusion_matrix_knn.png", "loss.png", "neighbours.png"]
    found = {}
    (tmp_path / "plots").mkdir()
    for index, name in enumerate(names):
        path = tmp_path / "plots" / name
        Image.new("RGB", (40 + index, 30), (index, 0, 0)).save(path)
        found[name] = path
    return found


def check_document(text):
    """What holds of every report; returns it parsed."""
    assert text.startswith("<!DOCTYPE html>")
    text.encode("utf-8")
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "srcset", "data", "poster", "action", "xlink:href"}:
                assert value.startswith(("data:image/", "#"))
    assert not re.search(r"url\(|@import|@font-face", text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {a["href"][1:] for a in page.named("a")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert len(page.named("caption")) == len(page.named("table"))
    assert all(attributes.get("scope") for attributes in page.named("th"))
    assert all(image["alt"] and image["width"] for image in page.named("img"))
    assert page.named("html")[0]["lang"] == "en"
    viewport = [meta for meta in page.named("meta") if meta.get("name") == "viewport"]
    assert "width=device-width" in viewport[0]["content"]
    return page


def test_a_report_tells_what_was_measured(results, pictures):
    page = check_document(build_report([Report("my run", results, pictures)]))
    assert page.row("nearest neighbours") == [
        "nearest neighbours", "81.2 %", "98.7 %", "71.2 %", "12.5", "k 20; on a held-back tenth",
    ]  # fmt: skip
    assert page.row("linear probe (2 seeds)")[1] == "82.0 ± 2.0 %"
    assert page.row("logistic regression")[1] == "not measured"
    assert page.row("PCA of the pixels")[1] == "36.0 %"
    assert page.row("1 %") == ["1 %", "50.0 %", "20.0 %", "+30.0"]
    assert page.row("10 %") == ["10 %", "71.0 ± 1.0 %", "not measured", ""]
    assert page.row("effective rank")[1] == "77"
    words = page.words
    for text in (
        "Evaluation of my run", "2025-03-04", "shapes", "5,000 to train on, 1,000 to test on",
        "6: cat, dog", "python main.py --task=evaluate '--pretrain_save_path=a b'",
        "1 of the 3 drawn", "Not drawn: Accuracy.", "temperature",
    ):  # fmt: skip
        assert text in words, text
    assert [row for row in page.rows if row == ["nearest neighbours", "81.2 %", "76.2 %", "+5.0"]]


def test_of_images_without_labels_nothing_is_said_to_be_missing_that_needs_some(results, pictures):
    kept = {"health", "config", "date", "device", "seconds", "num_train", "num_test"}
    bare = {name: value for name, value in results.items() if name in kept}
    bare |= {"labelled": False, "class_names": [], "notes": ["Not every image has a label <3>."]}
    drawn = {name: pictures[name] for name in ("tsne.png", "loss.png")}
    page = check_document(build_report([Report("bare", bare, drawn)]))
    assert "Not every image has a label <3>." in page.words
    assert "images without labels" in page.words and "effective rank" in page.words
    for absent in ("Accuracy on the test images", "Confusion", "Fine-tuned", "share of the labels"):
        assert absent not in page.words, absent
    assert "Not drawn: Nearest neighbours, Accuracy." in page.words
    both = check_document(build_report([Report("bare", bare), Report("full", results)]))
    assert "bare. Not every image has a label <3>." in both.words


def test_bars_have_the_length_of_their_accuracy(results):
    page = check_document(build_report([Report("run", results)]))
    widths = [a["style"] for a in page.named("span") if a.get("class", "").startswith("bar")]
    assert widths[:2] == ["width:81.2%", "width:82.0%"]
    assert {"width:31.0%", "width:36.0%", "width:45.0%"} <= set(widths)


def test_pictures_are_inside_unchanged(results, pictures):
    text = build_report([Report("run", results, pictures)])
    page = check_document(text)
    held = {base64.b64decode(image["src"].split(",", 1)[1]) for image in page.named("img")}
    assert held == {path.read_bytes() for path in pictures.values()}
    assert len(page.named("img")) == len(pictures)
    assert {image["width"] for image in page.named("img")} == {"40", "41", "42", "43", "44"}
    assert "Confusion matrix, nearest neighbours, run" in {a["alt"] for a in page.named("img")}


def test_the_size_is_that_of_the_pictures_and_little_more(results, pictures, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    plain = len(build_report([Report("run", results)]))
    large = len(build_report([Report("run", results, {"noise.png": tmp_path / "noise.png"})]))
    expected = plain + (tmp_path / "noise.png").stat().st_size * 4 / 3
    assert plain < 60_000
    assert large == pytest.approx(expected, abs=1000)


def test_what_is_no_picture_is_said_to_be_none(results, tmp_path):
    (tmp_path / "drawing.svg").write_text("<svg onload='alert(1)'></svg>")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    names = ["drawing.svg", "cut.png", "absent.png"]
    page = check_document(build_report([Report("run", results, {n: tmp_path / n for n in names})]))
    assert not page.named("img")
    assert all(f"{name} could not be read" in page.words for name in names)


def hostile(value):
    """The same value with a hostile text for every text and key in it."""
    if isinstance(value, dict):
        return {
            key: hostile(inner)
            for name, inner in value.items()
            for key in (name, f"{name}{HOSTILE}")
        }
    if isinstance(value, list):
        return [hostile(inner) for inner in value]
    return f"{HOSTILE}{value}" if isinstance(value, str) else value


def test_every_text_is_escaped(results, pictures):
    wild = {f"{HOSTILE}{name}": path for name, path in pictures.items()} | pictures
    run = Report(HOSTILE, hostile(results), wild)
    for runs in ([run], [run, Report("other", results, pictures)]):
        page = check_document(build_report(runs))  # which finds no script
        assert "<script>alert('x')</script>" in page.words
        assert not {value for _, a in page.elements for value in a if "script" in value}


def test_texts_that_html_cannot_hold():
    config = {"dataset": "\udce9t\xe9", "train_file_path": "a\x00b\x1b[31m"}
    page = check_document(build_report([Report("r\ud800", {"config": config})]))
    assert "a\ufffdb\ufffd[31m" in page.words


PARTS = ("config", "versions", "class_names", "command", "protocols", "baselines", "finetune",
         "supervised", "health", "z", "date", "seconds", "num_test")  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_a_part_may_be_missing_null_or_of_another_form(results, part):
    others = [None, [], {}, "text", math.nan, True, 10**400, [[1]], {"knn": None}, {"0.1": "x"}]
    variants = [{**results, part: other} for other in others]
    variants.append({name: value for name, value in results.items() if name != part})
    for each in variants:
        check_document(build_report([Report("run", each)]))
        check_document(build_report([Report("run", each), Report("whole", results)]))


@pytest.mark.parametrize("kept", ["knn", "linear_probe"])
def test_parts_of_a_protocol_may_be_missing(results, kept):
    for name in list(results["protocols"][kept]):
        entry = {n: v for n, v in results["protocols"][kept].items() if n != name}
        for each in (entry, {**entry, name: None}, {**entry, name: "?"}, {name: entry}):
            check_document(build_report([Report("run", {**results, "protocols": {kept: each}})]))


def test_nothing_measured_is_said_to_be_so():
    page = check_document(build_report([Report("run", {})]))
    assert page.row("nearest neighbours")[1] == "not measured"
    assert page.row("random encoder")[1] == "not measured"
    for text in (
        "neither fine-tuning nor its supervised twin was run",
        "Spread of each dimension: not measured",
        "projections z: not measured",
        "Confusion matrices: not measured",
        "Not drawn: Accuracy by share of the labels, t-SNE",
    ):
        assert text in page.words


def test_accuracies_at_the_top_of_the_results_will_do():
    page = check_document(build_report([Report("run", {"knn": 0.5, "finetune": 0.75})]))
    assert page.row("nearest neighbours")[1] == "50.0 %"
    assert page.row("100 %")[1] == "75.0 %"


def test_top_5_of_few_classes_is_not_called_unmeasured(results):
    results["class_names"] = NAMES[:3]
    results["protocols"]["knn"]["top5"] = None
    page = check_document(build_report([Report("run", results)]))
    assert page.row("nearest neighbours")[2] == "only 3 classes"


def test_the_classes_confused_most_come_first(results):
    matrix = [[5, 0, 3], [9, 1, 0], [0, 0, 7]]
    results |= {"class_names": NAMES[:3], "protocols": {"knn": {"confusion_matrix": matrix}}}
    page = check_document(build_report([Report("run", results)]))
    first = page.rows.index(["true class", "taken for", "images", "of the class"]) + 1
    assert page.rows[first] == ["dog", "cat", "9", "90.0 %"]
    assert page.rows[first + 1] == ["cat", "bird", "3", "37.5 %"]
    assert ["dog", "9", "1", "0"] in page.rows


def test_a_thousand_classes_are_not_written_out(results):
    matrix = np.ones((300, 300), int).tolist()
    results["protocols"] = {"knn": {**protocol(0.5), "confusion_matrix": matrix}}
    assert len(build_report([Report("run", results)])) < 60_000


def bold_of(text, first):
    """Tells, of the first row of a measure, which runs' numbers are bold."""
    row = re.search(rf'<tr><th scope="row">{re.escape(first)}</th>(.*?)</tr>', text)[1]
    return ["<strong>" in cell for cell in row.split("<td")[1:]]


def test_a_comparison_marks_the_best_of_each_row(results, pictures):
    other = json.loads(json.dumps(results))
    other["protocols"]["knn"] = protocol(0.83)
    other["protocols"]["linear_probe"] = protocol(0.5)
    other["baselines"]["pca"] = 0.3601  # written alike
    other["health"] = {"alignment": 0.1}
    runs = [Report("first", results, pictures), Report("second", other), Report("third", {})]
    text = build_report(runs)
    page = check_document(text)
    assert ["measure", "first", "second", "third"] in page.rows
    cells = text[text.index('id="measures"') :]
    assert bold_of(cells, "nearest neighbours") == [False, True, False]
    assert bold_of(cells, "linear probe") == [True, False, False]
    assert bold_of(cells, "PCA of the pixels") == [False, False, False]
    assert bold_of(cells, "alignment") == [False, False, False]
    assert page.row("linear probe") == ["linear probe", "82.0 ± 2.0 %", "50.0 %", "not measured"]
    assert "logistic regression (Accuracy on h)" in page.words  # measured in no run
    assert len(page.named("img")) == len(pictures)
    assert "second: not drawn." in page.words


@pytest.mark.parametrize(
    ("means", "best"),
    [
        ([0.5, 0.6, 0.6001], {1, 2}),
        ([0.5, 0.5], set()),
        ([0.5, math.nan], set()),
        ([math.nan, 0.1, 0.2], {2}),
        ([], set()),
    ],
)
def test_the_best_is_the_highest_as_written(means, best):
    assert best_of([Measure(mean) for mean in means]) == best


def test_a_comparison_lists_the_settings_that_differ(results):
    other = json.loads(json.dumps(results))
    other["config"] |= {"temperature": 0.5, "finetune_save_path": "b", "num_epochs": 9}
    other["pretrain_config"] = {"blur": True}
    assert differing_settings([results, other]) == {
        "temperature": [0.1, 0.5],
        "num_epochs": [None, 9],
        "pretrain: blur": [None, True],
    }
    page = check_document(build_report([Report("a", results), Report("b", other)]))
    assert page.row("temperature") == ["temperature", "0.1", "0.5"]
    assert page.row("num_epochs") == ["num_epochs", "not set", "9"]
    assert "did not see the same data" not in page.words
    assert page.words.index("Settings that differ") < page.words.index("Means and standard")
    other["config"]["dataset"] = "cifar10"
    page = check_document(build_report([Report("a", results), Report("b", other)]))
    assert "did not see the same data (not alike: dataset)" in page.words


def test_runs_of_one_name_are_told_apart(results):
    page = check_document(build_report([Report("run", results), Report("run", results)]))
    assert ["measure", "run (1)", "run (2)"] in page.rows
    assert "All settings are the same." in page.words


def test_no_run_makes_no_report():
    with pytest.raises(ValueError, match="at least one evaluation"):
        build_report([])


def test_an_evaluation_is_read_back_from_its_folder(results, pictures, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "outside.png")
    results["pictures"] = ["tsne.png", "../outside.png", 7]
    (tmp_path / "results.json").write_text(json.dumps(results))
    report = read_report(tmp_path)
    assert (report.name, report.results) == (tmp_path.name, results)
    assert dict(report.pictures) == {"tsne.png": pictures["tsne.png"]}


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"task": "pretrain"}'])
def test_a_folder_without_an_evaluation_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match="Pass the folder of a finished `task=evaluate`"):
        read_report(tmp_path)


def test_measures_are_read_in_every_form():
    assert measure_of(0.5) == (0.5, pytest.approx(math.nan, nan_ok=True), 1)
    assert measure_of([0.4, 0.6]) == (0.5, pytest.approx(0.1), 2)
    assert measure_of({"accuracy": [0.4, 0.6]}) == (0.5, pytest.approx(0.1), 2)
    assert measure_of({"accuracy": [0.4, 0.6], "mean": 0.5, "std": 0.2}).spread == 0.2
    assert measure_of({"accuracy": [0.4], "mean": 0.4, "std": 0.0}).percent == "40.0 %"
    for nothing in (None, True, "0.5", [], {}, math.inf):
        assert measure_of(nothing).percent == "not measured"


def test_shares_of_the_labels_are_read_from_both_places():
    results = {
        "finetune": {"0.1": 0.7, "1.0": 0.9, "all": 0.8, "nan": 0.2},
        "protocols": {"finetune_0.1": {"accuracy": [0.6, 0.8]}, "finetune_0.01": {"mean": 0.3}},
    }
    found = fractions_of(results, "finetune")
    assert {share: m.percent for share, m in found.items()} == {
        0.01: "30.0 %", 0.1: "70.0 ± 10.0 %", 1.0: "90.0 %",
    }  # fmt: skip
    assert fractions_of(results, "supervised") == {}
    assert protocol_name("supervised_0.01") == "supervised, 1 % of the labels"
    assert protocol_name("finetune_2000") == "finetune 2000"
