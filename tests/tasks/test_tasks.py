"""The tasks from end to end, as the command line calls them: `main.main([...])`."""

from __future__ import annotations

import csv
import json
import pkgutil
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny import write_colour_classes

import main
from simclr_tf import plots
from simclr_tf.config.settings import Config
from simclr_tf.data import from_arrays
from simclr_tf.errors import UserError
from simclr_tf.evaluation.preparation import mean_and_deviation
from simclr_tf.runs.checkpoints import Checkpoints, read_arrays
from simclr_tf.tasks import classification
from simclr_tf.training import execution
from simclr_tf.workflow import start
from simclr_tf.workflow.plan import plan_steps
from simclr_tf.workflow.start import start_run

pytestmark = pytest.mark.usefixtures("shallow")

CLASSES = ("blue", "green", "red")
# As small as the contract allows: 4 channels, 16 pixels, 8 images a step.
TINY = ["--width_multiplier=0.0625", "--zdim=8", "--batch_size=8", "--precision=float32"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of 3 classes of 12 JPEGs, 16 pixels each, class by colour."""
    root = tmp_path_factory.mktemp("pictures")
    write_colour_classes(root, CLASSES, np.random.default_rng(0), file="{:02d}.jpg")
    return root


@pytest.fixture
def lists(pictures, tmp_path) -> tuple[Path, Path]:
    """Two list files, for training and validation, with labels."""
    lines = [
        f"{path},{label}"
        for label, name in enumerate(CLASSES)
        for path in sorted((pictures / name).iterdir())
    ]
    train, val = tmp_path / "train.txt", tmp_path / "val.txt"
    train.write_text("# images\n" + "\n".join(lines[::2]) + "\n\n")
    val.write_text("\n".join(lines[1::2]))
    return train, val


def pretrain(folder: Path, pictures: Path, *flags: str) -> int:
    return main.main(
        [
            "--task=pretrain",
            f"--dataset=folder:{pictures}",
            f"--pretrain_save_path={folder}",
            "--num_epochs=2",
            *TINY,
            *flags,
        ]
    )


def classify(folder: Path, pretrained: Path, pictures: Path, *flags: str) -> int:
    return main.main(
        [
            "--task=classification",
            f"--dataset=folder:{pictures}",
            f"--pretrain_save_path={pretrained}",
            f"--finetune_save_path={folder}",
            "--num_epochs=2",
            "--batch_size=8",
            "--precision=float32",
            *flags,
        ]
    )


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def final_arrays(folder: Path) -> dict[str, np.ndarray]:
    return read_arrays(Checkpoints(folder / "checkpoints").newest())


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = final_arrays(first), final_arrays(second)
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.fixture(scope="module")
def pretrained(pictures, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "pretrain"
    assert pretrain(folder, pictures, "--val_fraction=0.25", "--eval_every_epochs=1") == 0
    return folder


def test_images_that_fill_no_batch_are_named_where_they_are_many(pictures, tmp_path, capsys):
    flags = ("--val_fraction=0.25", "--max_steps=1")
    assert pretrain(tmp_path / "some", pictures, *flags) == 0
    said = capsys.readouterr().out
    assert "each epoch leaves out 3 of 27 images, others each time: they fill no batch" in said
    assert "the validation loss leaves out 1 of 9 images: they fill no batch" in said
    assert pretrain(tmp_path / "none", pictures, *flags, "--batch_size=9") == 0
    assert "leaves out" not in capsys.readouterr().out


@pytest.mark.parametrize("batch_size", [49, 32, 31])
def test_a_few_images_that_fill_no_batch_are_not_named(batch_size, capsys):
    """1 of 99, 3 of 99, 6 of 99."""
    config = Config.resolve(task="pretrain", batch_size=batch_size)
    plan_steps(config, from_arrays(np.zeros((99, 4, 4, 3), np.uint8)))
    assert ("leaves out" in capsys.readouterr().out) == (batch_size == 31)


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


def test_pretraining_leaves_what_the_contract_names(pretrained):
    results = results_of(pretrained)
    common = {"task", "config", "versions", "device", "seconds", "images_per_second"}
    own = {
        "loss",
        "contrastive_accuracy",
        "knn_accuracy",
        "steps",
        "epochs",
        "peak_memory_bytes",
        "baselines",
        "val_loss",
    }
    assert common | own <= results.keys()
    assert results["steps"] == 2 * (27 // 8)
    assert results["epochs"] == 2
    assert results["config"]["stem"] == "small"
    for name in ("config.yaml", "metrics.csv", "tensorboard/train", "checkpoints"):
        assert (pretrained / name).exists(), name
    plots = {path.name for path in (pretrained / "plots").iterdir()}
    assert plots == {"loss.png", "accuracy.png", "views.png"}
    with open(pretrained / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert float(rows[-1]["loss"]) == pytest.approx(results["loss"], abs=1e-3)
    assert rows[-1]["val_loss"]


def test_a_frozen_classifier_takes_the_encoder_as_it_was_trained(pretrained, pictures, tmp_path):
    assert classify(tmp_path, pretrained, pictures, "--freeze=True") == 0
    results = results_of(tmp_path)
    assert results["config"]["width_multiplier"] == 0.0625
    assert "step-000000006" in results["initial_weights"]
    assert results["num_train"] + results["num_test"] == 36
    assert np.sum(results["confusion_matrix"]) == results["num_test"]
    assert {"accuracy", "f1_macro"} <= results.keys()
    features = 32  # 512 x 0.0625
    assert results["trainable_parameters"] == features * 3 + 3
    encoder = {n: a for n, a in final_arrays(pretrained).items() if n.startswith("encoder/")}
    after = final_arrays(tmp_path)
    for name, array in encoder.items():  # running statistics of BatchNorm included
        np.testing.assert_array_equal(array, after[name], err_msg=name)


def test_a_frozen_encoder_keeps_its_statistics_with_augmentation(pretrained, pictures, tmp_path):
    assert classify(tmp_path, pretrained, pictures, "--freeze=True", "--flip=True") == 0
    before, after = final_arrays(pretrained), final_arrays(tmp_path)
    for name in (n for n in before if n.startswith("encoder/")):
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory) -> Path:
    """A folder of 2 classes of pictures of several sizes, and a run on them at 24x16 pixels."""
    root, rng = tmp_path_factory.mktemp("sizes"), np.random.default_rng(0)
    for name in ("dim", "bright"):
        (root / "pictures" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 200, (26 + i, 20 + i, 3), np.uint8) + 50 * (name == "bright")
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"pictures/{name}/{i}.png")
    assert pretrain(root / "run", root / "pictures", "--input_size=24 16", "--max_steps=1") == 0
    return root


def test_a_classifier_takes_the_size_of_the_run_it_begins_with(sizes, tmp_path, capsys):
    command = ["--task=classification", f"--dataset=folder:{sizes / 'pictures'}", "--freeze"]
    command += [f"--init_weights={sizes / 'run'}", "--precision=float32", "--num_epochs=2"]
    out = f"--finetune_save_path={tmp_path / 'out'}"
    capsys.readouterr()
    assert main.main([*command, out, "--max_steps=1"]) == 0
    assert "size: that of the run, --input_size='24 16'\n" in capsys.readouterr().out
    assert results_of(tmp_path / "out")["config"]["input_size"] == "24 16"
    assert main.main([*command, out, "--resume"]) == 0
    other = ["--input_size=16", f"--finetune_save_path={tmp_path / 'other'}"]
    assert main.main([*command, *other]) == 0
    assert results_of(tmp_path / "other")["config"]["input_size"] == "16 16"
    assert main.main([*command, "--overwrite", out, "--init_weights=none"]) == 2
    assert "Expected images of one size" in capsys.readouterr().err


def test_fine_tuning_changes_the_encoder(pretrained, pictures, tmp_path):
    assert classify(tmp_path, pretrained, pictures) == 0
    name = "encoder/stem_conv/kernel"
    assert not np.array_equal(final_arrays(pretrained)[name], final_arrays(tmp_path)[name])
    assert results_of(tmp_path)["trainable_parameters"] > 1000
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {
        "accuracy.png",
        "confusion_matrix.png",
        "loss.png",
    }


@pytest.fixture
def silent(monkeypatch):
    """Has feature 0 be 0 in training and 0.5 in the test images of a frozen encoder."""

    def embed(encoder, batches):
        first = not found
        found.append(classification_embed(encoder, batches))
        found[-1][:, 0] = 0.0 if first else 0.5
        return found[-1]

    found: list[np.ndarray] = []
    classification_embed = classification.embed
    monkeypatch.setattr(classification, "embed", embed)
    return found


def printed_test_loss(capsys) -> float:
    """The last one that was printed."""
    return float(re.findall(r"test loss (\S+)", capsys.readouterr().out)[-1])


def variance_of(folder: Path) -> np.ndarray:
    (name,) = (name for name in final_arrays(folder) if name.endswith("normalize/variance"))
    return final_arrays(folder)[name]


def test_a_feature_that_was_silent_in_training_is_not_blown_up(
    pretrained, pictures, tmp_path, silent, capsys
):
    flags = ("--freeze=True", "--eval_every_epochs=1")
    assert classify(tmp_path, pretrained, pictures, *flags) == 0
    mean, deviation = mean_and_deviation(silent[0])
    np.testing.assert_allclose(variance_of(tmp_path), deviation**2, rtol=1e-6)
    assert variance_of(tmp_path)[0] == 1.0
    assert np.abs((silent[1] - mean) / deviation).max() < 50.0
    assert printed_test_loss(capsys) < 10.0


def test_a_run_of_0_1_0_goes_on_without_dividing_by_nothing(
    pretrained, pictures, tmp_path, silent, monkeypatch, capsys
):
    flags = ("--freeze=True", "--eval_every_epochs=1")
    with monkeypatch.context() as older:
        older.setattr(classification, "take_up_scale", lambda head: None)
        older.setattr(
            classification,
            "set_scale",
            lambda head, mean, deviation: head.get_layer("normalize").adapt(silent[0]),
        )
        assert classify(tmp_path, pretrained, pictures, *flags, "--max_steps=3") == 0
    assert variance_of(tmp_path)[0] == 0.0
    scales = variance_of(tmp_path)
    silent.clear()
    assert classify(tmp_path, pretrained, pictures, *flags, "--resume") == 0
    assert variance_of(tmp_path)[0] == 1.0
    kept = np.where(scales > 0.0, scales, 1.0)  # what it was begun with
    np.testing.assert_array_equal(variance_of(tmp_path), kept)
    assert printed_test_loss(capsys) < 10.0


def test_a_share_of_the_labels_is_drawn_class_by_class(pretrained, pictures, tmp_path):
    flags = ("--freeze=True", "--label_fraction=0.3", "--include_nonlinearity")
    assert classify(tmp_path, pretrained, pictures, *flags) == 0
    assert results_of(tmp_path)["num_train"] == 3 * round(0.3 * 11)


def test_from_scratch(pretrained, pictures, tmp_path):
    flags = ("--init_weights=none", "--width_multiplier=0.125")
    assert classify(tmp_path, pretrained, pictures, *flags) == 0
    results = results_of(tmp_path)
    assert results["initial_weights"] == "random"
    assert results["config"]["width_multiplier"] == 0.125


def test_another_encoder_than_the_trained_one_is_an_error(pretrained, pictures, tmp_path, capsys):
    assert classify(tmp_path, pretrained, pictures, "--model=34") == 2
    assert "Expected --model=18" in capsys.readouterr().err


@pytest.mark.parametrize("microbatch", [0, 4])
def test_a_resumed_run_equals_one_that_was_not_stopped(pictures, tmp_path, microbatch):
    flags = (f"--microbatch_size={microbatch}",)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert pretrain(whole, pictures, *flags) == 0
    flags = (*flags, "--steps_per_execution=4")
    # 4 steps an epoch: the first part ends within the second epoch.
    assert pretrain(parts, pictures, *flags, "--max_steps=5") == 0
    assert results_of(parts)["steps"] == 5
    assert pretrain(parts, pictures, *flags, "--resume") == 0
    assert_same_weights(whole, parts)
    assert journal_of(parts) == journal_of(whole)


@pytest.mark.parametrize("freeze", ["--freeze=False", "--freeze=True"])
def test_a_resumed_classification_equals_one_that_was_not_stopped(
    pretrained, pictures, tmp_path, freeze
):
    """Also where the pre-training is no longer where it was: the run's own weights do."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert classify(whole, pretrained, pictures, freeze) == 0
    flags = (freeze, "--max_steps=3", "--steps_per_execution=2")
    assert classify(parts, pretrained, pictures, *flags) == 0
    assert classify(parts, tmp_path / "nowhere", pictures, freeze, "--resume") == 0
    assert_same_weights(whole, parts)
    assert results_of(whole)["initial_weights"] == results_of(parts)["initial_weights"]
    assert journal_of(parts) == journal_of(whole)


def journal_of(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without their times."""
    with open(folder / "metrics.csv") as file:
        return [dict(row, images_per_second="") for row in csv.DictReader(file)]


THREE_EPOCHS = ("--num_epochs=3", "--val_fraction=0.25", "--eval_every_epochs=1")  # of 3 steps


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory) -> Path:
    """A run that nobody stops."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert pretrain(folder, pictures, *THREE_EPOCHS) == 0
    return folder


class Killed(BaseException):
    """Stands in for SIGKILL, which would end the test with the run."""


def kill(*args, **kwargs):
    raise Killed


def kill_half_written(path, *args, **kwargs):
    path.with_name(f"{path.name}.partial").write_bytes(b"the first half")
    raise Killed


def terminate(*args, **kwargs):
    signal.raise_signal(signal.SIGTERM)


def interrupt_twice(*args, **kwargs):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def at_call(number: int, act, function):
    """Wraps a function: acts before one of its calls."""
    calls = iter(range(1, 1000))

    def wrapped(*args, **kwargs):
        if next(calls) == number:
            act(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapped


SAVE = "simclr_tf.runs.checkpoints.write_whole"
STEP = "simclr_tf.training.callbacks.Progress.on_train_batch_end"
LOOK = "simclr_tf.training.callbacks.knn_monitor.embed"
JOURNAL = "simclr_tf.runs.folder.RunFolder._write_rows"
RESULTS = "simclr_tf.runs.folder.RunFolder.write_results"

# One run's lives: what it did when it was ended, how, and the steps that are saved then.
LIVES = [
    (SAVE, 1, kill_half_written, []),
    (STEP, 2, terminate, [2]),
    (STEP, 1, terminate, [2, 3]),  # in the last step of an epoch, which is finished first
    (LOOK, 1, terminate, [2, 3, 6]),
    (SAVE, 1, kill_half_written, [2, 3, 6]),
    (STEP, 1, interrupt_twice, [2, 3, 6]),
    (JOURNAL, 1, kill, [2, 3, 6]),
    (RESULTS, 1, kill, [3, 6, 9]),
]


def test_a_run_that_is_ended_again_and_again_goes_on_as_if_it_was_not(
    whole, pictures, tmp_path, monkeypatch, capfd
):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    checkpoints, flags = Checkpoints(tmp_path / "checkpoints"), list(THREE_EPOCHS)
    for target, call, act, saved in LIVES:
        owner, _, name = target.rpartition(".")
        function = getattr(pkgutil.resolve_name(owner), name)
        with monkeypatch.context() as patch:
            patch.setattr(target, at_call(call, act, function))
            if act in (terminate, interrupt_twice):
                assert pretrain(tmp_path, pictures, *flags) == 130
                error = capfd.readouterr().err
                assert "once more stops at once" in error and "--resume" in error
                assert (f"step {saved[-1]} is saved" in error) == (act is terminate)
            else:
                with pytest.raises(Killed):
                    pretrain(tmp_path, pictures, *flags)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
        assert [int(path.stem[-9:]) for path in checkpoints.files()] == saved
        flags = [*THREE_EPOCHS, "--resume"] if saved else flags
    assert not (tmp_path / "results.json").exists()
    assert pretrain(tmp_path, pictures, *flags) == 0
    assert_same_weights(whole, tmp_path)
    assert journal_of(tmp_path) == journal_of(whole)


def test_a_run_is_not_overwritten_unasked(pretrained, pictures, capsys):
    before = (pretrained / "results.json").read_bytes()
    assert pretrain(pretrained, pictures) == 2
    error = capsys.readouterr().err
    assert "--overwrite" in error and "--resume" in error
    assert (pretrained / "results.json").read_bytes() == before


def test_a_run_is_not_resumed_with_other_settings(pretrained, pictures, capsys):
    assert pretrain(pretrained, pictures, "--temperature=0.7", "--resume") == 2
    assert "--temperature=0.7 (began with 0.1)" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("optimizer", "flags"),
    [
        ("sgd", ("--precision=mixed_bfloat16",)),
        ("nesterov", ("--precision=mixed_float16",)),
        ("adam", ("--similarity=dot", "--temperature=1")),
        (
            "adamw",
            ("--depthwise", "--stem=imagenet", "--projection_layers=3", "--projection_hidden=16"),
        ),
        ("nadam", ("--no-crop", "--no-flip", "--no-jitter", "--no-colordrop")),
        ("lamb", ("--noise", "--rotate", "--cutout", "--blur", "--crop_size=12 20")),
        ("lars", ("--cache=false",)),
        ("lars", ("--lr_scaling=sqrt", "--warmup_epochs=0", "--save_every_epochs=2")),
    ],
    ids=lambda words: words if isinstance(words, str) else " ".join(words),
)
def test_choices_and_every_optimizer_pretrain(pictures, tmp_path, optimizer, flags):
    rate = () if optimizer == "lars" else ("--learning_rate=0.01",)
    flags = (f"--optimizer={optimizer}", *rate, *flags)
    assert pretrain(tmp_path, pictures, "--max_steps=2", *flags) == 0


@pytest.mark.slow
@pytest.mark.parametrize("xla", ["true", "false"])
def test_views_made_on_the_device_train_as_those_of_the_host(pictures, tmp_path, xla):
    flags = ("--max_steps=3", "--blur", "--noise", "--rotate", "--cutout", f"--xla={xla}")
    for place in ("host", "device"):
        assert pretrain(tmp_path / place, pictures, f"--augment_on={place}", *flags) == 0
    host, device = (final_arrays(tmp_path / place) for place in ("host", "device"))
    for name, values in host.items():
        np.testing.assert_allclose(device[name], values, rtol=1e-2, atol=1e-3, err_msg=name)


def test_views_are_made_on_the_device_only_of_images_in_memory(pictures, tmp_path, capsys):
    assert pretrain(tmp_path, pictures, "--augment_on=device", "--cache=false") == 2
    assert "--cache=true" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--xla=true",), ("--model=34",), ("--model=50",)], ids=" ".join)
def test_choices_that_take_long_to_compile(pictures, tmp_path, flags):
    assert pretrain(tmp_path, pictures, "--max_steps=2", *flags) == 0


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


@pytest.mark.slow
def test_pretraining_teaches_the_shapes(full_depth, tmp_path):
    """A few epochs lift the kNN accuracy well over that of the untrained encoder."""
    run = f"--pretrain_save_path={tmp_path}"
    assert main.main(["--task=pretrain", run, "--max_steps=80"]) == 0
    results = results_of(tmp_path)
    assert results["knn_accuracy"] > results["baselines"]["random_encoder"] + 0.1


def test_an_overwriting_run_that_cannot_begin_leaves_the_old_one(pictures, tmp_path):
    assert pretrain(tmp_path, pictures, "--max_steps=1") == 0
    before = final_arrays(tmp_path)
    assert pretrain(tmp_path, Path("/nowhere"), "--overwrite") == 2
    assert (tmp_path / "results.json").exists()
    assert final_arrays(tmp_path).keys() == before.keys()
    assert pretrain(tmp_path, pictures, "--max_steps=2", "--overwrite") == 0
    assert results_of(tmp_path)["steps"] == 2


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


def test_every_operation_may_be_asked_to_be_deterministic(whole, pictures, tmp_path):
    from tensorflow.python.framework.config import (
        disable_op_determinism,
        is_op_determinism_enabled,
    )

    assert not is_op_determinism_enabled()
    try:
        assert pretrain(tmp_path, pictures, *THREE_EPOCHS, "--deterministic") == 0
        assert is_op_determinism_enabled()
    finally:
        disable_op_determinism()
    assert_same_weights(whole, tmp_path)  # the CPU needs no other kernels for it


def test_the_pace_is_known_after_a_few_steps(pictures, tmp_path):
    assert pretrain(tmp_path, pictures, "--max_steps=1") == 0
    assert results_of(tmp_path)["images_per_second"] > 0


def test_a_run_may_begin_with_the_weights_of_the_one_it_overwrites(pictures, tmp_path):
    assert pretrain(tmp_path, pictures, "--max_steps=2") == 0
    flags = (f"--init_weights={tmp_path}", "--overwrite", "--seed=1", "--max_steps=1")
    before = final_arrays(tmp_path)["encoder/stem_conv/kernel"]
    assert pretrain(tmp_path, pictures, *flags) == 0
    after = final_arrays(tmp_path)["encoder/stem_conv/kernel"]
    # One step moves little: without the old weights the two would have nothing in common.
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("gpus", "task", "threads"),
    [(0, "pretrain", 0), (1, "pretrain", 1), (1, "evaluate", 0), (1, "embed", 0)],
)
def test_beside_a_gpu_that_trains_the_hosts_operations_have_one_thread_each(
    monkeypatch, gpus, task, threads
):
    done = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * gpus)
    monkeypatch.setattr(start, "one_thread_an_operation", lambda: done.append("threads"))

    def stop(*_):
        done.append("strategy")
        raise UserError("far enough")

    monkeypatch.setattr(start, "_make_strategy", stop)
    monkeypatch.setattr(execution, "xla_failure", lambda gpu: "")
    monkeypatch.setattr(execution, "_describe", str)
    monkeypatch.setattr(execution, "_gpu_precision", lambda gpu: "float32")
    with pytest.raises(UserError, match="far enough"), start_run(Config(task=task)):
        pass
    assert done == ["threads"] * threads + ["strategy"]  # before any device is set up
