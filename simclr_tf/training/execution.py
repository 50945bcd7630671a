"""Where and how a run computes: number format and XLA, chosen by the device."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import keras
import tensorflow as tf

from simclr_tf.errors import UserError

CPU_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")  # as the kernel names them


class Execution(NamedTuple):
    """What was chosen: `precision` is a Keras policy, `xla` whether the step is compiled by XLA.

    `views` is the number format that views are made in: bfloat16 where the policy computes in it
    and what makes the views has instructions for it, else float32.
    """

    precision: str
    xla: bool
    device: str
    views: str
    augment_on_device: bool


def choose_execution(
    precision: str,
    xla: str,
    augment_on: str = "auto",
    *,
    replicas: int = 1,
    deterministic: bool = False,
) -> Execution:
    """Turns "auto" into what the first device does best, and sets the global Keras policy.

    Precision: bfloat16 on GPUs of compute capability 8 and up and on CPUs with bfloat16
    instructions, float16 with loss scaling on GPUs of 7.x, else float32. XLA: on for a GPU, off
    for a CPU, where the compiled training step was measured at half the speed, and for several
    replicas, whose exchange XLA does not compile on a CPU; on GPUs that has not been tried.

    Args:
        precision: "auto" or a Keras policy's name.
        xla: "auto", "true" or "false".
        augment_on: "host", "device" or "auto", which is the host: it has nothing else to do while
            the device trains.
        replicas: Devices of all machines that train together.
        deterministic: Makes every operation of TensorFlow in this process deterministic. XLA on a
            GPU is beyond that: "auto" leaves it off. What it costs on a GPU has not been measured.

    Raises:
        UserError: XLA was asked for, for several replicas without a GPU, or on a GPU beside
            `deterministic`.
    """
    gpus = tf.config.list_physical_devices("GPU")
    precision = choose_precision(precision)
    keras.config.set_dtype_policy(precision)
    automatic = bool(gpus) and replicas == 1 and not deterministic
    compiled = automatic if xla == "auto" else xla == "true"
    if deterministic:
        tf.config.experimental.enable_op_determinism()
        if compiled and gpus:
            raise UserError(
                "Expected --xla=false or auto beside --deterministic on a GPU, where what XLA "
                "compiles may add up in any order, got --xla=true. Leave one of the flags out."
            )
    if compiled and replicas > 1 and not gpus:
        raise UserError(
            f"Expected --xla=false for {replicas} replicas on CPUs, whose exchange XLA cannot "
            "compile, got --xla=true. Leave the flag out."
        )
    on_device = augment_on == "device"
    fast = (on_device and gpus) or _cpu_precision() == "mixed_bfloat16"
    views = "bfloat16" if precision == "mixed_bfloat16" and fast else "float32"
    return Execution(precision, compiled, _describe(gpus), views, on_device)


def choose_precision(precision: str) -> str:
    """Returns the Keras policy that "auto" means on the first device; any other is returned."""
    if precision != "auto":
        return precision
    gpus = tf.config.list_physical_devices("GPU")
    return _gpu_precision(gpus[0]) if gpus else _cpu_precision()


def _gpu_precision(gpu: tf.config.PhysicalDevice) -> str:
    capability = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
    if capability >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if capability >= (7, 0) else "float32"


def _cpu_precision() -> str:
    flags = _cpu_info("flags").split()
    return "mixed_bfloat16" if any(f in flags for f in CPU_BFLOAT16_FLAGS) else "float32"


def _cpu_info(key: str) -> str:
    """Returns one entry of Linux' CPU description, or '' where there is none."""
    path = pathlib.Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _describe(gpus: list) -> str:
    if gpus:
        names = [
            tf.config.experimental.get_device_details(g).get("device_name", "GPU") for g in gpus
        ]
        return ", ".join(names)
    return f"CPU: {_cpu_info('model name') or 'unknown'}"
