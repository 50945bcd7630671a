"""What all tasks do alike, from end to end: data, mistakes, numbers that are not finite."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiny_runs import (
    TINY,
    classify,
    pretrain,
    results_of,
)

import main
from simclr_tf import plots
from simclr_tf.runs.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("shallow")


def curves_drawn(monkeypatch):
    """The arguments of each figure of curves by its file's name."""
    drawn: dict[str, dict] = {}

    def note(series, path, **options):
        drawn[path.name] = dict(series)

    monkeypatch.setattr(plots, "plot_curves", note)
    return drawn


def test_curves_end_with_what_is_reported(pictures, tmp_path, monkeypatch):
    """Of three epochs, looked at after every second."""
    drawn = curves_drawn(monkeypatch)
    flags = ("--num_epochs=3", "--eval_every_epochs=2")
    assert pretrain(tmp_path / "p", pictures, *flags, "--val_fraction=0.25") == 0
    knn = drawn["accuracy.png"]["knn_accuracy"]
    assert np.isnan(knn).tolist() == [False, True, False, False]
    assert knn[-1] == pytest.approx(results_of(tmp_path / "p")["knn_accuracy"])
    assert np.isnan(drawn["loss.png"]["val_loss"]).tolist() == [True, True, False, False]
    assert classify(tmp_path / "c", tmp_path / "p", pictures, *flags) == 0
    test = drawn["accuracy.png"]["test"]
    assert np.isnan(test).tolist()[-3:] == [True, False, False]
    assert test[-1] == pytest.approx(results_of(tmp_path / "c")["accuracy"], abs=1e-4)


def test_images_of_several_sizes_and_formats(tmp_path):
    rng = np.random.default_rng(1)
    root = tmp_path / "mixed"
    root.mkdir()
    for i, (height, width) in enumerate([(20, 30), (41, 17), (16, 16), (33, 64)] * 3):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        extension = ("jpg", "png", "webp", "bmp", "gif")[i % 5]
        Image.fromarray(pixels).save(root / f"{i}.{extension}")
    run = tmp_path / "run"
    assert pretrain(run, root, "--input_size=16 16", "--blur", "--rotate", "--cutout") == 0
    assert "knn_accuracy" not in results_of(run)  # no labels
    assert pretrain(tmp_path / "other", root) == 2  # no size to bring them to


def test_the_lists_of_the_readme(lists, tmp_path):
    train, val = lists
    run = f"--pretrain_save_path={tmp_path / 'p'}"
    size = "--input_size=24 24"
    flags = [size, f"--train_file_path={train}", "--num_epochs=1", run]
    assert main.main(["--task=pretrain", *flags, *TINY]) == 0
    for name, more in {"with": [f"--val_file_path={val}"], "without": []}.items():
        folder = tmp_path / name
        command = ["--task=classification", "--num_classes=5", "--freeze=True", "--batch_size=8"]
        assert main.main([*command, *flags, *more, f"--finetune_save_path={folder}"]) == 0
        results = results_of(folder)
        assert results["num_test"] == (18 if more else 3)
        assert len(results["confusion_matrix"]) == 5


def test_nothing_but_the_task_is_needed(full_depth, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(["--task=pretrain", "--max_steps=2"]) == 0
    assert results_of(tmp_path / "logs/pretrain")["config"]["dataset"] == "shapes"
    assert main.main(["--task=classification", "--freeze=True", "--max_steps=3"]) == 0
    assert results_of(tmp_path / "logs/finetune")["num_test"] == 1000


def test_an_npz_file(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "data.npz"
    x, y = rng.integers(0, 256, (24, 16, 16), np.uint8), np.arange(24) % 3
    np.savez(file, x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    flags = [f"--dataset=npz:{file}", "--num_epochs=1", *TINY]
    assert main.main(["--task=pretrain", f"--pretrain_save_path={tmp_path / 'p'}", *flags]) == 0
    assert 0 <= results_of(tmp_path / "p")["knn_accuracy"] <= 1


def test_mistakes_have_one_clear_line(pictures, lists, tmp_path, capsys):
    bad = tmp_path / "bad"
    (bad / "a").mkdir(parents=True)
    for i in range(9):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(bad / "a" / f"{i}.png")
    (bad / "a" / "torn.png").write_bytes((bad / "a" / "8.png").read_bytes()[:50])
    (tmp_path / "empty").mkdir()
    train, _ = lists
    no_label = tmp_path / "no_label.txt"
    no_label.write_text(train.read_text().replace(",2", "", 1))
    missing = tmp_path / "missing.txt"
    missing.write_text("nowhere.jpg,0\n")
    blocked = tmp_path / "file"
    blocked.write_text("")
    run = f"--pretrain_save_path={tmp_path / 'p'}"
    pre = ["--task=pretrain", run, *TINY]
    cla = ["--task=classification", "--init_weights=none", "--batch_size=4"]
    cla.append(f"--finetune_save_path={tmp_path / 'f'}")
    cases = {
        "nothing.txt": [*pre, f"--train_file_path={tmp_path / 'nothing.txt'}"],
        "missing.txt line 1": [*pre, f"--train_file_path={missing}"],
        f"images (.jpg, .jpeg, .png, .bmp, .gif, .webp) in {tmp_path / 'empty'}": [
            *pre,
            f"--dataset=folder:{tmp_path / 'empty'}",
        ],
        "no_label.txt line 14": [*cla, f"--train_file_path={no_label}"],
        "line 14: label 2 is outside 0..1 (--num_classes=2). Pass --num_classes=3": [
            *cla,
            "--num_classes=2",
            f"--train_file_path={train}",
        ],
        "torn.png": [*pre, f"--dataset=folder:{bad}"],
        "--batch_size=36 or less": [*pre[:-3], "--batch_size=99", f"--dataset=folder:{pictures}"],
        "Did you mean --temperature": [*pre, "--temprature=1"],
        str(blocked): [
            "--task=pretrain",
            f"--dataset=folder:{pictures}",
            f"--pretrain_save_path={blocked}/run",
        ],
        "--init_weights": [*cla, f"--train_file_path={train}", "--init_weights=/nowhere"],
        "TF_CONFIG": [*pre, f"--dataset=folder:{pictures}", "--strategy=multiworker"],
        "Expected labels": [*cla, f"--dataset=folder:{pictures / 'red'}"],
    }
    for expected, command in cases.items():
        code = main.main(command)
        error = capsys.readouterr().err
        assert code == 2, (expected, error)
        assert expected in error, (expected, error)
        assert "Traceback" not in error


def test_bad_images_are_left_out_and_counted(tmp_path, capsys):
    root = tmp_path / "some"
    root.mkdir()
    for i in range(10):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(root / f"{i}.png")
    (root / "bad.jpg").write_bytes(b"no image")
    for cache in ("auto", "false"):
        flags = ("--skip_bad_images", f"--cache={cache}", "--input_size=16", "--max_steps=1")
        assert pretrain(tmp_path / cache, root, *flags) == 0
        assert "10 images" in (out := capsys.readouterr().out)
        assert "1 bad image left out" in out


DIVERGING = ("--optimizer=sgd", "--learning_rate=1e30", "--warmup_epochs=0")


def test_numbers_that_are_not_finite_stop_and_leave_no_checkpoint(pictures, tmp_path, capsys):
    assert pretrain(tmp_path, pictures, *DIVERGING, "--similarity=dot") == 2
    error = capsys.readouterr().err
    assert "Expected a finite loss" in error and "at step 1," in error
    assert "learning rate of 3.125e+28" in error and "--warmup_epochs" in error
    assert not Checkpoints(tmp_path / "checkpoints").files()
    flags = (*DIVERGING, "--init_weights=none")
    assert classify(tmp_path / "classes", tmp_path, pictures, *flags) == 2
    error = capsys.readouterr().err
    assert "Expected a finite loss" in error and "learning rate of 1e+30" in error
    assert not Checkpoints(tmp_path / "classes/checkpoints").files()
