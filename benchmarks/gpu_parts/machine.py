"""What the numbers were measured on: device, driver, libraries, packages, processor."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from processes import count_cores, processor

from gpu_parts.serve import Report

PACKAGES = ("simclr-tf", "tensorflow", "keras", "numpy", "torch", "triton")
LIBRARIES = ("libcud", "libcublas", "libcufft", "libcusolver", "libcusparse", "libnccl", "libnv")
ASKED = "name,driver_version,memory.total,compute_cap,power.limit,clocks.max.sm"


def describe(report: Report, options: dict[str, Any]) -> None:
    """Tells what TensorFlow sees first, then what the device and its libraries are."""
    report.tell(
        processor=processor(),
        cores=count_cores(),
        memory_gb=_memory_gb(),
        system=platform.platform(),
        python=platform.python_version(),
        packages=_packages(),
        nvidia_smi=_ask_driver(),
    )
    import checkout  # noqa: F401
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    report.tell(
        gpus=[d.get("device_name", "GPU") for d in details],
        compute_capability=[list(d.get("compute_capability", ())) for d in details],
        built_for={k: str(v) for k, v in tf.sysconfig.get_build_info().items()},
    )
    with report.attempt("chosen"):
        from simclr_tf.training.execution import choose_execution

        report.tell(chosen=choose_execution("auto", "auto")._asdict())
    for dtype in ("bfloat16", "float32"):
        with report.attempt(f"{dtype}_tflops"):
            from steps.ours import matrix_rate, uses_tf32

            seconds = options.get("seconds", 1.0)
            rate = matrix_rate(dtype, seconds, side=options["matrix_side"])
            report.tell(**{f"{dtype}_tflops": round(rate, 3)}, tf32=uses_tf32())
    with report.attempt("to_device_gb_per_second"):
        report.tell(to_device_gb_per_second=_copy_rate(options["copy_megabytes"]))
    report.tell(libraries=_loaded_libraries())


def _copy_rate(megabytes: int) -> float:
    """Returns the 10^9 bytes per second that are copied from the host's memory to the device's."""
    import numpy as np
    import tensorflow as tf

    with tf.device("/CPU:0"):
        held = tf.constant(np.ones([megabytes, 1 << 20], np.uint8))
    last = tf.function(lambda copy: copy[-1, -1])
    best = float("inf")
    for _ in range(4):  # the first prepares
        start = time.perf_counter()
        int(last(tf.identity(held)))
        best = min(best, time.perf_counter() - start)
    return round(megabytes * (1 << 20) / best / 1e9, 2)


def _packages() -> dict[str, str]:
    """Returns the versions of what is installed of `PACKAGES` and of NVIDIA's wheels."""
    there = {d.metadata["Name"] or "": d.version for d in importlib.metadata.distributions()}
    return {
        name: version
        for name, version in sorted(there.items())
        if name in PACKAGES or name.startswith("nvidia")
    }


def _ask_driver() -> str:
    """Returns what nvidia-smi says, a line a device, or why it says nothing."""
    command = ["nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nothing: {error}"
    return "; ".join(done.stdout.splitlines()) or f"nothing: {done.stderr.strip()}"


def _memory_gb() -> float | None:
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    return round(int(path.read_text().split()[1]) * 1024 / 1e9, 1)


def _loaded_libraries() -> list[str]:
    """Returns the files of NVIDIA's libraries that this process has loaded."""
    path = Path("/proc/self/maps")
    if not path.exists():
        return []
    files = {line.split()[-1].rpartition("/")[2] for line in path.read_text().splitlines()}
    return sorted(name for name in files if name.startswith(LIBRARIES))
