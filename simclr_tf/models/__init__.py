"""Encoders and heads."""

from simclr_tf.models.heads import ProjectionHead, classifier_head
from simclr_tf.models.layers import BatchNormalization
from simclr_tf.models.resnet import resnet

__all__ = ["BatchNormalization", "ProjectionHead", "classifier_head", "resnet"]
