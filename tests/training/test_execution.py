"""What a run computes on: chosen by the device, said at its beginning, taken again when resumed."""

from __future__ import annotations

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from tiny import tiny_encoder, tiny_simclr, tiny_views

import main
import simclr_tf as st
from simclr_tf.config.settings import Config
from simclr_tf.data.batches.train import drawn_batches
from simclr_tf.data.source import from_arrays
from simclr_tf.errors import UserError
from simclr_tf.evaluation.features import embed
from simclr_tf.losses.contrastive import NTXent
from simclr_tf.runs.checkpoints import step_of
from simclr_tf.runs.folder import RunFolder
from simclr_tf.training import execution, xla_trial
from simclr_tf.training.callbacks import SaveCheckpoints
from simclr_tf.training.fit import prefetch_to_gpu
from simclr_tf.workflow import resume
from simclr_tf.workflow.resume import decide_precision

pytestmark = pytest.mark.usefixtures("shallow")

PRETRAIN = (
    "--task=pretrain",
    "--width_multiplier=0.0625",
    "--batch_size=4",
    "--zdim=4",
    "--eval_every_epochs=0",
)


@pytest.fixture
def a_gpu(monkeypatch):
    """A GPU is listed, of compute capability 9.0; nothing can run on it."""
    details = {"compute_capability": (9, 0), "device_name": "Some GPU"}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["a GPU"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)


@pytest.fixture
def npz(tmp_path, rng):
    path = tmp_path / "images.npz"
    np.savez(path, x_train=rng.integers(0, 256, (18, 8, 8, 3), np.uint8), y_train=np.arange(18) % 2)
    return path


# --- The first line ---


def test_a_run_begins_with_what_it_computes_on(npz, tmp_path, capsys):
    flags = (*PRETRAIN, f"--dataset=npz:{npz}", "--max_steps=1", "--precision=float32")
    assert main.main([*flags, f"--pretrain_save_path={tmp_path / 'run'}"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    device = json.loads((tmp_path / "run" / "results.json").read_text())["device"]
    assert first.startswith(f"computes on {device} in float32; XLA off; ")
    assert first.endswith(("host thread", "host threads"))


@pytest.mark.parametrize(
    ("sign", "hidden", "cuda", "said"),
    [
        ("", None, True, ""),
        ("/dev/nvidia0", "-1", True, ""),
        ("/dev/nvidia0", "", True, ""),
        ("/dev/nvidia0", None, True, "a GPU (/dev/nvidia0) that TensorFlow does not see"),
        ("/dev/nvidia0", "0", True, "pip install -r requirements-gpu.txt (make setup GPU=1"),
        ("/dev/nvidia0", None, False, "pip uninstall tensorflow-cpu"),
    ],
)
def test_a_gpu_that_tensorflow_does_not_see_is_named(monkeypatch, sign, hidden, cuda, said):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: {"is_cuda_build": cuda})
    monkeypatch.setattr(execution, "_sign_of_gpu", lambda: sign)
    warning = execution.unseen_gpu()
    assert said in warning
    assert bool(said) == bool(warning)


def test_nvidia_smi_tells_of_a_gpu_without_a_device_file(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: Some GPU (UUID: GPU-12)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(execution.pathlib.Path, "exists", lambda path: False)
    assert execution._sign_of_gpu() == "nvidia-smi: GPU 0: Some GPU"
    program.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    assert execution._sign_of_gpu() == ""


def test_float32_is_float32():
    execution.choose_execution("float32", "auto")
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


# --- XLA ---


@pytest.fixture
def trial(monkeypatch, tmp_path):
    """Returns why a program, that stands for the trial of XLA, fails."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def failure(program):
        monkeypatch.setattr(xla_trial, "PROGRAM", program)
        xla_trial.xla_failure.cache_clear()
        return xla_trial.xla_failure("Some GPU")

    yield failure
    xla_trial.xla_failure.cache_clear()


def test_a_trial_that_fails_says_why_and_one_that_works_is_remembered(trial):
    assert trial("import sys; sys.exit('libdevice is missing')") == "libdevice is missing"
    assert trial("import os; os.abort()") == "exit code -6"
    assert trial("pass") == ""
    assert trial("raise SystemExit(1)") == ""  # not tried again


def test_a_trial_without_a_gpu_fails(trial):
    """The real program: it must not be content with another device."""
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    assert trial(xla_trial.PROGRAM)


def test_xla_that_does_not_work_is_left_off_and_said(a_gpu, monkeypatch, capsys):
    monkeypatch.setattr(execution, "xla_failure", lambda gpu: f"no ptxas for {gpu}")
    chosen = execution.choose_execution("float32", "auto")
    assert not chosen.xla and not chosen.xla_parts
    execution.print_execution(chosen)
    assert "XLA is off, as it cannot compile for this GPU: no ptxas" in capsys.readouterr().out
    asked = execution.choose_execution("float32", "true")
    assert asked.xla and asked.xla_parts and not asked.xla_failure


@pytest.mark.parametrize("deterministic", [False, True])
def test_xla_is_chosen_for_the_step_and_for_its_parts(a_gpu, monkeypatch, deterministic):
    monkeypatch.setattr(execution, "xla_failure", lambda gpu: "")
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)

    def chosen(xla, **more):
        found = execution.choose_execution("float32", xla, deterministic=deterministic, **more)
        return found.xla, found.xla_parts

    alone = not deterministic
    assert chosen("auto") == (alone, alone)
    assert chosen("auto", replicas=2) == (False, alone)
    assert chosen("false") == (False, False)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    assert chosen("auto") == (False, True)
    assert chosen("false") == (False, False)


def test_the_device_is_the_one_that_computes(a_gpu, monkeypatch):
    monkeypatch.setattr(execution, "xla_failure", lambda gpu: "")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["one", "two"])
    assert execution.choose_execution("float32", "auto").device == "Some GPU"
    assert execution.choose_execution("float32", "auto", replicas=2).device == "Some GPU, Some GPU"


def compiled_functions(graph):
    """Names of the functions in a graph that XLA must compile."""
    return [
        function.signature.name
        for function in graph.as_graph_def(add_shapes=False).library.function
        if function.attr["_XlaMustCompile"].b
    ]


@pytest.mark.parametrize("compiles", [True, False])
def test_without_xla_no_part_of_a_step_is_compiled(rng, compiles):
    recipe = st.augment.Recipe(blur=True, noise=True, rotate=True, cutout=True)
    source = from_arrays(rng.integers(0, 256, (6, 8, 8, 3), np.uint8))
    settings = {"batch_size": 6, "recipe": recipe, "seed": 0, "size": (8, 8)}
    batch = next(iter(drawn_batches(source, first_step=0, last_step=1, **settings)))

    def augment(images, packed):
        draw = st.augment.unpack_draw(packed)
        return st.augment.make_views(images, draw, (8, 8), compiles=compiles)

    model = tiny_simclr(augment=augment)
    loss = NTXent(0.5, streaming=True, compiles=compiles)
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    step = tf.function(model.train_step).get_concrete_function(batch)
    assert bool(compiled_functions(step.graph)) == compiles
    assert np.isfinite(step(batch)["loss"])


@pytest.mark.parametrize("mode", ["fused", "reference"])
def test_views_and_losses_are_the_same_without_xla(rng, mode):
    recipe = st.augment.Recipe(
        blur=True, noise=True, noise_prob=1.0, rotate=True, cutout=True, jitter_mode=mode
    )
    images = tf.constant(rng.integers(0, 256, (6, 12, 10, 3), np.uint8))
    draw = st.augment.draw_views(recipe, 12, seed=0, step=0, size=(8, 8), aspect=10 / 12)
    by_xla, plain = (
        st.augment.make_views(images, draw, (8, 8), compiles=compiles) for compiles in (True, False)
    )
    for view, expected in zip(plain, by_xla, strict=True):
        np.testing.assert_allclose(view, expected, atol=1e-4)
    z = tf.constant(rng.normal(0, 1, (20, 6)), tf.float32)
    ours, theirs = (NTXent(0.1, streaming=True, compiles=compiles)(z) for compiles in (False, True))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


# --- Draws on their way to the device ---


@pytest.mark.parametrize(
    "recipe",
    [
        st.augment.Recipe(),
        st.augment.Recipe(crop=False, flip=False, jitter=False, colordrop=False, blur=False),
        st.augment.Recipe(jitter_mode="reference", blur=True),
        st.augment.Recipe(blur=True, noise=True, rotate=True, cutout=True),
    ],
    ids=["default", "nothing", "in order", "everything"],
)
def test_draws_are_packed_as_tensors_alone(recipe):
    draw = st.augment.draw_views(recipe, 4, seed=0, step=0, size=(8, 8))
    packed = st.augment.pack_draw(draw)
    assert all(tf.is_tensor(tensor) for tensor in packed.values())
    again = st.augment.unpack_draw(packed)
    tf.nest.assert_same_structure(again, draw)
    for ours, theirs in zip(tf.nest.flatten(again), tf.nest.flatten(draw), strict=True):
        assert ours is theirs


def test_drawn_batches_are_copied_to_a_device(rng, monkeypatch):
    """The CPU stands in for the GPU: a batch with None in it could not be copied."""
    cpus = tf.config.list_logical_devices("CPU")
    source = from_arrays(rng.integers(0, 256, (6, 8, 8, 3), np.uint8))
    settings = {"batch_size": 3, "recipe": st.augment.Recipe(), "seed": 0, "size": (8, 8)}
    here = list(drawn_batches(source, first_step=0, last_step=2, **settings))
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: cpus)
    there = list(prefetch_to_gpu(drawn_batches(source, first_step=0, last_step=2, **settings)))
    for ours, theirs in zip(tf.nest.flatten(there), tf.nest.flatten(here), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- Evaluation ---


def test_on_a_gpu_the_last_batch_of_features_is_filled_up(monkeypatch):
    cpus = tf.config.list_logical_devices("CPU")
    images, encoder = tiny_views(11)[0], tiny_encoder()
    batches = [images[:4], images[4:8], tf.constant(images[8:])]
    expected = embed(encoder, batches)
    sizes, pad = [], tf.pad
    monkeypatch.setattr(tf, "pad", lambda x, widths: sizes.append(len(x)) or pad(x, widths))
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: cpus)
    np.testing.assert_array_equal(embed(encoder, batches), expected)
    assert sizes == [3]


# --- Resuming on another device ---


def choosing(monkeypatch, precision):
    auto = {"auto": precision}
    monkeypatch.setattr(resume, "choose_precision", lambda asked: auto.get(asked, asked))


def test_the_precision_that_was_decided_is_taken_again(npz, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    flags = [*PRETRAIN, f"--dataset=npz:{npz}", f"--pretrain_save_path={run}", "--num_epochs=1"]
    choosing(monkeypatch, "float32")
    assert main.main([*flags, "--max_steps=1"]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["precision"] == "float32"
    choosing(monkeypatch, "mixed_bfloat16")  # on another device
    assert main.main([*flags, "--max_steps=2", "--resume"]) == 0
    assert "goes on in float32, as the run began" in capsys.readouterr().out
    assert json.loads((run / "results.json").read_text())["precision"] == "float32"
    assert main.main([*flags, "--resume", "--precision=mixed_float16"]) == 2
    assert "--precision=mixed_float16 (began with float32)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("results", "journal", "here", "decided"),
    [
        ("", "", "mixed_bfloat16", "mixed_bfloat16"),  # what it was is not to be known
        ('{"precision": "mixed_bfloat16"}', "", "float32", "mixed_bfloat16"),
        ("", "epoch,step,loss,skipped_steps\n1,4,2.0,0\n", "float32", "mixed_float16"),
        ("", "epoch,step,loss\n1,4,2.0\n", "mixed_float16", None),
        ("{", "epoch,step,loss\n1,4,2.0\n", "float32", "float32"),
    ],
)
def test_a_run_of_0_1_0_goes_on_as_it_began_or_is_refused_by_name(
    tmp_path, monkeypatch, results, journal, here, decided
):
    for name, text in (("results.json", results), ("metrics.csv", journal)):
        if text:
            (tmp_path / name).write_text(text)
    RunFolder(tmp_path).write_config("precision: auto\ntask: pretrain\n")
    config = Config(resume=True, pretrain_save_path=str(tmp_path))
    choosing(monkeypatch, here)
    if decided is None:
        with pytest.raises(UserError, match="--precision=mixed_bfloat16"):
            decide_precision(config)
    else:
        assert decide_precision(config).precision == decided


# --- Checkpoints by time ---


class Clock:
    """Stands in for the time module: minutes are set."""

    def __init__(self):
        self.minutes = 0.0

    def monotonic(self):
        return 60 * self.minutes


@pytest.fixture
def saving(tmp_path, monkeypatch):
    from simclr_tf.training.callbacks import saving as module

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    model = tiny_simclr()
    model.compile(keras.optimizers.SGD(0.1), NTXent(0.5))
    save = SaveCheckpoints(
        RunFolder(tmp_path, keep_checkpoints=99),
        {"a": keras.Variable(1.0)},
        every_epochs=1,
        every_minutes=1.0,
        steps_per_epoch=4,
    )
    save.set_model(model)
    save.set_params({"steps": 4})

    def ends(step, minutes, *, epoch=True):
        clock.minutes, save.step = minutes, (step - 1) // 4 * 4
        save.on_epoch_begin(save.step // 4)
        before = len(save.folder.checkpoints.files())
        save.on_train_batch_end((step - 1) % 4)
        if epoch:
            save.on_epoch_end(step // 4 - 1)
        return len(save.folder.checkpoints.files()) - before

    return save, ends


def test_epochs_of_less_than_a_minute_share_a_checkpoint(saving):
    save, ends = saving
    assert [ends(4, 0.6), ends(8, 1.2), ends(12, 1.8), ends(16, 2.4)] == [0, 1, 0, 1]
    ends(20, 2.5)
    save.on_train_end()  # whatever the time
    assert step_of(save.folder.checkpoints.newest()) == 20


def test_epochs_of_more_than_half_an_hour_are_saved_within(saving):
    _, ends = saving
    assert [ends(1, 29.0, epoch=False), ends(2, 31.0, epoch=False)] == [0, 1]
    assert ends(4, 62.0) == 1  # with the epoch's end, not before it


# --- Determinism ---


def test_a_device_without_a_deterministic_depthwise_gradient_is_refused(monkeypatch):
    execution.check_deterministic_depthwise()  # a CPU has it

    def lacks(*_):
        raise tf.errors.UnimplementedError(None, None, "No deterministic DepthwiseConv.\nMore.")

    monkeypatch.setattr(tf.nn, "depthwise_conv2d", lacks)
    with pytest.raises(UserError, match="got `depthwise`: No deterministic DepthwiseConv. Leave"):
        execution.check_deterministic_depthwise()
