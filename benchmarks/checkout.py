"""Imported first by the benchmarks: they measure the checkout they lie in, installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
