"""torchvision's transforms.v2, image by image in the workers of a DataLoader."""

from __future__ import annotations

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from rivals.side import ASPECT, SIGMA, Job, Views, fastest
from rivals.torch_loader import Pairs, load

VERSIONS = {"torch": torch.__version__, "torchvision": torchvision.__version__}
DIFFERS = (
    "colours on uint8, in random order, rounded and clipped after each; the blur's kernel spans a "
    "tenth of the side, mirrored beyond the edge"
)


def open_views(job: Job) -> Views:
    """Keeps the faster of tensors and Pillow images as input."""
    view = transform_of(job)
    tensors = torch.from_numpy(np.array(job.images)).permute(0, 3, 1, 2).contiguous()
    pictures = [Image.fromarray(image) for image in job.images]

    def two(image: torch.Tensor | Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
        return view(image), view(image)

    return fastest(
        job,
        [
            lambda: load(job, Pairs(tensors, two), "tensor input"),
            lambda: load(job, Pairs(pictures, two), "Pillow input"),
        ],
    )


def transform_of(job: Job) -> v2.Compose:
    recipe = job.recipe
    low, high = job.factors
    area = (recipe["crop_area_min"], 1.0)
    chain: list = [v2.RandomResizedCrop(job.size, scale=area, ratio=ASPECT, antialias=True)]
    if recipe["flip"]:
        chain.append(v2.RandomHorizontalFlip(recipe["flip_prob"]))
    if recipe["jitter"]:
        jitter = v2.ColorJitter((low, high), (low, high), (low, high), job.max_hue)
        chain.append(v2.RandomApply([jitter], recipe["jitter_prob"]))
    if recipe["colordrop"]:
        chain.append(v2.RandomGrayscale(recipe["color_prob"]))
    if recipe["blur"]:
        blur = v2.GaussianBlur(2 * job.blur_radius + 1, SIGMA)
        chain.append(v2.RandomApply([blur], recipe["blur_prob"]))
    return v2.Compose([*chain, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
