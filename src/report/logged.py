"""A prediction in a dashboard: figures to sort by, the members' runs, the report's tables and pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from src.cli import earlier_wandb_id
from src.report import plots
from src.report.evaluation import Evaluation
from src.report.page import Page
from src.report.tables import as_markdown


def log(evaluation: Evaluation, page: Page, loggers: Iterable[Logger]) -> None:
    """Give everything to each logger, and end it."""
    figures = scalars(evaluation)
    for logger in loggers:
        logger.log_hyperparams(description(evaluation, link_of(logger)))
        logger.log_metrics(figures, step=0)  # the latest value of each is what W&B's summary has
        if isinstance(logger, WandbLogger):
            log_to_wandb(page, logger)
        elif isinstance(logger, TensorBoardLogger):
            log_to_tensorboard(page, logger)


def scalars(evaluation: Evaluation) -> dict[str, float]:
    """The vote's figures, by image set: test/accuracy, test/worst_context, test/ece, in_domain/accuracy, ...

    Of the test images also the worst group, and the accuracy of each member, where the truth is known.
    """
    found = {
        f"{name}/{key}": float(value)
        for name, figures in evaluation.figures.items()
        for key, value in figures.items()
        if type(value) in (int, float)
    }
    for name, figures in evaluation.figures.items():
        if "worst_group" in figures:
            found[f"{name}/worst_group"] = float(figures["worst_group"]["accuracy"])
    if evaluation.test.images.truth is not None:
        own = (evaluation.test.votes == evaluation.test.images.truth.label).mean(1)
        found |= {f"members/{m.title}": float(one) for m, one in zip(evaluation.members, own, strict=True)}
    return found


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


def log_to_wandb(page: Page, logger: WandbLogger) -> None:
    """Tables, figures and photographs as W&B's own."""
    for name, (head, *rows) in page.tables.items():
        logger.log_table(f"report/{name}", columns=head, data=rows)
    for name, figure in page.figures.items():
        logger.log_image(f"report/{name}", [plots.raster(figure)])
    for name, photos in page.photos.items():
        if photos:
            logger.log_image(f"report/{name}", [p.picture for p in photos], caption=[p.caption for p in photos])
    logger.experiment.finish()


def log_to_tensorboard(page: Page, logger: TensorBoardLogger) -> None:
    """Tables as text, figures and photographs as images."""
    for name, table in page.tables.items():
        logger.experiment.add_text(f"report/{name}", as_markdown(table))
    for name, figure in page.figures.items():
        logger.experiment.add_image(f"report/{name}", plots.raster(figure), dataformats="HWC")
    for name, photos in page.photos.items():
        for i, photo in enumerate(photos):
            logger.experiment.add_image(f"report/{name}/{i}", photo.picture, dataformats="HWC")
    logger.save()
    logger.experiment.close()
