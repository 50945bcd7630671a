"""Runs in .venv-interop, which has torch but no TensorFlow: the two do not bear one process.

python torch_reference.py make FOLDER: networks of torchvision and timm, weights and statistics
drawn: NAME.safetensors, and NAME.npy, what they make of images.npy; also pickled.pth.

python torch_reference.py run FOLDER: runs code.py in the folder, with `images` of images.npy, and
writes `outputs`, where the code has set it, to outputs.npy.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import timm
import torch
import torchvision
from safetensors.torch import save_file

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def randomise(model):
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            low, high = (0.5, 1.5) if name.endswith(("weight", "running_var")) else (-0.2, 0.2)
            tensor.uniform_(low, high, generator=generator)
    return model.eval()


def make():
    """Writes the networks and what they compute."""
    torch.manual_seed(0)
    images = torch.tensor(np.load("images.npy")).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    x = (images - mean) / std
    for depth in (18, 34, 50):
        ours = randomise(getattr(torchvision.models, f"resnet{depth}")())
        ours.fc = torch.nn.Identity()
        numbered = torch.nn.Module()
        numbered.backbone = torch.nn.Sequential(*list(ours.children())[:-1])
        timms = randomise(timm.create_model(f"resnet{depth}", num_classes=0))
        for name, saved, network in (
            ("torchvision", ours, ours),
            ("numbered", numbered, ours),
            ("timm", timms, timms),
        ):
            save_file(saved.state_dict(), f"{name}{depth}.safetensors")
            with torch.no_grad():
                np.save(f"{name}{depth}.npy", network(x).numpy())
    small = {f"model.{name}": tensor for name, tensor in ours.state_dict().items()}
    torch.save({"state_dict": small, "epoch": 3}, "pickled.pth")
    with open("names.txt", "w") as file:
        for depth in (18, 34, 50):
            for name, tensor in (
                getattr(torchvision.models, f"resnet{depth}")().state_dict().items()
            ):
                print(depth, name, *tensor.shape, file=file)


def run():
    """Runs the code that lies in the folder."""
    found = {"images": torch.tensor(np.load("images.npy"))}
    with open("code.py") as file, torch.no_grad():
        exec(file.read(), found)
    if "outputs" in found:
        np.save("outputs.npy", found["outputs"].numpy())


if __name__ == "__main__":
    os.chdir(sys.argv[2])
    {"make": make, "run": run}[sys.argv[1]]()
