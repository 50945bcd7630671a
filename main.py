"""The command line of simclr_tf: `python main.py --help`."""

from __future__ import annotations

import sys

from simclr_tf.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
