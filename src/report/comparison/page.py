"""A comparison as one file of HTML that needs no network and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.report import plots
from src.report.comparison import Comparison, spoken
from src.text import method_of

STYLES = ("-", "--", ":", "-.")
FIRST = ("val/in_domain/accuracy", "val/out_of_domain/accuracy", "train/loss")
"""The curves that are open when the page opens."""


def as_html(made: Comparison) -> str:
    """The page: tables, notes, and a figure for each metric, the usual ones first and the others folded."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    names = [*(key for key in FIRST if key in made.curves), *(key for key in made.curves if key not in FIRST)]
    curves = [(key, key in FIRST, plots.as_data_url(curve_figure(key, made.curves[key]))) for key in names]
    page: str = templates.get_template("page.html").render(made._asdict() | {"curves": curves})
    return page


def curve_figure(metric: str, runs: Mapping[str, Sequence[float]]) -> Figure:
    """A metric by epoch, accuracies in percent: a line for each run, those that differ in the seed alone in one style.

    Args:
        metric: its name in metrics.csv.
        runs: by name, NaN where an epoch has no value.
    """
    methods = list(dict.fromkeys(method_of(name) for name in runs))
    figure, axes = plots.axes_of(9, 3 + 0.2 * len(methods))
    share = "accuracy" in metric or "worst_context" in metric
    for name, values in runs.items():
        i, known = methods.index(method_of(name)), np.array(values, float)
        epochs = np.flatnonzero(known == known)
        label = None if method_of(name) in [line.get_label() for line in axes.get_lines()] else method_of(name)
        axes.plot(epochs + 1, known[epochs] * (100 if share else 1), STYLES[i // len(plots.COLOURS) % len(STYLES)],
                  color=plots.COLOURS[i % len(plots.COLOURS)], linewidth=1.3, label=label,
                  marker="." if len(epochs) < 3 else None)  # fmt: skip
    axes.set(xlabel="epoch", ylabel=spoken(metric) + (", %" if share else ""))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.grid(True, color=plots.FAINT, linewidth=0.6)
    figure.legend(frameon=False, loc="outside lower left", ncols=1, fontsize=8)
    return figure
