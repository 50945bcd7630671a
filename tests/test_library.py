"""The library in a notebook: the pipeline's promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import simclr_tf as st
from simclr_tf.data.batches.evaluation import plain_batches
from simclr_tf.data.batches.order import batch_order
from simclr_tf.data.batches.steps import Batches
from simclr_tf.data.batches.tensors import CORES, HeldTensor
from simclr_tf.data.batches.train import drawn_batches, feature_batches, labelled_batches, two_views
from simclr_tf.data.memory import whole_of
from simclr_tf.data.source import Source, from_arrays
from simclr_tf.data.splitting import hold_back
from simclr_tf.errors import UserError

SAME = st.augment.Recipe(crop=False, flip=False, jitter=False, colordrop=False, blur=False)


def images_that_say_who_they_are(count: int) -> np.ndarray:
    """Images whose every pixel is the image's own number."""
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 16, 16, 3)
    ).copy()


def test_each_epoch_of_a_notebook_has_its_own_order_and_draws():
    images = images_that_say_who_they_are(20)
    views = two_views(images, batch_size=5, recipe=SAME, seed=0)
    assert len(views) == 4
    orders = [np.concatenate([a[:, 0, 0, 0] for a, _ in views]) for _ in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(np.rint(order * 255)), np.arange(20))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])


def test_a_batch_is_a_function_of_seed_and_step(rng):
    images = rng.integers(0, 256, (20, 16, 16, 3), np.uint8)

    def batches(first: int, last: int, seed: int = 3) -> list[np.ndarray]:
        views = two_views(
            images,
            batch_size=6,
            recipe=st.augment.Recipe(),
            seed=seed,
            first_step=first,
            last_step=last,
        )
        return [np.stack([a, b]) for a, b in views]

    whole = batches(0, 8)
    for step in (2, 5):
        np.testing.assert_array_equal(batches(step, step + 1)[0], whole[step])
    assert not np.array_equal(whole[0], batches(0, 1, seed=4)[0])
    assert not np.array_equal(whole[0][0], whole[0][1])  # two views differ


@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_of_both_views_and_labels_stay_with_their_images(tmp_path, in_memory):
    images = images_that_say_who_they_are(30)
    source = from_arrays(images, np.arange(30))
    if not in_memory:
        from PIL import Image

        paths = [tmp_path / f"{i:02d}.png" for i in range(30)]
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image).save(path)
        source = Source("files", labels=source.labels, paths=tuple(map(str, paths)))
    size = (16, 16)
    seen = []
    for views, labels in labelled_batches(
        source, batch_size=7, recipe=SAME, seed=1, size=size, first_step=0, last_step=4
    ):
        np.testing.assert_array_equal(np.rint(views[:, 8, 8, 0] * 255), labels)
        seen += labels.numpy().tolist()
    assert len(set(seen)) == 28  # one epoch: no image twice
    for first, second in two_views(
        source, batch_size=7, recipe=SAME, seed=1, size=size, first_step=0, last_step=4
    ):
        np.testing.assert_array_equal(first, second)
    plain = np.concatenate(list(plain_batches(source, batch_size=7, size=size)))
    np.testing.assert_array_equal(np.rint(plain[:, 0, 0, 0] * 255), np.arange(30))


def test_features_stay_with_their_labels():
    features = np.arange(20, dtype=np.float32)[:, None]
    batches = Batches(feature_batches, features, np.arange(20), batch_size=6, seed=0)
    for x, y in batches.steps(0, 6):
        np.testing.assert_array_equal(x[:, 0], y)


def test_files_and_memory_give_the_same_views(tmp_path, rng):
    """But for the crops of files, which are rounded to 8 bits."""
    from PIL import Image

    images = rng.integers(0, 256, (40, 20, 30, 3), np.uint8)
    paths = [str(tmp_path / f"{i}.png") for i in range(40)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    recipe = st.augment.Recipe(jitter=False, colordrop=False, blur=True, rotate=True)

    def views(source: Source) -> np.ndarray:
        made = two_views(
            source,
            batch_size=20,
            recipe=recipe,
            seed=0,
            size=(16, 16),
            first_step=0,
            last_step=3,
        )
        return np.concatenate([np.concatenate(pair) for pair in made])

    memory, files = views(from_arrays(images)), views(Source("files", paths=tuple(paths)))
    np.testing.assert_allclose(memory, files, atol=1.01 / 255)


@pytest.mark.parametrize("most_parts", [1, 2, 32])
@pytest.mark.parametrize("batch_size", [6, 7, 12])
def test_how_a_batch_is_cut_for_the_cache_changes_nothing(rng, monkeypatch, batch_size, most_parts):
    images = rng.integers(0, 256, (24, 16, 20, 3), np.uint8)
    source = from_arrays(images, np.arange(24))
    recipe = st.augment.Recipe(blur=True, noise=True, noise_prob=1.0, rotate=True, cutout=True)
    common = {"batch_size": batch_size, "recipe": recipe, "seed": 0, "first_step": 0}

    def made() -> list[np.ndarray]:
        views = two_views(source, size=(16, 16), last_step=4, **common)
        labelled = labelled_batches(source, size=(16, 16), last_step=4, **common)
        return [part.numpy() for batch in (*views, *labelled) for part in batch]

    whole = made()
    monkeypatch.setattr("simclr_tf.data.batches.parts.PART_PIXELS", 3 * 16 * 20)
    monkeypatch.setattr("simclr_tf.data.batches.parts.MOST_PARTS", most_parts)
    cut = made()
    assert [part.shape for part in cut] == [part.shape for part in whole]
    for ours, theirs in zip(cut, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 5, 40])
def test_the_sizes_of_batches_are_known_before_they_are_made(tmp_path, rng, batch_size):
    images = rng.integers(0, 256, (40, 72, 64, 3), np.uint8)
    paths = [str(tmp_path / f"{i}.png") for i in range(40)]
    for image, path in zip(images, paths, strict=True):
        tf.io.write_file(path, tf.io.encode_png(image))
    for source in (from_arrays(images), Source("files", paths=tuple(paths))):
        views = two_views(
            source, batch_size=batch_size, recipe=st.augment.Recipe(), seed=0, size=(72, 64)
        )
        assert [spec.shape for spec in views.element_spec] == [(batch_size, 72, 64, 3)] * 2


@pytest.mark.parametrize("mode", ["fused", "reference"])
def test_views_made_in_a_compiled_step_are_those_of_the_pipeline(rng, mode):
    images = rng.integers(0, 256, (24, 16, 20, 3), np.uint8)
    source = from_arrays(images)
    recipe = st.augment.Recipe(
        blur=True, noise=True, noise_prob=1.0, rotate=True, cutout=True, jitter_mode=mode
    )
    settings = {"batch_size": 6, "recipe": recipe, "seed": 0, "size": (16, 16)}
    on_host = two_views(source, first_step=0, last_step=3, **settings)
    drawn = drawn_batches(source, first_step=0, last_step=3, **settings)
    compiled = tf.function(
        lambda images, packed: st.augment.make_views(
            images, st.augment.unpack_draw(packed), (16, 16)
        ),
        jit_compile=True,
    )
    for ours, theirs in zip(drawn, on_host, strict=True):
        for made, expected in zip(compiled(*ours), theirs, strict=True):
            np.testing.assert_allclose(made, expected, atol=1e-4)


def test_views_may_be_made_in_bfloat16(rng):
    images = rng.integers(0, 256, (24, 16, 16, 3), np.uint8)
    settings = {"batch_size": 12, "recipe": st.augment.Recipe(), "seed": 0}
    for exact, short in zip(
        two_views(images, **settings), two_views(images, dtype="bfloat16", **settings), strict=True
    ):
        assert short[0].dtype == tf.bfloat16
        np.testing.assert_allclose(tf.cast(short[0], tf.float32), exact[0], atol=4 / 255)


def test_a_batch_larger_than_the_data_is_an_error():
    with pytest.raises(UserError, match="`batch_size=5` or less"):
        two_views(images_that_say_who_they_are(5), batch_size=6, recipe=SAME, seed=0)


def test_images_are_taken_as_uint8_only():
    with pytest.raises(UserError, match="uint8"):
        two_views(np.zeros((4, 8, 8, 3), np.float32), batch_size=2, recipe=SAME, seed=0)


def test_a_view_of_a_portrait_is_cut_about_its_centre():
    image = np.zeros((1, 40, 20, 3), np.uint8)
    image[:, 10:30] = 255
    (plain,) = plain_batches(from_arrays(image), batch_size=1, size=(10, 10))
    # The outermost rows look a little beyond the window, as antialiasing does.
    assert float(tf.reduce_min(plain[:, 1:-1])) > 0.99


@pytest.mark.skipif(CORES == 1, reason="one core reads one file at a time")
def test_files_are_read_side_by_side_where_operations_are_deterministic(tmp_path):
    """A map whose function may have a state is then made one element at a time."""
    script = [sys.executable, Path(__file__).with_name("reads_in_flight.py"), tmp_path]
    root = str(Path(st.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(script, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    first, second = told.pop("orders")
    assert sorted(first) == sorted(second) == list(range(24)) and first != second
    assert len(told) == 7
    assert {name: of["most"] for name, of in told.items() if of["most"] < 2} == {}
    masked = {"masked", "plain and masked"}  # no file is read twice, nor one left out
    assert {name: of["reads"] for name, of in told.items()} == {
        name: 48 if name in masked else 24 for name in told
    }
    assert all("got broken.png." in of["error"] for of in told.values())


HELD_ONCE = """
import gc, os, sys
from pathlib import Path
import numpy as np, tensorflow as tf
import simclr_tf as st
from simclr_tf.data.batches.train import labelled_batches

def own():
    gc.collect()
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

def use(path):
    splits = st.data.load(f"npz:{path}", val_fraction=0.1)
    train, held_back = st.data.hold_back(splits.train, 0.1, 0)
    step = {"first_step": 0, "last_step": 4, "size": (32, 32)}
    drawn = {"batch_size": 8, "recipe": st.augment.Recipe(), "seed": 0}
    iterators = [iter(st.data.two_views(part, **drawn, **step)) for part in (train, held_back)]
    iterators += [iter(labelled_batches(splits.train, **drawn, **step))]
    iterators += [iter(st.data.plain_batches(s, batch_size=8)) for s in splits.present()]
    for iterator in iterators:
        next(iterator)
    return own()

few, many = sys.argv[1:]
base = use(few)
before = peak()
held, most = use(many) - base, peak() - before
print(held, most)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux tells the memory there")
def test_a_set_in_memory_is_there_once(tmp_path, rng):
    """In all that reads it at a time, and twice while it is loaded."""
    for name, count in (("few", 200), ("many", 40_000)):
        images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        np.savez(tmp_path / f"{name}.npz", x=images, y=np.arange(count) % 10)
    files = [str(tmp_path / f"{name}.npz") for name in ("few", "many")]
    command = [sys.executable, "-c", HELD_ONCE, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held, most = (int(word) / images.nbytes for word in done.stdout.split())
    assert 0.9 < held < 1.3 and most < 2.3, (held, most)


def test_what_reads_a_set_shares_its_memory(rng):
    """Evaluation and views, a part and the whole."""
    images = rng.integers(0, 256, (20, 6, 8, 3), np.uint8)
    source = Source("numbered", images, lines=tuple(range(20)))
    rest, held_back = hold_back(source, 0.3, 0)
    parts = source, rest, held_back, rest.take(np.array([2, 0]))
    addresses = {
        np.asarray(memoryview(HeldTensor(part.images, planes=True).whole)).ctypes.data
        for part in parts
    }
    assert addresses == {whole_of(source.images).ctypes.data}
    for part in parts:  # lines say which image each is
        own = images[list(part.lines)]
        np.testing.assert_array_equal(part.images, own)
        np.testing.assert_array_equal(part.read(1), own[1])
        (plain,) = plain_batches(part, batch_size=20)
        np.testing.assert_array_equal(np.rint(plain * 255.0), own)
        (drawn,) = drawn_batches(
            part, batch_size=2, recipe=SAME, seed=0, size=(6, 8), first_step=0, last_step=1
        )
        (views,) = two_views(part, batch_size=2, recipe=SAME, seed=0, first_step=0, last_step=1)
        np.testing.assert_allclose(drawn[0] / 255, views[0], atol=1e-6)
        order = batch_order(tf.constant(0, tf.int64), len(part), 2, 0)
        np.testing.assert_array_equal(drawn[0], own[order])


@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (1, 4, 1, 3), (2, 1, 5, 1)])
def test_images_with_sides_of_one_pixel_are_held(rng, shape):
    images = rng.integers(0, 256, shape, np.uint8)
    (plain,) = plain_batches(from_arrays(images), batch_size=3)
    np.testing.assert_array_equal(np.rint(plain * 255.0), images)


WITHOUT_TRACES = """
import logging, os, random, signal, sys, warnings
import keras, matplotlib, numpy as np, sklearn.neighbors, tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import config
from PIL import Image, ImageFile


def traces():
    gpus = tf.config.list_physical_devices("GPU")
    names = ["", "absl", "tensorflow", "PIL", "matplotlib", "urllib3"]
    loggers = {name: logging.getLogger(name) for name in names}
    return {
        "environment": dict(os.environ),
        "policy": keras.config.dtype_policy().name,
        "floatx": (keras.config.floatx(), keras.config.epsilon()),
        "keras": (keras.config.image_data_format(), keras.config.is_interactive_logging_enabled()),
        "devices": [device.name for device in tf.config.get_visible_devices()],
        "growth": [tf.config.experimental.get_memory_growth(gpu) for gpu in gpus],
        "placement": (tf.config.get_soft_device_placement(), tf.config.functions_run_eagerly()),
        "threads": (
            tf.config.threading.get_intra_op_parallelism_threads(),
            tf.config.threading.get_inter_op_parallelism_threads(),
        ),
        "compiler": (tf.config.optimizer.get_jit(), tf.config.optimizer.get_experimental_options()),
        "determinism": config.is_op_determinism_enabled(),
        "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "logging": {n: (l.level, l.propagate, len(l.handlers)) for n, l in loggers.items()},
        "chatter": tf.get_logger().level,
        "seeds": (context.global_seed(), str(np.random.get_state())),
        "matplotlib": dict.copy(matplotlib.rcParams),
        "pyplot": "matplotlib.pyplot" in sys.modules,
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "hooks": (sys.excepthook, sys.displayhook),
        "pictures": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "folder": os.getcwd(),
    }


def tell_of(when):
    after = traces()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not changed, (when, changed)


def refuse(*arguments, **more):
    raise AssertionError("the library seeds what is not its own")


random.seed = np.random.seed = tf.random.set_seed = keras.utils.set_random_seed = refuse
before = traces()
import simclr_tf as st

for name in st.__all__:
    getattr(st, name)
tell_of("import")
images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
views = st.data.two_views(images, batch_size=4, recipe=st.augment.Recipe(), seed=0)
first, second = next(iter(views))
encoder = st.models.resnet(18, stem="small", width_multiplier=0.0625)
model = st.SimCLR(encoder, st.models.ProjectionHead(4))
loss = st.losses.NTXent(temperature=0.1)
model.compile(st.optimizers.LARS(0.1), loss)
features = encoder(tf.concat([first, second], axis=0)).numpy()
loss(features)
st.evaluation.nearest(features, features, k=2)
st.plots.plot_images([images])
tell_of("use")
"""


def test_import_and_use_leave_no_traces():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TRACES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


THREADS = """
import sys
import tensorflow as tf
import simclr_tf as st

if "late" in sys.argv:
    tf.constant(1.0) + 1.0
if "chosen" in sys.argv:
    tf.config.threading.set_intra_op_parallelism_threads(3)
st.data.one_thread_an_operation()
print(tf.config.threading.get_intra_op_parallelism_threads())
"""


@pytest.mark.parametrize(
    ("how", "environment", "threads"),
    [("", {}, 1), ("late", {}, 0), ("chosen", {}, 3), ("", {"TF_NUM_INTRAOP_THREADS": "2"}, 0)],
)
def test_a_host_that_only_makes_views_gives_an_operation_one_thread(how, environment, threads):
    told = subprocess.run(
        [sys.executable, "-c", THREADS, how],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [str(threads)]
