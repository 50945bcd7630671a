"""A ResNet in NumPy, slow and plain, on a torch state dict: what imported weights must compute."""

from __future__ import annotations

import numpy as np


def features(arrays, images, *, stride_in_1x1=False):
    """Returns the features, float64 [N, F], of images float [N, 3, H, W], normalised already.

    Args:
        arrays: By torchvision's names.
        images: What the first convolution sees.
        stride_in_1x1: Where the bottlenecks stride.
    """
    small = arrays["conv1.weight"].shape[2] == 3
    bottleneck = "layer1.0.conv3.weight" in arrays
    x = np.asarray(images, np.float64)
    x = _relu(_norm(_convolve(x, arrays["conv1.weight"], 1 if small else 2), arrays, "bn1"))
    x = x if small else _max_pool(x)
    for stage in (1, 2, 3, 4):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in arrays:
            stride = 2 if stage > 1 and block == 0 else 1
            if not bottleneck:
                strides = (stride, 1)
            else:
                strides = (stride, 1, 1) if stride_in_1x1 else (1, stride, 1)
            x = _block(x, arrays, f"layer{stage}.{block}", stride, strides)
            block += 1
    return x.mean(axis=(2, 3))


def _block(x, arrays, name, stride, strides):
    shortcut = x
    if f"{name}.downsample.0.weight" in arrays:
        shortcut = _convolve(x, arrays[f"{name}.downsample.0.weight"], stride)
        shortcut = _norm(shortcut, arrays, f"{name}.downsample.1")
    for index, step in enumerate(strides, start=1):
        x = _norm(
            _convolve(x, arrays[f"{name}.conv{index}.weight"], step), arrays, f"{name}.bn{index}"
        )
        x = _relu(x) if index < len(strides) else x
    return _relu(x + shortcut)


def _convolve(x, kernel, stride):
    """Adds up shifted images: zeros to both sides, half a kernel wide, as torch pads."""
    side = kernel.shape[2]
    pad = side // 2
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    height, width = ((n - side) // stride + 1 for n in x.shape[2:])
    total = 0.0
    for i in range(side):
        for j in range(side):
            seen = x[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            total = total + np.tensordot(kernel[:, :, i, j].astype(np.float64), seen, (1, 1))
    return np.moveaxis(total, 0, 1)


def _norm(x, arrays, name):
    gamma, beta, mean, variance = (
        arrays[f"{name}.{part}"].astype(np.float64)[:, np.newaxis, np.newaxis]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def _max_pool(x):
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    height, width = ((n - 3) // 2 + 1 for n in x.shape[2:])
    seen = [
        x[:, :, i : i + 2 * height : 2, j : j + 2 * width : 2] for i in range(3) for j in range(3)
    ]
    return np.max(seen, axis=0)


def _relu(x):
    return np.maximum(x, 0.0)
