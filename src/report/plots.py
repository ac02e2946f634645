"""Figures of the report, the only home of matplotlib: arrays in, figures out."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.metrics import Bins

COLOURS = ["#2f6f9f", "#d98032", "#5c9457", "#a4508b", "#8a6d3b", "#4b8f8c", "#b5473c", "#7a7a7a"]
INK, FAINT = "#22303c", "#d9dee3"
matplotlib.rcParams.update(
    {"font.size": 9, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
     "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "report",
     "axes.titlesize": 10, "text.parse_math": False}
)  # fmt: skip
WIDE = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans",
        "Microsoft YaHei", "Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Hebrew")  # fmt: skip
"""Fonts for names beyond DejaVu's letters; those that are installed are used."""
installed = {font.name for font in font_manager.fontManager.ttflist}
matplotlib.rcParams["font.family"] = ["DejaVu Sans", *(name for name in WIDE if name in installed)]
# A letter that is in no font is drawn as a box; the page's tables have the name itself.
warnings.filterwarnings("ignore", "Glyph .* missing from (current )?font")


def as_data_url(figure: Figure) -> str:
    """A figure as an SVG, in a data URL for an <img>."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()


def raster(figure: Figure) -> npt.NDArray[np.uint8]:
    """A figure as pixels (H, W, 3), for a logger."""
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight", dpi=150)
    return np.asarray(cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB), np.uint8)


def axes_of(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one plot, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def context_bars(sets: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> Figure:
    """Accuracy by context, one colour per image set.

    Args:
        sets: by title, {context: (accuracy, low, high)} as shares; "all" is all images.
    """
    figure, axes = axes_of(9, 3)
    place, ticks, names = 0.0, [], []
    for colour, (title, bars) in zip(COLOURS, sets.items(), strict=False):
        for i, (name, (value, low, high)) in enumerate(bars.items()):
            whiskers = [[100 * (value - low)], [100 * (high - value)]]
            axes.bar(place, 100 * value, 0.75, color=colour, alpha=1 if name == "all" else 0.7,
                     label=title if i == 0 else None)  # fmt: skip
            axes.errorbar(place, 100 * value, yerr=whiskers, color=INK, linewidth=1, capsize=2)
            # At the bar's foot: the bar's top belongs to the interval.
            axes.annotate(f"{100 * value:.0f}", (place, 2), ha="center", color="white", fontsize=8, fontweight="bold")
            ticks.append(place)
            names.append(name)
            place += 1
        place += 0.8
    axes.set_xticks(ticks, names, rotation=30 if len(names) > 9 else 0, ha="right" if len(names) > 9 else "center")
    axes.tick_params(axis="x", length=0)
    axes.set(ylabel="accuracy, %", ylim=(0, 104))
    axes.yaxis.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(sets))
    return figure


def reliability(curves: Mapping[str, Bins]) -> Figure:
    """Accuracy over confidence, a dot's area by its number of images; the diagonal is perfect calibration."""
    figure, axes = axes_of(4.2, 4)
    axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1.5, zorder=0)
    for colour, (title, bins) in zip(COLOURS, curves.items(), strict=False):
        filled = bins.images > 0
        x, y = 100 * bins.confidence[filled], 100 * bins.accuracy[filled]
        axes.plot(x, y, color=colour, linewidth=1.2, label=title)
        axes.scatter(x, y, s=4 + 300 * bins.images[filled] / bins.images.sum(), color=colour, alpha=0.6, linewidths=0,
                     clip_on=False)  # fmt: skip
    axes.set(xlabel="confidence, %", ylabel="accuracy, %", xlim=(0, 100), ylim=(0, 100), aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    return figure


def matrix(
    values: npt.NDArray[np.floating], names: Sequence[str], label: str, row: str, column: str, low: float = 0
) -> Figure:
    """A square matrix of shares as a map, in percent, with numbers where there is room.

    Args:
        values: (K, K) shares, NaN where unknown.
        names: of rows and columns.
        label: what the values are.
        row, column: what the rows and columns are.
        low: the share where the colours begin.
    """
    count = len(names)
    side = min(9.0, max(2.6, (0.42 if count <= 16 else 0.15) * count + 1.2))
    figure, axes = axes_of(side + 0.8, side)
    picture = axes.imshow(100 * values, cmap="Blues", vmin=100 * low, vmax=100)
    size = 8 if count <= 16 else max(3.5, 8 - count / 12)
    axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=size)
    axes.set_yticks(range(count), names, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel=column, ylabel=row)
    if count <= 16:
        dark = 100 * (low + 0.6 * (1 - low))
        for i, line in enumerate(100 * values):
            for j, value in enumerate(line):
                if value == value:
                    axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7,
                              color="white" if value > dark else INK)  # fmt: skip
    bar = figure.colorbar(picture, ax=axes, shrink=0.6, label=label)
    bar.outline.set_visible(False)
    return figure


def curves(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Training loss and held-out accuracies of a stage's runs by epoch.

    Args:
        runs: by name, the columns of metrics.csv (NaN where an epoch has none).
    """
    losses = [key for key in first_columns(runs) if key == "train/loss"]
    accurate = [key for key in first_columns(runs) if key.startswith("val/") and key.endswith("/accuracy")]
    panels = [keys for keys in (losses, accurate) if keys] or [first_columns(runs)[:1]]
    figure = Figure(figsize=(4.5 * len(panels), 2.6), layout="constrained")
    for place, keys in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        for key, style in zip(keys, ("-", "--", ":"), strict=False):
            for i, columns in enumerate(runs.values()):
                values = np.array(columns.get(key, []), float)
                epochs = np.arange(1, len(values) + 1)[values == values]
                scale = 1 if key == "train/loss" else 100
                axes.plot(epochs, scale * values[values == values], style, color=COLOURS[i % len(COLOURS)],
                          linewidth=1.2, marker="." if len(epochs) < 3 else None)  # fmt: skip
        words = " (solid), ".join(keys) + (" (dashed)" if len(keys) > 1 else "")
        axes.set(xlabel="epoch", title=words + ("" if keys == losses else ", %"))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.grid(True, color=FAINT, linewidth=0.6)
    if len(runs) <= len(COLOURS):
        lines = figure.axes[0].get_lines()[: len(runs)]
        figure.legend(lines, list(runs), frameon=False, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def first_columns(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """The metrics of all runs, in their order."""
    return list(dict.fromkeys(key for columns in runs.values() for key in columns))
