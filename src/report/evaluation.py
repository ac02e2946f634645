"""Figures of members and their vote on images whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from src.metrics import (
    Hits,
    accuracy_by_class,
    accuracy_by_context,
    accuracy_by_group,
    auroc,
    bootstrap,
    bootstrap_mean,
    calibration,
    confusion,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    risk_coverage,
    temper,
    top_hits,
)
from src.prediction.image_sets import ImageSet
from src.prediction.members import Member
from src.prediction.settings import PredictionSettings
from src.prediction.voting import Ballot, Choice, disagreement, pooled

BINS = 15  # of the calibration error, as Guo et al. 2017
DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True, eq=False)
class EvaluatedSet:
    """Members' predictions of some images: probabilities (M, N, K), and the labels that they elected.

    What follows from them is computed once.
    """

    images: ImageSet
    probabilities: npt.NDArray[np.float32]
    ballot: Ballot

    @cached_property
    def votes(self) -> npt.NDArray[np.int64]:
        """Each member's labels (M, N)."""
        return np.asarray(self.probabilities.argmax(2), np.int64)

    @cached_property
    def pooled(self) -> npt.NDArray[np.floating]:
        """The probability (N, K) that goes with the vote: the mean of the members', by their weights in it."""
        return pooled(self.probabilities, self.ballot.weights)

    @property
    def confidence(self) -> npt.NDArray[np.floating]:
        """The elected label's probability (N,) in `pooled`."""
        return np.asarray(self.pooled[np.arange(len(self.ballot.labels)), self.ballot.labels])

    @property
    def hits(self) -> npt.NDArray[np.bool_]:
        """Whether each elected label (N,) is right, where the truth is known."""
        return np.asarray(self.ballot.labels == self.images.label)


class Evaluation(NamedTuple):
    """A prediction of the test images, and all that is known of it.

    Attributes:
        settings: of the call.
        members, left_out: who was found; runs that do not vote, with the reason.
        chosen: indices of the members that vote, twice where they have two votes.
        test, held_out: what they said of the test images, and of each part that all of them hold out.
        figures: `evaluate` of each image set whose truth is known, by its name.
        temperature: of the vote's probability; None without held-out images.
        notes: what a reader must know.
    """

    settings: PredictionSettings
    members: list[Member]
    left_out: list[tuple[Path, str]]
    chosen: list[int]
    test: EvaluatedSet
    held_out: list[EvaluatedSet]
    figures: dict[str, dict[str, Any]]
    temperature: float | None
    notes: list[str]

    @property
    def in_domain(self) -> EvaluatedSet | None:
        """What members said of the held-out images of their training contexts."""
        return in_domain_of(self.held_out)

    @property
    def known(self) -> list[EvaluatedSet]:
        """The sets whose truth is known: held-out parts, then the test images."""
        return [one for one in (*self.held_out, self.test) if one.images.truth is not None]

    @property
    def selection(self) -> str:
        """How the vote came about, in a sentence."""
        runs = self.settings.wanted.words("and")
        split = " or ".join(sorted({member.split for member in self.members}))
        if self.settings.chooses:
            voting, by = len(set(self.chosen)), CHOSEN_BY[self.settings.select]
            who = f"{voting} of {len(self.members)} finished runs of {runs}, chosen by {by} on held-out images"
        elif self.settings.select == "soup":
            who = f"{len(self.members)} soups (mean weights) of the finished runs of {runs}"
        else:
            who = f"every finished run of {runs} ({len(self.members)}), none selected"
        return f"{self.settings.vote} vote of {who}; split {split}; weights of each run's last epoch"


class Beside(NamedTuple):
    """Finished networks besides the members, and their labels (B, N) of the images of each set, by its name."""

    members: list[Member]
    votes: dict[str, npt.NDArray[np.int64]]

    def after(self, one: EvaluatedSet) -> npt.NDArray[np.int64]:
        """The members' labels of an image set, and these networks' below them: (M + B, N)."""
        return np.concatenate([one.votes, self.votes[one.images.name]]) if self.members else one.votes


def in_domain_of(held_out: Sequence[EvaluatedSet]) -> EvaluatedSet | None:
    """The held-out images of the training contexts, among the parts that are held out."""
    return next((evaluated for evaluated in held_out if evaluated.images.name == "in_domain"), None)


def evaluate_all(
    settings: PredictionSettings,
    members: Sequence[Member],
    left_out: Sequence[tuple[Path, str]],
    choice: Choice,
    evaluated_sets: Sequence[EvaluatedSet],
    why_no_held_out: str,
) -> Evaluation:
    """Evaluate what members said of the test images (the first set) and of held-out parts (the others)."""
    test, *held_out = evaluated_sets
    in_domain = in_domain_of(held_out)
    temperature = temperature_of(in_domain)
    figures = {
        evaluated.images.name: evaluate(evaluated, members[0].classes, temperature, settings.seed)
        for evaluated in evaluated_sets
        if evaluated.images.truth is not None
    }
    notes = [f"{folder} is left out: {reason}." for folder, reason in left_out]
    if test.images.note:
        notes.append(test.images.note)
    if why_no_held_out:
        notes.append(f"No figures on held-out images, and no temperature: {why_no_held_out}.")
    if choice.figures and in_domain:
        notes.append(choice_words(settings.select, members, choice, in_domain))
        notes.append("In-domain figures of the vote are on the images that its members were chosen on: too good.")
    if guessed := test.images.unreadable:
        notes.append(
            f"{len(guessed)} test images could not be read (first: {guessed[0]}): their label is a guess, each "
            "member's mean probability over the others, and counts as one."
        )
    for part in held_out:
        if skipped := part.images.unreadable:
            notes.append(
                f"{len(skipped)} images of {part.images.name} could not be read (first: {skipped[0]}): skipped."
            )
    return Evaluation(
        settings, list(members), list(left_out), choice.members, test, held_out, figures, temperature, notes
    )


CHOSEN_BY = {"greedy": "accuracy", "diverse": "log-likelihood"}
"""The figure that ensemble.select= chooses members by."""


def choice_words(select: str, members: Sequence[Member], choice: Choice, images: EvaluatedSet) -> str:
    """Who was chosen and why, in a sentence: the figure with each member, and how often two of them disagree.

    Args:
        select: the way of choosing.
        members: the candidates.
        choice: those of them that vote.
        images: what the candidates said of the images that were looked at.
    """
    steps = [f"{members[i].title} ({figure:.4f})" for i, figure in zip(choice.members, choice.figures, strict=True)]
    votes, voters = images.votes, sorted(set(choice.members))
    apart = f"two of all {len(members)} disagree on {disagreement(votes):.1%} of them" if len(members) > 1 else ""
    if len(voters) > 1:
        apart = f"two of these disagree on {disagreement(votes[voters]):.1%} of them, {apart}"
    return (
        f"Chosen by the {CHOSEN_BY[select]} of the mean probability on {len(images.images.rows)} held-out images, so "
        f"far in brackets: {', then '.join(steps)}; {apart or 'there was one candidate'}."
    )


def accuracies(labels: npt.NDArray[np.int64], images: ImageSet) -> dict[str, float]:
    """accuracy_by_context of labels (N,) for images whose truth is known."""
    assert images.truth is not None
    label, contexts = images.truth
    names, of_context = indexed(contexts)
    names, of_context = (names[1:], of_context - 1) if names[:1] == [""] else (names, of_context)
    known = np.where(of_context < 0, len(names), of_context)  # unknown ones come last
    hits, images_of = (np.bincount(part, minlength=len(names) + 1) for part in (known[labels == label], known))
    return accuracy_by_context(hits.tolist(), images_of.tolist(), names)


def temperature_of(held_out: EvaluatedSet | None) -> float | None:
    """The temperature of the vote's probability, fitted on held-out images; None without them."""
    if held_out is None or held_out.images.truth is None:
        return None
    return fit_temperature(held_out.pooled, held_out.images.truth.label)


def evaluate(evaluated: EvaluatedSet, classes: Sequence[str], temperature: float | None, seed: int) -> dict[str, Any]:
    """Figures of a vote on images whose truth is known, as JSON takes them.

    Intervals are of 95 %, by the percentile bootstrap over images. Likelihood, calibration and top-5 are of
    `EvaluatedSet.pooled`, with its probability of the elected label as confidence; so are auroc (of "the label is
    right"; left out where all are or none is) and aurc, the area under the risk-coverage curve.

    Args:
        evaluated: the vote.
        classes: names by id.
        temperature: for a second likelihood and calibration error; None leaves them out.
        seed: of the bootstrap.
    """
    images, labels, probabilities = evaluated.images, evaluated.ballot.labels, evaluated.pooled
    assert images.truth is not None
    label, contexts = images.truth
    by_class = accuracy_by_class(labels == label, label, len(classes))
    groups = [
        {"class": classes[g.label], "context": g.context, "images": g.images, "accuracy": g.accuracy}
        for g in accuracy_by_group(labels == label, label, contexts)
    ]
    figures: dict[str, Any] = {
        "images": len(label),
        **accuracies(labels, images),
        **intervals(labels == label, label, contexts, len(classes), np.random.default_rng(seed)),
        "accuracy_top5": float(top_hits(torch.from_numpy(probabilities), torch.from_numpy(label), 5).float().mean()),
        "by_class": {name: value for name, value in zip(classes, by_class.tolist(), strict=True) if value == value},
        "groups": groups,
        "confusion": confusion(label, labels, len(classes)).tolist(),
    }
    if groups:
        figures["worst_group"] = groups[0]
    figures |= calibrated(probabilities, labels, label, "")
    hits, confidence = labels == label, evaluated.confidence
    figures["aurc"] = float(risk_coverage(confidence, hits).mean())
    if hits.any() and not hits.all():  # else nothing can be told apart
        figures["auroc"] = auroc(confidence, hits)
    if temperature is not None:
        figures |= calibrated(temper(probabilities, temperature), labels, label, "_tempered")
    return figures


def intervals(
    hits: Hits, label: npt.NDArray[np.int64], contexts: Sequence[str], num_classes: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Macro accuracy, and the intervals of the accuracies of hits (N,) with label ids (N,) in contexts (N)."""

    def macro(counts: npt.NDArray[np.int64]) -> float:
        wrong, right = counts.reshape(num_classes, 2).T
        images = wrong + right
        return float((right[images > 0] / images[images > 0]).mean())

    by_class = np.bincount(2 * label + hits, minlength=2 * num_classes)
    made: dict[str, Any] = {
        "accuracy_interval": bootstrap_mean(hits, rng, DRAWS),
        "macro_accuracy": macro(by_class),
        "macro_accuracy_interval": bootstrap(macro, by_class, rng, DRAWS),
    }
    names, of_context = indexed(contexts)
    for i, name in enumerate(names):
        if name:
            made[f"accuracy/{name}_interval"] = bootstrap_mean(hits[of_context == i], rng, DRAWS)
    return made


def indexed(names: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The different ones of N names, sorted, and each name's index in them (N,)."""
    different = sorted(set(names))
    index = {name: i for i, name in enumerate(different)}
    return different, np.fromiter(map(index.__getitem__, names), np.int64, len(names))


def calibrated(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], label: npt.NDArray[np.int64], suffix: str
) -> dict[str, float]:
    """Negative log-likelihood and expected calibration error of labels with probabilities (N, K)."""
    confidence = probabilities[np.arange(len(labels)), labels]
    return {
        f"nll{suffix}": negative_log_likelihood(probabilities, label),
        f"ece{suffix}": expected_calibration_error(calibration(confidence, labels == label, BINS)),
    }


def diversity(evaluated: EvaluatedSet) -> dict[str, float]:
    """How much the members differ, as shares of the images.

    Returns:
        disagreement: of two members, over all pairs; unanimous: all members of one label; and where truth is
        known, mean_member: a member's mean accuracy; any_member: one of them is right.
    """
    votes, members = evaluated.votes, len(evaluated.votes)
    figures = {"unanimous": float((votes == votes[0]).all(0).mean())}
    if members > 1:
        figures["disagreement"] = disagreement(votes)
    if evaluated.images.truth is not None:
        hits = votes == evaluated.images.truth.label
        figures |= {"mean_member": float(hits.mean()), "any_member": float(hits.any(0).mean())}
    return figures


def best_members(evaluation: Evaluation) -> dict[str, tuple[str, float]]:
    """The best single members and their accuracies on the test images, by the rule that chose them.

    Among equals the first. "held-out" is chosen by in-domain accuracy, "oracle" by the test images themselves.
    """
    members, evaluated, in_domain = evaluation.members, evaluation.test, evaluation.in_domain
    assert evaluated.images.truth is not None
    own = (evaluated.votes == evaluated.images.truth.label).mean(1)
    rules = {"oracle": own}
    if in_domain is not None and in_domain.images.truth is not None:
        rules = {"held-out": (in_domain.votes == in_domain.images.truth.label).mean(1), **rules}
    return {rule: (members[int(by.argmax())].title, float(own[by.argmax()])) for rule, by in rules.items()}
