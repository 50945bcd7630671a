"""What keeps a run from its first step, told together: one by one each costs a start."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import TypeVar

from simclr_tf import data
from simclr_tf.config.settings import Config
from simclr_tf.data.batches.order import steps_per_epoch
from simclr_tf.errors import UserError
from simclr_tf.workflow import datasets

T = TypeVar("T")

Begun = Callable[[], None]


@contextlib.contextmanager
def told_together(
    config: Config, look_ahead: Callable[[Config], list[UserError]]
) -> Iterator[Begun]:
    """Within the block, an error of the user's is raised with all others that would come after it.

    Yields what is called once nothing more can be refused: an error from then on stays as it is,
    and so does one that is alone.

    Args:
        config: The settings. A run that is resumed has begun before: what it is refused for is one.
        look_ahead: Returns what it finds wrong; called where there is an error, and kept silent.
    """
    beginning = True

    def begun() -> None:
        nonlocal beginning
        beginning = False

    try:
        yield begun
    except UserError as error:
        if not beginning or config.resume:
            raise
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            others = look_ahead(config)
        texts = list(dict.fromkeys(str(each) for each in (error, *others)))
        if len(texts) == 1:
            raise
        points = "\n".join(f"  {number}. {text}" for number, text in enumerate(texts, 1))
        raise UserError(
            f"Expected a run that can begin, got {len(texts)} reasons against it:\n{points}"
        ) from None


class Refusals(list[UserError]):
    """The errors of what was attempted before a run of a task that trains."""

    def attempt(self, do: Callable[..., T], *arguments: object) -> T | None:
        """Returns what a function returns; keeps its UserError and returns None."""
        try:
            return do(*arguments)
        except UserError as error:
            self.append(error)
            return None

    def of_images(
        self,
        config: Config,
        load: Callable[[Config], data.Splits],
        share: Callable[[Config, data.Splits], data.Source],
        *,
        need_labels: bool = False,
    ) -> None:
        """Keeps what is wrong with the images of a run, with their size and their number.

        Args:
            config: The settings.
            load: Loads them, without a look at a sample.
            share: Returns those that are trained on.
            need_labels: Whether the task learns from labels.
        """
        size_may_come = bool(self)  # from the run whose weights were refused
        splits = self.attempt(load, config)
        if splits is None:  # a broken file, say: there may be more to say of the others
            splits = Refusals().attempt(load, config.replace(cache="false"))
        else:
            self.attempt(datasets.look_at_sample, splits, datasets.asked_size(config), need_labels)
        train = None if splits is None else self.attempt(share, config, splits)
        if train is None:
            return
        if not size_may_come:
            self.attempt(datasets.view_size, config, train)
        if "batch_size" in config.given:
            self.attempt(steps_per_epoch, train, config.batch_size)
