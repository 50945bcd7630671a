"""Every operation that a GPU is handed has a kernel there, by the registry of TensorFlow.

Each graph is traced as it is with a GPU in the machine, and is asked about twice: left to the
device's own kernels, as with --xla=false, and compiled whole, as the training step is by default.
"""

from __future__ import annotations

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from kernel_registry import GPU, XLA, has_kernel, missing_kernels
from stand_in_gpu import stand_in_gpu
from tiny import policy, tiny_encoder, tiny_simclr

from simclr_tf.augment import Recipe, draw_views, make_views
from simclr_tf.evaluation import features, heads, neighbours
from simclr_tf.evaluation.segmentation import make_segment
from simclr_tf.losses.contrastive import NTXent, nt_xent
from simclr_tf.losses.segmentation import PixelLoss
from simclr_tf.models import ProjectionHead, classifier_head, resnet, unet
from simclr_tf.optimizers import NAMES, make_optimizer
from simclr_tf.schedules import WarmupCosine
from simclr_tf.training.model import SimCLR

pytestmark = [
    pytest.mark.usefixtures("shallow", "gpu"),
    pytest.mark.skipif(not tf.test.is_built_with_cuda(), reason="TensorFlow is built without CUDA"),
]

POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")
SIDE, COUNT, CLASSES = 24, 8, 5
SMALL = {"stem": "small", "width_multiplier": 0.0625}
OTHER = {
    "stem": "imagenet",
    "width_multiplier": 0.0625,
    "depthwise": True,
    "mean_std": ([0.5] * 3, [0.2] * 3),
}
EVERYTHING = {"blur": True, "noise": True, "rotate": True, "cutout": True}

# What has no kernel and needs none, as `missing_kernels` names it, with the reason. TensorFlow
# places such an operation on the CPU; within what XLA compiles it would be an error, always.
EXCEPTIONS = {
    ("Const(dtype=string)", GPU): "the words of an error, which are read on the host if it comes",
    ("ScaleAndTranslate(T=float32)", GPU): "an antialiased resize, of the raw-pixel baseline alone",
}


@pytest.fixture
def gpu():
    """What is traced is what is traced for a GPU: a convolution's gradient differs, for one."""
    with stand_in_gpu(runs=False):
        yield


def assert_kernels(concrete, *, both=True):
    """Asks the registry about a traced function; both: compiled whole, too."""
    assert len(concrete.graph.get_operations()) > 1
    kinds = (False, True) if both else (False,)
    found = [m for compiled in kinds for m in missing_kernels(concrete, compiled=compiled)]
    assert [m for m in found if (m.operation, m.kernel) not in EXCEPTIONS] == []


def concrete_of(function):
    """Returns a function that is traced already, or that has its signature, as it is traced."""
    return getattr(function, "get_concrete_function", lambda: function)()


def assert_runs_on_a_gpu(function, *arguments):
    """Traces a function and asks the registry about it."""
    assert_kernels(tf.function(function).get_concrete_function(*arguments))


def assert_step_runs_on_a_gpu(model, optimizer, loss, *data, **arguments):
    schedule = WarmupCosine(0.1, warmup_steps=3, total_steps=10)
    variables = model.trainable_variables
    model.compile(
        make_optimizer(optimizer, learning_rate=schedule, weight_decay=1e-4, variables=variables),
        loss,
        jit_compile=False,
        **arguments,
    )
    assert_runs_on_a_gpu(lambda *batch: model.train_step(batch), *data)


def views_spec():
    dtype = tf.bfloat16 if keras.config.dtype_policy().name == "mixed_bfloat16" else tf.float32
    return tf.TensorSpec([COUNT, SIDE, SIDE, 3], dtype)


def spec_of(tensor):
    return None if tensor is None else tf.TensorSpec(tensor.shape, tensor.dtype)


# --- The registry can be asked, and says no ---


def test_the_registry_knows_both_kinds_of_kernels():
    assert not has_kernel("Const", GPU, dtype=tf.string)  # or the exceptions were none
    assert not has_kernel("ScaleAndTranslate", GPU, T=tf.float32)
    for kernel in (GPU, XLA):
        assert has_kernel("Conv2D", kernel, T=tf.bfloat16)
        assert has_kernel("While", kernel)  # registered for devices of any kind
        assert not has_kernel("AsString", kernel, T=tf.int32)
    assert not has_kernel("Split", GPU, T=tf.int32)
    assert has_kernel("Split", XLA, T=tf.int32)
    assert has_kernel("Split", GPU, T=tf.float32)
    # Registered for any kind of device, which a compiler is not.
    assert has_kernel("VarHandleOp", GPU, dtype=tf.float32)
    assert not has_kernel("VarHandleOp", XLA, dtype=tf.float32)


def test_what_has_no_kernel_is_found_wherever_it_is():
    numbers = tf.TensorSpec([4], tf.int32)

    def split(x):
        return tf.concat(tf.split(x, 2), axis=0)

    def found(function):
        concrete = tf.function(function).get_concrete_function(numbers)
        return [(m.operation, m.kernel) for m in missing_kernels(concrete)]

    called = tf.function(split)
    of_split = ("Split(T=int32)", GPU)
    assert found(split) == [of_split]
    assert found(lambda x: called(x)) == [of_split]
    assert found(lambda x: tf.cond(x[0] > 0, lambda: split(x), lambda: x)) == [of_split]
    looped = tf.while_loop
    assert found(lambda x: looped(lambda x: x[0] > 0, lambda x: [split(x)], [x])) == [of_split]
    assert found(lambda x: tf.split(tf.cast(x, tf.float32), 2)) == []

    compiled = tf.function(split, jit_compile=True)
    assert found(lambda x: compiled(x)) == []  # XLA has a kernel
    spelled = tf.function(lambda x: called(x) + tf.size(tf.as_string(x)), jit_compile=True)
    assert found(lambda x: spelled(x)) == [("AsString(T=int32)", XLA)]

    def on_the_host(x):
        with tf.device("CPU:0"):
            return split(x)

    assert found(on_the_host) == []
    concrete = tf.function(on_the_host).get_concrete_function(numbers)
    assert missing_kernels(concrete, compiled=True) == []
    spells = tf.function(lambda x: tf.size(tf.as_string(x))).get_concrete_function(numbers)
    missing = {(m.operation, m.kernel) for m in missing_kernels(spells, compiled=True)}
    assert ("AsString(T=int32)", XLA) in missing


# --- Training steps ---


@pytest.mark.parametrize("name", POLICIES)
def test_pretraining(name):
    with policy(name):
        model = SimCLR(resnet(18, **SMALL), ProjectionHead(8, layers=3))
        loss_scaled = name == "mixed_float16"
        views = views_spec()
        assert_step_runs_on_a_gpu(model, "lars", NTXent(0.1), views, views)
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == loss_scaled


@pytest.mark.parametrize("name", POLICIES)
def test_pretraining_by_microbatches_of_the_other_encoder(name):
    with policy(name):
        encoder = resnet(18, **OTHER)
        model = SimCLR(encoder, ProjectionHead(8), microbatch_size=COUNT // 2)
        views = views_spec()
        assert_step_runs_on_a_gpu(model, "lars", NTXent(0.1, streaming=True), views, views)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["float32", "mixed_float16"])
def test_every_optimiser(name, of):
    with policy(of):
        assert_step_runs_on_a_gpu(tiny_simclr(), name, NTXent(0.1), *[views_spec()] * 2)


@pytest.mark.parametrize("name", POLICIES)
def test_segmentation(name):
    with policy(name):
        model = unet(resnet(18, **SMALL), CLASSES)
        loss = PixelLoss(CLASSES, ignore_label=0, class_weights=[1.0] * CLASSES, dice_weight=1.0)
        masks = tf.TensorSpec([COUNT, SIDE, SIDE], tf.uint8)
        assert_step_runs_on_a_gpu(model, "adam", loss, views_spec(), masks)


@pytest.mark.parametrize("name", POLICIES)
def test_classification_and_its_validation(name):
    with policy(name):
        encoder = tiny_encoder()
        head = classifier_head(encoder.output_shape[-1], 3, nonlinear=True, normalize=True)
        model = keras.Sequential([encoder, head])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        batch = views_spec(), tf.TensorSpec([COUNT], tf.int32)
        assert_step_runs_on_a_gpu(model, "adam", loss, *batch, metrics=["accuracy"])
        assert_runs_on_a_gpu(lambda *batch: model.test_step(batch), *batch)


def test_the_validation_of_pretraining_by_microbatches():
    model = tiny_simclr(microbatch_size=COUNT // 4)
    model.compile("sgd", NTXent(0.1))
    assert_runs_on_a_gpu(lambda *batch: model.test_step(batch), *[views_spec()] * 2)


@pytest.mark.parametrize("xla", [False, True])
def test_the_loop_of_several_steps_and_the_batches_it_takes(xla):
    """What Keras makes of the step: batches out of an iterator, and one call for several steps."""
    model = tiny_simclr()
    model.compile("sgd", NTXent(0.1), jit_compile=xla, steps_per_execution=3)
    model.make_train_function()
    loop = inspect.getclosurevars(model.train_function).nonlocals["multi_step_on_iterator"]
    views = np.zeros((4, COUNT, SIDE, SIDE, 3), np.float32)
    batches = tf.data.Dataset.from_tensor_slices((views, views))
    concrete = loop.get_concrete_function(iter(batches))
    graph = concrete.graph.as_graph_def()
    compiled = [f for f in graph.library.function if f.attr["_XlaMustCompile"].b]
    assert bool(compiled) == xla
    assert_kernels(concrete, both=False)


# --- Views ---


@pytest.mark.parametrize("mode", ["fused", "reference"])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_views_made_within_the_step(mode, dtype):
    recipe, size = Recipe(**EVERYTHING, jitter_mode=mode), (SIDE, SIDE)
    draw = draw_views(recipe, 2 * COUNT, seed=0, step=0, size=size)
    assert all(field is not None for field in draw)
    specs = tf.nest.map_structure(spec_of, draw)
    images = tf.TensorSpec([COUNT, SIDE + 9, SIDE + 5, 3], tf.uint8)
    make = functools.partial(make_views, size=size, dtype=dtype)
    assert_runs_on_a_gpu(make, images, specs)
    model = tiny_simclr(augment=make)
    model.compile("sgd", NTXent(0.1))
    assert_runs_on_a_gpu(lambda *batch: model.train_step(batch), images, specs)


@pytest.mark.parametrize("mode", ["fused", "reference"])
def test_views_drawn_on_the_device(mode):
    """A user's own loop may draw there; training has the host do it."""
    recipe = Recipe(**EVERYTHING, jitter_mode=mode)

    def draw(step):
        return draw_views(recipe, COUNT, seed=0, step=step, size=(SIDE, SIDE))

    assert_runs_on_a_gpu(draw, tf.TensorSpec([], tf.int64))


# --- Loss and evaluation ---


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("gathered", [False, True])
def test_the_loss_and_its_gradient(streaming, gathered):
    def gather(z):  # as of the first of two replicas
        return tf.concat([z, z], axis=0), tf.range(tf.shape(z)[0])

    def loss_and_gradient(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            contrast = nt_xent(
                z,
                temperature=0.1,
                streaming=streaming,
                gather=gather if gathered else None,
            )
        return contrast, tape.gradient(contrast.loss, z)

    assert_runs_on_a_gpu(loss_and_gradient, tf.TensorSpec([2 * COUNT, 6], tf.bfloat16))


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("encoder", [SMALL, OTHER], ids=["small", "other"])
def test_embedding_and_segmenting(name, encoder):
    with policy(name):
        model = resnet(18, **encoder)
        segment = make_segment(unet(model, CLASSES), ignore_label=1)
        for function in (features._make_forward(model), segment):
            assert_kernels(concrete_of(function))


def test_the_pixels_that_an_encoder_is_compared_with():
    model = features.pixel_encoder(SIDE)
    assert_kernels(concrete_of(features._make_forward(model)), both=False)


def test_nearest_neighbours_and_their_votes():
    for function in (neighbours._most_similar, neighbours._votes):
        assert_kernels(concrete_of(function), both=False)


@pytest.mark.parametrize("hidden", [None, 7])
def test_heads_trained_on_features(hidden):
    inputs = heads.prepare_inputs(np.random.default_rng(0).normal(size=(1, COUNT, 6)), np.arange(4))
    parameters = heads._first_heads(6, CLASSES, hidden, 2, 0)
    number, rates = tf.TensorSpec([], tf.int32), tf.TensorSpec([2], tf.float32)
    concrete = heads._train_epoch.get_concrete_function(
        inputs,
        tf.TensorSpec([COUNT], tf.int64),
        tf.TensorSpec([COUNT], tf.int32),
        parameters,
        parameters,
        rates,
        rates,
        number,
        number,
        number,
    )
    assert_kernels(concrete, both=False)
    x = tf.TensorSpec([COUNT, 6], tf.float32)
    assert_kernels(heads._logits_in_graph.get_concrete_function(parameters, x), both=False)
