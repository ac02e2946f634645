"""Ensemble rules: from the members' votes or probabilities to one label per image (docs/method.md, section 8).

M members, N images, K classes. Ties go to the lowest label id, and among members to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    for vote, weight in zip(votes, weights, strict=True):  # a member votes once per image: no index repeats
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

    The adaptive ensemble of docs/method.md, section 8; probabilities (M, N, K).
    """
    votes = probabilities.argmax(2)
    weights = agreement(votes, majority(probabilities).labels)
    # The weights are the counts behind the rates: their sums are exact, and so are ties.
    counts = np.rint(weights * votes.shape[1])
    return Ballot(weighted_vote(votes, counts, probabilities.shape[2]), weights)


def soft(probabilities: Probabilities) -> Ballot:
    """The label with the largest mean probability; probabilities (M, N, K)."""
    return Ballot(probabilities.mean(0, dtype=np.float64).argmax(1), np.ones(len(probabilities)))


RULES: dict[str, Callable[[Probabilities], Ballot]] = {"majority": majority, "adaptive": adaptive, "soft": soft}
"""The rules by their names in vote=."""


def greedy(probabilities: Probabilities, label: Labels, rounds: int) -> list[int]:
    """Choose members with replacement, each time the one that helps their mean probability most (Caruana 2004).

    The choice looks at held-out images with known labels, never at the images to be predicted. After `rounds`
    choices the shortest prefix with the best accuracy is kept.

    Args:
        probabilities: (M, N, K) of held-out images.
        label: (N,) their labels.
        rounds: members to choose, at least 1.

    Returns:
        Indices of members in the order of choice, repeated for each time that a member was chosen.

    Raises:
        ValueError: rounds is less than 1.
    """
    if rounds < 1:
        raise ValueError(f"ensemble.rounds is {rounds}: expected at least 1")
    total = np.zeros(probabilities.shape[1:])
    chosen: list[int] = []
    hits: list[int] = []
    for _ in range(rounds):
        tried = [int(((total + one).argmax(1) == label).sum()) for one in probabilities]
        best = int(np.argmax(tried))
        chosen.append(best)
        hits.append(tried[best])
        total += probabilities[best]
    return chosen[: int(np.argmax(hits)) + 1]


def pooled(probabilities: Probabilities, weights: Weights) -> Probabilities:
    """The members' weighted mean probability: (M, N, K) and (M,) >= 0 to (N, K) float64."""
    return np.asarray(np.tensordot(weights / weights.sum(), probabilities, 1), np.float64)


def agreement_matrix(votes: Labels) -> npt.NDArray[np.float64]:
    """Share of images on which two members choose the same label: (M, N) to (M, M), ones on its diagonal."""
    return np.stack([agreement(votes, one) for one in votes])


def entropy(probabilities: Probabilities) -> npt.NDArray[np.float64]:
    """Entropy of an image's votes in nats, that is, how disputed it is: (M, N, K) to (N,) in [0, log min(M, K)]."""
    counts = np.zeros(probabilities.shape[1:])
    for vote in probabilities.argmax(2):
        counts[np.arange(len(vote)), vote] += 1
    share = counts / len(probabilities)
    return np.asarray(-(share * np.log(np.where(share > 0, share, 1))).sum(1), np.float64)


def elect(probabilities: Probabilities, rule: str, chosen: Sequence[int]) -> Ballot:
    """The vote of some of the members.

    Args:
        probabilities: (M, N, K).
        rule: one of RULES.
        chosen: indices of the members that vote; one that appears twice has two votes.

    Returns:
        The labels, and weights (M,): the sum over each member's votes, 0 without any.
    """
    everyone = list(chosen) == list(range(len(probabilities)))  # the usual case needs no copy
    ballot = RULES[rule](probabilities if everyone else probabilities[list(chosen)])
    weights = np.bincount(chosen, ballot.weights, minlength=len(probabilities))
    return Ballot(ballot.labels, np.asarray(weights, np.float64))
