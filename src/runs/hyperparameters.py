"""The settings that loggers get: what runs are compared by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.runs.directory import flat

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
