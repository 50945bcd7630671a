"""SimCLR for TensorFlow 2 and Keras 3: pre-train an image encoder without labels, then use it.

    import simclr_tf as st

    views = st.data.two_views(images, batch_size=256, recipe=st.augment.Recipe(), seed=0)
    model = st.SimCLR(st.models.resnet(18, stem="small"), st.models.ProjectionHead(128))
    model.compile(st.optimizers.LARS(1.0, weight_decay=1e-4), st.losses.NTXent(temperature=0.1))
    model.fit(views, epochs=100)
    features = model.encoder.predict(images / 255.0)

The names are loaded on first use: importing the package imports no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names below, for who checks types or completes them
    from simclr_tf import augment as augment
    from simclr_tf import data as data
    from simclr_tf import evaluation as evaluation
    from simclr_tf import losses as losses
    from simclr_tf import metrics as metrics
    from simclr_tf import models as models
    from simclr_tf import optimizers as optimizers
    from simclr_tf import plots as plots
    from simclr_tf import schedules as schedules
    from simclr_tf.errors import UserError as UserError
    from simclr_tf.tasks import run as run
    from simclr_tf.training import callbacks as callbacks
    from simclr_tf.training.model import SimCLR as SimCLR
    from simclr_tf.workflow.encoder import load_encoder as load_encoder

__version__ = "0.1.0"

_MODULES = {
    "augment": "simclr_tf.augment",
    "callbacks": "simclr_tf.training.callbacks",
    "data": "simclr_tf.data",
    "evaluation": "simclr_tf.evaluation",
    "losses": "simclr_tf.losses",
    "metrics": "simclr_tf.metrics",
    "models": "simclr_tf.models",
    "optimizers": "simclr_tf.optimizers",
    "plots": "simclr_tf.plots",
    "schedules": "simclr_tf.schedules",
}
_OBJECTS = {
    "SimCLR": "simclr_tf.training.model",
    "UserError": "simclr_tf.errors",
    "load_encoder": "simclr_tf.workflow.encoder",
    "run": "simclr_tf.tasks",
}
# What Keras must know to load a saved SimCLR: it finds classes by name once they are imported.
_SAVED_WITH_SIMCLR = ("augment.random_views", "models", "optimizers", "schedules")

__all__ = sorted([*_MODULES, *_OBJECTS, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name == "SimCLR":
        for module in _SAVED_WITH_SIMCLR:
            importlib.import_module(f"simclr_tf.{module}")
    if name in _OBJECTS:
        return getattr(importlib.import_module(_OBJECTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
