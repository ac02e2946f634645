"""A prediction in a dashboard: figures to sort by, the members' runs, mistakes, the report's tables and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from src.cli import earlier_wandb_id
from src.prediction.run import OpenImages
from src.report import plots
from src.report.evaluation import Evaluation
from src.report.mistakes import Mistake, mistakes_of, sheet
from src.report.page import Page
from src.report.photos import SIDE
from src.report.tables import as_markdown, percent
from src.runs.hyperparameters import log_hyperparameters

METRICS = ("test/accuracy", "test/worst_context", "test/ece", "in_domain/accuracy")
"""What TensorBoard's HPARAMS page has beside the settings of a vote."""

CELLS = ("images of", "class", "context", "images", "accuracy")
"""Columns of the map of class x context."""


def log(evaluation: Evaluation, page: Page, open_images: OpenImages, loggers: Iterable[Logger]) -> None:
    """Give everything to each logger, and end it.

    Args:
        evaluation: the vote.
        page: its report.
        open_images: makes data modules of the test images.
        loggers: W&B, TensorBoard; others get settings and figures.
    """
    if not (loggers := list(loggers)):
        return
    figures, mistakes = scalars(evaluation), mistakes_of(evaluation, open_images)
    for logger in loggers:
        about = description(evaluation, link_of(logger))
        if isinstance(logger, TensorBoardLogger):  # a column for each setting: not for each member
            about |= {"members": len(evaluation.members)}
        log_hyperparameters(logger, about, METRICS)
        logger.log_metrics(figures, step=0)  # the latest value of each is what W&B's summary has
        if isinstance(logger, WandbLogger):
            log_to_wandb(evaluation, page, mistakes, logger)
        elif isinstance(logger, TensorBoardLogger):
            log_to_tensorboard(evaluation, page, mistakes, logger)


def scalars(evaluation: Evaluation) -> dict[str, float]:
    """Every figure of the vote that is a number, by image set: test/accuracy, test/by_class/car, in_domain/ece, ...

    Of an interval both ends, test/accuracy_low and test/accuracy_high; of the worst group its accuracy; where the truth
    is known, the accuracy of each member.
    """
    found: dict[str, float] = {}
    for name, figures in evaluation.figures.items():
        found |= numbers(figures | {"worst_group": figures.get("worst_group", {}).get("accuracy")}, name)
    if evaluation.test.images.truth is not None:
        own = (evaluation.test.votes == evaluation.test.images.truth.label).mean(1)
        found |= {f"members/{m.title}": float(one) for m, one in zip(evaluation.members, own, strict=True)}
    return found


def numbers(value: Any, name: str) -> dict[str, float]:
    """The numbers in nested figures by name, of an interval both ends; other lists hold none."""
    if type(value) in (int, float):
        return {name: float(value)}
    if name.endswith("_interval"):
        low, high = value
        return {name.replace("_interval", f"_{end}"): float(one) for end, one in (("low", low), ("high", high))}
    if not isinstance(value, dict):
        return {}
    return {key: one for inner, more in value.items() for key, one in numbers(more, f"{name}/{inner}").items()}


def groups_of(evaluation: Evaluation) -> list[tuple[str, str, str, int, float]]:
    """The map of class x context, a row for each cell: image set, class, context, images, accuracy in [0, 1]."""
    return [
        (name, group["class"], group["context"], group["images"], group["accuracy"])
        for name, figures in evaluation.figures.items()
        for group in figures.get("groups", [])
    ]


def sortable(rows: Sequence[Sequence[str]]) -> list[list[Any]]:
    """Rows of text with numbers where a column has nothing else, None for its empty cells and "-"."""
    columns = []
    for column in zip(*rows, strict=True):
        known = [word for word in column if word not in ("", "-")]
        number = bool(known) and all(re.fullmatch(r"-?\d+(\.\d+)?", word) for word in known)
        columns.append([(float(word) if word in known else None) if number else str(word) for word in column])
    return [list(row) for row in zip(*columns, strict=True)]


def link_of(logger: Logger) -> str:
    """What stands before a W&B run's id in its address; "" of one that is offline, and of other loggers."""
    url = getattr(logger.experiment, "url", None) if isinstance(logger, WandbLogger) else None
    return f"{url.rpartition('/')[0]}/" if url else ""


def description(evaluation: Evaluation, link: str) -> dict[str, Any]:
    """How the vote came about, and the run of each member: its folder, its weight, and its W&B run where it has one.

    Args:
        evaluation: the vote.
        link: what goes before a W&B run's id.
    """
    settings, weights = evaluation.settings, evaluation.test.ballot.weights.tolist()
    members = {}
    for member, weight in zip(evaluation.members, weights, strict=True):
        logged = earlier_wandb_id(str(member.folder))
        members[member.title] = {
            "run": str(member.folder), "weight": weight, **({"wandb": f"{link}{logged}"} if logged else {}),
        }  # fmt: skip
    return {
        "data": settings.data_name, "stages": "+".join(settings.wanted.stages), "select": settings.select,
        "vote": settings.vote, "tta": str(settings.tta.get("_target_", "")).rsplit(".", 1)[-1],
        "seed": settings.seed, "precision": settings.precision, "members": members,
    }  # fmt: skip


def log_to_wandb(evaluation: Evaluation, page: Page, mistakes: Sequence[Mistake], logger: WandbLogger) -> None:
    """Tables that can be sorted and grouped, one of them with the mistakes' pictures; figures and photographs."""
    import wandb

    if groups := groups_of(evaluation):
        logger.log_table("class_context", list(CELLS), [list(group) for group in groups])
    if mistakes:
        pictured: list[list[Any]] = [[wandb.Image(one.picture), *one[1:]] for one in mistakes]
        logger.log_table("mistakes", columns=list(Mistake._fields), data=pictured)
    for name, (head, *rows) in page.tables.items():
        logger.log_table(f"report/{name}", columns=[*map(str, head)], data=sortable(rows))
    for name, figure in page.figures.items():
        logger.log_image(f"report/{name}", [plots.raster(figure)])
    for name, photos in page.photos.items():
        if photos:
            logger.log_image(f"report/{name}", [p.picture for p in photos], caption=[p.caption for p in photos])
    logger.experiment.finish()


def log_to_tensorboard(
    evaluation: Evaluation, page: Page, mistakes: Sequence[Mistake], logger: TensorBoardLogger
) -> None:
    """Tables as text, figures and photographs as images; photographs of a kind on one sheet with their captions."""
    writer, tables = logger.experiment, dict(page.tables)
    cells = [[*map(str, group[:4]), percent(group[4])] for group in groups_of(evaluation)]
    tables["class_context"] = [list(CELLS), *cells]
    rows = [[*one[1:5], *map(percent, one[5:])] for one in mistakes]
    tables["mistakes"] = [[field.replace("_", " ") for field in Mistake._fields[1:]], *rows]
    for name, table in tables.items():
        if len(table) > 1:
            writer.add_text(f"report/{name}", as_markdown(table))
    for name, figure in page.figures.items():
        writer.add_image(f"report/{name}", plots.raster(figure), dataformats="HWC")
    for name, photos in page.photos.items():
        if photos and len(photos[0].picture) <= 2 * SIDE:
            writer.add_image(f"report/{name}", plots.raster(sheet(photos)), dataformats="HWC")
        else:  # sheets themselves
            for i, photo in enumerate(photos):
                writer.add_image(f"report/{name}/{i}", photo.picture, dataformats="HWC")
    logger.save()
    writer.close()
