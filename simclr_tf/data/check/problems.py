"""What can be wrong with data: its kinds, how bad each is, and one finding of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from simclr_tf.errors import UserError

ERROR, WARNING, NOTICE = "error", "warning", "notice"
SEVERITIES = (ERROR, WARNING, NOTICE)
_MEND = "mend or remove them; `skip_bad_images` leaves them out"


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        severity: "error": training would stop or be spoiled; "warning": it may mislead; "notice":
            it is dealt with, and here is how.
        meaning: What is wrong and what to do, without a capital and a stop.
        skippable: Whether `skip_bad_images` leaves such files out.
    """

    severity: str
    meaning: str
    skippable: bool = False


KINDS: dict[str, Kind] = {
    # -- names --
    "line": Kind(ERROR, "the line of the list is wrong: correct it"),
    "label": Kind(ERROR, "the label is wrong: correct it, see `num_classes`"),
    "pairing": Kind(ERROR, "image without a mask, or mask without an image: add or remove files"),
    "empty folder": Kind(ERROR, "a class's folder without images: add some, or remove it"),
    "unknown class": Kind(ERROR, "classes that no training image has: add some, or remove these"),
    "other column": Kind(
        WARNING, "the second column holds neither labels nor masks: only pre-training can use it"
    ),
    "class without images": Kind(WARNING, "no training image has this class: add some"),
    "one class": Kind(
        WARNING, "all labels are the same, so nothing can be learnt from them: a folder too deep?"
    ),
    "split as class": Kind(
        WARNING,
        "folders named like splits are read as classes: name two of them train and test (or val), "
        "or pass the folder that holds the classes",
    ),
    "test without labels": Kind(
        WARNING,
        "images to report on have no labels, which classification and evaluate need: sort them "
        "into the classes' folders, or move them away, and a share of the others is held back",
    ),
    "class not tested": Kind(NOTICE, "no image that is reported on has this class"),
    "outside the classes": Kind(WARNING, "images in no class or split are not read: move them"),
    "not read": Kind(NOTICE, "files whose extension is not looked for"),
    "linked folder": Kind(
        WARNING, "links to folders are not followed below the classes: their images are not read"
    ),
    "link loop": Kind(ERROR, "a class is a link to a folder above it: remove it"),
    "link out": Kind(WARNING, "a link leads out of the data's folder: a copy would miss the file"),
    "record": Kind(ERROR, "a TFRecord file is damaged from here on, or holds no images"),
    "outside name": Kind(ERROR, "a name that no folder could hold: pack the archive anew"),
    "odd name": Kind(NOTICE, "the name is no UTF-8: it is read, and shown as \\udcXX"),
    "no label": Kind(
        ERROR,
        "`label_pattern` finds no class in the file's name: rename it, or correct the pattern; "
        "`skip_bad_images` leaves it out",
        skippable=True,
    ),
    # -- files --
    "missing": Kind(ERROR, f"there is no such file: {_MEND}", skippable=True),
    "broken link": Kind(ERROR, f"the link leads nowhere: {_MEND}", skippable=True),
    "unreadable": Kind(
        ERROR, f"cannot be read (permissions, or how it is packed?): {_MEND}", skippable=True
    ),
    "empty": Kind(ERROR, f"the file has no bytes: {_MEND}", skippable=True),
    "no image": Kind(ERROR, f"the content is no image: {_MEND}", skippable=True),
    "damaged": Kind(ERROR, f"cut off or damaged, does not decode: {_MEND}", skippable=True),
    "too large": Kind(
        ERROR, "more pixels than `max_pixels`: shrink them, raise it, or `skip_bad_images`", True
    ),
    "small": Kind(WARNING, "smaller than the views, which enlarge it: pass a smaller `crop_size`"),
    "pixels": Kind(NOTICE, "not plain RGB or gray with 8 bits: turned into it, as said here"),
    "extension": Kind(NOTICE, "the name says another format than the content: read by its content"),
    "no image left": Kind(ERROR, "not one image of this set decodes"),
    # -- contents --
    "leak": Kind(
        WARNING,
        "the same image is trained on and reported on (or held back, `val_fraction`): results tell "
        "little, remove one",
    ),
    "two labels": Kind(WARNING, "the same image has two labels: keep one"),
    "duplicate": Kind(
        NOTICE,
        "the same image again: it weighs double, and leaks where `val_fraction` holds back one of "
        "the two",
    ),
    "held back": Kind(ERROR, "`val_fraction` cannot hold back a share"),
    # -- masks --
    "bad mask": Kind(ERROR, "the mask cannot be read: mend it"),
    "mask size": Kind(ERROR, "the mask's size is not its image's: mend it or pair them anew"),
    "mask values": Kind(ERROR, "the mask holds what is no class: see `num_classes`, `mask_colors`"),
    "masks": Kind(ERROR, "the masks as a whole"),
    # -- arrays --
    "array": Kind(ERROR, "the array is not as it should be"),
}
"""Every kind, in the order of the report. A check in `data/check/splits.py` finds each."""


class Problem(NamedTuple):
    """One finding.

    Attributes:
        kind: A key of KINDS.
        file: The image, mask or folder, or the list where a line of it is wrong.
        detail: What is wrong here, in a few words.
        line: The line of the list, from 1; 0: there is none.
        list: The list, where `file` is an image that a line of it names.
    """

    kind: str
    file: str
    detail: str = ""
    line: int = 0
    list: str = ""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        if not self.line:
            return self.file
        return (
            f"{self.file} ({self.list} line {self.line})"
            if self.list
            else (f"{self.file} line {self.line}")
        )

    def severity(self, *, skip_bad_images: bool = False) -> str:
        """Returns how bad it is; what is left out anyway is worth a warning."""
        severity, _, skippable = KINDS[self.kind]
        return WARNING if skippable and skip_bad_images else severity


Report = Callable[[Problem], None]


def refuse(problem: Problem) -> None:
    """Stops at a problem that training cannot go on with; the way of every task but the check."""
    if KINDS[problem.kind].severity == ERROR:
        raise UserError(f"{problem.place}: {problem.detail}")
