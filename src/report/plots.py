"""Figures of the report: arrays in, figures out. This module sets matplotlib up for all of them."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ["#2f6f9f", "#d98032", "#5c9457", "#a4508b", "#8a6d3b", "#4b8f8c", "#b5473c", "#7a7a7a"]
INK, FAINT = "#22303c", "#d9dee3"
IN_DOMAIN = "in-domain"
matplotlib.rcParams.update(
    {"font.size": 9, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
     "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "report",
     "axes.titlesize": 10, "text.parse_math": False}
)  # fmt: skip
# Text stays text: the reader's browser has a font for every letter, and the page is a quarter of the size.
matplotlib.rcParams["svg.fonttype"] = "none"
WIDE = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans",
        "Microsoft YaHei", "Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Hebrew")  # fmt: skip
"""Fonts for names beyond DejaVu's letters; those that are installed are used."""
installed = {font.name for font in font_manager.fontManager.ttflist}
matplotlib.rcParams["font.family"] = ["DejaVu Sans", *(name for name in WIDE if name in installed), "sans-serif"]
# A letter that is in no font here is drawn as a box where a logger gets pixels; the page's browser may have it.
warnings.filterwarnings("ignore", "Glyph .* missing from (current )?font")


class Mark(NamedTuple):
    """A share in [0, 1] with its 95 % interval, NaN where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan


def as_data_url(figure: Figure) -> str:
    """A figure as an SVG, in a data URL for an <img>."""
    file = io.BytesIO()
    # No background: a page in dark mode turns the figure's light and dark around.
    figure.savefig(file, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
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


def colour_of(title: str) -> str:
    """The colour of an image set, the same all over the page."""
    return {IN_DOMAIN: COLOURS[1], "left-out contexts": COLOURS[2]}.get(title, COLOURS[0])


def shortened(name: str, most: int = 34) -> str:
    """A name that leaves a plot its room: its middle is cut out where it is longer than `most` letters."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def overview(rows: Mapping[str, Mapping[str, Mark]]) -> Figure:
    """Every stage's accuracy on every image set: a dot with its interval and its value.

    Args:
        rows: by a stage's title, from the first to the last, {image set: mark}; the last has all sets.
    """
    sets = list(dict.fromkeys(name for marks in [*rows.values()][::-1] for name in marks))
    figure, axes = axes_of(5.4, 0.75 + (0.2 + 0.2 * len(sets)) * len(rows))
    for name in sets:
        colour = colour_of(name)
        offset = 0.22 * (sets.index(name) - (len(sets) - 1) / 2)
        for place, marks in enumerate(rows.values()):
            if name in marks:
                whisker(axes, marks[name], place + offset, colour, f"{100 * marks[name].value:.1f}")
        axes.plot([], [], "o", color=colour, label=name)
    lowest = min((m.value if np.isnan(m.low) else m.low) for marks in rows.values() for m in marks.values())
    axes.set_yticks(range(len(rows)), [shortened(title) for title in rows])
    for label, title in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if title == "vote" else "normal")
    axes.set(xlim=(max(0, 100 * lowest - 4), 112), ylim=(len(rows) - 0.5, -0.5), xlabel="accuracy, %")
    axes.set_xticks([tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= 100])
    axes.xaxis.grid(True, color=FAINT, linewidth=0.6)
    axes.tick_params(length=0)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.45, 1), ncols=len(sets))
    return figure


def whisker(axes: Axes, mark: Mark, place: float, colour: str, text: str) -> None:
    """A dot at height `place`, with a line over its interval and `text` behind it."""
    ends = [mark.value if np.isnan(end) else end for end in (mark.low, mark.high)]
    axes.plot([100 * end for end in ends], [place] * 2, color=colour, linewidth=2, alpha=0.5, solid_capstyle="butt")
    axes.plot(100 * mark.value, place, "o", color=colour, markersize=5)
    axes.annotate(text, (100 * ends[1], place), (5, 0), textcoords="offset points", va="center", fontsize=8)


def context_bars(sets: Mapping[str, Mapping[str, Mark]]) -> Figure:
    """Accuracy by context: a bar with its interval each, the image sets below each other; and behind them, as a line
    with its interval, that over all in-domain images.

    Args:
        sets: by title, {context: mark}; "all" is all images.
    """
    count = sum(map(len, sets.values()))
    figure, axes = axes_of(5.4, 0.9 + 0.25 * (count + len(sets)))
    place, ticks, names = 0.0, [], []
    if IN_DOMAIN in sets and len(sets) > 1:
        mark = sets[IN_DOMAIN]["all"]
        axes.axvspan(100 * mark.low, 100 * mark.high, color=COLOURS[1], alpha=0.2, linewidth=0)
        axes.axvline(100 * mark.value, color=COLOURS[1], linewidth=1.2, linestyle="--")
        axes.annotate(
            f"{IN_DOMAIN} {100 * mark.value:.0f}",
            (100 * mark.value, -0.8),
            (0, 2),
            ha="center",
            textcoords="offset points",
            fontsize=8,
            annotation_clip=False,
        )
    for title, bars in sets.items():
        for i, (name, mark) in enumerate(bars.items()):
            axes.barh(place, 100 * mark.value, 0.75, color=colour_of(title), alpha=1 if name == "all" else 0.7,
                      label=title if i == 0 else None)  # fmt: skip
            axes.plot([100 * mark.low, 100 * mark.high], [place] * 2, color=INK, linewidth=1.2)
            # At the bar's foot: the bar's end belongs to the interval.
            axes.annotate(f"{100 * mark.value:.0f}", (1.5, place), va="center", fontsize=8, fontweight="bold",
                          color="white" if mark.value > 0.08 else INK)  # fmt: skip
            ticks.append(place)
            names.append(shortened(name))
            place += 1
        place += 0.7
    axes.set_yticks(ticks, names)
    axes.tick_params(length=0)
    axes.set(xlabel="accuracy, %", xlim=(0, 101), ylim=(place - 1, -0.7))
    axes.xaxis.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.3, 1), ncols=len(sets), columnspacing=1.2)
    return figure


class Block(NamedTuple):
    """Columns of a grid that belong together: a title, their names, values (K, C), and images per cell (K, C) if those
    are not the values themselves."""

    title: str
    names: list[str]
    values: npt.NDArray[np.floating]
    images: npt.NDArray[np.int64] | None = None


def grid(blocks: Sequence[Block], rows: Sequence[str], label: str, low: float = 0, top: float = 100) -> Figure:
    """Values of classes (rows) in contexts (columns) as a map; in a cell its value and, smaller, its number of images.

    Args:
        blocks: columns next to each other, with NaN where a cell has no image.
        rows: the classes' names.
        label: what the values are.
        low, top: the values where the colours begin and end.
    """
    widths = [len(block.names) for block in blocks]
    height = max(0.19, 0.34 - 0.004 * len(rows))
    figure = Figure(figsize=(1.9 + 0.52 * sum(widths) + 0.2 * len(blocks), 1.5 + height * len(rows)),
                    layout="constrained")  # fmt: skip
    panels = figure.subplots(1, len(blocks), squeeze=False, width_ratios=widths)[0]
    for i, (axes, block) in enumerate(zip(panels, blocks, strict=True)):
        picture = axes.imshow(block.values, cmap="Blues", vmin=low, vmax=top, aspect="auto")
        axes.set_xticks(range(len(block.names)), [shortened(name, 20) for name in block.names], rotation=90)
        axes.set_yticks(range(len(rows)), [shortened(name, 22) for name in rows] if i == 0 else [""] * len(rows))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(block.title, fontsize=9)
        for (k, c), value in np.ndenumerate(block.values):
            if value == value:
                ink, alone = "white" if value > low + 0.6 * (top - low) else INK, block.images is None
                axes.text(c + (0 if alone else 0.05), k, f"{value:.0f}", ha="center" if alone else "right",
                          va="center", fontsize=8, color=ink)  # fmt: skip
                if block.images is not None:
                    axes.text(c + 0.1, k, f"{block.images[k, c]}", ha="left", va="center", fontsize=5.5, color=ink)
    bar = figure.colorbar(picture, ax=list(panels), shrink=0.6, label=label, aspect=30)
    bar.outline.set_visible(False)
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
    size = 8 if count <= 16 else max(5, 8 - count / 12)
    short = [shortened(name, 22) for name in names]
    axes.set_xticks(range(count), short, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=size)
    axes.set_yticks(range(count), short, fontsize=size)
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
