"""Whether a GPU computes what the CPU does, and with --deterministic the same bits twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import numpy as np

from gpu_parts.serve import Report
from gpu_parts.training import ROOT, network_words, write_noise

FIRST_TOLERANCE = 1e-3  # relative, of the first loss without TF32: rounding alone


def losses(report: Report, options: dict[str, Any]) -> None:
    """Tells the losses of a few float32 steps on the CPU and on the device, and how they differ.

    The CPU's are those of a process that sees no GPU; it works at the same time.
    """
    command = [sys.executable, "-m", "gpu_parts.agreement", json.dumps(options)]
    on_cpu = subprocess.Popen(
        command, env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}, stdout=subprocess.PIPE, text=True
    )
    found = {}
    for tf32, xla in options["variants"]:
        name = f"tf32={'on' if tf32 else 'off'} xla={xla}"
        with report.attempt(name):
            found[name] = train_losses(options, tf32=tf32, xla=xla)
            report.tell(**{name: {"losses": found[name]}})
    answer = on_cpu.communicate()[0]
    if on_cpu.returncode:
        raise RuntimeError(f"The process on the CPU ended with {on_cpu.returncode}.")
    expected = json.loads(answer.splitlines()[-1])
    report.tell(cpu={"losses": expected})
    for name, values in found.items():
        apart = np.abs(np.subtract(values, expected) / expected)
        report.tell(**{name: {"first_apart": float(apart[0]), "most_apart": float(apart.max())}})
        if "tf32=off" in name and not apart[0] < FIRST_TOLERANCE:
            report.fail(name, f"the first loss is {values[0]}, on the CPU {expected[0]}")


def train_losses(options: dict[str, Any], *, tf32: bool, xla: str) -> list[float]:
    """Trains from the same seed on the same views; returns the loss of each step."""
    import keras
    import tensorflow as tf

    import simclr_tf as st
    from simclr_tf.data.sets.shapes import make_shapes
    from simclr_tf.training.execution import choose_execution

    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    execution = choose_execution("float32", xla)
    keras.utils.set_random_seed(0)
    size, steps = (options["size"],) * 2, options["steps"]
    encoder = st.models.resnet(18, stem="small", width_multiplier=options["width_multiplier"])
    model = st.SimCLR(encoder, st.models.ProjectionHead(128))
    optimizer = st.optimizers.LARS(0.1, weight_decay=1e-4)
    model.compile(optimizer, st.losses.NTXent(temperature=0.1), jit_compile=execution.xla)
    batches = st.data.two_views(
        make_shapes(4 * options["batch_size"], size=size, seed=0)[0],
        batch_size=options["batch_size"],
        recipe=st.augment.Recipe(),
        seed=0,
        first_step=0,
        last_step=steps,
    )
    step = tf.function(model.train_step, jit_compile=execution.xla)
    found = []
    for views in batches:
        model.reset_metrics()  # what a step returns is the mean since then
        found.append(float(step(views)["loss"]))
    return found


def deterministic(report: Report, options: dict[str, Any]) -> None:
    """Tells whether two runs of main.py with --deterministic end with the same bits."""
    from simclr_tf.runs.checkpoints import read_arrays

    network, weights = options["network"], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_noise(folder / "noise.npz", 4 * network["batch_size"], network["size"])
        for number in range(2):
            run = folder / f"run{number}"
            words = [
                "--task=pretrain",
                "--strategy=none",
                f"--dataset=npz:{folder / 'noise.npz'}",
                *network_words(network),
                f"--num_epochs={-(-options['steps'] // 4)}",
                "--save_every_epochs=1000",
                "--deterministic",
                f"--pretrain_save_path={run}",
            ]
            command = [sys.executable, str(ROOT / "main.py"), *words]
            if code := subprocess.run(command).returncode:
                raise RuntimeError(f"main.py --deterministic ended with {code}.")
            results = json.loads((run / "results.json").read_text())
            told = {key: results[key] for key in ("loss", "seconds", "images_per_second")}
            report.tell(**{f"run {number + 1}": told})
            (file,) = (run / "checkpoints").glob("step-*.safetensors")
            weights.append(read_arrays(file))
    differing = differing_bits(*weights)
    report.tell(bits={"arrays": len(weights[0]), "differing": len(differing)})
    if differing:
        report.fail("bits", f"{len(differing)} of {len(weights[0])} differ: {differing[:4]}")


def differing_bits(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> list[str]:
    """Returns the names of arrays that are not the same bit for bit, or are on one side alone."""
    alike = {
        name
        for name in first.keys() & second.keys()
        if first[name].dtype == second[name].dtype
        and first[name].shape == second[name].shape
        and first[name].tobytes() == second[name].tobytes()
    }
    return sorted((first.keys() | second.keys()) - alike)


if __name__ == "__main__":
    print(json.dumps(train_losses(json.loads(sys.argv[1]), tf32=False, xla="false")))
