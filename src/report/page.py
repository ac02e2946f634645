"""report.html: what the figures mean, with pictures, in one file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from src.files import write_text
from src.prediction.run import OpenImages
from src.prediction.voting import agreement_matrix
from src.report import plots
from src.report.chain import Link, chain, link_of
from src.report.comparison import read_runs, runs_table
from src.report.confidence import confidence_table, confidences_of, reliability, risk_curves, temperature_words
from src.report.curves import chain_curves, curves_of, seconds_of
from src.report.datacard import (
    accuracy_blocks,
    count_blocks,
    data_facts,
    data_table,
    masks_table,
    parts_of,
    training_truth,
)
from src.report.evaluation import Beside, EvaluatedSet, Evaluation, best_members, diversity
from src.report.names import short_names, without_machine
from src.report.photos import Photo, batches_of, photos_in, photos_of
from src.report.plots import Mark
from src.report.summary import facts_of, marks_of, sentence, spoken_marks, stage_hits
from src.report.tables import Table, headline_table, members_table, percent, titles_of
from src.runs.directory import environment

SECTIONS = {
    "contexts": "Where it fails",
    "stages": "What each stage adds",
    "where": "Where it looks",
    "features": "Features",
    "members": "Members",
    "headline": "All figures",
    "confidence": "Confidence",
    "confusion": "Confusion",
    "mistakes": "Most confident mistakes",
    "disputed": "Most disputed images",
    "training": "Training",
    "batches": "Batches as the network sees them",
    "masks": "Masks",
    "data": "Data",
    "runs": "Finished runs of this track",
    "chain": "The chain",
}
"""Sections in their order: sections/<name>.html, and its heading. One that renders to nothing is left out."""


class Page(NamedTuple):
    """What the report shows.

    Attributes:
        title: of the data.
        sentence: what the figures say.
        facts: where they are from, by name.
        notes: what a reader must know.
        tables, figures, photos: by name.
        words: sentences of a section, by name; of a figure, what it shows, for those who do not see it.
        short: names that the page shows in place of others, which are shown when a pointer rests on them.
        chain: the runs.
        missing: the reason for each part that could not be made.
    """

    title: str
    sentence: str
    facts: dict[str, str]
    notes: list[str]
    tables: dict[str, Table]
    figures: dict[str, Figure]
    photos: dict[str, list[Photo]]
    words: dict[str, str]
    short: dict[str, str]
    chain: list[Link]
    missing: dict[str, str]


def make_page(evaluation: Evaluation, beside: Beside, open_images: OpenImages) -> Page:
    """Draw and collect everything.

    Args:
        evaluation: what is shown.
        beside: the networks that are compared with the members.
        open_images: makes data modules of the test images, or of others.
    """
    runs = chain(evaluation.members, evaluation.settings.logs_dir)
    stages = curves_of(list(runs))
    facts = facts_of(evaluation, len(runs), seconds_of(stages))
    notes = [without_machine(note) for note in evaluation.notes]
    several = "vote of" if len(evaluation.members) > 1 else "prediction by"
    title = f"{evaluation.settings.data_name}: {several} {evaluation.settings.wanted.words('and')}"
    page = Page(title, sentence(evaluation), facts, notes, {}, {}, {}, {}, {}, [], {})
    if evaluation.figures:
        add_figures(page, evaluation, beside, list(runs))
    add_members(page, evaluation)
    if evaluation.test.images.truth is not None:
        add_truth(page, evaluation)
    else:
        page.missing["truth"] = (
            "The test images' labels are not known: accuracies, calibration, confusion and mistakes are left out; "
            "truth=<manifest or {image name: label}> adds them."
        )
    page.photos.update(photos_of(evaluation, open_images))
    add_data(page, evaluation, open_images, list(runs))
    add_runs(page, evaluation, runs)
    if stages:
        page.figures["curves"] = chain_curves(stages)
    return page


def add_figures(page: Page, evaluation: Evaluation, beside: Beside, runs: list[Path]) -> None:
    """What is known where labels are: every stage, contexts, classes in contexts, confidence."""
    titles = titles_of(evaluation)
    order = [name for name in ("test", "in_domain", "out_of_domain") if name in evaluation.figures]
    sets = {titles[name]: evaluation.figures[name] for name in order}
    page.tables["headline"] = headline_table(list(sets.items()))
    if marks := marks_of(stage_hits(evaluation, beside, runs), evaluation):
        page.figures["overview"] = plots.overview(marks)
        page.words["overview"] = f"Accuracy with 95 % intervals. {spoken_marks(marks)}"
    bars = {title: bars_of(figures) for title, figures in sets.items()}
    if any(len(own) > 1 for own in bars.values()):
        page.figures["contexts"] = plots.context_bars(bars)
        page.words["contexts"] = f"Accuracy of the vote by context. {spoken_marks(bars)}"
    if blocks := accuracy_blocks(evaluation, titles):
        # From the ten below the worst cell on: what is good everywhere still has a worst place.
        low = 10.0 * np.floor(min(float(np.nanmin(block.values)) for block in blocks) / 10)
        page.figures["groups"] = plots.grid(blocks, evaluation.members[0].classes, "accuracy, %", min(low, 90))
    confidences = confidences_of(evaluation)
    page.tables["confidence"] = confidence_table(confidences)
    page.words["temperature"] = temperature_words(confidences, evaluation.temperature)
    page.figures["confidence"] = reliability(confidences)
    page.figures["risk"] = risk_curves(confidences)


def add_members(page: Page, evaluation: Evaluation) -> None:
    """The members, and how far they agree where there are several."""
    head, *rows = members_table(evaluation)
    titles = [member.title for member in evaluation.members]
    if len(titles) == 1:  # its own vote
        page.tables["members"] = [head, rows[0]]
        return
    page.tables["members"] = [head, *rows]
    page.short.update(
        {title: f"{i} {short}" for i, (title, short) in enumerate(zip(titles, short_names(titles), strict=True), 1)}
    )
    page.tables["diversity"] = diversity_table(evaluation.test)
    same, numbers = agreement_matrix(evaluation.test.votes), [str(i) for i in range(1, len(titles) + 1)]
    page.figures["agreement"] = plots.matrix(
        same, numbers, "same label, % of the test images", "member", "member", low=same.min()
    )


def add_data(page: Page, evaluation: Evaluation, open_images: OpenImages, runs: list[Path]) -> None:
    """The data card."""
    classes, training = evaluation.members[0].classes, training_truth(evaluation, open_images)
    if parts := parts_of(evaluation, training):
        page.tables["data"] = data_table(parts, len(classes))
    if masks := masks_table(runs):
        page.tables["masks"] = masks
    page.facts.update(data_facts(evaluation, training, masks))
    if training is not None and (blocks := count_blocks(training, len(classes))):
        most = float(np.nanmax(blocks[0].values))
        page.figures["data"] = plots.grid(blocks, classes, "training images", top=most)


def add_runs(page: Page, evaluation: Evaluation, runs: Mapping[Path, list[Path]]) -> None:
    """The data set's finished runs; the chain that led to the members, with its batches and masks."""
    settings = evaluation.settings
    page.tables["runs"] = runs_table(read_runs(settings.logs_dir / settings.data_name))
    page.chain.extend(link_of(folder, made_from) for folder, made_from in runs.items())
    composed = json.dumps(settings.composed, indent=1, ensure_ascii=False)
    titles = [member.title for member in evaluation.members]
    command = without_machine(environment()["command"])
    page.chain.append(Link("this prediction", command, without_machine(composed), titles))
    page.photos["batches"] = batches_of(list(runs))
    page.photos["masks"] = next((found for folder in runs if (found := photos_in(folder, "masks.png"))), [])
    if not page.photos["batches"]:
        page.missing["batches"] = "No run in the chain kept pictures of its batches."
    if not page.photos["masks"]:
        page.missing["masks"] = "No run in the chain made masks."


def add_truth(page: Page, evaluation: Evaluation) -> None:
    """The parts that need the test images' labels."""
    classes, figures = evaluation.members[0].classes, evaluation.figures["test"]
    if len(evaluation.members) > 1:
        page.tables["best"] = best_table(evaluation)
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


def best_table(evaluation: Evaluation) -> Table:
    """The vote beside its best member, by the rule that chose it."""
    rows = [["", "accuracy on the test images", "chosen by"]]
    rows.append(["vote", percent(evaluation.figures["test"]["accuracy"]), "nobody: see the selection rule"])
    rules = {
        "held-out": "accuracy on held-out in-domain images",
        "oracle": "the test images themselves: a bound, no choice",
    }
    for rule, (name, accuracy) in best_members(evaluation).items():
        rows.append([name, percent(accuracy), rules[rule]])
    return rows


def bars_of(figures: dict[str, Any]) -> dict[str, Mark]:
    """An evaluation's accuracies with their intervals: over all images, then by context."""
    keys = [key for key in figures if f"{key}_interval" in figures and key.startswith("accuracy")]
    return {
        key.removeprefix("accuracy").removeprefix("/") or "all": Mark(figures[key], *figures[f"{key}_interval"])
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
    shown = page._asdict() | {"figures": {name: plots.as_data_url(figure) for name, figure in page.figures.items()}}
    texts = {name: templates.get_template(f"sections/{name}.html").render(shown) for name in SECTIONS}
    sections = {name: (SECTIONS[name], Markup(text)) for name, text in texts.items() if text.strip()}
    write_text(path, templates.get_template("page.html").render(shown, sections=sections))
    print(f"wrote {path}")
