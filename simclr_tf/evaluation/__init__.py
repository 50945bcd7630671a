"""How good features are: embedding, nearest neighbours, logistic regression."""

from simclr_tf.evaluation.features import embed, pixel_encoder
from simclr_tf.evaluation.logistic import logistic_regression
from simclr_tf.evaluation.neighbours import knn_accuracy, knn_predict, nearest

__all__ = [
    "embed",
    "knn_accuracy",
    "knn_predict",
    "logistic_regression",
    "nearest",
    "pixel_encoder",
]
