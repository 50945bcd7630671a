"""Losses: NT-Xent of pre-training, and what segmentation is trained with."""

from simclr_tf.losses.contrastive import Contrast, NTXent, nt_xent
from simclr_tf.losses.segmentation import PixelLoss, balanced_weights, pixel_loss, soft_dice

__all__ = [
    "Contrast",
    "NTXent",
    "PixelLoss",
    "balanced_weights",
    "nt_xent",
    "pixel_loss",
    "soft_dice",
]
