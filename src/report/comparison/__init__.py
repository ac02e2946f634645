"""Runs side by side: `python -m src.report.comparison track=1 of=runs | contexts | votes` (`__main__.py`).

Here is the report's table of finished runs: mean and standard error over their seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.report.tables import Table
from src.runs.records import model_name_of, read_config, read_finished

COMPARED = ("val/in_domain/accuracy", "val/in_domain/worst_context", "val/out_of_domain/accuracy",
            "val/out_of_domain/worst_context")  # fmt: skip
"""Figures of finished.json that the comparison shows, where a run has them."""


class RunRow(NamedTuple):
    """A finished run: what it was, and its last epoch's figures.

    Attributes:
        stage, model, mixing, ratio, split, tag: of the run; `tag` is what else its name says, the tag or the changes.
        seed: its seed.
        figures: its last epoch's, by name.
    """

    stage: str
    model: str
    mixing: str
    ratio: str
    split: str
    tag: str
    seed: int
    figures: dict[str, float]


def read_runs(track_dir: Path) -> list[RunRow]:
    """The finished runs of a track, by stage and name."""
    rows = []
    for path in sorted(track_dir.glob("*/*/finished.json")):
        try:
            config, figures = read_config(path.parent), read_finished(path.parent)["metrics"]
            ratio = str((config["module"].get("mixing") or {}).get("ratio", ""))
            words = (
                path.parent.parent.name, model_name_of(config), strategy_of(config), ratio, str(config["split_name"])
            )  # fmt: skip
            rows.append(RunRow(*words, str(config["tag"] or config.get("changes") or ""), int(config["seed"]), figures))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a damaged run: where it would vote, it is skipped and listed
    return rows


def strategy_of(config: Mapping[str, Any]) -> str:
    """The name of a run's mixing strategy, that of its yaml; "" without one.

    Behind it in brackets is the recipe, if it is not the published one.
    """
    mixing = config["module"].get("mixing") or {}
    # Two files of one class are two strategies. Runs of older versions have the class alone.
    kind = config.get("mixing_name") if mixing else ""
    words = str(mixing.get("_target_", "")).split(".")[-2:][0] if kind is None else str(kind)
    recipe = (config.get("recipe") or {}).get("name")
    return f"{words} ({recipe})" if recipe else words


def runs_table(rows: Sequence[RunRow], exact: bool = False) -> Table:
    """Runs that differ in their seeds alone share a row: mean and standard error over the seeds.

    Figures are of each run's last epoch: nothing was selected. One seed has no standard error.

    Args:
        rows: of read_runs.
        exact: mean and standard error in columns of their own, as shares in [0, 1], for a program; else percent.
    """
    keys = [key for key in COMPARED if any(key in row.figures for row in rows)]
    heads = [head for key in keys for head in ([key, f"{key} standard error"] if exact else [spoken(key)])]
    table = [["stage", "model", "mixing", "ratio", "split", "tag", "seeds", *heads]]
    same: dict[tuple[Any, ...], list[RunRow]] = {}
    for row in rows:
        same.setdefault(row[:6], []).append(row)
    for words, group in same.items():
        line = [*words, " ".join(str(row.seed) for row in group)]
        for key in keys:
            mean, error = mean_error([row.figures[key] for row in group if key in row.figures])
            if exact:
                line += ["" if value is None else f"{value:.6f}" for value in (mean, error)]
            else:
                line.append("-" if mean is None else f"{100 * mean:.1f}" + (f" ± {100 * error:.1f}" if error else ""))
        table.append(line)
    return table


def spoken(key: str) -> str:
    """A metric's name for a reader: "in domain accuracy"."""
    return key.removeprefix("val/").replace("/", " ").replace("_", " ")


def mean_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard error (sample standard deviation over the root of their number), None where unknown."""
    if not values:
        return None, None
    return float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


class Comparison(NamedTuple):
    """What is compared, for every format.

    Attributes:
        title: of the whole.
        tables: by title, "" where the whole's will do.
        notes: what is missing, in sentences.
        program: all of it as one table, for a program.
        curves: for each metric, {run: its values by epoch}, NaN where an epoch has none.
    """

    title: str
    tables: dict[str, Table]
    notes: list[str]
    program: Table
    curves: dict[str, dict[str, list[float]]]
