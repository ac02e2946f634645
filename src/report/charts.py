"""Figures of what the stages add, where they look and what their features tell: numbers in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from src.report.plots import COLOURS, FAINT, INK, axes_of, colour_of

Bar = tuple[float, float, float]
"""A share, and the ends of its interval."""


def differences(rows: Mapping[str, Mapping[str, Bar]]) -> Figure:
    """A row for each pair, a colour for each image set: a dot in percentage points, and a line over its interval.

    Args:
        rows: by the pair's title from the top down, {image set: (difference of shares, low, high)}.
    """
    figure, axes = axes_of(6.2, 0.9 + 0.42 * len(rows))
    sets = list(dict.fromkeys(name for bars in rows.values() for name in bars))
    for k, name in enumerate(sets):
        place = np.array([i for i, bars in enumerate(rows.values()) if name in bars])
        value, low, high = 100 * np.array([bars[name] for bars in rows.values() if name in bars]).T
        shifted = place + 0.22 * (k - (len(sets) - 1) / 2)
        axes.errorbar(value, shifted, xerr=[value - low, high - value], fmt="o", color=colour_of(name), markersize=5,
                      capsize=2, linewidth=1.3, label=name)  # fmt: skip
    axes.axvline(0, color=INK, linewidth=1, zorder=0)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.set(xlabel="gain in accuracy, percentage points", ylim=(len(rows) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.xaxis.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(frameon=False, loc="outside upper center", ncols=len(sets))
    return figure


def by_context(lines: Mapping[str, Sequence[float]], reference: Sequence[float], names: Sequence[str]) -> Figure:
    """The share of the evidence on the object, by context, one colour per network; a dash is the object's own share.

    Args:
        lines: by title, shares (C,), NaN where unknown.
        reference: (C,), the object's share of the image.
        names: (C,) of the contexts.
    """
    figure, axes = axes_of(6.6, 3.6)
    crowded = sum(map(len, names)) > 60
    place = np.arange(len(names))
    for i, (title, values) in enumerate(lines.items()):
        shifted = place + 0.5 * (i - (len(lines) - 1) / 2) / max(len(lines), 1)
        axes.plot(shifted, 100 * np.array(values), "o", color=COLOURS[i % len(COLOURS)], markersize=6, label=title)
    axes.hlines(100 * np.array(reference), place - 0.36, place + 0.36, color=INK, linewidth=1.2, linestyle="--",
                label="the object's share of the image")  # fmt: skip
    axes.set_xticks(place, names, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    axes.set(ylabel="evidence on the object, %", xlim=(-0.6, len(names) - 0.4))
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def planes(points: Mapping[str, npt.NDArray[np.float64]], colourings: Mapping[str, Sequence[str]]) -> Figure:
    """Networks in rows, colourings in columns: images as dots in the plane, with their names' colours.

    Args:
        points: by network, (N, 2).
        colourings: (N,) names of the images, by what they are names of; an image without one is grey.
    """
    figure = Figure(figsize=(3.3 * len(colourings), 3.6 * len(points)), layout="constrained")
    panels = figure.subplots(len(points), len(colourings), squeeze=False)
    for row, (title, xy) in zip(panels, points.items(), strict=True):
        for axes, (kind, names) in zip(row, colourings.items(), strict=True):
            coloured(axes, xy, names)
            axes.set_title(f"{title}, by {kind}", fontsize=8.5)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    return figure


def coloured(axes: Axes, xy: npt.NDArray[np.float64], names: Sequence[str]) -> None:
    """Dots (N, 2) in a colour for each name; a legend where there are few."""
    of_point, every = np.array(names), sorted(set(names) - {""})
    wheel = (
        COLOURS
        if len(every) <= len(COLOURS)
        else [tuple(c) for c in colormaps["hsv"](np.linspace(0, 0.92, len(every)))]
    )
    for name, colour in zip(["", *every], [FAINT, *wheel], strict=False):
        own = of_point == name
        if own.any():
            axes.scatter(xy[own, 0], xy[own, 1], s=9, color=colour, linewidths=0, alpha=0.8, label=name or "not known",
                         rasterized=True)  # fmt: skip
    if len(every) <= 12:
        axes.legend(frameon=False, fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 0), markerscale=1.6,
                    handletextpad=0.1, columnspacing=0.8)  # fmt: skip


def colour_bar() -> Figure:
    """What the colours of a map of evidence mean."""
    figure, axes = axes_of(4.2, 0.62)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 100), "inferno"), cax=axes, orientation="horizontal")
    bar.set_label("evidence, % of the picture's greatest", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return figure
