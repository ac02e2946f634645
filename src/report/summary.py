"""The first screen: what the prediction shows in a sentence, every stage beside it, and where the figures are from."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from src.metrics import bootstrap_mean
from src.prediction.image_sets import ImageSet
from src.prediction.kept import Probabilities, stored, task_of
from src.prediction.members import Member, read_member
from src.prediction.settings import PredictionSettings
from src.report.comparison import strategy_of
from src.report.evaluation import DRAWS, Evaluation, diversity
from src.report.plots import Mark
from src.report.tables import TESTS, kind_of_test, titles_of
from src.runs.directory import environment

Hits = npt.NDArray[np.floating]


class Gain(NamedTuple):
    """The vote's accuracy minus a member's on the same images, with its paired interval; shares."""

    value: float
    low: float
    high: float

    def words(self, other: str) -> str:
        """Such as "0.3 points below `other`, within noise", where noise is what the choice of images explains."""
        if self.value == 0:
            return f"as accurate as {other}"
        noise = "within" if self.low <= 0 <= self.high else "beyond"
        return f"{abs(100 * self.value):.1f} points {'above' if self.value > 0 else 'below'} {other}, {noise} noise"


def paired(first: Hits, second: Hits, seed: int) -> Gain:
    """Mean of `first` minus mean of `second`, hits (N,) of the same images, with the bootstrap's 95 % interval."""
    apart = first - second
    drawn = bootstrap_mean(apart, np.random.default_rng(seed), DRAWS)
    return Gain(float(apart.mean()), *drawn)


def sentence(evaluation: Evaluation) -> str:
    """The answer: accuracy where nobody trained, the gap to in-domain, the worst group, and what the vote gains."""
    figures, test = evaluation.figures, evaluation.test
    held = figures["in_domain"]["accuracy"] if "in_domain" in figures else None
    several = len(evaluation.members) > 1
    if "test" not in figures:
        words = f"The labels of the {len(test.images.rows):,} test images are not known"
        words += f"; {100 * held:.1f} % on held-out in-domain images" if held is not None else ""
        same = diversity(test)["unanimous"]
        return words + (f"; all members agree on {100 * same:.1f} % of the test images." if several else ".")
    own = figures["test"]
    words = f"{100 * own['accuracy']:.1f} % on {TESTS[kind_of_test(evaluation)]}"
    if held is not None:
        gap = 100 * (held - own["accuracy"])
        words += f", {abs(gap):.1f} points {'below' if gap >= 0 else 'above'} in-domain"
    if group := own.get("worst_group"):
        words += f"; worst: {group['class']} in {group['context']}, {100 * group['accuracy']:.0f} %"
    if several:
        rule, i = best_member(evaluation)
        gain = paired(test.hits * 1.0, (test.votes[i] == test.images.label) * 1.0, evaluation.settings.seed)
        words += f"; the vote is {gain.words(rule)}"
    return f"{words}."


def best_member(evaluation: Evaluation) -> tuple[str, int]:
    """The member that somebody with held-out images would take instead of the vote; without any, the test's best."""
    by, rule = evaluation.test, "its best member, chosen on these images"
    if evaluation.in_domain is not None and evaluation.in_domain.images.truth is not None:
        by, rule = evaluation.in_domain, "the member that is best in-domain"
    return rule, int((by.votes == by.images.label).mean(1).argmax())


def facts_of(evaluation: Evaluation, runs: int, seconds: float) -> dict[str, str]:
    """Where the figures are from: how the vote came about, when, by which revision, after how long a training.

    Args:
        evaluation: the vote.
        runs: in the chain that led to its members.
        seconds: that their epochs took.
    """
    where = environment()
    revision = str(where["revision"] or "")[:10] + " with uncommitted changes" * bool(where["uncommitted_changes"])
    return {
        "Selection": evaluation.selection,
        "Predicted": f"{datetime.date.today().isoformat()}, {len(evaluation.test.images.rows):,} test images",
        "Revision": revision if where["revision"] else "not known",
        "Training": f"{duration(seconds)} in the epochs of {runs} runs" if seconds else "not known",
    }


def duration(seconds: float) -> str:
    """Seconds for a reader: "8 s", "9 min 20 s", "3 h 5 min"."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s" if minutes else f"{left} s"


def stage_hits(evaluation: Evaluation, chain: Sequence[Path]) -> dict[str, dict[str, Hits]]:
    """Hits of each stage of the chain, of plain training, and of the vote: {title: {image set: (R, N) of R runs}}.

    Runs of one stage and strategy share a row. Members have their predictions; other runs those that an earlier
    prediction of the same images has kept, or the held-out accuracy that they ended with, as that many hits.

    Args:
        evaluation: the vote.
        chain: folders of the runs that led to the members, each after those that it was made from.
    """
    known = evaluation.known
    voting = {member.folder: i for i, member in enumerate(evaluation.members)}
    looked_up = [(one.images, one.votes) for one in known]
    grouped: dict[str, dict[str, list[Hits]]] = {}
    for member in classifiers(evaluation, chain):
        strategy = strategy_of(member.config)
        row = grouped.setdefault(f"{member.stage}: {'plain training' if strategy in ('', 'none') else strategy}", {})
        for images, votes in looked_up:
            if member.folder in voting:
                hits: Hits | None = (votes[voting[member.folder]] == images.label).astype(float)
            else:
                hits = hits_of(member, images, evaluation.settings)
            if hits is not None:
                row.setdefault(images.name, []).append(hits)
    made = {title: {name: np.stack(hits) for name, hits in row.items()} for title, row in grouped.items() if row}
    if len(evaluation.members) > 1 and known:
        made["vote"] = {one.images.name: one.hits[None].astype(float) for one in known}
    return made


def classifiers(evaluation: Evaluation, chain: Sequence[Path]) -> Iterator[Member]:
    """Plain training, then the classifiers of the chain: finished, of the members' split and classes."""
    settings, first = evaluation.settings, evaluation.members[0]
    members, digests = {member.folder: member for member in evaluation.members}, settings.digests()
    plain = sorted((settings.logs_dir / settings.data_name / "baseline").glob("*"))
    for folder in dict.fromkeys([*plain, *chain]):
        member = members.get(folder) or read_member(folder, digests.of)
        if isinstance(member, Member) and (member.split, member.classes) == (first.split, first.classes):
            yield member


def hits_of(member: Member, images: ImageSet, settings: PredictionSettings) -> Hits | None:
    """Hits (N,) of a run that does not vote, without predicting anew; None where nobody knows.

    Args:
        member: the run.
        images: whose truth is known.
        settings: of this prediction.
    """
    probabilities: Probabilities | None = None
    if not settings.tta.get("bank"):  # what is mixed in is not known here
        probabilities = stored(task_of(member, images.name, images.digest, [], "", settings))
    if probabilities is not None and len(probabilities) == len(images.rows):
        return np.asarray(probabilities.argmax(1) == images.label, float)
    accuracy = member.figures.get(f"val/{images.name}/accuracy")
    return None if accuracy is None else (np.arange(len(images.rows)) < round(accuracy * len(images.rows))) * 1.0


def marks_of(stages: Mapping[str, Mapping[str, Hits]], evaluation: Evaluation) -> dict[str, dict[str, Mark]]:
    """Accuracies of stage_hits, the mean of a stage's runs, with bootstrap intervals over images, for plots.overview.

    The vote's are those of `evaluation.figures`.
    """
    titles, seed = titles_of(evaluation), evaluation.settings.seed

    def mark(stage: str, name: str, hits: Hits) -> Mark:
        if stage == "vote":
            return Mark(evaluation.figures[name]["accuracy"], *evaluation.figures[name]["accuracy_interval"])
        mean = hits.mean(0)
        drawn = bootstrap_mean(mean, np.random.default_rng(seed), DRAWS)
        return Mark(float(mean.mean()), *drawn)

    def title(stage: str, row: Mapping[str, Hits]) -> str:
        runs = max(len(hits) for hits in row.values())
        return stage + (f" (mean of {runs})" if runs > 1 else "")

    order = ("test", "in_domain", "out_of_domain")
    return {
        title(stage, row): {titles[name]: mark(stage, name, row[name]) for name in order if name in row}
        for stage, row in stages.items()
    }


def spoken_marks(rows: Mapping[str, Mapping[str, Mark]]) -> str:
    """plots.overview in words, for those who do not see it."""
    return "; ".join(
        f"{title}: {', '.join(f'{name} {100 * mark.value:.1f} %' for name, mark in marks.items())}"
        for title, marks in rows.items()
    )
