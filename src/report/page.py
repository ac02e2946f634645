"""report.html: what the figures mean, with pictures, in one file that needs no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from src.files import write_text
from src.metrics import calibration, temper
from src.prediction.run import OpenImages
from src.prediction.voting import agreement_matrix
from src.report import plots
from src.report.chain import Link, chain, curves_of, link_of
from src.report.comparison import read_runs, runs_table
from src.report.evaluation import BINS, EvaluatedSet, Evaluation, best_members, diversity
from src.report.photos import Photo, batches_of, photos_in, photos_of
from src.report.tables import TITLES, Table, headline_table, members_table, percent
from src.runs.directory import environment


class Page(NamedTuple):
    """What the report shows; `missing` has the reason for each part that could not be made."""

    title: str
    selection: str
    notes: list[str]
    tables: dict[str, Table]
    figures: dict[str, Figure]
    photos: dict[str, list[Photo]]
    chain: list[Link]
    missing: dict[str, str]


def make_page(evaluation: Evaluation, open_images: OpenImages) -> Page:
    """Draw and collect everything.

    Args:
        evaluation: what is shown.
        open_images: makes data modules of the test images.
    """
    title = f"{evaluation.settings.data_name}: prediction of the test images"
    page = Page(title, evaluation.selection, evaluation.notes, {}, {}, {}, [], {})
    add_vote(page, evaluation)
    if evaluation.test.images.truth is not None:
        add_truth(page, evaluation, evaluation.test.images.truth.label)
    else:
        page.missing["truth"] = (
            "The test images' labels are not known: accuracies, calibration, confusion and mistakes are left out; "
            "truth=<manifest or {image name: label}> adds them."
        )
    page.photos.update(photos_of(evaluation, open_images))
    add_runs(page, evaluation)
    return page


def add_vote(page: Page, evaluation: Evaluation) -> None:
    """The figures by context, the members, and how far they agree."""
    sets = [(TITLES[name], figures) for name, figures in evaluation.figures.items()]
    if sets:
        page.tables["headline"] = headline_table(sets)
        page.figures["contexts"] = plots.context_bars({title: bars_of(figures) for title, figures in sets})
    head, *rows = members_table(evaluation)
    numbers = [str(i) for i in range(1, len(evaluation.members) + 1)]
    page.tables["members"] = [["", *head], *([n, *row] for n, row in zip([*numbers, ""], rows, strict=True))]
    page.tables["diversity"] = diversity_table(evaluation.test)
    if len(evaluation.members) > 1:
        same = agreement_matrix(evaluation.test.votes)
        page.figures["agreement"] = plots.matrix(
            same, numbers, "same label, % of the test images", "member", "member", low=same.min()
        )


def add_runs(page: Page, evaluation: Evaluation) -> None:
    """The data set's finished runs; the chain that led to the members, with its curves, batches and masks."""
    settings = evaluation.settings
    page.tables["runs"] = runs_table(read_runs(settings.logs_dir / settings.data_name))
    runs = chain(evaluation.members, settings.logs_dir)
    page.chain.extend(link_of(folder, made_from) for folder, made_from in runs.items())
    composed = json.dumps(settings.composed, indent=1, ensure_ascii=False)
    titles = [member.title for member in evaluation.members]
    page.chain.append(Link("this prediction", environment()["command"], composed, titles))
    page.figures.update({f"curves {stage}": plots.curves(columns) for stage, columns in curves_of(list(runs)).items()})
    page.photos["batches"] = batches_of(list(runs))
    page.photos["masks"] = next((found for folder in runs if (found := photos_in(folder, "masks.png"))), [])
    if not page.photos["batches"]:
        page.missing["batches"] = "No run in the chain kept pictures of its batches."
    if not page.photos["masks"]:
        page.missing["masks"] = "No run in the chain made masks."


def add_truth(page: Page, evaluation: Evaluation, label: npt.NDArray[np.int64]) -> None:
    """The parts that need the test images' labels (N,)."""
    test, classes, figures = evaluation.test, evaluation.members[0].classes, evaluation.figures["test"]
    rows = [
        ["", "accuracy on the test images", "chosen by"],
        ["vote", percent(figures["accuracy"]), evaluation.selection],
    ]
    rules = {
        "held-out": "accuracy on held-out in-domain images",
        "oracle": "the test images themselves: a bound, no choice",
    }
    for rule, (name, accuracy) in best_members(evaluation).items():
        rows.append([f"best member: {name}", percent(accuracy), rules[rule]])
    page.tables["best"] = rows
    hits, images = test.ballot.labels == label, np.arange(len(label))
    curves = {"as voted": calibration(test.pooled[images, test.ballot.labels], hits, BINS)}
    if evaluation.temperature is not None:
        tempered = temper(test.pooled, evaluation.temperature)[images, test.ballot.labels]
        curves[f"temperature {evaluation.temperature:.2f}"] = calibration(tempered, hits, BINS)
    page.figures["calibration"] = plots.reliability(curves)
    counts = np.array(figures["confusion"], float)
    totals = counts.sum(1, keepdims=True)
    shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
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
    """An evaluation's accuracies with their intervals: over all images, then by context."""
    keys = [key for key in figures if f"{key}_interval" in figures and key.startswith("accuracy")]
    return {
        key.removeprefix("accuracy").removeprefix("/") or "all": (figures[key], *figures[f"{key}_interval"])
        for key in keys
    }


def diversity_table(evaluated: EvaluatedSet) -> Table:
    """report.diversity in words."""
    words = {
        "disagreement": "two members choose different labels (mean over pairs)",
        "unanimous": "all members choose one label",
        "mean_member": "a member is right (mean over members)",
        "any_member": "at least one member is right",
    }
    figures = diversity(evaluated)
    return [["", "% of the test images"], *([words[key], percent(figures[key])] for key in words if key in figures)]


def write_page(page: Page, path: Path) -> None:
    """Write the report as one file of HTML."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    figures = {name: plots.as_data_url(figure) for name, figure in page.figures.items()}
    write_text(path, templates.get_template("page.html").render(page._asdict() | {"figures": figures}))
    print(f"wrote {path}")
