"""The settings that loggers get: what runs are compared by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from src.runs.continuation import flat

COMPARED_BY = {
    "data": "track.name",
    "model": "model.model_name",
    "mixing": "mixing_name",
    "ratio": "mixing.ratio",
    "recipe": "recipe.name",
    "split": "split_name",
    "seed": "seed",
    "tag": "tag",
    "size": "datamodule.size",
    "batch_size": "datamodule.batch_size",
    "max_epochs": "trainer.max_epochs",
    "lr": "module.optimizer.lr",
    "weight_decay": "module.optimizer.weight_decay",
    "precision": "trainer.precision",
    "init": "init",
}
"""Names in a dashboard, and the settings; config.yaml in the run has all of them."""
METRICS = ("val/in_domain/accuracy", "val/out_of_domain/accuracy", "val/in_domain/worst_context", "train/loss")
"""What TensorBoard's HPARAMS page has beside the settings of a training, where a run has it."""
PLACES = ("data_root", "manifest_dir", "logs_dir", "results_dir", "mask_root", "resume")
"""What a person types to say where things are, or to resume a run."""


def hyperparameters(stage: str, settings: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The stage, the settings that runs are compared by, and those that a person typed.

    Args:
        stage: of the run.
        settings: all of them.
        words: of the command line; what is set there is what the run is about, or what a sweep varies.
    """
    known = flat(settings)
    found = {"stage": stage} | {name: known[key] for name, key in COMPARED_BY.items() if known.get(key) is not None}
    for word in words:
        key = word.partition("=")[0].lstrip("+")
        if key in known and key not in COMPARED_BY.values() and key not in PLACES:
            found[key] = known[key]
    return found


@rank_zero_only
def log_hyperparameters(logger: Logger, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Give a logger settings; TensorBoard's HPARAMS page gets them with metrics to sort by.

    Args:
        logger: any.
        settings: by name, nested or not.
        metrics: names of scalars; the page takes the last value that is logged of each.
    """
    logger.log_hyperparams(dict(settings))
    if isinstance(logger, TensorBoardLogger):
        from torch.utils.tensorboard.summary import hparams

        # Lightning fills the page only together with a value of each metric, which its curve would begin with.
        plain = {key: value if isinstance(value, bool | int | float | str) else str(value)
                 for key, value in flat(settings).items()}  # fmt: skip
        experiment, start, _ = hparams(plain, dict.fromkeys(metrics, 0.0))  # type: ignore[no-untyped-call] # torch's
        for summary in (experiment, start):
            logger.experiment.file_writer.add_summary(summary)
        logger.experiment.flush()
