"""The parts of the report that compare the chain's networks: what each adds, where it looks, what its features tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from src.prediction.members import Member
from src.prediction.run import OpenImages
from src.report import charts, stages
from src.report.evaluation import Beside, EvaluatedSet, Evaluation
from src.report.inside import Inside, add_features, add_where
from src.report.page import Page
from src.report.stages import Contender, Gain, Group, Step
from src.report.tables import Table, titles_of

MEAN, BEST, VOTE = "mean member", "best member", "vote"


def add_evidence(
    page: Page, evaluation: Evaluation, beside: Beside, open_images: OpenImages, device: torch.device
) -> None:
    """Add the three parts to the page, or why one is missing.

    Args:
        page: gets tables, figures and pictures.
        evaluation: of the members.
        beside: the other networks.
        open_images: makes data modules of the test images.
        device: where networks run.
    """
    known = [one for one in (evaluation.test, *evaluation.held_out) if one.images.truth is not None]
    if not known:
        page.missing["stages"] = "No image's label is known, neither of test images nor of held-out ones."
        return
    groups = stages.groups_of([*evaluation.members, *beside.members], evaluation.settings.logs_dir)
    add_stages(page, evaluation, beside, groups, known)
    shown = shown_of(groups, evaluation.members)
    for name, add in (("where", add_where), ("features", add_features)):
        try:
            add(page, Inside(evaluation.settings, shown, known, titles_of(evaluation), open_images, device))
        except (OSError, ValueError) as error:  # masks that are gone or damaged; an image that was there before
            page.missing[name] = f"The networks could not be shown these images again: {error}."


def add_stages(
    page: Page, evaluation: Evaluation, beside: Beside, groups: Sequence[Group], known: Sequence[EvaluatedSet]
) -> None:
    """Each group's accuracies, those of the vote, and what each adds to what it is compared with."""
    words = titles_of(evaluation)
    titles, seed = {one.images.name: words[one.images.name] for one in known}, evaluation.settings.seed
    hits = {one.images.name: np.asarray(beside.after(one) == one.images.label, float) for one in known}
    members = [*evaluation.members, *beside.members]
    contenders = [stages.contender_of(group, members, hits) for group in groups]
    steps = stages.steps_of(groups)
    voters = sorted(set(evaluation.chosen))
    if len(voters) > 1:
        right = {one.images.name: np.asarray(one.ballot.labels == one.images.label, float) for one in known}
        more, of_vote = vote_steps(voters, hits, right, len(contenders), stages.plain_of(groups))
        contenders, steps = [*contenders, *more], [*steps, *of_vote]
    networks = [one for one in contenders if one.title not in (MEAN, BEST)]
    bars = {
        one.title: {
            titles[name]: (float(rows.mean()), *stages.interval(rows.mean(0), seed)) for name, rows in one.hits.items()
        }
        for one in networks
    }
    page.tables["stages"] = [
        ["", "seeds", *(f"{title} (95 %)" for title in titles.values())],
        *([one.title, str(len(one.seeds) or ""), *map(bar_words, bars[one.title].values())] for one in networks),
    ]
    if not steps:
        page.missing["gains"] = (
            "No two of these networks can be compared: none started from another one, and none of the same model is "
            "plain training (stage=baseline)."
        )
        return
    gains = [
        {name: stages.gain_of(contenders[s.after], contenders[s.before], name, seed) for name in titles} for s in steps
    ]
    named = [(contenders[step.after].title, contenders[step.before].title, step.change) for step in steps]
    page.tables["gains"] = gains_table(named, gains, titles)
    rows = {
        f"{later}\n\N{MINUS SIGN} {earlier}": {titles[name]: gain[:3] for name, gain in own.items()}
        for step, (later, earlier, _), own in zip(steps, named, gains, strict=True)
        if step.drawn
    }
    page.figures["gains"] = charts.differences(rows)


def vote_steps(
    voters: Sequence[int],
    hits: Mapping[str, npt.NDArray[np.floating]],
    right: Mapping[str, npt.NDArray[np.floating]],
    first: int,
    plain: int | None,
) -> tuple[list[Contender], list[Step]]:
    """The vote, and what it is compared with: its members' mean, the best of them in-domain, and plain training.

    Args:
        voters: indices of the members that vote.
        hits: by image set, whether each member is right: (M, N).
        right: by image set, whether the vote is: (N,).
        first: index of the first contender that this makes.
        plain: index of plain training.
    """
    made = [Contender(MEAN, (), {name: rows[voters].mean(0, keepdims=True) for name, rows in hits.items()})]
    compared = [(first, "they vote")]
    if "in_domain" in hits:
        best = voters[int(hits["in_domain"][voters].mean(1).argmax())]
        made.append(Contender(BEST, (), {name: rows[[best]] for name, rows in hits.items()}))
        compared.append((first + 1, "they vote; the best of them was chosen in-domain"))
    if plain is not None:
        compared.append((plain, "the whole chain"))
    made.append(Contender(VOTE, (), {name: own[None] for name, own in right.items()}))
    return made, [Step(first + len(made) - 1, k, words) for k, words in compared]


def bar_words(bar: tuple[float, float, float]) -> str:
    """A share and its interval in percent: "77.3 (74.1 to 80.5)"."""
    return f"{100 * bar[0]:.1f} ({100 * bar[1]:.1f} to {100 * bar[2]:.1f})"


def gains_table(
    named: Sequence[tuple[str, str, str]], gains: Sequence[Mapping[str, Gain]], titles: Mapping[str, str]
) -> Table:
    """One row per comparison, in percentage points.

    Args:
        named: of each the later one, the earlier one, and what differs.
        gains: of each, by image set.
        titles: of the image sets.
    """
    seeds = any(gain.error is not None for own in gains for gain in own.values())
    heads = [f"{title}: {word}" for title in titles.values() for word in ("gain (95 %)", "won, lost")]
    over_seeds = [f"{title}: over seeds" for title in titles.values()] * seeds
    table = [["", "compared with", *heads, *over_seeds, "what differs"]]
    for (later, earlier, change), own in zip(named, gains, strict=True):
        row, over = [later, earlier], []
        for name in titles:
            gain = own[name]
            row.append(f"{100 * gain.mean:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})")
            row.append(f"{gain.won:.0f}, {gain.lost:.0f}")
            over.append("-" if gain.error is None else f"± {100 * gain.error:.1f} ({gain.seeds})")
        table.append([*row, *(over * seeds), change])
    return table


def shown_of(groups: Sequence[Group], members: Sequence[Member]) -> list[Group]:
    """The groups whose networks are looked into: one of each stage, start and mixing, of the last voting group's model.

    Plain training comes first, and the last voting group last.
    """
    voting, plain = {member.folder for member in members}, stages.plain_of(groups)
    last = [group for group in groups if any(member.folder in voting for member in group.members)][-1]
    first = last if plain is None else groups[plain]
    kinds: dict[tuple[str, ...], Group] = {}
    for group in (first, last, *groups):
        if group.facts["model"] == last.facts["model"] or group is first:
            kinds.setdefault(tuple(group.facts[key] for key in ("stage", "start", "mixing")), group)
    between = [group for group in kinds.values() if group is not first and group is not last]
    return [first, *between, *([] if last is first else [last])]
