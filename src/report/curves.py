"""Training curves of the whole chain, stage after stage, on one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from src.callbacks.metrics_file import read_metrics
from src.report.plots import COLOURS, FAINT

Columns = Mapping[str, Sequence[float]]
SHARES = {
    "val/in_domain/accuracy": "in-domain",
    "val/out_of_domain/accuracy": "left-out contexts",
    "val/in_domain/knn/accuracy": "neighbours: class",
    "val/in_domain/knn/context": "neighbours: context",
    "train/contrastive_top1": "contrastive top-1",
    "train/area": "foreground area",
}
"""Columns of metrics.csv in [0, 1] that are shown in percent, and what a reader calls them."""
LOSSES = {"train/loss": "loss", "train/original": "of the images", "train/copy": "of their copies",
          "train/copy_from_original": "consistency: copies",
          "train/original_from_copy": "consistency: images"}  # fmt: skip
NO_LOSS = ("train/first_batch", "train/mixed", "train/contrastive_top5", "train/feature_spread")
"""Columns of train/ that are no losses and not shown; what else is there is a term of the stage's loss."""


def curves_of(runs: Sequence[Path]) -> dict[str, dict[str, Columns]]:
    """metrics.csv of each run that has one, by stage, name and column; NaN where an epoch has no value."""
    stages: dict[str, dict[str, Columns]] = {}
    for folder in runs:
        if not (folder / "metrics.csv").is_file():
            continue
        try:
            rows = read_metrics(folder / "metrics.csv")
            columns = {name: [float(row[name] or "nan") for row in rows] for name in (rows[0] if rows else {})}
        except ValueError:  # damaged: the run has no curve
            continue
        if columns:
            stages.setdefault(folder.parent.name, {})[folder.name] = columns
    return stages


def seconds_of(stages: Mapping[str, Mapping[str, Columns]]) -> float:
    """Seconds that the epochs of all runs took together."""
    return float(sum(np.nansum(columns.get("seconds", [])) for runs in stages.values() for columns in runs.values()))


def shown(stages: Mapping[str, Mapping[str, Columns]]) -> tuple[dict[str, str], dict[str, str]]:
    """The columns of all runs that are shown, {column: what a reader calls it}: shares, then losses."""
    there = dict.fromkeys(key for runs in stages.values() for columns in runs.values() for key in columns)
    terms = [key for key in there if key.startswith("train/") and key not in (*SHARES, *NO_LOSS)]
    losses = {key: LOSSES.get(key, key.removeprefix("train/").replace("_", " ")) for key in terms}
    return {key: words for key, words in SHARES.items() if key in there}, losses


def chain_curves(stages: Mapping[str, Mapping[str, Columns]]) -> Figure:
    """Shares above, losses below, a column of panels for each stage, a column of metrics.csv in one colour everywhere.

    Args:
        stages: of curves_of, in the order of the chain.
    """
    epochs = [max(len(next(iter(columns.values()))) for columns in runs.values()) for runs in stages.values()]
    # A stage of few epochs gets room for its name.
    widths = [max(count, 0.45 * max(epochs)) for count in epochs]
    figure = Figure(figsize=(max(4.5, 1 + 1.9 * sum(widths) / max(widths)), 5.4), layout="constrained")
    halves = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.12])[:, 0]
    for part, keys, scale in zip(halves, shown(stages), (100, 1), strict=True):
        panels = part.subplots(1, len(stages), squeeze=False, sharey=True, width_ratios=widths)[0]
        if scale == 1:
            panels[0].set(yscale="log", ylabel="loss, logarithmic")
            panels[0].yaxis.set_major_formatter("{x:g}")
            panels[0].yaxis.set_minor_locator(NullLocator())
        else:
            panels[0].set(ylim=(0, 101), ylabel="%")
        for axes, (stage, runs), count in zip(panels, stages.items(), epochs, strict=True):
            lines(axes, runs, keys, scale)
            axes.grid(True, axis="y", color=FAINT, linewidth=0.6)
            axes.tick_params(length=0, which="both")
            axes.set(xlim=(0.5, count + 0.5) if count < 4 else (1, count))
            axes.xaxis.set_major_locator(MaxNLocator(min(4, count), integer=True, min_n_ticks=1))
            if part is halves[0]:
                axes.set_title(stage + (f" ({len(runs)} runs)" if len(runs) > 1 else ""), fontsize=9)
            else:
                axes.set_xlabel("epoch")
        if scale == 1:
            low, high = panels[0].get_ylim()
            panels[0].yaxis.set_major_locator(LogLocator(subs=(1,) if high > 100 * low else (1, 2, 5)))
        handles = [
            Line2D([], [], color=colour, label=words) for colour, words in zip(COLOURS, keys.values(), strict=False)
        ]
        part.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def lines(axes: Axes, runs: Mapping[str, Columns], keys: Mapping[str, str], scale: float) -> None:
    """A line for each column of `keys` and each run, a single epoch as a dot."""
    for colour, key in zip(COLOURS, keys, strict=False):
        for columns in runs.values():
            values = scale * np.array(columns.get(key, []), float)
            known = np.isfinite(values) & ((values > 0) | (axes.get_yscale() == "linear"))
            axes.plot(np.arange(1, len(values) + 1)[known], values[known], color=colour, linewidth=1.1,
                      marker="." if known.sum() < 5 else None)  # fmt: skip
