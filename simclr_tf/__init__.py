"""SimCLR for TensorFlow 2 and Keras 3: pre-train an image encoder without labels, then use it.

The names below are loaded on first use: importing the package imports no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = ("augment", "callbacks", "data", "losses", "metrics", "models", "optimizers")
