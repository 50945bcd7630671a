"""What `test_distribution` asks of two replicas, in a process of its own.

Two logical CPU devices must be asked for before TensorFlow starts. Given command lines, a JSON list
of lists of words, this runs one after the other and prints `END` after each; without, it trains the
same models on one device with the joint batch and on two replicas with half of it each, and prints
as JSON how far they are apart.
"""

from __future__ import annotations

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from tiny import policy, shallow_encoders, tiny_simclr, tiny_views

from simclr_tf import cli as command_line
from simclr_tf.errors import UserError
from simclr_tf.losses.contrastive import NTXent
from simclr_tf.models import ProjectionHead, resnet
from simclr_tf.optimizers import NAMES, make_optimizer
from simclr_tf.training.callbacks.finite import StopWhereNotFinite
from simclr_tf.training.distribution import distribute, make_strategy, share_overflow
from simclr_tf.training.fit import fit_steps
from simclr_tf.training.model import SimCLR

COUNT = 8  # images in a batch
END = "-- end of a run --"


def halves(views, steps):
    """The same batch at every step, in the form of `spread`."""

    def make(shard):
        rows = shard.rows(len(views[0]))
        parts = [
            tuple(view[r * rows : (r + 1) * rows] for view in views)
            for r in range(shard.first, shard.first + shard.own)
        ]
        return tf.data.Dataset.from_tensor_slices(
            tuple(np.stack(view) for view in zip(*parts, strict=True))
        ).repeat(steps)

    return make


def narrow_resnet(**arguments):
    keras.utils.set_random_seed(3)
    encoder = resnet(18, stem="small", width_multiplier=0.0625)
    model = SimCLR(encoder, ProjectionHead(5, layers=2), **arguments)
    for variable in model.head.trainable_variables:
        if len(variable.shape) == 2:
            variable.assign(variable.value * 30.0)
    return model


def frozen_tiny(**arguments):
    model = tiny_simclr(**arguments)
    for layer in (*model.encoder.layers, *model.head.stack.layers):
        if "norm" in layer.name:
            layer.trainable = False
    return model


def train(strategy, make_model, *, name="sgd", rate=0.1, steps=1, temperature=0.5, **arguments):
    """Returns the logs and every variable of every replica after some steps."""
    views = tiny_views(COUNT, side=12)
    with strategy.scope():
        model = make_model(**arguments)
        optimizer = make_optimizer(
            name, learning_rate=rate, weight_decay=1e-2, variables=model.trainable_variables
        )
        model.compile(optimizer, NTXent(temperature), jit_compile=False)
    spread_over = strategy if strategy.num_replicas_in_sync > 1 else None
    batches = distribute(spread_over, halves(views, steps))
    tests = distribute(spread_over, halves(views, 1))
    logs = model.fit(
        batches,
        steps_per_epoch=steps,
        validation_data=tests,
        validation_steps=1,
        verbose=0,
    ).history
    variables = [*model.variables, *model.optimizer.variables]
    copies = [strategy.experimental_local_results(variable.value) for variable in variables]
    return {k: v[0] for k, v in logs.items()}, [[c.numpy() for c in copy] for copy in copies]


def compare(one, two, make_model, **arguments):
    """Returns the largest differences of logs, of variables, and between the replicas."""
    start = [v.numpy() for v in make_model().variables]
    logs, single = train(one, make_model, **arguments)
    logs_of_two, double = train(two, make_model, **arguments)
    assert logs.keys() == logs_of_two.keys()
    return {
        "logs": max(abs(logs[name] - logs_of_two[name]) for name in logs),
        "variables": max(
            float(np.max(np.abs(ours[0] - copies[0]) / (1.0 + np.abs(ours[0]))))
            for ours, copies in zip(single, double, strict=True)
        ),
        "replicas": max(float(np.max(np.abs(c[0].astype(float) - c[-1]))) for c in double),
        "moved": max(float(np.max(np.abs(a - b[0]))) for a, b in zip(start, double, strict=False)),
    }


def overflow_of_one(strategy):
    """Returns, for each replica, the gradients where only the second one's have overflowed."""

    def share():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        gradients = [tf.ones([2]), tf.fill([2], [1.0, np.inf][replica])]
        return [tf.reduce_sum(g) for g in share_overflow(gradients)]

    shared = strategy.run(share)
    return [[str(v.numpy()) for v in strategy.experimental_local_results(g)] for g in shared]


def stopped_at(strategy, bad):
    """Returns what a run says whose batch of one step, counted from 1, makes no finite loss."""
    views = tiny_views(COUNT, side=12)

    def make(shard):
        batches = halves(views, 6)(shard)
        wrong = tf.data.Dataset.range(batches.cardinality()).map(
            lambda i: tf.where(i // shard.own + 1 == bad, float("nan"), 0.0)
        )
        return tf.data.Dataset.zip(batches, wrong).map(lambda v, nan: (v[0] + nan, v[1]))

    with strategy.scope():
        model = tiny_simclr()
        model.compile(keras.optimizers.SGD(0.1), NTXent(0.5), jit_compile=False)
    try:
        fit_steps(
            model,
            lambda first, last: distribute(strategy, make),
            first_step=0,
            last_step=6,
            steps_per_epoch=6,
            callbacks=[StopWhereNotFinite(every_steps=4)],
        )
    except UserError as error:
        return str(error)
    return ""


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    device = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [device, device])
    for words in json.loads(sys.argv[1]) if sys.argv[1:] else []:
        if code := command_line.main(words):
            sys.exit(code)
        print(END)
    if not sys.argv[1:]:
        print(json.dumps(compare_all()))


def compare_all():
    one, two = tf.distribute.get_strategy(), make_strategy("mirrored")
    cases = {
        "four steps": (tiny_simclr, {"steps": 4}),
        "a ResNet": (narrow_resnet, {"rate": 0.01}),
        "microbatches": (frozen_tiny, {"microbatch_size": 2, "temperature": 0.05, "steps": 2}),
        **{name: (tiny_simclr, {"name": name, "rate": 0.01, "steps": 2}) for name in NAMES},
    }
    found = {case: compare(one, two, make, **rest) for case, (make, rest) in cases.items()}
    for name in ("mixed_float16", "mixed_bfloat16"):
        with policy(name):
            found[name] = compare(one, two, tiny_simclr, steps=4)
    found["overflow"] = overflow_of_one(two)
    found["not finite"] = stopped_at(two, 3)
    found["microbatches, norms that learn"] = compare(one, two, tiny_simclr, microbatch_size=2)
    return found


if __name__ == "__main__":
    with shallow_encoders():
        main()
