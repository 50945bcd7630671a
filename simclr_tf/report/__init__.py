"""The report of an evaluation: one HTML file that needs nothing beside it."""

from simclr_tf.report.content import Report
from simclr_tf.report.pages import build_report, read_report

__all__ = ["Report", "build_report", "read_report"]
