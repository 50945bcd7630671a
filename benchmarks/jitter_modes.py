"""How far the fused colour distortion is from the reference's sequence, in pixels.

    python benchmarks/jitter_modes.py --dataset=folder:PATH --input_size="32 32"

The same images under the same drawn factors, once as one matrix with one clip (`fused`) and once as
four operations in the drawn order with a clip after each and hue in HSV (`reference`). Differences
are of values 0 to 255. What they mean for what is learnt, two pre-training runs tell, one with
`--jitter_mode=fused` and one with `--jitter_mode=reference`.
"""

from __future__ import annotations

import argparse
import json

import checkout  # noqa: F401
import numpy as np
import tensorflow as tf

import simclr_tf as st
from simclr_tf.augment.colour import apply_colour
from simclr_tf.augment.colour_sequence import apply_colour_in_order
from simclr_tf.config.settings import Config

IMAGES = 4096
ALONE = {
    "brightness": {"contrast": 1.0, "saturation": 1.0, "hue": 0.0},
    "contrast": {"brightness": 1.0, "saturation": 1.0, "hue": 0.0},
    "saturation": {"brightness": 1.0, "contrast": 1.0, "hue": 0.0},
    "hue": {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0},
    "all": {},
}


def differences(images: np.ndarray, strength: float) -> dict[str, dict[str, float]]:
    """Returns, for each operation alone and for all, how far the modes are apart.

    Args:
        images: uint8 [M, H, W, 3].
        strength: Colour strength of the recipe.
    """
    recipe = st.augment.Recipe(
        strength=strength, jitter_prob=1.0, colordrop=False, jitter_mode="reference"
    )
    draw = st.augment.draw_views(recipe, len(images), seed=0, step=0, size=images.shape[1:3]).colour
    pixels = tf.constant(images, tf.float32) / 255.0
    results = {}
    for name, still in ALONE.items():
        fields = {field: tf.fill([len(images)], value) for field, value in still.items()}
        drawn = draw._replace(**fields)
        apart = 255.0 * np.abs(apply_colour(pixels, drawn) - apply_colour_in_order(pixels, drawn))
        changed = 255.0 * np.abs(apply_colour_in_order(pixels, drawn) - pixels)
        results[name] = {
            "mean": round(float(apart.mean()), 2),
            "95 %": round(float(np.quantile(apart, 0.95)), 1),
            "mean change by the jitter itself": round(float(changed.mean()), 2),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="shapes")
    parser.add_argument("--input_size", default="32 32")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--json", default="", help="file to write the numbers to")
    arguments = parser.parse_args()
    config = Config.resolve(dataset=arguments.dataset, input_size=arguments.input_size)
    source = st.data.load(config.dataset, input_size=config.input_size, cache="true").train
    chosen = np.random.default_rng(0).permutation(len(source))[:IMAGES]
    results = {
        f"strength {strength:g}": differences(source.images[chosen], strength)
        for strength in arguments.strengths
    }
    for strength, table in results.items():
        print(f"\n{strength}: apart by, of 255")
        for name, numbers in table.items():
            print(f"  {name:<12}" + ", ".join(f"{key} {value}" for key, value in numbers.items()))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
