"""What an evaluation is asked for: protocols and shares of the labels."""

from __future__ import annotations

from typing import NamedTuple

from simclr_tf.config.settings import Config
from simclr_tf.errors import UserError

PROTOCOLS = ("knn", "logreg", "linear", "mlp", "finetune", "supervised", "baselines", "health")
WITHOUT_LABELS = ("health",)


class Asked(NamedTuple):
    """What is to be measured.

    Attributes:
        protocols: Of `PROTOCOLS`.
        fractions: Shares of the labels, rising.
        needs_labels: Whether a protocol that needs labels was asked for by its name.
    """

    protocols: tuple[str, ...]
    fractions: tuple[float, ...]
    needs_labels: bool

    def without_labels(self) -> Asked:
        """Returns what can be measured of images without labels."""
        kept = tuple(name for name in self.protocols if name in WITHOUT_LABELS)
        return self._replace(protocols=kept)


def read_asked(config: Config) -> Asked:
    """Reads what the settings ask for; raises UserError for what does not exist."""
    named = _protocols(config)
    return Asked(
        named or PROTOCOLS, _fractions(config), any(name not in WITHOUT_LABELS for name in named)
    )


def _protocols(config: Config) -> tuple[str, ...]:
    """Returns the protocols that are named; none for "all", which is what the images allow."""
    if config.protocols.strip().lower() == "all":
        return ()
    words = [word.strip().lower() for word in config.protocols.split(",") if word.strip()]
    unknown = [word for word in words if word not in PROTOCOLS]
    if unknown or not words:
        raise UserError(
            f"Expected all or some of {', '.join(PROTOCOLS)} for --protocols, got "
            f"{', '.join(unknown) or 'none'}. Pass --protocols=knn,logreg, for instance."
        )
    return tuple(words)


def _fractions(config: Config) -> tuple[float, ...]:
    try:
        fractions = sorted({float(word) for word in config.label_fractions.split(",")})
    except ValueError:
        fractions = []
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise UserError(
            "Expected shares above 0 and up to 1 with commas between for --label_fractions, got "
            f"{config.label_fractions!r}. Pass --label_fractions=0.01,0.1,1.0, for instance."
        )
    return tuple(fractions)
