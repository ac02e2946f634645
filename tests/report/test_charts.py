import numpy as np
import pytest

from src.report import charts, plots


def test_differences_stand_in_points_around_zero() -> None:
    rows = {"fdg": {"test": (0.05, -0.02, 0.07), "in-domain": (0.09, 0.08, 0.1)}, "vote": {"test": (0.06, 0.05, 0.065)}}
    (axes,) = charts.differences(rows).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fdg", "vote"]
    assert axes.yaxis_inverted() and "percentage points" in axes.get_xlabel()
    test, held = axes.containers
    assert test.get_label() == "test" and test.lines[0].get_xdata().tolist() == pytest.approx([5, 6])
    (lines,) = test.lines[2]
    assert [[x for x, _ in line] for line in lines.get_segments()] == [pytest.approx([-2, 7]), pytest.approx([5, 6.5])]
    assert held.lines[0].get_xdata().tolist() == pytest.approx([9])
    assert any(list(line.get_xdata()) == [0, 0] for line in axes.get_lines())


def test_shares_by_context_stand_over_the_objects_share() -> None:
    lines = {"baseline": [0.5, np.nan], "fdg": [0.6, 0.7]}
    (axes,) = charts.by_context(lines, [0.2, 0.3], ["in-domain: grass", "test: water"]).axes
    first, second = axes.get_lines()
    assert first.get_ydata().tolist()[0] == 50 and np.isnan(first.get_ydata()[1])
    assert second.get_ydata().tolist() == pytest.approx([60, 70]) and second.get_label() == "fdg"
    assert first.get_xdata()[0] < second.get_xdata()[0]
    (dashes,) = axes.collections
    assert [segment[0, 1] for segment in dashes.get_segments()] == pytest.approx([20, 30])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["in-domain: grass", "test: water"]


def test_every_image_is_a_dot_of_its_name() -> None:
    points = {"baseline": np.array([[0.0, 0], [1, 0], [2, 0]]), "fdg": np.array([[0.0, 1], [1, 1], [2, 1]])}
    figure = charts.planes(points, {"class": ["car", "dog", "car"], "context": ["", "snow", "snow"]})
    assert [axes.get_title() for axes in figure.axes] == [
        "baseline, by class", "baseline, by context", "fdg, by class", "fdg, by context",
    ]  # fmt: skip
    by_class, by_context = figure.axes[0].collections, figure.axes[1].collections
    assert {dots.get_label(): dots.get_offsets()[:, 0].tolist() for dots in by_class} == {"car": [0, 2], "dog": [1]}
    assert {dots.get_label(): dots.get_offsets()[:, 0].tolist() for dots in by_context} == {
        "not known": [0],
        "snow": [1, 2],
    }
    many = charts.planes({"one": np.zeros((60, 2))}, {"class": [f"c{i}" for i in range(60)]}).axes[0]
    assert len(many.collections) == 60 and many.get_legend() is None


def test_the_bar_has_the_colours_of_the_maps() -> None:
    assert plots.raster(charts.colour_bar()).shape[2] == 3
