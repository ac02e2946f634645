"""Ensemble rules: from the members' votes or probabilities to one label an image (method.md, section 8).

M members, N images, K classes. Ties go to the lowest label id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.floating]
Weights = npt.NDArray[np.float64]


class Ballot(NamedTuple):
    """The ensemble's labels (N,) int64 and each member's weight (M,) float64."""

    labels: Labels
    weights: Weights


def weighted_vote(votes: Labels, weights: Weights, num_classes: int) -> Labels:
    """The label with the largest sum of weights of the members that chose it.

    Args:
        votes: (M, N) label ids in [0, num_classes).
        weights: (M,) >= 0.
        num_classes: K.

    Returns:
        (N,) label ids.
    """
    score = np.zeros((votes.shape[1], num_classes))
    images = np.arange(votes.shape[1])
    for vote, weight in zip(votes, weights, strict=True):  # a member votes once an image: no index repeats
        score[images, vote] += weight
    return np.asarray(score.argmax(1), np.int64)


def agreement(votes: Labels, labels: Labels) -> Weights:
    """Each member's rate of agreement with `labels` (N,): (M,) in [0, 1]."""
    return np.asarray((votes == labels).mean(1), np.float64)


def majority(probabilities: Probabilities) -> Ballot:
    """Unweighted majority of the members' most probable labels; probabilities (M, N, K)."""
    weights = np.ones(len(probabilities))
    return Ballot(weighted_vote(probabilities.argmax(2), weights, probabilities.shape[2]), weights)


def adaptive(probabilities: Probabilities) -> Ballot:
    """Weighted vote, a member's weight being its rate of agreement with the unweighted majority.

    The adaptive ensemble of method.md, section 8; probabilities (M, N, K).
    """
    votes = probabilities.argmax(2)
    weights = agreement(votes, majority(probabilities).labels)
    # Voted with the counts behind the rates: their sums are exact, so that a tie is one.
    counts = np.rint(weights * votes.shape[1])
    return Ballot(weighted_vote(votes, counts, probabilities.shape[2]), weights)


def soft(probabilities: Probabilities) -> Ballot:
    """The label with the largest mean probability; probabilities (M, N, K)."""
    return Ballot(probabilities.mean(0, dtype=np.float64).argmax(1), np.ones(len(probabilities)))


RULES: dict[str, Callable[[Probabilities], Ballot]] = {"majority": majority, "adaptive": adaptive, "soft": soft}
"""The rules by the name that vote= takes."""
