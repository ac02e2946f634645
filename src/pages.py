"""report.html: what the figures mean, with pictures, in one file that needs no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from src import plots
from src.callbacks.metrics_file import read_metrics
from src.datamodules.nico import NicoDataModule
from src.files import write_text
from src.images import decode_image
from src.members import Member, open_images, rebuild
from src.metrics import calibration, temper
from src.prediction import class_activation
from src.report import (
    BINS,
    Findings,
    Outcome,
    Table,
    as_markdown,
    best_members,
    diversity,
    headline_table,
    members_table,
    percent,
    read_runs,
    runs_table,
)
from src.runs import command_of, environment, read_config, read_finished
from src.voting import agreement_matrix, entropy

TITLES = {"test": "test", "in_domain": "in-domain (held out)", "out_of_domain": "unseen contexts (left out)"}
NO_CURVE = ("epoch", "step", "seconds", "train/first_batch")
SIDE = 176  # of a picture, pixels
SHOWN = 9  # pictures of a kind
Picture = npt.NDArray[np.uint8]


class Photo(NamedTuple):
    """Pictures (H, W, 3) uint8 side by side, and what is to be said of them."""

    picture: Picture
    caption: str

    @property
    def url(self) -> str:
        """As a JPEG that stands in an <img>."""
        jpeg = cv2.imencode(".jpg", self.picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


class Link(NamedTuple):
    """A run in the chain that led to the members."""

    title: str
    command: str
    config: str
    from_runs: list[str]


class Page(NamedTuple):
    """What the report shows; a part that could not be made is missing, with the reason in `missing`."""

    title: str
    selection: str
    notes: list[str]
    tables: dict[str, Table]
    figures: dict[str, Figure]
    photos: dict[str, list[Photo]]
    chain: list[Link]
    missing: dict[str, str]


def make_page(found: Findings, images: Any, logs_dir: Path) -> Page:
    """Draw and collect everything.

    Args:
        found: the findings.
        images: the data module's configuration.
        logs_dir: where runs lie.
    """
    page = Page(f"Track {found.track}: prediction of the test images", found.selection, found.notes, {}, {}, {}, [], {})
    sets = [(TITLES[name], figures) for name, figures in found.evaluations.items()]
    if sets:
        page.tables["headline"] = headline_table(sets)
        page.figures["contexts"] = plots.context_bars({title: bars_of(figures) for title, figures in sets})
    head, *rows = members_table(found)
    numbers = [str(i) for i in range(1, len(found.members) + 1)]
    page.tables["members"] = [["", *head], *([n, *row] for n, row in zip([*numbers, ""], rows, strict=True))]
    page.tables["diversity"] = diversity_table(found.test)
    if len(found.members) > 1:
        same = agreement_matrix(found.test.votes)
        page.figures["agreement"] = plots.matrix(
            same, numbers, "same label, % of the test images", "member", "member", low=same.min()
        )
    if found.test.images.truth is not None:
        add_truth(page, found, found.test.images.truth.label)
    else:
        page.missing["truth"] = (
            "The test images' labels are not known: accuracies, calibration, confusion and mistakes are left out; "
            "truth=<manifest or {image name: label}> brings them."
        )
    page.photos.update(photos_of(found, images))
    page.tables["runs"] = runs_table(read_runs(logs_dir / f"track{found.track}"))
    runs = chain(found.members, logs_dir)
    page.chain.extend(link_of(folder, made_from) for folder, made_from in runs.items())
    settings = json.dumps(found.settings, indent=1, ensure_ascii=False)
    page.chain.append(Link("this prediction", environment()["command"], settings, [m.title for m in found.members]))
    page.figures.update({f"curves {stage}": plots.curves(columns) for stage, columns in curves_of(list(runs)).items()})
    page.photos["batches"] = batches_of(list(runs))
    # The first classes of a sheet that has all of them: rows of MaskWriter's tiles.
    page.photos["masks"] = [sheet for folder in runs if (sheet := photo_of(folder, "masks.png", 6 * 128))][:1]
    if not page.photos["batches"]:
        page.missing["batches"] = "No run in the chain kept pictures of its batches."
    if not page.photos["masks"]:
        page.missing["masks"] = "No run in the chain made masks."
    return page


def add_truth(page: Page, found: Findings, label: npt.NDArray[np.int64]) -> None:
    """The parts that need the test images' labels (N,)."""
    test, classes, figures = found.test, found.members[0].classes, found.evaluations["test"]
    rows = [["", "accuracy on the test images", "chosen by"], ["vote", percent(figures["accuracy"]), found.selection]]
    rules = {
        "held-out": "accuracy on held-out in-domain images",
        "oracle": "the test images themselves: a bound, no choice",
    }
    for rule, (name, accuracy) in best_members(found).items():
        rows.append([f"best member: {name}", percent(accuracy), rules[rule]])
    page.tables["best"] = rows
    hits, places = test.ballot.labels == label, np.arange(len(label))
    curves = {"as voted": calibration(test.pooled[places, test.ballot.labels], hits, BINS)}
    if found.temperature is not None:
        tempered = temper(test.pooled, found.temperature)[places, test.ballot.labels]
        curves[f"temperature {found.temperature:.2f}"] = calibration(tempered, hits, BINS)
    page.figures["calibration"] = plots.reliability(curves)
    counts = np.array(figures["confusion"], float)
    images = counts.sum(1, keepdims=True)
    shares = np.where(images > 0, counts / np.maximum(images, 1), np.nan)
    page.figures["confusion"] = plots.matrix(shares, classes, "% of the class's images", "class", "vote")
    wrong = np.argwhere((counts > 0) & ~np.eye(len(classes), dtype=bool))
    page.tables["confused"] = [
        ["class", "taken for", "images", "share of the class"],
        *(
            [classes[i], classes[j], f"{counts[i, j]:.0f}", percent(shares[i, j])]
            for i, j in sorted(wrong.tolist(), key=lambda pair: -counts[pair[0], pair[1]])[:10]
        ),
    ]
    page.tables["groups"] = [
        ["class", "context", "images", "accuracy"],
        *([g["class"], g["context"], str(g["images"]), percent(g["accuracy"])] for g in figures["groups"][:10]),
    ]
    by_class = sorted(figures["by_class"].items(), key=lambda item: item[1])
    page.tables["classes"] = [["class", "accuracy"], *([name, percent(value)] for name, value in by_class)]


def bars_of(figures: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """An evaluation's accuracies with their intervals: of all images, then by context."""
    keys = [key for key in figures if f"{key}_interval" in figures and key.startswith("accuracy")]
    return {
        key.removeprefix("accuracy").removeprefix("/") or "all": (figures[key], *figures[f"{key}_interval"])
        for key in keys
    }


def diversity_table(outcome: Outcome) -> Table:
    """report.diversity in words."""
    words = {
        "disagreement": "two members choose different labels (mean over pairs)",
        "unanimous": "all members choose one label",
        "mean_member": "a member is right (mean over members)",
        "any_member": "at least one member is right",
    }
    figures = diversity(outcome)
    return [["", "% of the test images"], *([words[key], percent(figures[key])] for key in words if key in figures)]


# ------------------------------------------------------------------------------------------- photographs


def photos_of(found: Findings, images: Any) -> dict[str, list[Photo]]:
    """The most confident mistakes and the most disputed images, each beside the activation map of the voted class, by
    the member with the greatest weight."""
    test, classes = found.test, found.members[0].classes
    votes, labels = test.votes, test.ballot.labels
    voter = found.members[int(np.argmax(test.ballot.weights))]
    confidence = test.pooled[np.arange(len(labels)), labels]
    shown = ~np.isin(test.images.names, found.unreadable)  # the others have no picture
    disputed = np.lexsort((np.arange(len(labels)), confidence, -entropy(test.probabilities)))
    places = {"disputed": disputed[shown[disputed]][:SHOWN]} if len(votes) > 1 else {}
    truth = test.images.truth
    if truth is not None:
        mistakes = np.flatnonzero((labels != truth.label) & shown)
        places = {"mistakes": mistakes[np.argsort(-confidence[mistakes], kind="stable")][:SHOWN], **places}

    def caption(i: int) -> str:
        words = f"{test.images.names[i]}: voted {classes[labels[i]]} ({100 * confidence[i]:.0f} %)"
        if truth is not None:
            words += f", is {classes[truth.label[i]]}" + (f" ({truth.contexts[i]})" if truth.contexts[i] else "")
        counts = np.bincount(votes[:, i], minlength=len(classes))
        order = np.argsort(-counts, kind="stable")
        return words + "; votes: " + ", ".join(f"{counts[k]} {classes[k]}" for k in order if counts[k])

    module, made, datamodule = rebuild(voter), {}, open_images(images, voter)
    assert isinstance(datamodule, NicoDataModule)
    for kind, own in places.items():
        rows = [test.images.rows[i] for i in own]
        seen = datamodule.pixels(rows, datamodule.last_size).float() / 255
        maps = class_activation(module, seen, torch.from_numpy(labels[own])) if rows else None
        pictures = datamodule.pixels(rows, SIDE).permute(0, 2, 3, 1).numpy()
        made[kind] = [
            Photo(overlay(picture, None if maps is None else maps[k].numpy()), caption(i))
            for k, (picture, i) in enumerate(zip(pictures, own, strict=True))
        ]
    return made


def overlay(picture: Picture, activation: npt.NDArray[np.float32] | None) -> Picture:
    """A picture (SIDE, SIDE, 3), and beside it the picture under its activation map (h, w) in [0, 1]."""
    if activation is None:
        return picture
    smooth = cv2.resize(activation, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    heat = cv2.applyColorMap((255 * smooth).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.hstack([picture, cv2.addWeighted(picture, 0.45, np.ascontiguousarray(heat), 0.55, 0)]).astype(np.uint8)


def photo_of(folder: Path, name: str, rows: int | None = None) -> Photo | None:
    """A PNG of a run, its first `rows` of pixels; None where the run has none."""
    path = folder / name
    if not path.is_file():
        return None
    try:
        return Photo(decode_image(path, max_pixels=0)[:rows], f"{folder.parent.name}/{folder.name}: {name}")
    except (OSError, ValueError):  # damaged: as good as not there
        return None


def batches_of(runs: Sequence[Path]) -> list[Photo]:
    """The last sheet of training images of one run a stage."""
    sheets: dict[str, Photo] = {}
    for folder in runs:
        names = sorted(f"pictures/{path.name}" for path in (folder / "pictures").glob("*.png"))
        sheet = photo_of(folder, names[-1]) if names and folder.parent.name not in sheets else None
        if sheet:
            sheets[folder.parent.name] = sheet
    return list(sheets.values())


# --------------------------------------------------------------------------------------------- the chain


def chain(members: Sequence[Member], logs_dir: Path) -> dict[Path, list[Path]]:
    """The runs that led to the members and the members, each after those that it was made from: {run: those}."""
    order: dict[Path, list[Path]] = {}
    seen: set[Path] = set()

    def visit(folder: Path) -> bool:
        """Whether the folder is a run that can be read; one that leads back to itself is read once."""
        if folder in seen:
            return folder in order
        seen.add(folder)
        try:
            made_from = predecessors_of(folder, logs_dir)
        except (OSError, ValueError):
            return False
        order[folder] = [path for path in made_from if visit(path)]
        order[folder] = order.pop(folder)  # behind those
        return True

    for member in members:
        visit(member.folder)
    return order


def predecessors_of(folder: Path, logs_dir: Path) -> list[Path]:
    """The folders of the runs that a finished run names as those that it was made from.

    Raises:
        OSError, ValueError: it is not a finished run, or damaged.
    """
    config, done = read_config(folder), read_finished(folder)
    soup = done.get("soup_of")
    if isinstance(soup, list):
        return [Path(str(path)) for path in soup]
    init, masks = config.get("init"), config.get("masks")
    named = [Path(init)] if isinstance(init, str) and init != "none" else []
    named += [Path(masks).parent] if isinstance(masks, str) and masks != "none" else []
    return [moved(path, config, logs_dir) for path in named]


def moved(path: Path, config: Mapping[str, Any], logs_dir: Path) -> Path:
    """Where a run lies now whose path was written when `config`'s logs_dir was where it lay."""
    there = Path(str(config.get("logs_dir")))
    return logs_dir / path.relative_to(there) if path.is_relative_to(there) else path


def link_of(folder: Path, made_from: Sequence[Path]) -> Link:
    """A run's command and settings."""
    titles = [f"{path.parent.name}/{path.name}" for path in made_from]
    text = (folder / "config.yaml").read_text()
    return Link(f"{folder.parent.name}/{folder.name}", command_of(folder), text, titles)


def curves_of(runs: Sequence[Path]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """metrics.csv of each run: by stage, name and column; NaN where an epoch has no value."""
    stages: dict[str, dict[str, dict[str, list[float]]]] = {}
    for folder in runs:
        if not (folder / "metrics.csv").is_file():
            continue
        try:
            rows = read_metrics(folder / "metrics.csv")
            names = [name for name in (rows[0] if rows else {}) if name not in NO_CURVE]
            columns = {name: [float(row[name] or "nan") for row in rows] for name in names}
        except ValueError:  # damaged: the run has no curve
            continue
        stages.setdefault(folder.parent.name, {})[folder.name] = columns
    return stages


# ------------------------------------------------------------------------------------------------ output


def publish(page: Page, path: Path | None, logger: Logger | None) -> None:
    """Write the report as one file of HTML, give the same tables and pictures to a logger; each where it is asked."""
    if path:
        templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        figures = {name: plots.as_data_url(figure) for name, figure in page.figures.items()}
        write_text(path, templates.get_template("pages.html").render(page._asdict() | {"figures": figures}))
        print(f"wrote {path}")
    if isinstance(logger, WandbLogger):
        for name, (head, *rows) in page.tables.items():
            logger.log_table(f"report/{name}", columns=head, data=rows)
        for name, figure in page.figures.items():
            logger.log_image(f"report/{name}", [plots.raster(figure)])
        for name, photos in page.photos.items():
            if photos:
                logger.log_image(f"report/{name}", [p.picture for p in photos], caption=[p.caption for p in photos])
        logger.experiment.finish()
    elif isinstance(logger, TensorBoardLogger):
        for name, table in page.tables.items():
            logger.experiment.add_text(f"report/{name}", as_markdown(table))
        for name, figure in page.figures.items():
            logger.experiment.add_image(f"report/{name}", plots.raster(figure), dataformats="HWC")
        for name, photos in page.photos.items():
            for i, photo in enumerate(photos):
                logger.experiment.add_image(f"report/{name}/{i}", photo.picture, dataformats="HWC")
        logger.experiment.close()
