"""The settings of simclr_tf; `python config.py` prints each with its default and its meaning."""

from __future__ import annotations

import sys

from simclr_tf.cli import main
from simclr_tf.config import Config

__all__ = ["Config"]

if __name__ == "__main__":
    sys.exit(main(["--help"]))
