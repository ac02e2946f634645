"""What each stage adds: every finished network of a data set on the same images, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from src.metrics import bootstrap_mean
from src.overrides import START
from src.prediction.members import Member
from src.report.chain import chain, weights_from
from src.report.comparison import strategy_of
from src.report.comparison.settings import differing, flat
from src.runs.records import model_name_of, read_finished
from src.text import method_of

DRAWS = 1000  # of the bootstrap
LONGEST = 36  # letters of a title, without the stage
LISTED = 5  # changes that are named
COPIES = ("mixing_name", "recipe.", "module.mixing.", "module.backbone.", *START)
"""Settings that say again what facts or other settings say."""
Hits = npt.NDArray[np.floating]


class Group(NamedTuple):
    """Finished runs that differ in their seeds alone.

    Attributes:
        title: short, and different from that of the others.
        members: one for each seed, in the order of the seeds.
        facts: what it is and starts from, by name.
        before: index of the group whose weights it started from, directly or through runs that are no classifiers; None
            without one.
        settings: all of them, flat, without those that every run has of its own.
    """

    title: str
    members: list[Member]
    facts: dict[str, str]
    before: int | None
    settings: Mapping[str, Any] = MappingProxyType({})


class Contender(NamedTuple):
    """Something whose hits are compared: a group, the vote, or the mean of the vote's members.

    Attributes:
        title: its name.
        seeds: of its rows of hits.
        hits: by image set, (S, N) shares in [0, 1]: 1 where the network of a seed is right.
    """

    title: str
    seeds: tuple[int, ...]
    hits: dict[str, Hits]


class Step(NamedTuple):
    """A comparison.

    Attributes:
        after, before: indices of the contenders, the later and the earlier one.
        change: what differs between them.
        drawn: whether a figure shows it: the table has the others, of a late stage with plain training, as well.
    """

    after: int
    before: int
    change: str
    drawn: bool = True


class Gain(NamedTuple):
    """A paired difference of accuracies, as shares.

    Attributes:
        mean: over images and the seeds that both have.
        low, high: 95 % interval by the percentile bootstrap over images.
        won, lost: images, by seed on average, that the later one alone, and the earlier one alone, has right.
        seeds: number of seeds that both have.
        error: half of the 95 % interval over seeds (Student's t); None with fewer than two.
    """

    mean: float
    low: float
    high: float
    won: float
    lost: float
    seeds: int
    error: float | None

    def words(self, other: str) -> str:
        """Such as "0.3 points below `other`, within noise", where noise is what the choice of images explains."""
        if self.mean == 0:
            return f"as accurate as {other}"
        noise = "within" if self.low <= 0 <= self.high else "beyond"
        return f"{abs(100 * self.mean):.1f} points {'above' if self.mean > 0 else 'below'} {other}, {noise} noise"


def groups_of(members: Sequence[Member], logs_dir: Path) -> list[Group]:
    """The runs by what they have in common besides the seed, each group after the one that it starts from.

    Args:
        members: finished runs, each network once.
        logs_dir: where the runs lie now.
    """
    order = {folder: i for i, folder in enumerate(chain(members, logs_dir))}
    same: dict[tuple[str, str], list[Member]] = {}
    for member in sorted(members, key=lambda one: order.get(one.folder, -1)):
        same.setdefault((member.stage, method_of(member.name)), []).append(member)
    titles = short_titles([own[0] for own in same.values()])
    of_folder = {member.folder: i for i, own in enumerate(same.values()) for member in own}
    return [
        Group(
            title,
            sorted(own, key=seed_of),
            facts_of(own[0], logs_dir),
            before(own[0], of_folder, logs_dir),
            flat(own[0].config),
        )
        for title, own in zip(titles, same.values(), strict=True)
    ]


def seed_of(member: Member) -> int:
    """The seed of a member's run; 0 where its settings have none, as a soup's of several."""
    seed = member.config.get("seed")
    return seed if isinstance(seed, int) else 0


def short_titles(members: Sequence[Member]) -> list[str]:
    """A title of each: its stage and the parts of its name, without the seed, that not all of them have.

    A long one keeps its beginning and its end, which holds the digest of a command's other changes.
    """
    parts = [method_of(member.name).split("-") for member in members]
    common = set(parts[0]).intersection(*parts) if parts else set()
    own = [" ".join(part for part in some if part not in common) for some in parts]
    own = [rest if len(rest) <= LONGEST else f"{rest[: LONGEST - 10]}…{rest[-9:]}" for rest in own]
    return [f"{member.stage}: {rest}" if rest else member.stage for member, rest in zip(members, own, strict=True)]


def facts_of(member: Member, logs_dir: Path) -> dict[str, str]:
    """What a reader compares two runs by."""
    config = member.config
    masks = config.get("masks")
    return {
        "stage": member.stage,
        "model": model_name_of(config),
        "start": start_of(member, logs_dir),
        "mixing": strategy_of(config) or "none",
        "masks": Path(masks).parent.parent.name if isinstance(masks, str) and masks != "none" else "none",
    }


def start_of(member: Member, logs_dir: Path) -> str:
    """The stage that a run's weights come from; or that they are someone's else, or drawn."""
    earlier = earlier_of(member.folder, member.config, logs_dir)
    if earlier:
        return earlier[0].parent.name
    backbone = member.config["module"].get("backbone") or {}
    return "given weights" if backbone.get("pretrained") or backbone.get("weights") else "scratch"


def earlier_of(folder: Path, config: Mapping[str, Any], logs_dir: Path) -> list[Path]:
    """The runs whose weights a run started from, or is the mean of; none where it does not say."""
    try:
        return weights_from(config, read_finished(folder), logs_dir)
    except (OSError, ValueError):
        return []


def before(member: Member, of_folder: Mapping[Path, int], logs_dir: Path) -> int | None:
    """The group, by the folders of all groups' runs, that a run's weights come from, however far back."""
    runs = chain([member], logs_dir)
    left, seen = earlier_of(member.folder, member.config, logs_dir), {member.folder}
    while left:
        folder = left.pop(0)
        if folder in of_folder:
            return of_folder[folder]
        if folder not in seen and folder in runs:
            seen.add(folder)
            left += runs[folder]
    return None


def plain_of(groups: Sequence[Group]) -> int | None:
    """The group that stands for plain training: of stage baseline without mixing, else the first of that stage."""
    baselines = [i for i, group in enumerate(groups) if group.facts["stage"] == "baseline"]
    unmixed = [i for i in baselines if groups[i].facts["mixing"] == "none"]
    return next(iter(unmixed or baselines), None)


def steps_of(groups: Sequence[Group]) -> list[Step]:
    """What is compared: each group with the one that it starts from, with plain training, and with those of its stage
    that differ from it in one fact alone."""
    plain, stage_of = plain_of(groups), [group.facts["stage"] for group in groups]
    steps: dict[tuple[int, int], Step] = {}
    for i, group in enumerate(groups):
        others = [group.before, plain]
        others += [
            k
            for k in range(i)
            # A setting alone, such as one of ten ratios, would make a row for each pair of them.
            if stage_of[k] == stage_of[i] and len(changes(groups[k], group)) == 1 and groups[k].facts != group.facts
        ]
        for k in others:
            if k is not None and k != i and groups[k].facts["model"] == group.facts["model"]:
                changed = changes(groups[k], group)
                drawn = k != plain or group.before in (None, plain)
                steps.setdefault((i, k), Step(i, k, words_of(changed), drawn))
    return list(steps.values())


def changes(old: Group, new: Group) -> list[str]:
    """What differs, in words: the facts and, within a stage, the settings that no fact stands for.

    The stage is among them where it is all that is known to differ.
    """
    found = [
        f"{key} {new.facts[key]} (was {old.facts[key]})"
        for key in new.facts
        if key != "stage" and new.facts[key] != old.facts[key]
    ]
    if new.facts["stage"] != old.facts["stage"]:
        return found or [f"stage {new.facts['stage']} (was {old.facts['stage']})"]
    stood_for = (*COPIES, *(("mixing.",) if new.facts["mixing"] != old.facts["mixing"] else ()))
    keys = [key for key in differing([old.settings, new.settings]) if not key.startswith(stood_for)]
    # module.lr and module.optimizer.lr are one setting where they have one value.
    words = [f"{key.rpartition('.')[2]} {new.settings.get(key)} (was {old.settings.get(key)})" for key in keys]
    return [*found, *dict.fromkeys(words)]


def words_of(changed: Sequence[str]) -> str:
    """Changes for a reader: the first LISTED of them, and how many more there are."""
    more = [f"{len(changed) - LISTED} more"] if len(changed) > LISTED else []
    return "; ".join([*changed[:LISTED], *more]) or "nothing but the name"


def contender_of(group: Group, members: Sequence[Member], votes: Mapping[str, Hits]) -> Contender:
    """A group's hits.

    Args:
        group: the group.
        members: all members.
        votes: by image set, whether each member is right: (M, N).
    """
    at = {member.folder: i for i, member in enumerate(members)}
    rows = [at[member.folder] for member in group.members]
    seeds = tuple(seed_of(member) for member in group.members)
    return Contender(group.title, seeds, {name: np.asarray(hits[rows], float) for name, hits in votes.items()})


def interval(values: npt.NDArray[np.floating], seed: int) -> tuple[float, float]:
    """95 % interval of the mean of values (N,), by the percentile bootstrap over images."""
    return bootstrap_mean(values, np.random.default_rng(seed), DRAWS)


def gain_of(later: Contender, earlier: Contender, name: str, seed: int) -> Gain:
    """The paired difference on an image set: of each seed that both have, or of their means over seeds.

    Args:
        later, earlier: the contenders; each seed once.
        name: of the image set.
        seed: of the bootstrap.
    """
    ours, theirs = later.hits[name], earlier.hits[name]
    common = [s for s in later.seeds if s in earlier.seeds]
    if common:
        ours = ours[[later.seeds.index(s) for s in common]]
        theirs = theirs[[earlier.seeds.index(s) for s in common]]
    else:
        ours, theirs = ours.mean(0, keepdims=True), theirs.mean(0, keepdims=True)
    apart = ours - theirs
    low, high = interval(apart.mean(0), seed)
    error = None
    if len(common) > 1:
        error = float(stats.sem(apart.mean(1)) * stats.t.ppf(0.975, len(common) - 1))
    won, lost = (float(np.clip(sign * apart, 0, None).sum(1).mean()) for sign in (1, -1))
    return Gain(float(apart.mean()), low, high, won, lost, len(common), error)
