"""Settings that follow from others: what conf/ calls as ${epochs_for:...} and the like."""

from __future__ import annotations


def epochs_for(steps: int, batch_size: int, images: int) -> int:
    """How many whole epochs so many steps make, at least one; sums of parts never exceed the whole."""
    return max(1, steps * batch_size // images)


def rate_for(rate: float, batch_size: int) -> float:
    """A learning rate meant for 256 images per step, scaled linearly to another batch size (Goyal et al. 2017)."""
    return rate * batch_size / 256


def share_of(share: float, epochs: int) -> int:
    """A share of the epochs, rounded down to whole ones."""
    return int(share * epochs)


TELLS = 0.05
"""Share of the class's entropy from which on contexts are taken to tell the class."""


def if_contexts_tell(probability: float, information: float | None) -> float:
    """The probability where contexts tell of the class (splits.context_information) or are unknown; else 0."""
    return probability if information is None or information >= TELLS else 0.0
