"""lightly's SimCLRTransform on Pillow images in the workers of a DataLoader."""

from __future__ import annotations

import lightly
import torch
import torchvision
from lightly.transforms import SimCLRTransform
from PIL import Image, __version__

from rivals.side import SIGMA, Job, Views
from rivals.torch_loader import Pairs, load

VERSIONS = {
    "lightly": lightly.__version__,
    "pillow": __version__,
    "torch": torch.__version__,
    "torchvision": torchvision.__version__,
}
DIFFERS = "colours on uint8 by Pillow, in random order; Pillow's approximate Gaussian blur"


def open_views(job: Job) -> Views:
    recipe = job.recipe
    transform = SimCLRTransform(
        input_size=job.size,
        cj_prob=recipe["jitter_prob"] if recipe["jitter"] else 0.0,
        cj_strength=recipe["strength"],
        min_scale=recipe["crop_area_min"],
        random_gray_scale=recipe["color_prob"] if recipe["colordrop"] else 0.0,
        gaussian_blur=recipe["blur_prob"] if recipe["blur"] else 0.0,
        sigmas=SIGMA,
        hf_prob=recipe["flip_prob"] if recipe["flip"] else 0.0,
        normalize=None,  # the others do not normalise either
    )
    pictures = [Image.fromarray(image) for image in job.images]
    return load(job, Pairs(pictures, transform), "Pillow input")
