"""Images of which some may turn out not to decode: they are noted, and the others predicted."""

from __future__ import annotations

import dataclasses

import numpy as np

from simclr_tf import data
from simclr_tf.data.check.problems import Problem
from simclr_tf.data.check.table import spell_problems
from simclr_tf.data.images import BadFile
from simclr_tf.errors import UserError
from simclr_tf.tasks.predict.output import BAD_FILES, OutputFolder


@dataclasses.dataclass(frozen=True)
class Tolerant(data.Source):
    """A source that gives a black image in the place of a file that does not decode.

    Attributes:
        bad: What is wrong with these files, by the index of the image; filled as they are read.
    """

    bad: dict[int, BadFile] = dataclasses.field(default_factory=dict)

    def read(self, index: int) -> np.ndarray:
        try:
            return super().read(index)
        except BadFile as error:
            return self._note(index, error, self._size_of(index))

    def read_windows(self, index: int, windows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        try:
            return super().read_windows(index, windows, size)
        except BadFile as error:
            return self._note(index, error, (len(windows), *size))

    def good(self) -> list[int]:
        """Returns the indices of the images that were read, once all have been asked for."""
        return [index for index in range(len(self)) if index not in self.bad]

    def check(self, folder: OutputFolder) -> None:
        """Where there are bad files, lists them in the folder and raises UserError.

        Args:
            folder: Where the predictions of the others lie.
        """
        if not self.bad:
            return
        rows = [[self.paths[i], error.kind, error.reason] for i, error in sorted(self.bad.items())]
        folder.write_table(["path", "kind", "reason"], rows, BAD_FILES)
        problems = [Problem(kind, path, reason) for path, kind, reason in rows]
        raise UserError(
            f"Expected images that decode, got {len(problems):,} of {len(self):,} in {self.name} "
            f"that do not:\n{spell_problems(problems)}\nThe predictions of the other "
            f"{len(self) - len(problems):,} are in {folder.path}, all bad files in {BAD_FILES} "
            "there. Mend or remove them and run the same command, or pass --skip_bad_images: both "
            "begin again."
        )

    def _note(self, index: int, error: BadFile, shape: tuple[int, ...]) -> np.ndarray:
        self.bad[index] = error
        return np.zeros((*shape, 3), np.uint8)

    def _size_of(self, index: int) -> tuple[int, int]:
        height, width = (1, 1) if self.file_sizes is None else self.file_sizes[index].tolist()
        return height, width


def tolerate(source: data.Source) -> Tolerant:
    """Returns the same source, tolerant of files that do not decode."""
    return Tolerant(
        **{field.name: getattr(source, field.name) for field in dataclasses.fields(source)}
    )
