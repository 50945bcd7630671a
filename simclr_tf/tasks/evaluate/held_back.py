"""Whether the pre-training saw the test images, where a set has no test split of its own."""

from __future__ import annotations

from simclr_tf.config.settings import Config, with_role
from simclr_tf.data import Source


def adopt_held_back(config: Config, trained: Config | None) -> Config:
    """Returns the settings that hold the same images back as the pre-training did, where it held
    any back and no flag says otherwise.
    """
    if trained is None or "val_fraction" in config.given or not _drawn_alike(config, trained):
        return config
    share = trained.val_fraction or config.val_fraction
    return config.replace(val_fraction=share)


def note_on_test(config: Config, trained: Config | None, test: Source) -> str | None:
    """Returns a sentence on images that were held back for testing; None for a set's own test
    images, and for those of another set than the pre-training's.
    """
    if not test.name.endswith("held back") or trained is None:
        return None
    if any(getattr(config, name) != getattr(trained, name) for name in with_role("source")):
        return None
    if not trained.val_fraction:
        return (
            "There is no test split: the test images were held back here, and the pre-training "
            "saw them, without their labels."
        )
    if _drawn_alike(config, trained) and config.val_fraction == trained.val_fraction:
        return (
            "There is no test split: the test images are those that the pre-training held back "
            "too, which it never saw."
        )
    return (
        "There is no test split: the test images were held back here, others than by the "
        f"pre-training (--val_fraction={trained.val_fraction:g} --seed={trained.seed}), which saw "
        "some of them, without their labels."
    )


def _drawn_alike(config: Config, trained: Config) -> bool:
    """Tells whether what is held back is drawn from the same images, by the same seed."""
    return all(getattr(config, name) == getattr(trained, name) for name in with_role("drawn from"))
