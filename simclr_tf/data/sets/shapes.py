"""The built-in data set: drawn shapes with exact labels and masks, a pure function of the seed.

What two random crops of a picture have in common is what contrastive learning learns. So the
shape is made the one thing that they share: colours vary within a picture as much as between
pictures, backgrounds are soft, and each class shows its own kind of edge even in a small crop.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simclr_tf.errors import UserError

RADIUS = (0.20, 0.42)  # of the shape, as a share of the shorter side
INSIDE = 0.85  # share of the radius that always lies within the picture
CONTRAST = (0.25, 0.45)  # least luma gap between shape and background, of 1
LUMA = (0.04, 0.96)  # range of luma in use
SATURATION = (0.2, 1.0)  # share of the strongest colour that the luma allows
BACKGROUND_NODES = 3  # colours along each side of the soft grid behind the shape
BACKGROUND_SPREAD = (0.0, 1.0)  # 0: one plain colour; 1: every node its own colour
SURFACE_NODES = 5  # the same for the shape's own texture
SURFACE_SPREAD = (0.2, 1.0)

_BLOCK = 250  # pictures drawn from one generator: a multiple of the number of classes
_CHUNK_PIXELS = 1 << 18  # rendered at a time, to stay in the cache
_REC601 = np.array([0.299, 0.587, 0.114], np.float32)


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.9


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.76) - 0.18


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    slanted = 0.5 * x + np.sqrt(0.75) * np.abs(y)
    return np.maximum(slanted, -x) - 0.55


def _frame(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.66) - 0.16


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _edge_of_star(*_fold(x, y, sectors=5), inner=0.42)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    along, across = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return np.maximum(along - 0.95, across - 0.24)


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - 0.95, 0.78 - np.hypot(x - 0.46, y))


def _bars(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    period = 0.64
    nearest = np.abs(x - period * np.round(x / period))
    return np.maximum(nearest - 0.17, np.hypot(x, y) - 1.0)


def _gear(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    r = np.hypot(x, y)
    teeth = 0.14 * np.clip(2.0 * np.cos(8.0 * np.arctan2(y, x)), -1.0, 1.0)
    return np.maximum(r - 0.84 - teeth, 0.36 - r)


def _dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = _fold(x, y, sectors=6)
    return np.minimum(np.hypot(x, y), np.hypot(u - 0.74, v)) - 0.25


def _fold(x: np.ndarray, y: np.ndarray, *, sectors: int) -> tuple[np.ndarray, np.ndarray]:
    """Turns every point into the one sector around the positive x axis."""
    r, step = np.hypot(x, y), 2.0 * np.pi / sectors
    angle = np.arctan2(y, x)
    angle = angle - step * np.round(angle / step)
    return r * np.cos(angle), r * np.abs(np.sin(angle))


def _edge_of_star(x: np.ndarray, y: np.ndarray, *, inner: float) -> np.ndarray:
    """Signed distance to the line from the tip (1, 0) to the inner corner, in a folded sector."""
    corner = inner * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    dx, dy = corner[0] - 1.0, corner[1]
    return ((x - 1.0) * dy - y * dx) / np.hypot(dx, dy)


# Signed distances (negative inside) to shapes that fill the unit circle: x, y and result [n, H, W].
_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _disc,
    "ring": _ring,
    "triangle": _triangle,
    "frame": _frame,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "bars": _bars,
    "gear": _gear,
    "dots": _dots,
}
CLASS_NAMES: tuple[str, ...] = tuple(_DISTANCES)


def make_shapes(
    count: int, *, size: tuple[int, int], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws pictures of one shape each, with labels and masks.

    Picture i depends on the seed and i alone, not on the count; the same scene is drawn at any
    size. Every ten pictures in a row hold each class once, in a random order.

    Args:
        count: Number of pictures M.
        size: Height and width in pixels, 16 or more each.
        seed: Of all draws, 0 or more.

    Returns:
        Images uint8 [M, H, W, 3], labels int32 [M] in 0..9 (see `CLASS_NAMES`), masks uint8
        [M, H, W]: 0 on the background, label + 1 on the shape.
    """
    if min(size) < 16:
        raise UserError(f"Expected shapes of 16 pixels or more, got {size[0]}x{size[1]}.")
    images = np.empty((count, *size, 3), np.uint8)
    labels = np.empty(count, np.int32)
    masks = np.empty((count, *size), np.uint8)
    chunk = max(1, _CHUNK_PIXELS // (size[0] * size[1]))
    for start in range(0, count, _BLOCK):
        scenes = _draw_scenes(seed, start // _BLOCK)
        stop = min(start + _BLOCK, count)
        labels[start:stop] = scenes["label"][: stop - start]
        for low in range(start, stop, chunk):
            high = min(low + chunk, stop)
            part = {name: draws[low - start : high - start] for name, draws in scenes.items()}
            images[low:high], masks[low:high] = _render(part, size)
    return images, labels, masks


def _draw_scenes(seed: int, block: int) -> dict[str, np.ndarray]:
    """Everything random about one block of pictures: arrays of `_BLOCK` rows."""
    rng = np.random.default_rng((seed, block))
    classes = np.tile(np.arange(len(CLASS_NAMES), dtype=np.int32), (_BLOCK // len(CLASS_NAMES), 1))
    gap = rng.uniform(*CONTRAST, _BLOCK)
    dark_top = rng.uniform(LUMA[0] + 0.1, LUMA[1] - 0.1 - gap)  # luma: dark | gap | light
    dark = np.stack([np.full(_BLOCK, LUMA[0]), dark_top], axis=-1)  # [n, 2] lowest, highest
    light = np.stack([dark_top + gap, np.full(_BLOCK, LUMA[1])], axis=-1)
    shape_is_light = rng.random((_BLOCK, 1)) < 0.5
    return {
        "label": rng.permuted(classes, axis=1).ravel(),
        "radius": rng.uniform(*RADIUS, _BLOCK).astype(np.float32),
        "angle": rng.uniform(0.0, 2.0 * np.pi, _BLOCK).astype(np.float32),
        "place": rng.random((_BLOCK, 2), np.float32),
        "background": _draw_colours(
            rng, np.where(shape_is_light, dark, light), BACKGROUND_NODES, BACKGROUND_SPREAD
        ),
        "surface": _draw_colours(
            rng, np.where(shape_is_light, light, dark), SURFACE_NODES, SURFACE_SPREAD
        ),
    }


def _draw_colours(
    rng: np.random.Generator, luma: np.ndarray, nodes: int, spread: tuple[float, float]
) -> np.ndarray:
    """Grids of colours whose luma stays in each row of `luma` [n, 2]; float32 [n, g, g, 3]."""
    n = len(luma)
    share = rng.uniform(*spread, (n, 1, 1, 1))  # how far the nodes leave the one base colour
    rgb = (1.0 - share) * rng.random((n, 1, 1, 3)) + share * rng.random((n, nodes, nodes, 3))
    level = (1.0 - share) * rng.random((n, 1, 1, 1)) + share * rng.random((n, nodes, nodes, 1))
    level = luma[:, :1, None, None] + level * np.ptp(luma, axis=1)[:, None, None, None]
    chroma = rgb - (rgb @ _REC601)[..., None]
    # The strongest multiple of the chroma that keeps every channel within 0..1 at this luma.
    room = np.where(chroma > 0.0, 1.0 - level, level) / np.maximum(np.abs(chroma), 1e-6)
    strength = rng.uniform(*SATURATION, (n, 1, 1, 1)) * room.min(axis=-1, keepdims=True)
    return (level + strength * chroma).astype(np.float32)


def _render(scene: dict[str, np.ndarray], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draws the scenes: images uint8 [n, H, W, 3] and masks uint8 [n, H, W]."""
    distance = _distance_in_pixels(scene, size)[..., None]  # [n, H, W, 1]
    cover = np.clip(0.5 - distance, 0.0, 1.0)
    cover *= cover * (3.0 - 2.0 * cover)  # smoothstep over one pixel
    image = _spread_colours(scene["background"], size)
    image += cover * (_spread_colours(scene["surface"], size) - image)
    mask = np.where(distance[..., 0] < 0.0, scene["label"][:, None, None] + 1, 0)
    return np.rint(255.0 * image).astype(np.uint8), mask.astype(np.uint8)


def _distance_in_pixels(scene: dict[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Signed distance of every pixel centre to the edge of its shape; float32 [n, H, W]."""
    label = scene["label"]
    radius = scene["radius"] * min(size)  # [n] pixels
    margin = np.minimum(INSIDE * radius[:, None], 0.5 * np.array(size, np.float32))
    centre = margin + scene["place"] * (np.array(size, np.float32) - 2.0 * margin)  # [n, 2]
    y = (np.arange(size[0], dtype=np.float32) + 0.5 - centre[:, :1]) / radius[:, None]  # [n, H]
    x = (np.arange(size[1], dtype=np.float32) + 0.5 - centre[:, 1:]) / radius[:, None]  # [n, W]
    cos, sin = np.cos(scene["angle"])[:, None], np.sin(scene["angle"])[:, None]
    u = (cos * x)[:, None, :] + (sin * y)[:, :, None]  # [n, H, W]
    v = (cos * y)[:, :, None] - (sin * x)[:, None, :]
    distance = np.empty_like(u)
    for index, signed_distance in enumerate(_DISTANCES.values()):
        rows = np.flatnonzero(label == index)
        distance[rows] = signed_distance(u[rows], v[rows])
    return distance * radius[:, None, None]


def _spread_colours(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Spreads a grid of colours [n, g, g, 3] smoothly over the picture; float32 [n, H, W, 3]."""
    rows, columns = (_weights(length, grid.shape[1]) for length in size)
    lines = np.tensordot(rows, grid, axes=(1, 1))  # [H, n, g, 3]
    return np.einsum("wg,hngc->nhwc", columns, lines, optimize=True)


def _weights(length: int, nodes: int) -> np.ndarray:
    """Linear weights of the nodes at each pixel: float32 [length, nodes], rows sum to one."""
    position = (np.arange(length, dtype=np.float32) + 0.5) / length * (nodes - 1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(nodes, dtype=np.float32)))
