"""Rotation, cutout and blur of tensorflow-addons, run by the interpreter of its own environment.

    .venv-addons/bin/python tests/augment/addons_reference.py INPUTS.npz OUTPUTS.npz

tensorflow-addons cannot be imported beside the TensorFlow that the library needs, so
test_addons.py starts this once and compares. It imports nothing of the library.

INPUTS holds the numbers "fill" (beyond the edge of a rotated image), "gray" (of a cutout) and
"window" (a blur's, in pixels, odd) and, for each case NAME, "NAME/images" (float32 [N, H, W, C]),
"NAME/degrees" and "NAME/sigma" (float32 [N]), "NAME/top", "NAME/left" and "NAME/side" (int32 [N],
no side of 1). OUTPUTS holds float32 [N, H, W, C] as "NAME/OPERATION", the operations as `apply`
names them; of "share", C is 1.
"""

from __future__ import annotations

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa


def apply(case, fill, gray, window):
    """Every operation on one case: arrays by field -> arrays by operation."""
    images = case["images"]
    radians = np.deg2rad(case["degrees"])
    turned = {
        f"{mode}_{interpolation}": tfa.image.rotate(
            images, radians, interpolation, mode, fill_value=fill
        )
        for mode in ("reflect", "constant")
        for interpolation in ("bilinear", "nearest")
    }
    squares = np.stack([case["top"], case["left"], case["side"]], axis=1).tolist()
    holed = [cutout(image, *square, gray) for image, square in zip(images, squares, strict=True)]
    # Of a channel of ones, the blur leaves the share of its kernel that lies within the image.
    images = np.concatenate([images, np.ones_like(images[..., :1])], axis=-1)
    # Zeros beyond the edge: the one padding that may be wider than the image.
    blurred = [
        tfa.image.gaussian_filter2d(image, window, sigma, padding="CONSTANT")
        for image, sigma in zip(images, case["sigma"].tolist(), strict=True)
    ]
    blurred = np.stack(blurred)
    return {
        **turned,
        "cutout": np.stack(holed),
        "blur": blurred[..., :-1],
        "share": blurred[..., -1:],
    }


def cutout(image, top, left, side, gray):
    """One square, by its first row and column, of [H, W, C].

    tensorflow-addons takes an even side and the square's centre. A square of odd side is the union
    of the four in its corners that are one pixel smaller.
    """
    odd = side % 2
    half = side // 2
    for down in range(1 + odd):
        for right in range(1 + odd):
            centre = (top + down + half, left + right + half)
            image = tfa.image.cutout(image[np.newaxis], 2 * half, centre, gray)[0]
    return image


def main(source, target):
    tf.config.run_functions_eagerly(True)  # else each sigma of a blur is traced anew
    with np.load(source) as arrays:
        inputs = dict(arrays)
    numbers = {name: inputs.pop(name).item() for name in ("fill", "gray", "window")}
    cases = {}
    for key, array in inputs.items():
        name, field = key.split("/")
        cases.setdefault(name, {})[field] = array
    outputs = {}
    for name, case in cases.items():
        for operation, array in apply(case, **numbers).items():
            outputs[f"{name}/{operation}"] = array
    np.savez(target, **outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
