"""The first screen: what the prediction shows in a sentence, every stage beside it, and where the figures are from."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from src.metrics import bootstrap_mean
from src.report.comparison import strategy_of
from src.report.evaluation import DRAWS, Beside, Evaluation, diversity
from src.report.plots import Mark
from src.report.stages import Contender, gain_of
from src.report.tables import TESTS, kind_of_test, titles_of
from src.runs.directory import environment
from src.runs.records import model_name_of

Hits = npt.NDArray[np.floating]


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
        vote, best = (
            Contender("", (0,), {"test": hits[None] * 1.0}) for hits in (test.hits, test.votes[i] == test.images.label)
        )
        gain = gain_of(vote, best, "test", evaluation.settings.seed)
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


def stage_hits(evaluation: Evaluation, beside: Beside, chain: Sequence[Path]) -> dict[str, dict[str, Hits]]:
    """Hits of each stage, strategy and model, and of the vote: {title: {image set: (R, N) of R runs}}.

    Plain training comes first, then what led to the members, in the order of the chain, then the other networks.

    Args:
        evaluation: the vote.
        beside: the networks that are compared with the members.
        chain: folders of the runs that led to the members, each after those that it was made from.
    """
    members = [*evaluation.members, *beside.members]
    order = {folder: i for i, folder in enumerate(chain)}
    models = [model_name_of(member.config) for member in members]
    titles = []
    for member, model in zip(members, models, strict=True):
        strategy = strategy_of(member.config) or "none"
        named = f", {model}" if len(set(models)) > 1 else ""
        titles.append(f"{member.stage}: {'plain training' if strategy == 'none' else strategy}{named}")
    first = [
        (not title.startswith("baseline: plain training"), order.get(m.folder, len(order)))
        for title, m in zip(titles, members, strict=True)
    ]
    rows: dict[str, list[int]] = {}
    for i in sorted(range(len(members)), key=first.__getitem__):
        rows.setdefault(titles[i], []).append(i)
    made: dict[str, dict[str, Hits]] = {title: {} for title in rows}
    for one in evaluation.known:
        hits = (beside.after(one) == one.images.label) * 1.0
        for title, own in rows.items():
            made[title][one.images.name] = hits[own]
    if len(evaluation.members) > 1 and evaluation.known:
        made["vote"] = {one.images.name: one.hits[None] * 1.0 for one in evaluation.known}
    return made if evaluation.known else {}


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
