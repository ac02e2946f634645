"""What the vote's confidence is worth: calibration, telling right from wrong, and what a temperature does to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.metrics import Bins, auroc, calibration, expected_calibration_error, risk_coverage, temper
from src.report.evaluation import BINS, EvaluatedSet, Evaluation
from src.report.plots import COLOURS, FAINT, colour_of
from src.report.tables import Table, percent, titles_of

FEW = 5  # images of a bin that a line goes through
POINTS = 1000  # of a risk-coverage curve, at most: an SVG holds every one
KEPT = (0.5, 0.8)  # shares of the images, the most confident ones, whose accuracy the table has


class Confidence(NamedTuple):
    """Confidence (N,) in [0, 1] of the voted labels of an image set, tempered too where there is a temperature."""

    title: str
    hits: npt.NDArray[np.bool_]
    voted: npt.NDArray[np.floating]
    tempered: npt.NDArray[np.floating] | None
    fitted_here: bool

    def ece(self, confidence: npt.NDArray[np.floating]) -> float:
        """Expected calibration error of `voted` or `tempered`."""
        return expected_calibration_error(calibration(confidence, self.hits, BINS))


def confidences_of(evaluation: Evaluation) -> list[Confidence]:
    """Those of the image sets whose truth is known: in-domain, then unseen."""
    titles, temperature = titles_of(evaluation), evaluation.temperature

    def tempered(one: EvaluatedSet) -> npt.NDArray[np.floating] | None:
        if temperature is None:
            return None
        return temper(one.pooled, temperature)[np.arange(len(one.ballot.labels)), one.ballot.labels]

    return [
        Confidence(titles[one.images.name], one.hits, one.confidence, tempered(one), one.images.name == "in_domain")
        for one in evaluation.known
    ]


def confidence_table(sets: Sequence[Confidence]) -> Table:
    """A row per image set: accuracy beside confidence, calibration error, and how well confidence tells right from
    wrong."""
    with_temperature = any(one.tempered is not None for one in sets)
    head = ["", "images", "accuracy", "mean confidence", "calibration error"]
    head += ["with the temperature"] * with_temperature
    head += ["AUROC", "area under risk-coverage", *(f"accuracy of the surest {100 * share:.0f} %" for share in KEPT)]
    table = [head]
    for one in sets:
        risk = risk_coverage(one.voted, one.hits)
        surest = [1 - risk[max(1, round(share * len(risk))) - 1] for share in KEPT]
        row = [one.title, f"{len(one.hits):,}", percent(one.hits.mean()), percent(one.voted.mean())]
        row.append(percent(one.ece(one.voted)))
        if with_temperature:
            row.append("-" if one.tempered is None else percent(one.ece(one.tempered)) + " (fit)" * one.fitted_here)
        table.append([*row, percent(auroc(one.voted, one.hits)), percent(risk.mean()), *map(percent, surest)])
    return table


def temperature_words(sets: Sequence[Confidence], temperature: float | None) -> str:
    """What the temperature does on each image set, in sentences; "" where there is none."""
    fitted = next((one for one in sets if one.fitted_here), None)
    if temperature is None or fitted is None or fitted.tempered is None:
        return ""
    words = (
        f"The temperature {temperature:.2f} is fitted on the {len(fitted.hits):,} in-domain images. Their calibration "
        f"error of {percent(fitted.ece(fitted.tempered))} with it ({percent(fitted.ece(fitted.voted))} without) is "
        "in-sample: the fit itself, and no measure of what it gives elsewhere."
    )
    for one in sets:
        if one.tempered is not None and one is not fitted:
            before, after = one.ece(one.voted), one.ece(one.tempered)
            verb = "helps" if after < before else "hurts" if after > before else "changes nothing"
            words += f" On {one.title} it {verb}: {percent(before)} without, {percent(after)} with it."
    return words


def reliability(sets: Sequence[Confidence]) -> Figure:
    """Accuracy over confidence, an image set beside the other; below, how many images have which confidence."""
    figure = Figure(figsize=(0.5 + 2.9 * len(sets), 4.9), layout="constrained")
    panels = figure.subplots(2, len(sets), squeeze=False, sharex=True, sharey="row", height_ratios=[2, 1])
    for (above, below), one in zip(panels.T, sets, strict=True):
        above.plot([0, 100], [0, 100], color=FAINT, linewidth=1.5, zorder=0)
        bins(above, calibration(one.voted, one.hits, BINS), COLOURS[0], "-", "as voted")
        if one.tempered is not None:
            bins(above, calibration(one.tempered, one.hits, BINS), COLOURS[1], "--", "with the temperature")
        above.set(title=f"{one.title}: {len(one.hits):,} images", xlim=(0, 100), ylim=(0, 101))
        right, wrong = 100 * one.voted[one.hits], 100 * one.voted[~one.hits]
        counts, _, bars = below.hist([right, wrong], np.linspace(0, 100, BINS + 1), stacked=True, rwidth=0.9,
                                     color=[COLOURS[2], COLOURS[6]], label=["right", "wrong"])  # fmt: skip
        numbers = [f"{count:.0f}" if count else "" for count in np.asarray(counts)[-1]]
        below.bar_label(bars[-1], numbers, fontsize=6, padding=1)
        below.set(xlabel="confidence as voted, %")
        below.margins(y=0.12)
    panels[0, 0].set(ylabel="accuracy, %")
    panels[1, 0].set(ylabel="images")
    shown = [part for axes in panels[:, -1] for part in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=shown, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def bins(axes: Axes, made: Bins, colour: str, style: str, words: str) -> None:
    """A dot for each filled bin, its area by the number of images, and a line through those of at least FEW."""
    filled = made.images > 0
    x, y, images = 100 * made.confidence[filled], 100 * made.accuracy[filled], made.images[filled]
    axes.plot(x[images >= FEW], y[images >= FEW], style, color=colour, linewidth=1.2, label=words)
    axes.scatter(x, y, s=4 + 200 * images / images.sum(), color=colour, alpha=0.6, linewidths=0, clip_on=False)


def risk_curves(sets: Sequence[Confidence]) -> Figure:
    """Share of wrong labels among the most confident images, over their share: the lower the better."""
    figure = Figure(figsize=(4.1, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for one in sets:
        risk = 100 * risk_coverage(one.voted, one.hits)
        drawn = np.unique(np.linspace(0, len(risk) - 1, POINTS).astype(np.int64))
        axes.plot(100 * (drawn + 1) / len(risk), risk[drawn], color=colour_of(one.title), linewidth=1.3,
                  label=f"{one.title} (AUROC {percent(auroc(one.voted, one.hits))})")  # fmt: skip
    axes.set(xlabel="share of the images, most confident first, %", ylabel="wrong among them, %", xlim=(0, 100))
    axes.set_ylim(bottom=0)
    axes.grid(True, color=FAINT, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(-0.1, 1))
    return figure
