"""Where and how a run computes: device, number format and XLA, chosen by the device."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

import keras
import tensorflow as tf

from simclr_tf.counting import spell_number
from simclr_tf.data.batches.tensors import CORES
from simclr_tf.errors import UserError
from simclr_tf.training.xla_trial import xla_failure

CPU_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")  # as the kernel names them
TRIED_SECONDS = 10  # for nvidia-smi to answer


class Execution(NamedTuple):
    """What was chosen.

    Attributes:
        precision: A Keras policy.
        xla: The training step is compiled by XLA as a whole.
        xla_parts: Where it is not, parts of it may be, each by itself: views that are made on the
            device, tiles of NT-Xent.
        device: Its name.
        views: The number format that views are made in: bfloat16 where the policy computes in it
            and what makes the views has instructions for it, else float32.
        augment_on_device: Views are made in the training step.
        xla_failure: Why XLA, which would have been chosen, cannot be; else ''.
    """

    precision: str
    xla: bool
    xla_parts: bool
    device: str
    views: str
    augment_on_device: bool
    xla_failure: str = ""


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
    instructions, float16 with loss scaling on GPUs of 7.x, else float32. XLA: on for a GPU where it
    works (see `xla_trial`), off for a CPU, where the compiled training step was measured at half
    the speed, and for several replicas, whose exchange XLA does not compile on a CPU; on GPUs that
    has not been tried.

    Float32 is float32 on every device: TF32, which keeps 10 bits of 23, is switched off. What is
    computed in float32 beside a half precision, such as the loss, takes little of a step.

    Args:
        precision: "auto" or a Keras policy's name.
        xla: "auto", "true" or "false". "false" also keeps XLA off the parts of a step.
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
    tf.config.experimental.enable_tensor_float_32_execution(False)
    failure = "" if deterministic else failure_of_xla(xla)
    automatic = not (gpus and (deterministic or failure))
    parts = xla == "true" or (xla == "auto" and automatic)
    compiled = xla == "true" or (parts and bool(gpus) and replicas == 1)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
        if compiled and gpus:
            raise UserError(
                "Expected `xla=false` or auto beside `deterministic` on a GPU, where what XLA "
                "compiles may add up in any order, got `xla=true`. Leave one of the flags out."
            )
    if compiled and replicas > 1 and not gpus:
        raise UserError(
            f"Expected `xla=false` for {replicas} replicas on CPUs, whose exchange XLA cannot "
            "compile, got `xla=true`. Leave the flag out."
        )
    on_device = augment_on == "device"
    fast = (on_device and gpus) or _cpu_precision() == "mixed_bfloat16"
    views = "bfloat16" if precision == "mixed_bfloat16" and fast else "float32"
    device = _describe(gpus[:replicas])  # one replica takes the first, whatever else there is
    return Execution(precision, compiled, parts, device, views, on_device, failure)


def failure_of_xla(xla: str) -> str:
    """Returns why XLA, where it is to be chosen by itself, cannot be for the GPU; else ''.

    The first call is before this process uses the GPU (see `xla_trial`).
    """
    gpus = tf.config.list_physical_devices("GPU")
    return xla_failure(_describe(gpus[:1])) if gpus and xla == "auto" else ""


def choose_precision(precision: str) -> str:
    """Returns the Keras policy that "auto" means on the first device; any other is returned."""
    if precision != "auto":
        return precision
    gpus = tf.config.list_physical_devices("GPU")
    return _gpu_precision(gpus[0]) if gpus else _cpu_precision()


def check_deterministic_depthwise() -> None:
    """Raises UserError where the device has no deterministic gradient of depth-wise convolutions.

    To be told at the start, not after minutes at the first step.
    """
    x, kernel = tf.ones([1, 4, 4, 2]), tf.ones([3, 3, 2, 1])
    try:
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            y = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")
        tape.gradient(y, kernel)
    except tf.errors.UnimplementedError as error:
        raise UserError(
            "Expected an encoder whose every operation this device has in a deterministic form, "
            f"got `depthwise`: {error.message.splitlines()[0]} Leave out `deterministic` or "
            "`depthwise`."
        ) from None


def describe_execution(execution: Execution) -> str:
    """Returns the line that a run begins with."""
    each = tf.config.threading.get_intra_op_parallelism_threads()
    return (
        f"computes on {execution.device} in {execution.precision}; "
        f"XLA {'on' if execution.xla else 'off'}; "
        f"{spell_number(CORES, 'host thread')}{f', {each} an operation' if each else ''}"
    )


def unseen_gpu() -> str:
    """Returns a warning where the machine has an NVIDIA GPU that TensorFlow does not see, else ''.

    One that is hidden on purpose, by CUDA_VISIBLE_DEVICES, is none.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    if tf.config.list_physical_devices("GPU") or hidden:
        return ""
    sign = _sign_of_gpu()
    if not sign:
        return ""
    if not tf.sysconfig.get_build_info().get("is_cuda_build"):
        remedy = "This TensorFlow is built without CUDA: pip uninstall tensorflow-cpu, then"
    else:
        remedy = "CUDA's libraries are missing, or do not fit the driver:"
    return (
        f"warning: this machine has a GPU ({sign}) that TensorFlow does not see, so the CPU "
        f"computes. {remedy} pip install -r requirements-gpu.txt (make setup GPU=1; without a "
        "checkout pip install 'tensorflow[and-cuda]'). CUDA_VISIBLE_DEVICES=-1 silences this"
    )


def _sign_of_gpu() -> str:
    """Returns what tells of an NVIDIA GPU: its device file or what nvidia-smi lists; else ''."""
    if pathlib.Path("/dev/nvidia0").exists():
        return "/dev/nvidia0"
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=TRIED_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    listed = "" if done.returncode else done.stdout.partition(" (UUID")[0].strip()
    return f"nvidia-smi: {listed}" if listed else ""


def print_execution(execution: Execution) -> None:
    """Prints the line that a run begins with, and what stands in the way of a faster one."""
    print(describe_execution(execution), flush=True)
    if execution.xla_failure:
        print(
            f"XLA is off, as it cannot compile for this GPU: {execution.xla_failure}. `xla=true` "
            "tries it all the same",
            flush=True,
        )
    warning = unseen_gpu()
    if warning:
        print(warning, file=sys.stderr, flush=True)


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
