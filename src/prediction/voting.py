"""Ensemble rules: from the members' votes or probabilities to one label per image (docs/method.md, section 8).

M members, N images, K classes. Ties go to the lowest label id, and among members to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from src.metrics import log_likelihood

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
    weights = np.ones(len(probabilities))
    return Ballot(pooled(probabilities, weights).argmax(1), weights)


RULES: dict[str, Callable[[Probabilities], Ballot]] = {"majority": majority, "adaptive": adaptive, "soft": soft}
"""The rules by their names in vote=."""


class Choice(NamedTuple):
    """Members chosen to vote.

    Attributes:
        members: indices in the order of choice, repeated for each time that a member was chosen.
        figures: what members up to and including each had in common that they were chosen by; empty if nothing was.
    """

    members: list[int]
    figures: list[float]


def forward_selection(
    values: Probabilities, figure: Callable[[Probabilities], float], rounds: int, replacement: bool
) -> Iterator[tuple[int, float]]:
    """Choose members one by one, each time the one whose addition to those chosen gives the best figure.

    Args:
        values: (M, ...) of each member, to be averaged.
        figure: of the mean of values (...) of members; the higher the better.
        rounds: members to choose, at least 1; without replacement there are at most M.
        replacement: whether a member may be chosen again; it has two votes then.

    Yields:
        The index of the member that is chosen next, and the figure with it.

    Raises:
        ValueError: rounds is less than 1.
    """
    if rounds < 1:
        raise ValueError(f"ensemble.rounds is {rounds}: expected at least 1")
    total, left = np.zeros(values.shape[1:]), list(range(len(values)))
    for count in range(1, (rounds if replacement else min(rounds, len(left))) + 1):
        tried = [figure((total + values[i]) / count) for i in left]
        best = int(np.argmax(tried))
        yield left[best], tried[best]
        total += values[left[best]]
        if not replacement:
            del left[best]


def greedy(probabilities: Probabilities, label: Labels, rounds: int) -> Choice:
    """Choose members with replacement, each time the one that helps their mean probability most (Caruana 2004).

    The choice looks at held-out images with known labels, never at the images to be predicted. After `rounds`
    choices the shortest prefix with the best accuracy is kept.

    Args:
        probabilities: (M, N, K) of held-out images.
        label: (N,) their labels.
        rounds: members to choose, at least 1.

    Returns:
        The choice; its figures are accuracies.

    Raises:
        ValueError: rounds is less than 1.
    """

    def accuracy(mean: Probabilities) -> float:
        return float((mean.argmax(1) == label).mean())

    members, figures = zip(*forward_selection(probabilities, accuracy, rounds, replacement=True), strict=True)
    end = int(np.argmax(figures)) + 1
    return Choice(list(members[:end]), list(figures[:end]))


def diverse(probabilities: Probabilities, label: Labels, rounds: int) -> Choice:
    """Choose the best member, then each time the one that raises the log-likelihood of the mean probability most.

    The choice looks at held-out images with known labels, never at the images to be predicted. It ends where no member
    raises the likelihood any more. Unlike the accuracy, which a few images decide, the likelihood counts every image:
    a member helps where the others are wrong or unsure.

    Args:
        probabilities: (M, N, K) of held-out images.
        label: (N,) their labels.
        rounds: members to choose at most, at least 1.

    Returns:
        The choice, each member once; its figures are mean log-likelihoods in nats, at most 0.

    Raises:
        ValueError: rounds is less than 1, or there is one member.
    """
    if len(probabilities) < 2:
        raise ValueError(
            "ensemble.select=diverse has one candidate, and nothing to choose: train another run (model=, seed=, "
            "mixing=), or ask for more of those there are (ensemble.stages=, ensemble.runs=)"
        )
    own = probabilities[:, np.arange(len(label)), label]  # of the true classes, (M, N)
    choice = Choice([], [])
    for member, figure in forward_selection(own, log_likelihood, rounds, replacement=False):
        if choice.figures and figure <= choice.figures[-1]:
            break
        choice.members.append(member)
        choice.figures.append(figure)
    return choice


SELECTIONS: dict[str, Callable[[Probabilities, Labels, int], Choice]] = {"greedy": greedy, "diverse": diverse}
"""The ways to choose members on held-out images, by their names in ensemble.select=."""


def pooled(probabilities: Probabilities, weights: Weights) -> Probabilities:
    """The members' weighted mean probability: (M, N, K) and (M,) >= 0 to (N, K) float64."""
    made = np.zeros(probabilities.shape[1:])
    for own, weight in zip(probabilities, weights, strict=True):  # a float64 copy of all would be large
        if weight:
            made += weight * own
    made /= weights.sum()  # not each weight by itself: equal ones leave ties as they are
    return made


def agreement_matrix(votes: Labels) -> npt.NDArray[np.float64]:
    """Share of images on which two members choose the same label: (M, N) to (M, M), ones on its diagonal."""
    return np.stack([agreement(votes, one) for one in votes])


def disagreement(votes: Labels) -> float:
    """Share of images on which two members choose different labels, the mean over all pairs: (M, N), M at least 2."""
    members = len(votes)
    return float((1 - agreement_matrix(votes)).sum() / (members * (members - 1)))


def entropy(probabilities: Probabilities) -> npt.NDArray[np.float64]:
    """Entropy of an image's votes in nats, that is, how disputed it is: (M, N, K) to (N,) in [0, log min(M, K)]."""
    votes, made = probabilities.argmax(2), np.empty(probabilities.shape[1])
    for begin in range(0, len(made), 2**14):  # counts of all images would be as large as two members' probabilities
        part = votes[:, begin : begin + 2**14]
        counts = np.zeros((part.shape[1], probabilities.shape[2]))
        for vote in part:
            counts[np.arange(len(vote)), vote] += 1
        share = counts / len(votes)
        made[begin : begin + 2**14] = -(share * np.log(np.where(share > 0, share, 1))).sum(1)
    return made


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
