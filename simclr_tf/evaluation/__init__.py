"""How good features are: embedding, nearest neighbours, logistic regression."""

from simclr_tf.evaluation.features import embed, pixel_encoder
from simclr_tf.evaluation.knn import knn_accuracy, knn_predict
from simclr_tf.evaluation.logistic import logistic_regression

__all__ = ["embed", "knn_accuracy", "knn_predict", "logistic_regression", "pixel_encoder"]
