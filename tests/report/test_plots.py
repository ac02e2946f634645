import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from src.prediction.image_sets import Truth
from src.report import plots
from src.report.curves import chain_curves, curves_of, seconds_of
from src.report.datacard import count_blocks, counts_of, data_facts, data_table, masks_table
from src.report.plots import Block, Mark


def test_the_overview_shows_every_stage_with_its_interval() -> None:
    rows = {
        "baseline: plain training": {"in-domain": Mark(0.9)},
        "vote": {"unseen contexts": Mark(0.55, 0.5, 0.6), "in-domain": Mark(0.8, 0.7, 0.85)},
    }
    axes = plots.overview(rows).axes[0]
    dots = {
        (round(line.get_xdata()[0], 6), round(line.get_ydata()[0], 2)): line.get_color()
        for line in axes.get_lines()
        if line.get_marker() == "o" and len(line.get_xdata())
    }
    blue, orange = plots.COLOURS[:2]
    assert dots == {(55, 0.89): blue, (80, 1.11): orange, (90, 0.11): orange}
    spans = sorted(tuple(line.get_xdata()) for line in axes.get_lines() if line.get_marker() == "None")
    assert spans == [pytest.approx((50, 60)), pytest.approx((70, 85)), (90, 90)]
    assert [text.get_text() for text in axes.texts] == ["55.0", "90.0", "80.0"]
    assert [label.get_fontweight() for label in axes.get_yticklabels()] == ["normal", "bold"]


def test_context_bars_have_the_in_domain_reference() -> None:
    sets = {"unseen contexts": {"all": Mark(0.5, 0.4, 0.6), "water": Mark(0.02, 0.0, 0.1)},
            "in-domain": {"all": Mark(0.9, 0.85, 0.95)}}  # fmt: skip
    axes = plots.context_bars(sets).axes[0]
    bars = [patch for patch in axes.patches if patch.get_height() == 0.75]
    assert [bar.get_width() for bar in bars] == pytest.approx([50, 2, 90])
    (band,) = [patch for patch in axes.patches if patch.get_height() != 0.75]
    assert (band.get_x(), band.get_width()) == pytest.approx((85, 10))
    assert [text.get_text() for text in axes.texts] == ["in-domain 90", "50", "2", "90"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all", "water", "all"]
    alone = plots.context_bars({"in-domain": sets["in-domain"]}).axes[0]
    assert len(alone.patches) == 1 and alone.patches[0].get_facecolor() == bars[2].get_facecolor()


def test_the_grid_says_value_and_number_of_images() -> None:
    block = Block("unseen", ["dim", "water"], np.array([[50.0, np.nan], [100.0, 25.0]]), np.array([[4, 0], [3, 8]]))
    figure = plots.grid([block, Block("in-domain", ["rock"], np.array([[75.0], [0.0]]), np.array([[4], [1]]))],
                        ["car", "bus"], "accuracy, %")  # fmt: skip
    first, second, _ = figure.axes
    assert [text.get_text() for text in first.texts] == ["50", "4", "100", "3", "25", "8"]  # nothing where no image is
    assert [text.get_text() for text in second.texts] == ["75", "4", "0", "1"]
    shades = first.images[0].norm(np.array([0, 50, 100]))
    assert shades.tolist() == [0, 0.5, 1] and second.images[0].norm(50) == 0.5  # one scale for both
    above = plots.grid([block], ["car", "bus"], "accuracy, %", low=20).axes[0].images[0]
    assert above.norm(np.array([20, 60, 100])).tolist() == [0, 0.5, 1]
    alone = plots.grid([Block("trained on", ["dim"], np.array([[12.0]]))], ["car"], "images", top=12).axes[0]
    assert [text.get_text() for text in alone.texts] == ["12"]


def test_figures_keep_their_text() -> None:
    figure, axes = plots.axes_of(2, 2)
    axes.set_title("草地 & <b>")
    svg = base64.b64decode(plots.as_data_url(figure).partition(",")[2]).decode()
    assert "草地 &amp; &lt;b&gt;" in svg and "<script" not in svg  # a browser has the font that this machine may lack
    assert plots.shortened("x" * 20) == "x" * 20 and plots.shortened("a" * 30 + "b" * 30, 10) == "aaaaa…bbbb"


def test_curves_of_the_whole_chain(tmp_path: Path) -> None:
    head = "epoch,seconds,train/loss,train/mixed,train/copy_from_original,val/in_domain/accuracy\n"
    texts = {
        "moco/one": "epoch,seconds,train/loss,train/contrastive_top1,val/in_domain/knn/accuracy\n"
                    "0,2.5,4.0,0.25,\n1,1.5,2.0,0.5,0.75\n",
        "wsss/one": "epoch,seconds,train/loss,train/area,train/push\n0,1,0.5,0.2,0.4\n",
        "fdg/a": head + "0,3,1,1,0,0.9\n",
        "fdg/b": head + "0,3,1,1,.1,0.8\n",
        "fdg/damaged": "epoch,seconds,train/loss\n0,1,x\n",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.csv").write_text(text)
    (tmp_path / "fdg/none").mkdir()
    stages = curves_of([tmp_path / name for name in (*texts, "fdg/none")])
    assert {stage: list(runs) for stage, runs in stages.items()} == {
        "moco": ["one"],
        "wsss": ["one"],
        "fdg": ["a", "b"],
    }
    assert seconds_of(stages) == 2.5 + 1.5 + 1 + 3 + 3
    figure = chain_curves(stages)
    shares, losses = figure.axes[:3], figure.axes[3:]
    assert [axes.get_title() for axes in shares] == ["moco", "wsss", "fdg (2 runs)"]

    def drawn(axes: plots.Axes) -> list[tuple[list[float], list[float]]]:
        lines = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.get_lines()]
        return [line for line in lines if line[0]]

    assert drawn(shares[0]) == [([2], [75]), ([1, 2], [25, 50])] and drawn(shares[1]) == [([1], [20])]
    assert drawn(shares[2]) == [([1], [90]), ([1], [80])]
    assert drawn(losses[0]) == [([1, 2], [4, 2])] and drawn(losses[1]) == [([1], [0.5]), ([1], [0.4])]
    assert drawn(losses[2]) == [([1], [1]), ([1], [1]), ([1], [0.1])]  # a logarithm has no 0
    for axes in figure.axes:
        assert all(tick == int(tick) for tick in axes.get_xticks()), "an epoch is a whole number"
    above, below = ([text.get_text() for text in part.legends[0].get_texts()] for part in figure.subfigs)
    assert above == ["in-domain", "neighbours: class", "contrastive top-1", "foreground area"]
    assert below == ["loss", "push", "consistency: copies"]


def test_the_data_card_by_hand(tmp_path: Path) -> None:
    training = Truth(np.array([0, 0, 0, 2]), ["dim", "rock", "rock", "dim"])
    assert counts_of(training, ["dim", "rock"], 3).tolist() == [[1, 2], [0, 0], [1, 0]]
    (block,) = count_blocks(training, 3)
    assert block.names == ["dim", "rock"] and np.array_equal(block.values, [[1, 2], [np.nan] * 2, [1, np.nan]], True)
    assert count_blocks(Truth(np.array([0]), [""]), 3) == []
    table = data_table({"trained on": training, "test": Truth(np.array([1, 1]), ["", ""])}, 3)
    assert table[1:] == [["trained on", "4", "2", "1 to 3", "dim, rock"], ["test", "2", "1", "2", "not labelled"]]
    made: Any = SimpleNamespace(members=[SimpleNamespace(classes=["a", "b", "c"])],
                                held_out=[SimpleNamespace(images=SimpleNamespace(rows=[0] * 1216))])  # fmt: skip
    masks = [["masks of"], ["wsss/a", "1,216", "18.00", "77.00"]]
    assert data_facts(made, training, masks) == {
        "Data": "4 training images of 3 classes in dim, rock; 1,216 held out",
        "Masks": "of wsss/a: 18.00 % foreground, IoU 77.00 % with the true ones",
    }
    assert data_facts(made, None, []) == {}
    (tmp_path / "wsss/a").mkdir(parents=True)
    (tmp_path / "wsss/a/masks.json").write_text(json.dumps({"images": 1216, "foreground_share": 0.18, "iou": 0.77}))
    assert masks_table([tmp_path, tmp_path / "wsss/a"])[1:] == [["wsss/a", "1,216", "18.00", "77.00"]]
    assert masks_table([tmp_path]) == []
