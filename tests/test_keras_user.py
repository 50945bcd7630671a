"""The library as a Keras user meets it: nothing here but what one would type, and what comes out.

What runs in a process of its own does so because the user's would be fresh, too.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import simclr_tf as st

COUNT, SIDE = 40, 16


@pytest.fixture
def pictures(rng):
    return rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)


def small_model(augment=None):
    encoder = st.models.resnet(18, stem="small", width_multiplier=0.0625)
    model = st.SimCLR(encoder, st.models.ProjectionHead(8), augment=augment)
    model.compile(st.optimizers.LARS(1.0), st.losses.NTXent(temperature=0.5))
    return model


def run_script(text: str, *words: object) -> str:
    """Runs a script with all warnings shown; returns what it printed, on both streams."""
    command = [sys.executable, "-c", textwrap.dedent(text), *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_snippet_of_the_readme_is_quiet_with_forty_images():
    told = run_script(
        """
        import os
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow's own greeting
        import numpy as np
        import simclr_tf as st

        images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
        labels = np.arange(40) % 4
        views = st.data.two_views(images, batch_size=8, recipe=st.augment.Recipe(), seed=0)
        model = st.SimCLR(
            st.models.resnet(18, stem="small", width_multiplier=0.0625), st.models.ProjectionHead(8)
        )
        model.compile(st.optimizers.LARS(1.0, weight_decay=1e-4), st.losses.NTXent(0.1))
        both = st.data.from_arrays(images, labels)
        monitor = st.callbacks.KNNMonitor(both, both)
        model.fit(views, epochs=2, verbose=0, callbacks=[monitor])
        for some in (images, images[:7], images[:3], images[:1]):
            print(model.encoder.predict(some / 255.0, verbose=0).shape)
        """
    )
    lines = [
        line for line in told.splitlines() if not line.startswith(("WARNING: All log", "I0", "E0"))
    ]
    assert lines == ["(40, 32)", "(7, 32)", "(3, 32)", "(1, 32)"], told


@pytest.mark.parametrize("batch_size", [8, 16])  # 16: the last batch is smaller
def test_fit_on_images_alone(pictures, batch_size):
    model = small_model(st.augment.RandomViews(st.augment.Recipe(strength=0.5), seed=1))
    history = model.fit(
        pictures, batch_size=batch_size, epochs=3, validation_data=pictures[:8], verbose=0
    ).history
    assert np.isfinite(history["loss"]).all() and np.isfinite(history["val_loss"]).all()
    assert len(set(history["loss"])) == 3


def test_labels_beside_the_images_are_left_aside(pictures):
    model = small_model(st.augment.RandomViews())
    labelled = tf.data.Dataset.from_tensor_slices((pictures, np.arange(COUNT))).batch(8)
    assert np.isfinite(model.fit(labelled, verbose=0).history["loss"][0])


def test_random_views_are_those_of_the_library(pictures):
    """Drawn by seed and step; other ones at each call, the same ones for validation."""
    recipe = st.augment.Recipe(blur=True, noise=True, rotate=True, cutout=True)
    layer = st.augment.RandomViews(recipe, size=(8, 12), seed=3)
    first, second = layer(pictures), layer(pictures)
    assert [view.shape for view in first] == [(COUNT, 8, 12, 3)] * 2
    assert not np.allclose(first[0], first[1]) and not np.allclose(first[0], second[0])
    draw = st.augment.draw_views(recipe, 2 * COUNT, seed=3, step=1, size=(8, 12))
    for ours, expected in zip(second, st.augment.make_views(pictures, draw, (8, 12)), strict=True):
        np.testing.assert_array_equal(ours, expected)
    same = [layer(pictures, training=False)[0] for _ in range(2)]
    np.testing.assert_array_equal(*same)
    with pytest.raises(ValueError, match="uint8"):
        layer(pictures / 255.0)


def test_a_saved_model_trains_on_as_the_one_that_was_not(tmp_path, pictures):
    model = small_model(st.augment.RandomViews(seed=2))
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(pictures, **fit)
    model.save(tmp_path / "simclr.keras")
    whole = model.fit(pictures, epochs=2, **fit).history["loss"]
    np.save(tmp_path / "pictures.npy", pictures)
    told = run_script(
        """
        import os, sys
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import keras, numpy as np
        import simclr_tf as st

        folder = sys.argv[1]
        model = keras.models.load_model(folder + "/simclr.keras", {"SimCLR": st.SimCLR})
        again = model.fit(
            np.load(folder + "/pictures.npy"), batch_size=8, epochs=2, shuffle=False, verbose=0
        )
        print("losses", *again.history["loss"])
        """,
        tmp_path,
    )
    losses = next(line for line in told.splitlines() if line.startswith("losses"))
    np.testing.assert_allclose([float(word) for word in losses.split()[1:]], whole, rtol=1e-5)


def test_every_callback_works_with_plain_fit(tmp_path, pictures, capsys):
    labelled = st.data.from_arrays(pictures, np.arange(COUNT) % 4)
    monitor = st.callbacks.KNNMonitor(labelled, labelled)
    views = st.data.two_views(pictures, batch_size=8, recipe=st.augment.Recipe(), seed=0)
    model = small_model()
    callbacks = [
        monitor,
        st.callbacks.HealthLine(loss=model.contrastive_loss, batch_size=8, monitor=monitor),
        st.callbacks.Progress(last_step=10, batch_size=8, every_steps=1),
        st.callbacks.StopWhereNotFinite(every_steps=2),
        st.callbacks.Journal(tmp_path),
        st.callbacks.SaveCheckpoints(tmp_path),
    ]
    model.fit(views, epochs=2, verbose=0, callbacks=callbacks)
    model.fit(views, epochs=3, initial_epoch=2, verbose=0, callbacks=callbacks)
    assert "epoch   3  loss" in capsys.readouterr().out
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "5"), ("2", "10"), ("3", "15")]
    assert {"loss", "knn_accuracy", "images_per_second", "learning_rate"} <= rows[0].keys()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [
        "step-000000015.safetensors"
    ]


def test_the_monitors_of_heads_work_with_plain_fit(tmp_path, rng, pictures):
    features, labels = rng.normal(size=(COUNT, 6)).astype(np.float32), np.arange(COUNT) % 3
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    monitor = st.callbacks.AccuracyMonitor([tf.constant(features)], labels, epochs=[2])
    history = model.fit(features, labels, epochs=2, verbose=0, callbacks=[monitor]).history
    assert len(history["val_accuracy"]) == 1

    segmenter = keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Conv2D(2, 1)])
    segmenter.compile("sgd", st.losses.PixelLoss(2))
    masks = (pictures[..., 0] > 127).astype(np.int32)
    loss = segmenter.fit(pictures / 255.0, masks, epochs=2, verbose=0).history["loss"]
    assert loss[1] < loss[0]


def test_pixels_of_the_wrong_range_are_named(pictures):
    encoder = st.models.resnet(18, stem="small", width_multiplier=0.0625)
    for use in (encoder, encoder.predict):
        for wrong in (pictures, pictures.astype(np.float32), tf.constant(pictures)):
            with pytest.raises(st.UserError, match="pixels in 0 to 1, got .* up to 255"):
                use(wrong)
    standardised = (pictures - 127.0) / 60.0
    for right in (pictures / 255.0, standardised, np.zeros_like(pictures)):
        assert encoder.predict(right, verbose=0).shape == (COUNT, 32)


def test_a_run_and_its_encoder_back_in_python(tmp_path, pictures):
    policy = keras.config.dtype_policy().name
    results = st.run(
        task="pretrain",
        dataset="shapes",
        input_size=(16, 16),
        num_epochs=1,
        max_steps=1,
        batch_size=16,
        width_multiplier=0.0625,
        val_file_path=None,  # as if it were left out
        pretrain_save_path=tmp_path / "run",
    )
    assert results["steps"] == 1 and "knn_accuracy" in results
    assert keras.config.dtype_policy().name == policy
    encoder = st.load_encoder(tmp_path / "run")
    features = encoder.predict(pictures / 255.0, verbose=0)
    own = st.load_encoder(tmp_path / "run", include_rescaling=True)
    np.testing.assert_allclose(own.predict(pictures, verbose=0), features, atol=1e-5)
    head = keras.Sequential([encoder, keras.layers.Dense(4)])
    head.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert np.isfinite(head.fit(pictures / 255.0, np.arange(COUNT) % 4, verbose=0).history["loss"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task": "pretrain", "temperature": 0}, "Expected temperature"),
        ({"task": "pretrain", "temprature": 0.1}, "Did you mean temperature"),
        ({"task": "classification", "init_weights": "nowhere"}, "init_weights=nowhere"),
    ],
)
def test_what_a_run_refuses_it_names_without_flags(tmp_path, wrong, message):
    with pytest.raises(st.UserError, match=message) as caught:
        st.run(finetune_save_path=tmp_path, pretrain_save_path=tmp_path, **wrong)
    assert "--" not in str(caught.value)


def test_an_encoder_that_is_not_there(tmp_path):
    for source in (tmp_path / "none", tmp_path, "none", tmp_path / "weights.pth"):
        with pytest.raises(st.UserError, match="Expected") as caught:
            st.load_encoder(source)
        assert "--" not in str(caught.value).splitlines()[0]
