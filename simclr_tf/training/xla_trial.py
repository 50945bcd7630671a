"""Trial of XLA on this machine's GPU, in a process of its own.

XLA for a GPU needs a compiler (libdevice, ptxas) that the installation may lack, and a GPU that is
newer than the build of TensorFlow can abort the whole process (tensorflow#111958). So one line is
compiled elsewhere first. That it works is remembered from run to run, that it fails is not: what
was missing may be installed by then.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pathlib
import subprocess
import sys

import tensorflow as tf

SECONDS = 180  # the first kernel of a GPU that is newer than the build is compiled from PTX

# exp needs libdevice; anything needs ptxas or the driver's own compiler.
PROGRAM = """
import tensorflow as tf
tf.config.set_soft_device_placement(False)
with tf.device("/GPU:0"):
    tf.function(lambda x: tf.exp(x) + 1.0, jit_compile=True)(tf.zeros([8])).numpy()
"""


@functools.cache
def xla_failure(gpu: str) -> str:
    """Returns why XLA cannot compile for the first GPU, '' where it can.

    Called before this process uses the GPU, whose memory it would have for itself.

    Args:
        gpu: Name of the GPU, which with versions and place of TensorFlow tells one machine from
            another.
    """
    memory = _memory(gpu)
    if memory.exists():
        return ""
    environment = os.environ | {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "TF_CPP_MIN_LOG_LEVEL": "2"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__} after up to {SECONDS} s"
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"exit code {done.returncode}"
    with contextlib.suppress(OSError):  # it is only tried again
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.touch()
    return ""


def _memory(gpu: str) -> pathlib.Path:
    """Returns the file whose existence says that it works."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    what = f"{gpu}\n{tf.version.VERSION}\n{sys.prefix}"
    return (
        pathlib.Path(home) / "simclr_tf" / f"xla-{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    )
