"""NT-Xent in memory that grows with the batch, not with its square.

The similarity matrix is never there as a whole: it is visited in tiles of TILE x TILE, once for the
loss and once more, computed anew, for the gradient. Each visit keeps running sums per anchor (the
running maximum and log-sum-exp of "Online normalizer calculation for softmax", arXiv 1805.02867).
Where the anchors are all the candidates, a tile and its mirror image have the same logits, so only
one of them is visited: y serves the anchors of its row, and transposed those of its column.

    gathered   candidates 0 1 2 3      alone   0 1 2 3
    anchors  0            x x x x      0       x x x y
             1            x x x x      1         x x x
                                       2           x x
                                       3             x

XLA compiles the visits also where the caller is not compiled: what is done with a tile element by
element becomes a few passes over the cache instead of a dozen.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

# The logit of what is no candidate: far below any other logit, finite in float32.
MASKED_LOGIT = -1e30

# Rows and columns of a tile. On a CPU 1 MiB of logits, what the second-level cache of a core holds.
# A GPU works on all of a tile at once: 64 MiB of logits keep it busy; not measured on one yet.
TILE = 512
GPU_TILE = 4096


def tile_side() -> int:
    """Returns the rows and columns of a tile on the first device."""
    return GPU_TILE if tf.config.list_logical_devices("GPU") else TILE


class _Tiles(NamedTuple):
    """The operands, cut into K tiles of R anchors and L tiles of R candidates, the last padded."""

    anchors: tf.Tensor  # [K, R, D], divided by the temperature
    candidates: tf.Tensor  # [L, R, D]
    own: tf.Tensor  # [K, R] column of the anchor itself, -1 where padded
    positive: tf.Tensor  # [K, R] column of its positive, -1 where padded
    count: tf.Tensor  # candidates that are not padding


class _Sums(NamedTuple):
    """What has been seen of the candidates of each anchor: float32 [K, R] each."""

    top: tf.Tensor  # largest logit
    total: tf.Tensor  # sum of e = exp(logit - top)
    moment: tf.Tensor  # sum of e * (logit - top)
    positive: tf.Tensor  # logit of the positive
    rival: tf.Tensor  # largest logit before the positive: it wins a tie


def streaming_nt_xent(
    z: tf.Tensor,
    candidates: tf.Tensor,
    own: tf.Tensor,
    positive: tf.Tensor,
    *,
    temperature: float,
    alone: bool,
    compiles: bool = True,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Computes loss, accuracy and entropy of `losses.Contrast` from rows that are ready to compare.

    Args:
        z: Anchors, float32 [2N, D], D known to the graph.
        candidates: float32 [2M, D].
        own: Position of each anchor among the candidates, int32 [2N].
        positive: Position of its positive, int32 [2N].
        temperature: Divides the inner products.
        alone: The candidates are the anchors, in the same order.
        compiles: Have XLA compile the visits by themselves; off for a device that it cannot
            compile for.

    Returns:
        Three float32 scalars, means over the anchors; only the loss has a gradient, with respect to
        `z` and `candidates`.
    """
    tile = tile_side()
    visit_forward, visit_backward = _VISITS[compiles]
    candidates = tf.ensure_shape(candidates, [None, z.shape[1]])  # a collective may not tell

    @tf.custom_gradient
    def contrast(anchors: tf.Tensor, candidates: tf.Tensor) -> tuple:
        # Or the tape would look into the loops too, and keep every tile for a gradient of its own.
        operands = (tf.stop_gradient(anchors), tf.stop_gradient(candidates), own, positive)
        sums = visit_forward(*operands, alone=alone, tile=tile)
        log_total = tf.math.log(sums.total)
        loss = tf.reduce_mean(log_total - (sums.positive - sums.top))
        hit = (sums.positive >= sums.top) & (sums.positive > sums.rival)
        accuracy = tf.reduce_mean(tf.cast(hit, tf.float32))
        entropy = tf.reduce_mean(log_total - sums.moment / sums.total)

        def gradient(d_loss: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            slopes = visit_backward(*operands, sums.top, sums.total, alone=alone, tile=tile)
            scale = d_loss / tf.cast(tf.shape(anchors)[0], tf.float32)
            return scale * slopes[0], scale * slopes[1]

        return (loss, accuracy, entropy), gradient

    return contrast(z / temperature, candidates)


def _visit_forward(
    anchors: tf.Tensor,
    candidates: tf.Tensor,
    own: tf.Tensor,
    positive: tf.Tensor,
    *,
    alone: bool,
    tile: int,
) -> _Sums:
    """Returns the sums over all candidates, float32 [2N] each."""
    tiles = _cut(anchors, candidates, own, positive, tile)
    nothing = tf.zeros_like(tiles.own, tf.float32)
    low = nothing + MASKED_LOGIT
    sums = _Sums(low, nothing, nothing, low, low)
    for i in tf.range(tf.shape(tiles.anchors)[0]):
        j = i if alone else tf.constant(0)
        while j < tf.shape(tiles.candidates)[0]:
            logits = _logits(tiles, i, j)
            sums = _add(sums, i, logits, tiles.positive[i], _positions(j, tile), axis=1)
            if alone:
                mirrored = tf.where(i == j, MASKED_LOGIT, logits)  # the diagonal is its own image
                sums = _add(sums, j, mirrored, tiles.positive[j], _positions(i, tile), axis=0)
            j += 1
    count = tf.shape(anchors)[0]
    return _Sums(*(tf.reshape(values, [-1])[:count] for values in sums))


def _visit_backward(
    anchors: tf.Tensor,
    candidates: tf.Tensor,
    own: tf.Tensor,
    positive: tf.Tensor,
    top: tf.Tensor,
    total: tf.Tensor,
    *,
    alone: bool,
    tile: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the gradients of the summed loss: of the anchors [2N, D], the candidates [2M, D].

    Alone, what belongs to a mirrored tile is counted with the tile: right in the sum over both
    operands, which is all that the one tensor behind them receives.
    """
    tiles = _cut(anchors, candidates, own, positive, tile)
    top, scale = _split(top, tile), _split(1.0 / total, tile)  # [K, R]
    d_anchors = tf.zeros_like(tiles.anchors)
    # The candidates' part is summed up transposed: XLA takes three times as long on a CPU for a
    # product that transposes a tile.
    turned = tf.transpose(tiles.anchors, [0, 2, 1])  # [K, D, R]
    d_candidates = tf.zeros_like(tf.transpose(tiles.candidates, [0, 2, 1]))  # [L, D, R]
    for i in tf.range(tf.shape(tiles.anchors)[0]):
        j = i if alone else tf.constant(0)
        while j < tf.shape(tiles.candidates)[0]:
            logits = _logits(tiles, i, j)
            slope = _slope(logits, top[i], scale[i], tiles.positive[i], _positions(j, tile), axis=1)
            if alone:
                mirrored = _slope(
                    logits, top[j], scale[j], tiles.positive[j], _positions(i, tile), axis=0
                )
                slope += tf.where(i == j, 0.0, mirrored)
            d_anchors = _put(d_anchors, i, d_anchors[i] + tf.matmul(slope, tiles.candidates[j]))
            d_candidates = _put(d_candidates, j, d_candidates[j] + tf.matmul(turned[i], slope))
            j += 1
    d_candidates = tf.transpose(d_candidates, [0, 2, 1])
    return _join(d_anchors, anchors), _join(d_candidates, candidates)


_VISITS = {
    compiles: tuple(
        tf.function(visit, jit_compile=compiles) for visit in (_visit_forward, _visit_backward)
    )
    for compiles in (True, False)
}
"""The two visits, compiled by XLA and not."""


def _cut(
    anchors: tf.Tensor, candidates: tf.Tensor, own: tf.Tensor, positive: tf.Tensor, tile: int
) -> _Tiles:
    return _Tiles(
        _split(anchors, tile),
        _split(candidates, tile),
        _split(own, tile, -1),
        _split(positive, tile, -1),
        tf.shape(candidates)[0],
    )


def _split(values: tf.Tensor, tile: int, padding: int = 0) -> tf.Tensor:
    """Cuts [n, ...] into [n / tile, tile, ...], padded at the end."""
    missing = tf.math.floormod(-tf.shape(values)[0], tile)
    widths = [[0, missing], *([0, 0] for _ in values.shape[1:])]
    return tf.reshape(
        tf.pad(values, widths, constant_values=padding), [-1, tile, *values.shape[1:]]
    )


def _join(tiles: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Undoes `_split` of a tensor of the same shape as `like`, [n, D]."""
    return tf.reshape(tiles, [-1, like.shape[1]])[: tf.shape(like)[0]]


def _positions(index: tf.Tensor, tile: int) -> tf.Tensor:
    """Returns the places of a tile's rows among all, int32 [R]."""
    return index * tile + tf.range(tile)


def _logits(tiles: _Tiles, i: tf.Tensor, j: tf.Tensor) -> tf.Tensor:
    """Returns the logits of anchors i with candidates j, [R, R]."""
    columns = _positions(j, tiles.own.shape[1])
    masked = (columns == tiles.own[i][:, tf.newaxis]) | (columns >= tiles.count)
    logits = tf.matmul(tiles.anchors[i], tiles.candidates[j], transpose_b=True)
    return tf.where(masked, MASKED_LOGIT, logits)


def _add(
    sums: _Sums,
    index: tf.Tensor,
    logits: tf.Tensor,
    positive: tf.Tensor,
    positions: tf.Tensor,
    *,
    axis: int,
) -> _Sums:
    """Adds a tile of logits to the sums of the anchors that it belongs to.

    Args:
        sums: Of all anchors.
        index: The tile of anchors.
        logits: [R, R].
        positive: Position of each anchor's positive, [R].
        positions: Those of the tile's candidates, [R].
        axis: Along which the candidates lie.
    """
    before = _Sums(*(values[index] for values in sums))  # [R] each
    place = tf.expand_dims(positions, 1 - axis)
    at = tf.expand_dims(positive, axis)

    def largest(where: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max(tf.where(where, logits, MASKED_LOGIT), axis)

    top = tf.maximum(before.top, tf.reduce_max(logits, axis))
    below = logits - tf.expand_dims(top, axis)
    e = tf.exp(below)
    lowered = before.top - top
    shrink = tf.exp(lowered)  # 0 for what a fully masked tile has left: its top was MASKED_LOGIT
    after = _Sums(
        top,
        before.total * shrink + tf.reduce_sum(e, axis),
        (before.moment + before.total * lowered) * shrink + tf.reduce_sum(e * below, axis),
        tf.maximum(before.positive, largest(place == at)),
        tf.maximum(before.rival, largest(place < at)),
    )
    return _Sums(*(_put(all_, index, new) for all_, new in zip(sums, after, strict=True)))


def _slope(
    logits: tf.Tensor,
    top: tf.Tensor,
    scale: tf.Tensor,
    positive: tf.Tensor,
    positions: tf.Tensor,
    *,
    axis: int,
) -> tf.Tensor:
    """Returns the derivative of the anchors' losses by their logits: softmax less the positive."""
    p = tf.exp(logits - tf.expand_dims(top, axis)) * tf.expand_dims(scale, axis)
    is_positive = tf.expand_dims(positions, 1 - axis) == tf.expand_dims(positive, axis)
    return p - tf.cast(is_positive, tf.float32)


def _put(tiles: tf.Tensor, index: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Replaces one tile; compiled, without a copy of the others."""
    return tf.tensor_scatter_nd_update(tiles, [[index]], value[tf.newaxis])
