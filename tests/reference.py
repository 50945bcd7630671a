"""Slow transcriptions of the papers in NumPy: one loop per index, nothing shared with the library.

Everything here is float64. The tests hold the fast versions against these.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np


def nt_xent(z, temperature, similarity="cosine"):
    """Algorithm 1 of arXiv 2002.05709: (loss, accuracy, entropy), means over the 2N anchors.

    z: [2N, D], view 1 of all images, then view 2.
    """
    z = np.asarray(z, np.float64)
    count = len(z)
    losses, hits, entropies = [], [], []
    for i in range(count):
        positive = (i + count // 2) % count
        logits = {}
        for k in range(count):
            if k != i:
                s = z[i] @ z[k]
                if similarity == "cosine":
                    s /= math.sqrt(z[i] @ z[i]) * math.sqrt(z[k] @ z[k])
                logits[k] = s / temperature
        top = max(logits.values())
        total = sum(math.exp(s - top) for s in logits.values())
        log_p = {k: s - top - math.log(total) for k, s in logits.items()}
        losses.append(-log_p[positive])
        hits.append(max(log_p, key=log_p.get) == positive)
        entropies.append(-sum(math.exp(s) * s for s in log_p.values()))
    return np.mean(losses), np.mean(hits), np.mean(entropies)


def nt_xent_gradient(z, temperature, similarity="cosine", step=1e-5):
    """dloss/dz by central differences, each row moved in proportion to its length."""
    z = np.array(z, np.float64)
    gradient = np.zeros_like(z)
    for i, d in np.ndindex(*z.shape):
        width = step * math.sqrt(z[i] @ z[i])
        kept = z[i, d]
        z[i, d] = kept + width
        above = nt_xent(z, temperature, similarity)[0]
        z[i, d] = kept - width
        below = nt_xent(z, temperature, similarity)[0]
        z[i, d] = kept
        gradient[i, d] = (above - below) / (2 * width)
    return gradient


def lars_step(w, g, v, *, rate, momentum, decay, trust, excluded):
    """One step of google-research/simclr's LARS: returns (w, v)."""
    w, g, v = (np.asarray(a, np.float64) for a in (w, g, v))
    ratio = 1.0
    if not excluded:
        g = g + decay * w
        w_norm, g_norm = math.sqrt((w * w).sum()), math.sqrt((g * g).sum())
        if w_norm > 0 and g_norm > 0:
            ratio = trust * w_norm / g_norm
    v = momentum * v + rate * ratio * g
    return w - v, v


def warmup_cosine(step, *, peak, warmup_steps, total_steps):
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return 0.0
    return peak * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2


def crop_resize(image, top, left, height, width, flip, size):
    """Pixel by pixel: [H, W, C] -> [h, w, C] under a triangle as wide as an output pixel."""
    image = np.asarray(image, np.float64)
    rows, columns, _ = image.shape
    out = np.zeros((*size, image.shape[2]))
    for y, x in np.ndindex(*size):
        across = size[1] - 1 - x if flip else x
        centre_y = (top + height * (y + 0.5) / size[0]) * rows
        centre_x = (left + width * (across + 0.5) / size[1]) * columns
        reach_y = max(height * rows / size[0], 1.0)
        reach_x = max(width * columns / size[1], 1.0)
        total, mass = 0.0, 0.0
        for i, j in np.ndindex(rows, columns):
            weight = max(0.0, 1 - abs(i + 0.5 - centre_y) / reach_y)
            weight *= max(0.0, 1 - abs(j + 0.5 - centre_x) / reach_x)
            if weight > 0:
                total = total + weight * image[i, j]
                mass += weight
        out[y, x] = total / mass
    return out


def rotate(image, degrees, fill=None):
    """Counter-clockwise about the centre, bilinear; beyond the edge mirrored, or `fill`."""
    image = np.asarray(image, np.float64)
    rows, columns, _ = image.shape

    def at(i, j):
        if fill is not None and not (0 <= i < rows and 0 <= j < columns):
            return fill
        while not 0 <= i < rows:
            i = -1 - i if i < 0 else 2 * rows - 1 - i
        while not 0 <= j < columns:
            j = -1 - j if j < 0 else 2 * columns - 1 - j
        return image[i, j]

    out = np.zeros_like(image)
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    for y, x in np.ndindex(rows, columns):
        # Rows grow downwards, so the picture's counter-clockwise turn is undone by this matrix.
        dy, dx = y - (rows - 1) / 2, x - (columns - 1) / 2
        from_y = sin * dx + cos * dy + (rows - 1) / 2
        from_x = cos * dx - sin * dy + (columns - 1) / 2
        i, j = math.floor(from_y), math.floor(from_x)
        down, right = from_y - i, from_x - j
        out[y, x] = (
            at(i, j) * (1 - down) * (1 - right)
            + at(i, j + 1) * (1 - down) * right
            + at(i + 1, j) * down * (1 - right)
            + at(i + 1, j + 1) * down * right
        )
    return out


def gaussian_blur(image, sigma):
    """A two-dimensional kernel of 17 x 17 at each pixel, cut at the edge and renormalised."""
    image = np.asarray(image, np.float64)
    if sigma == 0:
        return image
    rows, columns, _ = image.shape
    out = np.zeros_like(image)
    for y, x in np.ndindex(rows, columns):
        total, mass = 0.0, 0.0
        for i, j in np.ndindex(rows, columns):
            if max(abs(i - y), abs(j - x)) > 8:
                continue
            weight = math.exp(-((i - y) ** 2 + (j - x) ** 2) / (2 * sigma**2))
            total = total + weight * image[i, j]
            mass += weight
        out[y, x] = total / mass
    return out


def luma(image):
    return image @ np.array([0.299, 0.587, 0.114])


def adjust_brightness(image, factor):
    return image * factor


def adjust_contrast(image, factor):
    """About the mean gray level, as in torchvision and Pillow."""
    mean = luma(image).mean()
    return mean + factor * (image - mean)


def adjust_saturation(image, factor):
    gray = luma(image)[..., np.newaxis]
    return gray + factor * (image - gray)


def adjust_hue(image, share):
    """Turns the colours by a share of the full circle in the plane of I and Q (NTSC, FCC 1953).

    Clockwise there, which is from red to yellow, as in HSV.
    """
    y = luma(image)
    i = image @ np.array([0.595716, -0.274453, -0.321263])
    q = image @ np.array([0.211456, -0.522591, 0.311135])
    turned = (i + 1j * q) * np.exp(-2j * np.pi * share)
    to_yiq = np.array(
        [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]]
    )
    return np.linalg.solve(to_yiq, np.stack([y, turned.real, turned.imag], -1)[..., None])[..., 0]


def colour(image, *, brightness, contrast, saturation, hue, gray):
    """The five operations one after the other, and one clip."""
    image = adjust_brightness(np.asarray(image, np.float64), brightness)
    image = adjust_contrast(image, contrast)
    image = adjust_saturation(image, saturation)
    image = adjust_hue(image, hue)
    if gray:
        image = np.repeat(luma(image)[..., np.newaxis], 3, axis=-1)
    return np.clip(image, 0, 1)


def colour_in_order(image, order, *, brightness, contrast, saturation, hue, gray):
    """Pixel by pixel: the four operations in the order given, a clip after each, then gray."""
    image = np.asarray(image, np.float64)

    def in_hsv(turn, factor):
        def pixel(rgb):
            h, s, v = colorsys.rgb_to_hsv(*rgb)
            return colorsys.hsv_to_rgb((h + turn) % 1.0, min(max(s * factor, 0.0), 1.0), v)

        return np.apply_along_axis(pixel, 2, image)

    for operation in order:
        if operation == 0:
            image = image * brightness
        elif operation == 1:
            mean = image.mean(axis=(0, 1))  # of each channel, as tf.image.adjust_contrast
            image = (image - mean) * contrast + mean
        else:
            image = in_hsv(0.0, saturation) if operation == 2 else in_hsv(hue, 1.0)
        image = np.clip(image, 0, 1)
    return np.repeat(luma(image)[..., np.newaxis], 3, axis=-1) if gray else image


def crop_nearest(mask, top, left, height, width, flip, size):
    """The pixel under the centre of each pixel of the window."""
    rows, columns = mask.shape[:2]
    out = np.zeros((*size, *mask.shape[2:]), mask.dtype)
    for y, x in np.ndindex(*size):
        across = size[1] - 1 - x if flip else x
        i = math.floor((top + height * (y + 0.5) / size[0]) * rows)
        j = math.floor((left + width * (across + 0.5) / size[1]) * columns)
        out[y, x] = mask[min(i, rows - 1), min(j, columns - 1)]
    return out


def resnet_parameters(depth, *, stem, width_multiplier=1.0, depthwise=False):
    """Trainable parameters of an encoder, counted layer by layer from the paper's table 1."""
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[depth]
    width = int(64 * width_multiplier)

    def convolution(kernel, inputs, outputs):
        return kernel * kernel * inputs * outputs + 2 * outputs  # with its norm's gamma and beta

    def three_by_three(inputs, outputs, mix):
        if not depthwise:
            return convolution(3, inputs, outputs)
        return 9 * inputs + (convolution(1, inputs, outputs) if mix else 2 * inputs)

    total = convolution(3 if stem == "small" else 7, 3, width)
    channels = width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        outer = 4 * inner if depth == 50 else inner
        for block in range(count):
            if depth == 50:
                total += convolution(1, channels, inner) + three_by_three(inner, inner, mix=False)
                total += convolution(1, inner, outer)
            else:
                total += three_by_three(channels, inner, mix=True)
                total += three_by_three(inner, inner, mix=True)
            if channels != outer or (block == 0 and stage > 0):
                total += convolution(1, channels, outer)
            channels = outer
    return total
