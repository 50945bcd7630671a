"""Draws of a step, by (seed, step) alone, and the groups and parts its views are made in.

A batch of 6 images and two views each, in two groups of three images, each of three parts. A number
is an image, ' its second view; * marks views that drew a blur, which take longer to make:

    places of a group   0   1   2  |  3   4   5         first views, then second ones
    group 0             0   1*  2  |  0'  1'  2'*       n = 6 views
    as they are made   [0   2] [0'  1'] [1*  2'*]       parts, sorted by effort
    place               0   2   3   4   1   5           where each belongs: `in_place` puts it there

    group 1             3   4   5  |  3'  4'  5'

A part is what one core makes at a time, small enough for its cache; a group is one element of the
data set, made on one core, and the groups of a batch are joined again.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from simclr_tf.augment.recipe import Recipe
from simclr_tf.augment.resampling import Size
from simclr_tf.augment.views import Draw, draw_views, effort, map_draw
from simclr_tf.data.batches.order import Shard, batch_order
from simclr_tf.data.batches.tensors import aspects_of_files
from simclr_tf.data.source import Source

# Pixels of a view (or image, if larger) times views that are made together. A whole batch of large
# views would go through the main memory at every stage; this many, the best of what was measured,
# do not, and are enough to hide what a TensorFlow operation costs to start.
PART_PIXELS = 2**18
MOST_PARTS = 32  # of a group: each is a part of its graph


class Group(NamedTuple):
    """Views of some images of a batch, in the order in which they are made, part by part.

    `index`, int64 [n], is the image that each view is of, `draw` what was drawn for it, and
    `place`, int32 [n], where it belongs in the group: all first views of its images, then all
    second ones. The last part is filled up with views whose place is beyond these.
    """

    index: tf.Tensor
    draw: Draw
    place: tf.Tensor


class Draws:
    """What is drawn for a step: a function of (seed, step), cut into the groups of its batch.

    Of images in memory, views that take as much to make come into the same parts. Of files, and
    where a batch is not cut, all views of an image come one after the other: a file is decoded once
    for all of them. With a shard, the groups are of the batch of one replica, then of the next
    one's. The last group of a batch is filled up with its first images, which `train` cuts off.
    """

    def __init__(
        self,
        source: Source,
        views: int,
        batch_size: int,
        recipe: Recipe,
        seed: int,
        size: Size,
        shard: Shard,
        *,
        in_parts: bool = True,
    ) -> None:
        self.source, self.count = source, len(source)
        self.aspects = None if source.images is not None else aspects_of_files(source)
        self.views, self.batch_size, self.recipe = views, batch_size, recipe
        self.seed, self.size = seed, size
        self.shard, self.rows = shard, shard.rows(batch_size)
        self.by_image = source.images is None or not in_parts
        sides = [size] if source.images is None else [size, source.images.shape[1:3]]
        most = max(PART_PIXELS // max(height * width for height, width in sides), 1)
        if not in_parts:
            self.group_rows, self.part_size = self.rows, views * self.rows
        elif self.by_image:  # a group of one part
            self.group_rows = _divide(self.rows, most // views)
            self.part_size = views * self.group_rows
        else:
            self.group_rows = _divide(self.rows, MOST_PARTS * most // views)
            self.part_size = _divide(views * self.group_rows, most)
        self.groups = -(-self.rows // self.group_rows)
        self.parts = -(-views * self.group_rows // self.part_size)

    def of_step(self, step: tf.Tensor) -> tuple[tf.Tensor, Draw]:
        """Returns a step's images, int64 [N], and what is drawn for V views of each in turn."""
        index = batch_order(step, self.count, self.batch_size, self.seed)  # [N]
        draw = draw_views(
            self.recipe,
            self.views * self.batch_size,
            seed=self.seed,
            step=step,
            size=self.size,
            aspect=self._aspects(index),
        )
        return index, draw

    def _aspects(self, index: tf.Tensor) -> tf.Tensor | float:
        if self.source.images is not None:
            return self.source.images.shape[2] / self.source.images.shape[1]
        return tf.repeat(tf.gather(self.aspects, index), self.views)

    def __call__(self, steps: tf.data.Dataset, parallel: int | None = None) -> tf.data.Dataset:
        """Makes the `Group`s of each step in turn."""
        return steps.map(lambda step: self._cut(*self.of_step(step)), parallel).unbatch()

    def _cut(self, index: tf.Tensor, draw: Draw) -> Group:
        views, in_group = self.views, self.views * self.group_rows
        replicas = self.shard.first + tf.range(self.shard.own)[:, tf.newaxis]  # [own, 1]
        first = tf.range(self.groups) * self.group_rows  # [groups]
        first = tf.reshape(replicas * self.rows + first, [-1, 1])  # of all groups, [G, 1]
        end = tf.reshape(tf.repeat((replicas + 1) * self.rows, self.groups), [-1, 1])  # [G, 1]

        def drawn(place: tf.Tensor) -> tf.Tensor:  # [G, places], of the groups among all draws
            row = first + place % self.group_rows  # [G, places]
            return tf.where(row < end, row, row - self.rows) * views + place // self.group_rows

        made = tf.range(in_group)[tf.newaxis]  # places in the order in which they are made
        if self.by_image:
            made = tf.reshape(tf.transpose(tf.reshape(made, [views, -1])), [1, -1])
        efforts = None if self.by_image else effort(draw)
        if efforts is not None:
            made = tf.argsort(tf.gather(efforts, drawn(made)), axis=1, stable=True)  # [G, in_group]
        slots = tf.range(self.parts * self.part_size)  # [n], in_group filled up to whole parts
        place = tf.gather(made, slots % in_group, axis=1)  # [G or 1, n]
        position = drawn(place)  # [G, n]
        place = tf.where(slots < in_group, place, slots)  # [G or 1, n]
        return Group(
            tf.gather(index, position // views),
            map_draw(lambda field: tf.gather(field, position), draw),
            tf.broadcast_to(place, tf.shape(position)),
        )

    def in_place(self, group: Group, made: list[tf.Tensor]) -> list[tf.Tensor]:
        """Puts what was made for the parts of a group where it belongs.

        Returns:
            What was made for the first view of each image, then for the second, and so on.
        """
        rows = self.group_rows
        whole = tf.dynamic_stitch(tf.split(group.place, len(made)), made)  # [n, ...]
        whole = tf.ensure_shape(whole, [self.parts * self.part_size, *made[0].shape[1:]])
        return [whole[view * rows : (view + 1) * rows] for view in range(self.views)]


def _divide(count: int, most: int) -> int:
    """Returns into how large pieces to cut `count`, a divisor of it where one fits."""
    most = max(1, min(count, most))
    divisors = [n for n in range(most, most // 2, -1) if count % n == 0]
    return divisors[0] if divisors else most
