"""The tasks: each is a module with `run(config) -> results`, run from here by its name."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from typing import Any

from simclr_tf.config.settings import Config, without_flags
from simclr_tf.errors import OutOfMemoryError, UserError, take_kept

TASKS: dict[str, str] = {
    "pretrain": "simclr_tf.tasks.pretrain",
    "classification": "simclr_tf.tasks.classification",
    "segmentation": "simclr_tf.tasks.segmentation",
    "embed": "simclr_tf.tasks.embed",
    "predict": "simclr_tf.tasks.predict",
    "export": "simclr_tf.tasks.export",
    "evaluate": "simclr_tf.tasks.evaluate",
    "check": "simclr_tf.tasks.check",
}
"""Task -> module. They are imported when they are run: importing one imports TensorFlow."""


def run(**settings: Any) -> dict[str, Any]:
    """Runs a task as the command line does; returns what its results.json holds.

    A setting is the flag's name without the dashes (`python config.py` lists them), its value
    Python's own or the flag's text, None as if it were left out. Keras' number format is afterwards
    as it was; the seeds of Python, numpy and TensorFlow are those of the run.

    Example:
        >>> results = run(task="pretrain", dataset="folder:photos", input_size=(96, 96))
        >>> results["knn_accuracy"]

    Raises:
        UserError: A setting is wrong, or the task cannot be done with them.
    """
    import keras

    policy = keras.config.dtype_policy()
    try:
        given = {name: value for name, value in settings.items() if value is not None}
        return run_task(Config.resolve(**given))
    except UserError as error:
        raise UserError(without_flags(str(error))) from error
    finally:
        keras.config.set_dtype_policy(policy)


def run_task(
    config: Config,
    *,
    importing: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> dict[str, Any]:
    """Runs the task of the settings and returns what results.json holds.

    Args:
        config: The settings as they were given.
        importing: Makes the context that TensorFlow is imported in.

    Raises:
        UserError: A setting is wrong, or the task cannot be done with them.
    """
    config.validate()
    unused = config.unused()
    if unused:
        print(f"not used by --task={config.task}: {', '.join(unused)}", flush=True)
    # Defaults for what the task imports; the user's own environment wins.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    take_kept()  # of a run before, in this process
    try:
        with importing():
            task = importlib.import_module(TASKS[config.task])
        return task.run(config)
    except (UserError, OutOfMemoryError, BrokenPipeError):
        raise
    except OSError as error:
        raise UserError(
            f"Expected to read and write {error.filename or 'files'}, got: "
            f"{error.strerror or error}. Check the path, its permissions and the free space; "
            f"--{config.save_flag} chooses another folder."
        ) from error
    except Exception as error:
        kept = take_kept() if type(error).__module__.startswith("tensorflow") else None
        if kept is None:
            raise
        raise kept from error
