"""What an encoder does to pixels first: the setting `normalize_input`, read."""

from __future__ import annotations

import numpy as np

from simclr_tf.errors import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation, of pixels in [0, 1]

MeanStd = tuple[tuple[float, ...], tuple[float, ...]]


def normalization(text: str) -> str:
    """Returns what the setting `normalize_input` says of an encoder of ours: auto is none."""
    word = text.strip().lower()
    return "none" if word == "auto" else word


def mean_std(text: str, channels: int) -> MeanStd | None:
    """Reads the setting `normalize_input`: mean and deviation by channel, or None for neither.

    Raises:
        UserError: It is none of its words and no two numbers for each channel.
    """
    word = normalization(text)
    if word == "none":
        return None
    if word == "imagenet" and channels == len(IMAGENET[0]):
        return IMAGENET
    try:
        numbers = [float(part) for part in word.replace(",", " ").split()]
    except ValueError:
        numbers = []
    mean, std = numbers[:channels], numbers[channels:]
    if len(std) != channels or not np.isfinite(numbers).all() or min(std) <= 0:
        words = "none, imagenet" if channels == len(IMAGENET[0]) else "none"
        example = " ".join(["0.5"] * channels + ["0.25"] * channels)
        raise UserError(
            f"Expected {words} or {2 * channels} numbers for --normalize_input, a mean of each of "
            f"{channels} channels and then as many deviations above 0, of pixels in [0, 1], got "
            f"{text!r}. Pass --normalize_input='{example}', for instance."
        )
    return tuple(mean), tuple(std)
