"""The parts of the report that compare the chain's networks: what each adds, where it looks, what its features tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from src.callbacks.sheet import outlined
from src.prediction.image_sets import ImageSet
from src.prediction.members import Member
from src.prediction.run import OpenImages
from src.report import charts, stages
from src.report.evaluation import Beside, EvaluatedSet, Evaluation
from src.report.features import plane, probe
from src.report.looks import Look, features_of, look, masks_of, pixels_of, sample, with_masks
from src.report.page import Page
from src.report.photos import SIDE, Photo, heat, side_by_side
from src.report.stages import Contender, Gain, Group, Step
from src.report.tables import TITLES, Table, percent
from src.report.where import scaled

LOOKED_AT = 160  # images of a set whose evidence is mapped: a pass back and forth for each network that is shown
PLACED = 500  # images of a set whose features are shown
SHOWN = 6  # images of a set beside their maps
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
            add(page, evaluation, shown, known, open_images, device)
        except (OSError, ValueError) as error:  # masks that are gone or damaged; an image that was there before
            page.missing[name] = f"The networks could not be shown these images again: {error}."


def title_of(images: ImageSet) -> str:
    """How a legend names an image set."""
    return TITLES[images.name].split(" (")[0]


# ---------------------------------------------------------------------------------------------- stages


def add_stages(
    page: Page, evaluation: Evaluation, beside: Beside, groups: Sequence[Group], known: Sequence[EvaluatedSet]
) -> None:
    """Each group's accuracies, those of the vote, and what each adds to what it is compared with."""
    titles = {one.images.name: title_of(one.images) for one in known}
    draws = {one.images.name: stages.draws_of(len(one.images.rows), evaluation.settings.seed) for one in known}
    hits = {}
    for one in known:
        votes = np.concatenate([one.votes, beside.votes[one.images.name]]) if beside.members else one.votes
        hits[one.images.name] = np.asarray(votes == one.images.label, float)
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
            titles[name]: (float(rows.mean()), *stages.interval(rows.mean(0), draws[name]))
            for name, rows in one.hits.items()
        }
        for one in networks
    }
    page.figures["stages"] = charts.dots(bars, "accuracy, %")
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
        {name: stages.gain_of(contenders[s.after], contenders[s.before], name, draws[name]) for name in titles}
        for s in steps
    ]
    named = [(contenders[step.after].title, contenders[step.before].title, step.change) for step in steps]
    page.tables["gains"] = gains_table(named, gains, titles)
    rows = {
        f"{later} \N{MINUS SIGN} {earlier}": {titles[name]: gain[:3] for name, gain in own.items()}
        for step, (later, earlier, _), own in zip(steps, named, gains, strict=True)
        if step.drawn
    }
    page.figures["gains"] = charts.dots(rows, "gain in accuracy, percentage points", difference=True)


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


# ------------------------------------------------------------------------------- inside the networks


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


def add_where(
    page: Page,
    evaluation: Evaluation,
    shown: Sequence[Group],
    known: Sequence[EvaluatedSet],
    open_images: OpenImages,
    device: torch.device,
) -> None:
    """Where networks find the evidence for an image's own class: the share of it on the object, and some maps."""
    settings, titles = evaluation.settings, [group.title for group in shown]
    networks = [group.members[0] for group in shown]
    masks = masks_of([member for group in shown for member in group.members], settings.logs_dir)
    looks, photos = [], []
    for one in known:
        masked = with_masks(one.images, settings.object_masks, masks)
        images = sample(masked if masked.rows else one.images, LOOKED_AT, settings.seed)
        looks.append(look(images, networks, open_images, settings.max_pixels, device))
        photos += maps_beside(looks[-1], shown, open_images, settings.max_pixels, settings.seed)
    page.photos["where"] = photos
    page.figures["colour bar"] = charts.colour_bar()
    measured = [one for one in looks if np.isfinite(one.area).any()]
    if not measured:
        page.missing["where"] = (
            "How much of the evidence lies on the object is not known without masks: stage=wsss or stage=grabcut makes "
            "some of the training images, object_masks= names a folder of those of test images."
        )
        return
    page.tables["where"] = where_table(measured, titles, settings.seed)
    lines: dict[str, list[float]] = {title: [] for title in titles}
    names, reference = [], []
    for found in measured:
        assert found.images.truth is not None
        contexts = np.array(found.images.truth.contexts)
        for context in sorted(set(contexts.tolist())):
            own = (contexts == context) & np.isfinite(found.area)
            if own.any():
                names.append(f"{title_of(found.images)}: {context}" if context else title_of(found.images))
                reference.append(float(found.area[own].mean()))
                for title, share in zip(titles, found.shares, strict=True):
                    lines[title].append(mean_of(None if share is None else share[own]))
    page.figures["where"] = charts.by_context(lines, reference, names)


def mean_of(share: npt.NDArray[np.float64] | None) -> float:
    """Mean of what is known of shares (n,); NaN where nothing is."""
    known = np.empty(0) if share is None else share[np.isfinite(share)]
    return float(known.mean()) if len(known) else np.nan


def where_table(looks: Sequence[Look], titles: Sequence[str], seed: int) -> Table:
    """One row per network, in percent: the share of the evidence on the object, and the difference from the first."""
    sets = [title_of(one.images) for one in looks]
    table = [["", *(head for name in sets for head in (f"{name}: on the object (95 %)", f"against {titles[0]}"))]]
    table.append(["the object's share of the image", *(w for one in looks for w in (percent(mean_of(one.area)), ""))])
    for k, title in enumerate(titles):
        row = [title]
        for one in looks:
            own, first = one.shares[k], one.shares[0]
            if own is None:
                row += ["-", "-"]
                continue
            row.append(with_interval(own, seed))
            row.append("" if k == 0 else "-" if first is None else with_interval(own - first, seed, "+"))
        table.append(row)
    return table


def with_interval(values: npt.NDArray[np.float64], seed: int, sign: str = "") -> str:
    """The mean of what is known of values (n,), in percent, with its 95 % interval over images."""
    known = values[np.isfinite(values)]
    if not len(known):
        return "-"
    ends = stages.interval(known, stages.draws_of(len(known), seed))
    mean, low, high = (f"{100 * value:{sign}.1f}" for value in (known.mean(), *ends))
    return f"{mean} ({low} to {high})"


def maps_beside(one: Look, shown: Sequence[Group], open_images: OpenImages, max_pixels: int, seed: int) -> list[Photo]:
    """Some of the images, the object outlined where it is known; next to each the first and the last network's map."""
    drawn = [k for k in dict.fromkeys((0, len(shown) - 1)) if one.maps[k] is not None]
    if not drawn:
        return []
    images, member, classes = sample(one.images, SHOWN, seed), shown[-1].members[0], shown[-1].members[0].classes
    assert images.truth is not None
    pictures, masks = pixels_of(images, member, SIDE, open_images, max_pixels)
    photos = []
    for i, name in enumerate(images.names):
        at = one.images.names.index(name)
        known = bool(np.isfinite(one.area[at]))
        picture = pictures[i].permute(1, 2, 0).numpy()
        parts = [outlined(picture, masks[i].numpy()) if known else picture]
        words = []
        for k in drawn:
            maps, share = one.maps[k], one.shares[k]
            assert maps is not None and share is not None
            parts.append(heat(scaled(maps[at : at + 1])[0].numpy()))
            words.append(f"{shown[k].title}" + (f" {100 * share[at]:.0f} % on the object" if known else ""))
        context = images.truth.contexts[i]
        what = classes[images.truth.label[i]] + (f", {context}" if context else "")
        photos.append(Photo(side_by_side(parts), f"{what} ({title_of(images)}): {'; '.join(words)}"))
    return photos


def add_features(
    page: Page,
    evaluation: Evaluation,
    shown: Sequence[Group],
    known: Sequence[EvaluatedSet],
    open_images: OpenImages,
    device: torch.device,
) -> None:
    """The first and the last network's features in the plane, and what can be read off them."""
    settings, classes = evaluation.settings, evaluation.members[0].classes
    samples = [sample(one.images, PLACED, settings.seed) for one in known]
    names = {
        "class": [classes[k] for images in samples for k in images.label],
        "context": [context for images in samples for context in (images.truth.contexts if images.truth else ())],
    }
    asked = {kind: own for kind, own in names.items() if len(set(own) - {""}) > 1}
    if len(names["class"]) < 4:
        return
    table = [["", "features of", "nearest neighbours", "linear probe", "the most frequent"]]
    points = {}
    for group in [shown[0], *shown[-1:]] if len(shown) > 1 else shown:
        member = group.members[0]
        seen = [pixels_of(one, member, member.size, open_images, settings.max_pixels)[0] for one in samples]
        own = np.concatenate([features_of(member, image, device) for image in seen])
        points[group.title] = plane(own, settings.seed)
        for kind, known_names in asked.items():
            named = np.array([name != "" for name in known_names])
            read = probe(own[named], [name for name in known_names if name], settings.seed)
            if read:
                table.append([kind, group.title, *map(percent, read)])
    page.tables["features"] = sorted(table[1:], key=lambda row: list(names).index(row[0]))
    page.tables["features"].insert(0, table[0])
    page.figures["features"] = charts.planes(points, asked)
