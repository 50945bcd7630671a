"""How fast two views are made of large JPEG files: windows of one decoding against whole images.

    python benchmarks/jpeg_folder.py --json=jpeg_folder.json

Writes folders of photographs of 512, 1024 and 2048 pixels (quality 90, 4:2:0) and makes two views
of 224 pixels of each file. `whole` decodes every pixel, hands the image to TensorFlow and crops it
there; `ours` is `simclr_tf.data.images.read_windows`, which crops as it reads and lets the decoder
shrink what will be shrunk anyway. `views` is the whole recipe (crop, flip, jitter, gray, blur), the
same on both sides but for the crop; `crops` is reading and cropping alone. Both sides take turns in
every round, over all files; images per second of the clock and of processor time are medians over
the rounds, ratios those of the rounds' ratios. `error` is how far our crops are from exact ones, in
8-bit levels.

The photographs are scikit-learn's, and scikit-image's where it is installed: random cuts of
enlarged and mirrored ones with a little noise, so that the files are as large as a camera's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import numpy as np
import tensorflow as tf
from PIL import Image
from processes import spread
from sklearn.datasets import load_sample_images

import simclr_tf as st
from simclr_tf.augment.views import Draw
from simclr_tf.data.images import read_image, read_windows
from simclr_tf.training.execution import choose_execution

VIEW = (224, 224)
QUALITY = 90  # Pillow's default subsampling is 4:2:0
NOISE = 2.0  # standard deviation, in levels
SKIMAGE = (
    "astronaut",
    "chelsea",
    "coffee",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
)


def photographs() -> list[np.ndarray]:
    """Returns all photographs at hand, uint8 [H, W, 3] of several sizes."""
    photos = list(load_sample_images().images)
    try:
        from skimage import data
    except ImportError:
        return photos
    return photos + [getattr(data, name)() for name in SKIMAGE]


def picture(photo: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Makes a picture, uint8 [side, side, 3], of a photograph enlarged up to twice and mirrored."""
    zoom = rng.uniform(1, 2)
    size = int(photo.shape[1] * zoom), int(photo.shape[0] * zoom)
    enlarged = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))
    enlarged = enlarged[:, :: rng.choice([-1, 1])]
    missing = [max(0, side - length) for length in enlarged.shape[:2]]
    tiled = np.pad(enlarged, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
    top, left = (rng.integers(length - side + 1) for length in tiled.shape[:2])
    cut = tiled[top : top + side, left : left + side]
    noisy = cut + rng.normal(0, NOISE, cut.shape).astype(np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def write_folder(folder: Path, side: int, count: int) -> list[str]:
    """Writes `count` JPEGs of side x side pixels; returns their paths."""
    rng = np.random.default_rng(side)
    photos = photographs()
    paths = []
    for number in range(count):
        image = Image.fromarray(picture(photos[number % len(photos)], side, rng))
        paths.append(str(folder / f"{side}_{number:04}.jpg"))
        image.save(paths[-1], quality=QUALITY)
    return paths


def crop_whole(image: tf.Tensor, windows: tf.Tensor) -> tf.Tensor:
    """Cuts V windows [V, 5] out of a whole image, uint8 [H, W, 3]: float32 [V, h, w, 3], exact."""
    shape = tf.cast(tf.shape(image)[:2], tf.float32)

    def cut(window: tf.Tensor) -> tf.Tensor:
        scale = tf.constant(VIEW, tf.float32) / (window[2:4] * shape)
        view = tf.raw_ops.ScaleAndTranslate(
            images=image[tf.newaxis],
            size=VIEW,
            scale=scale,
            translation=-window[:2] * shape * scale,
            kernel_type="triangle",
            antialias=True,
        )[0]
        return tf.where(window[4] > 0.5, tf.reverse(view, [1]), view)

    return tf.stack([cut(window) for window in tf.unstack(windows)])


class Sides:
    """Both ways to make views of one folder: data sets that go several times over all files."""

    def __init__(
        self, paths: list[str], side: int, batch_size: int, passes: int, dtype: str
    ) -> None:
        self.paths, self.batch_size, self.dtype = paths, batch_size, dtype
        self.recipe = st.augment.Recipe()
        sizes = np.full([len(paths), 2], side, np.int32)
        self.source = st.data.Source("folder", paths=tuple(paths), file_sizes=sizes)
        self.steps = tf.data.Dataset.range(passes * len(paths) // batch_size)

    def views(self) -> dict[str, tf.data.Dataset]:
        ours = st.data.two_views(
            self.source,
            batch_size=self.batch_size,
            recipe=self.recipe,
            seed=0,
            size=VIEW,
            first_step=0,
            last_step=int(self.steps.cardinality()),
            dtype=self.dtype,
        )
        return {
            "whole": self._whole().map(self._finish, tf.data.AUTOTUNE).prefetch(2),
            "ours": ours,
        }

    def crops(self) -> dict[str, tf.data.Dataset]:
        def read(index: np.ndarray, windows: np.ndarray) -> np.ndarray:
            pairs = zip(index, windows, strict=True)
            return np.stack([read_windows(self.paths[i], w, VIEW) for i, w in pairs])

        def batch(step: tf.Tensor) -> tf.Tensor:
            return tf.numpy_function(read, self._drawn(step), tf.uint8)

        whole = self._whole().map(lambda step, crops: crops)
        ours = self.steps.map(batch, tf.data.AUTOTUNE)
        return {"whole": whole.prefetch(2), "ours": ours.prefetch(2)}

    def _draw(self, step: tf.Tensor) -> Draw:
        return st.augment.draw_views(self.recipe, 2 * self.batch_size, seed=0, step=step, size=VIEW)

    def _drawn(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the indices [N] and the windows [N, 2, 5] of a step."""
        windows = tf.reshape(tf.stack(self._draw(step).boxes, axis=1), [self.batch_size, 2, 5])
        index = step * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)
        return index % len(self.paths), windows

    def _whole(self) -> tf.data.Dataset:
        """Returns (step, crops float32 [N, 2, h, w, 3]), each image decoded and cropped whole."""

        def one(index: tf.Tensor, windows: tf.Tensor) -> tf.Tensor:
            image = tf.numpy_function(lambda i: read_image(self.paths[i]), [index], tf.uint8)
            image.set_shape([None, None, 3])
            return crop_whole(image, windows)

        images = self.steps.map(self._drawn).unbatch().map(one, tf.data.AUTOTUNE)
        return tf.data.Dataset.zip(self.steps, images.batch(self.batch_size, drop_remainder=True))

    def _finish(self, step: tf.Tensor, crops: tf.Tensor) -> tuple[tf.Tensor, ...]:
        flat = tf.reshape(crops, [2 * self.batch_size, *VIEW, 3])
        return st.augment.make_views(flat, self._draw(step), VIEW, self.dtype, cropped=True)


def measure(sides: dict[str, tf.data.Dataset], images: int, repeats: int) -> dict[str, Any]:
    """Returns the rates of both sides, which take turns, the first turn left out."""
    clock: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name in sorted(sides, reverse=number % 2 == 1):
            start, start_processor = time.perf_counter(), time.process_time()
            for _ in sides[name]:
                pass
            if number:
                clock[name].append(images / (time.perf_counter() - start))
                processor[name].append(images / (time.process_time() - start_processor))

    def ratio(rates: dict[str, list[float]]) -> dict[str, float]:
        return spread([a / b for a, b in zip(rates["ours"], rates["whole"], strict=True)], 2)

    results: dict[str, Any] = {"ratio": ratio(clock), "ratio_of_processor_time": ratio(processor)}
    for name in sides:
        per_second = spread(clock[name], 2)
        results[name] = {
            "images_per_second": per_second,
            "views_per_second": round(2 * per_second["median"], 2),
            "images_per_processor_second": spread(processor[name], 2),
        }
    return results


def measure_error(paths: list[str]) -> dict[str, float]:
    """Returns how far our crops are from exact ones, over two views of each file."""
    rounding, mean, worst = [], [], []
    draw = st.augment.draw_views(st.augment.Recipe(), 2 * len(paths), seed=1, step=0, size=VIEW)
    windows = tf.reshape(tf.stack(draw.boxes, axis=1), [len(paths), 2, 5]).numpy()
    for path, pair in zip(paths, windows, strict=True):
        exact = crop_whole(read_image(path), pair).numpy()
        for view, expected in zip(read_windows(path, pair, VIEW), exact, strict=True):
            error = np.abs(view - expected)
            rounding.append(error.max() <= 1.01)
            mean.append(error.mean())
            worst.append(np.square(error).mean())
    return {
        "mean": round(float(np.mean(mean)), 3),
        "mean_of_worst_view": round(float(np.max(mean)), 3),
        "psnr": round(10 * np.log10(255**2 / float(np.mean(worst))), 1),
        "psnr_of_worst_view": round(10 * np.log10(255**2 / float(np.max(worst))), 1),
        "share_within_one_level": round(float(np.mean(rounding)), 3),
    }


def measure_size(side: int, arguments: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """Measures one size of file."""
    count = max(1, arguments.images // arguments.batch_size) * arguments.batch_size
    with tempfile.TemporaryDirectory() as folder:
        paths = write_folder(Path(folder), side, count)
        megabytes = sum(os.path.getsize(path) for path in paths) / count / 1e6
        sides = Sides(paths, side, arguments.batch_size, arguments.passes, dtype)
        images = arguments.passes * count
        return {
            "file_megabytes": round(megabytes, 3),
            "views": measure(sides.views(), images, arguments.repeats),
            "crops": measure(sides.crops(), images, arguments.repeats),
            "error": measure_error(paths),
        }


def print_size(side: str, result: dict[str, Any]) -> None:
    print(f"\n{side} px, files of {result['file_megabytes']:.2f} MB: images per second")
    for part in ("views", "crops"):
        whole, ours = (result[part][name]["images_per_second"] for name in ("whole", "ours"))
        ratio = result[part]["ratio"]
        print(
            f"  {part}: whole {whole['median']:.1f}, ours {ours['median']:.1f}: "
            f"{ratio['median']:.2f} x ({ratio['min']:.2f} to {ratio['max']:.2f}), "
            f"{result[part]['ratio_of_processor_time']['median']:.2f} x by processor time"
        )
    print("  error:", ", ".join(f"{key} {value}" for key, value in result["error"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="", help="file to write the numbers to")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--images", type=int, default=40, help="files of each size")
    # Few enough that both sides finish a batch of views in one go.
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--passes", type=int, default=3, help="over the files in a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count")
    arguments = parser.parse_args()
    execution = choose_execution("auto", "false")
    known = hasattr(os, "sched_getaffinity")
    results: dict[str, Any] = {
        "device": execution.device,
        "cores": len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1,
        "dtype": execution.views,
        "view_size": VIEW[0],
        "date": datetime.date.today().isoformat(),
        "sizes": {},
    }
    for side in arguments.sizes:
        results["sizes"][str(side)] = measure_size(side, arguments, execution.views)
        print_size(str(side), results["sizes"][str(side)])
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
