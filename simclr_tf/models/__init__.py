"""Encoders, heads and the segmenter."""

from simclr_tf.models.heads import ProjectionHead, classifier_head
from simclr_tf.models.normalization import BatchNormalization
from simclr_tf.models.resnet import resnet
from simclr_tf.models.unet import decoder_variables, unet

__all__ = [
    "BatchNormalization",
    "ProjectionHead",
    "classifier_head",
    "decoder_variables",
    "resnet",
    "unet",
]
