"""Recipe of a view: the switches and strengths of its augmentation, and nothing that runs.

This module imports no TensorFlow, so that the command line can read its defaults at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from simclr_tf.errors import UserError

OPERATIONS = ("crop", "flip", "jitter", "colordrop", "blur", "noise", "rotate", "cutout")
"""The switches of a recipe, in the order in which views are made."""
JITTER_MODES = ("fused", "reference")


@dataclass(frozen=True)
class Recipe:
    """The random transformations of a view (arXiv 2002.05709, section 3 and appendix A).

    Example:
        >>> recipe = Recipe(strength=1.0, rotate=True, crop_area_min=0.2)

    Each operation is a switch and a probability per image. Geometry comes first (crop, flip,
    rotation), then colour, then blur, noise and cutout.

    Attributes:
        crop: Draw a random resized crop; off: the whole image is resized.
        flip: Mirror left and right.
        jitter: Change brightness, contrast, saturation and hue.
        colordrop: Turn the image gray.
        blur: Gaussian blur, sigma 0.1 to 2.0 pixels. None: on from 64 pixels up.
        noise: Add Gaussian noise, standard deviation up to 0.1 of the value range.
        rotate: Turn about the centre.
        cutout: Gray out one square of up to half the side.
        flip_prob: Share of images mirrored.
        jitter_prob: Share of images whose colours are jittered.
        color_prob: Share of images turned gray.
        blur_prob: Share of images blurred.
        noise_prob: Share of images with noise.
        rotate_prob: Share of images rotated.
        cutout_prob: Share of images with a square cut out.
        strength: Colour strength s: brightness, contrast, saturation 0.8 s, hue 0.2 s.
        max_rotation: Largest angle, degrees, to either side.
        crop_area_min: Smallest share of the image's area that a crop covers.
        jitter_mode: "fused": the colour operations are one matrix and are clipped once;
            "reference": one after the other, in random order, clipped after each.
    """

    crop: bool = True
    flip: bool = True
    jitter: bool = True
    colordrop: bool = True
    blur: bool | None = None
    noise: bool = False
    rotate: bool = False
    cutout: bool = False
    flip_prob: float = 0.5
    jitter_prob: float = 0.8
    color_prob: float = 0.2
    blur_prob: float = 0.5
    noise_prob: float = 0.25
    rotate_prob: float = 0.5
    cutout_prob: float = 0.5
    strength: float = 0.5
    max_rotation: float = 30.0
    crop_area_min: float = 0.08
    jitter_mode: str = "fused"

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "color", "blur", "noise", "rotate", "cutout"):
            value = getattr(self, f"{name}_prob")
            if not 0.0 <= value <= 1.0:
                raise UserError(
                    f"Expected `{name}_prob` in 0..1, got {value}. Pass a probability per image."
                )
        if not 0.0 < self.crop_area_min <= 1.0:
            raise UserError(
                f"Expected `crop_area_min` in (0, 1], got {self.crop_area_min}. "
                "Pass the smallest share of the image that a crop may cover, such as 0.08."
            )
        if self.strength < 0.0:
            raise UserError(f"Expected `strength` of 0 or more, got {self.strength}.")
        if self.jitter_mode not in JITTER_MODES:
            raise UserError(
                f"Expected one of {', '.join(JITTER_MODES)} for `jitter_mode`, got "
                f"{self.jitter_mode!r}."
            )
        if not 0.0 <= self.max_rotation <= 180.0:
            raise UserError(f"Expected `max_rotation` in 0..180 degrees, got {self.max_rotation}.")

    def blurs(self, size: tuple[int, int]) -> bool:
        """Tells whether views of this size (H, W) are blurred; small ones lose by it."""
        return min(size) >= 64 if self.blur is None else self.blur
