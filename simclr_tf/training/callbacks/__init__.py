"""What happens while a model trains: progress, health, journal, checkpoints, stopping."""

from simclr_tf.training.callbacks.accuracy_monitor import AccuracyMonitor
from simclr_tf.training.callbacks.finite import StopWhereNotFinite
from simclr_tf.training.callbacks.health_line import HealthLine
from simclr_tf.training.callbacks.knn_monitor import KNNMonitor
from simclr_tf.training.callbacks.mean_iou_monitor import MeanIoUMonitor, best_row
from simclr_tf.training.callbacks.progress import Progress
from simclr_tf.training.callbacks.saving import Journal, SaveCheckpoints

__all__ = [
    "AccuracyMonitor",
    "HealthLine",
    "Journal",
    "KNNMonitor",
    "MeanIoUMonitor",
    "Progress",
    "SaveCheckpoints",
    "StopWhereNotFinite",
    "best_row",
]
