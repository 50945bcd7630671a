"""The report of an evaluation: one HTML file that needs nothing beside it."""

from simclr_tf.report.parts import Report
from simclr_tf.report.single import build_report, read_report

__all__ = ["Report", "build_report", "read_report"]
