"""The parts of the report that look into networks: where they look, and what their features tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from src.callbacks.sheet import outlined
from src.prediction.run import OpenImages
from src.prediction.settings import PredictionSettings
from src.report import charts, plots, stages
from src.report.evaluation import EvaluatedSet
from src.report.features import plane, probe
from src.report.looks import Look, features_of, look, masks_of, pixels_of, sample, with_masks
from src.report.page import Page
from src.report.photos import SIDE, Photo, heat, side_by_side
from src.report.stages import Group
from src.report.tables import Table, percent
from src.report.where import scaled

LOOKED_AT = 160  # images of a set whose evidence is mapped: a pass back and forth for each network that is shown
PLACED = 500  # images of a set whose features are shown
SHOWN = 6  # images of a set beside their maps


class Inside(NamedTuple):
    """What is looked into, and how.

    Attributes:
        settings: of the prediction.
        shown: groups whose first networks are looked into; plain training comes first.
        known: image sets whose truth is known.
        titles: of the image sets, by name.
        open_images: makes data modules of the test images.
        device: where networks run.
    """

    settings: PredictionSettings
    shown: Sequence[Group]
    known: Sequence[EvaluatedSet]
    titles: dict[str, str]
    open_images: OpenImages
    device: torch.device


def add_where(page: Page, inside: Inside) -> None:
    """Where networks find the evidence for an image's own class: the share of it on the object, and some maps."""
    settings, shown, titles = inside.settings, inside.shown, [group.title for group in inside.shown]
    networks = [group.members[0] for group in shown]
    masks = masks_of([member for group in shown for member in group.members], settings.logs_dir)
    looks, photos = [], []
    for one in inside.known:
        masked = with_masks(one.images, settings.object_masks, masks)
        images = sample(masked if masked.rows else one.images, LOOKED_AT, settings.seed)
        looks.append(look(images, networks, inside.open_images, settings.max_pixels, inside.device))
        photos += maps_beside(looks[-1], inside)
    page.photos["where"] = photos
    # Pixels, as the maps: what turns a figure's colours around in the dark must not turn these.
    page.photos["colour bar"] = [Photo(plots.raster(charts.colour_bar()), "No evidence, to the picture's greatest")]
    measured = [one for one in looks if np.isfinite(one.area).any()]
    if not measured:
        page.missing["where"] = (
            "How much of the evidence lies on the object is not known without masks: stage=wsss or stage=grabcut makes "
            "some of the training images, object_masks= names a folder of those of test images."
        )
        return
    page.tables["where"] = where_table(measured, titles, inside.titles, settings.seed)
    lines: dict[str, list[float]] = {title: [] for title in titles}
    names, reference = [], []
    for found in measured:
        assert found.images.truth is not None
        contexts = np.array(found.images.truth.contexts)
        for context in sorted(set(contexts.tolist())):
            own = (contexts == context) & np.isfinite(found.area)
            if own.any():
                where = inside.titles[found.images.name]
                names.append(f"{where}: {context}" if context else where)
                reference.append(float(found.area[own].mean()))
                for title, share in zip(titles, found.shares, strict=True):
                    lines[title].append(mean_of(None if share is None else share[own]))
    page.figures["where"] = charts.by_context(lines, reference, names)


def mean_of(share: npt.NDArray[np.float64] | None) -> float:
    """Mean of what is known of shares (n,); NaN where nothing is."""
    known = np.empty(0) if share is None else share[np.isfinite(share)]
    return float(known.mean()) if len(known) else np.nan


def where_table(looks: Sequence[Look], titles: Sequence[str], names: dict[str, str], seed: int) -> Table:
    """One row per network, in percent: the share of the evidence on the object, and the difference from the first.

    Args:
        looks: of each image set.
        titles: of the networks.
        names: of the image sets, in words.
        seed: of the bootstrap.
    """
    sets = [names[one.images.name] for one in looks]
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
    ends = stages.interval(known, seed)
    mean, low, high = (f"{100 * value:{sign}.1f}" for value in (known.mean(), *ends))
    return f"{mean} ({low} to {high})"


def maps_beside(one: Look, inside: Inside) -> list[Photo]:
    """Some of the images, the object outlined where it is known; next to each the first and the last network's map."""
    settings, shown = inside.settings, inside.shown
    drawn = [k for k in dict.fromkeys((0, len(shown) - 1)) if one.maps[k] is not None]
    if not drawn:
        return []
    images, member, classes = (
        sample(one.images, SHOWN, settings.seed),
        shown[-1].members[0],
        shown[-1].members[0].classes,
    )
    assert images.truth is not None
    pictures, masks = pixels_of(images, member, SIDE, inside.open_images, settings.max_pixels)
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
        photos.append(Photo(side_by_side(parts), f"{what} ({inside.titles[images.name]}): {'; '.join(words)}"))
    return photos


def add_features(page: Page, inside: Inside) -> None:
    """The first and the last network's features in the plane, and what can be read off them."""
    settings, shown, classes = inside.settings, inside.shown, inside.shown[0].members[0].classes
    samples = [sample(one.images, PLACED, settings.seed) for one in inside.known]
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
        seen = [pixels_of(one, member, member.size, inside.open_images, settings.max_pixels)[0] for one in samples]
        own = np.concatenate([features_of(member, image, inside.device) for image in seen])
        points[group.title] = plane(own, settings.seed)
        for kind, known_names in asked.items():
            named = np.array([name != "" for name in known_names])
            read = probe(own[named], [name for name in known_names if name], settings.seed)
            if read:
                table.append([kind, group.title, *map(percent, read)])
    page.tables["features"] = sorted(table[1:], key=lambda row: list(names).index(row[0]))
    page.tables["features"].insert(0, table[0])
    page.figures["features"] = charts.planes(points, asked)
