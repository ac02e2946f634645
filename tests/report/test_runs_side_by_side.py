"""Any runs side by side: figures of the last epoch, means over seeds, the settings that differ, curves."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.report.comparison.__main__ import compared
from src.report.comparison.page import curve_figure
from src.report.comparison.runs import compare, read

Rows = list[tuple[float, float | str]]


def run(logs: Path, name: str, rows: Rows, done: bool = True, **settings: Any) -> None:
    """A run's files: a row (loss, accuracy) for each epoch, four of which were planned."""
    folder = logs / "track1" / name
    folder.mkdir(parents=True)
    config = {"split_name": "holdout", "seed": int(name[-1]), "tag": None, "model": {"model_name": "net"},
              "trainer": {"max_epochs": 4}, "module": {"mixing": {}}, "logs_dir": str(logs)}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config | settings))
    lines = [f"{i},{i},30,{loss},{accuracy}" for i, (loss, accuracy) in enumerate(rows)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,step,seconds,train/loss,val/in_domain/accuracy", *lines]))
    if done:
        (folder / "finished.json").write_text(json.dumps({"weights_sha256": "0", "metrics": {}, "files": {}}))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    rates = {"module": {"lr": 0.1, "optimizer": {"lr": 0.1}, "mixing": {}}}
    run(tmp_path, "baseline/net-seed0", [(2, 0.25), (1.5, 0.5), (1, 0.75), (0.5, 0.625)], **rates)
    run(tmp_path, "baseline/net-seed1", [(2, 0.25), (1, ""), (1, ""), (1, 0.875)], **rates)
    run(tmp_path, "adapt/net-seed0", [(3, "")], done=False, module={"lr": 0.3, "optimizer": {"lr": 0.3}, "mixing": {}},
        mixing={"ratio": 0.2})  # fmt: skip
    return tmp_path


def test_figures_are_of_the_last_epoch_and_means_over_the_seeds(logs: Path) -> None:
    made = compare(*read_as(logs, ["*"]))
    figures, seeds, settings = made.tables.values()
    assert figures == [
        ["", "run", "epochs", "minutes", "in domain accuracy", "train loss"],
        ["1", "adapt/net-seed0", "1 of 4", "0.5", "-", "3.000"],
        ["2", "baseline/net-seed0", "4", "2.0", "62.5", "0.500"],
        ["3", "baseline/net-seed1", "4", "2.0", "87.5", "1.000"],
    ]
    # of (.625, .875) and (.5, 1): sample standard deviations .1768 and .3536, over the root of two
    assert seeds[1:] == [["adapt/net", "0", "-", "3.000"], ["baseline/net", "0 1", "75.0 ± 12.5", "0.750 ± 0.250"]]
    # mixing.ratio, which one run alone has, is no difference, and the two rates are one.
    assert settings == [
        ["setting", "1", "2", "3"], ["seed", "0", "0", "1"], ["stage", "adapt", "baseline", "baseline"],
        ["module.lr", "0.3", "0.1", "0.1"],
    ]  # fmt: skip
    assert made.program[0] == [
        "run", "finished", "epochs", "seconds", "val/in_domain/accuracy", "train/loss", "seed", "stage", "module.lr",
    ]  # fmt: skip
    assert made.program[1] == ["adapt/net-seed0", "false", "1", "30.0", "", "3.000000", "0", "adapt", "0.3"]
    assert set(made.curves["val/in_domain/accuracy"]) == {"baseline/net-seed0", "baseline/net-seed1"}


def read_as(logs: Path, wanted: list[str]) -> tuple[Any, str, list[str]]:
    runs, notes = read(logs / "track1", wanted)
    return runs, "runs", notes


def test_copies_in_the_module_and_long_values_are_shortened(tmp_path: Path) -> None:
    for seed, name in enumerate(("Mixup", "CutMix")):
        mixing = {"_target_": f"src.mixing.{name}", "weights": [seed] * 20}
        run(
            tmp_path,
            f"baseline/net-seed{seed}",
            [(1, 1)],
            module={"mixing": {**mixing, "weights": [seed] * 20}},
            mixing=mixing,
        )
    table = {row[0]: row[1:] for row in list(compare(*read_as(tmp_path, ["*"])).tables.values())[-1]}
    assert table["mixing._target_"] == ["Mixup", "CutMix"] and "module.mixing._target_" not in table
    assert len(table["mixing.weights"][0]) == 32 and table["mixing.weights"][0].endswith("...")


def test_globs_choose_and_damaged_runs_are_named(logs: Path) -> None:
    assert [one.name for one in read(logs / "track1", ["baseline/*", "*-seed9"])[0]] == [
        "baseline/net-seed0", "baseline/net-seed1",
    ]  # fmt: skip
    (logs / "track1/baseline/net-seed1/config.yaml").write_text("nonsense")
    runs, notes = read(logs / "track1", ["net-*"])
    assert len(runs) == 2 and "baseline/net-seed1 cannot be read and is left out" in notes[0]
    with pytest.raises(ValueError, match="baseline/net-seed1 cannot be read"):
        read(logs / "track1", ["*-seed1"])
    with pytest.raises(FileNotFoundError, match=r"no run in .*track1 is named x: runs=<glob>"):
        read(logs / "track1", ["x"])


def test_a_curve_is_drawn_at_the_epochs_that_have_a_value() -> None:
    values = {"a-seed0": [0.25, float("nan"), 0.75], "a-seed1": [0.5, 0.5, 0.5], "b-seed0": [1.0]}
    (axes,) = curve_figure("val/in_domain/accuracy", values).axes
    first, second, other = axes.get_lines()
    assert list(first.get_xdata()) == [1, 3] and list(first.get_ydata()) == [25, 75]  # percent
    assert first.get_color() == second.get_color() != other.get_color()  # seeds of one method
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["a", "b"]
    assert list(curve_figure("train/loss", {"a": [2.5]}).axes[0].get_lines()[0].get_ydata()) == [2.5]


def test_every_format(logs: Path, tmp_path: Path) -> None:
    words = ["track=1", "of=runs", f"logs_dir={logs}"]
    assert "runs of track1: settings that differ" in compared(words)
    assert compared([*words, "format=markdown"]).count("|---|") >= 3
    assert compared([*words, "format=latex"]).count(r"\toprule") == 3
    assert compared([*words, "format=csv"]).splitlines()[0].startswith("run,finished,epochs,seconds,val/in_domain")
    page = tmp_path / "runs.html"
    assert compared([*words, "format=html", f"output={page}"]) == f"wrote {page}"
    text = page.read_text()
    assert "<script" not in text and "http" not in text.replace("http-equiv", "") and str(logs) not in text
    assert text.count("data:image/svg+xml") == 2 and "75.0 ± 12.5" in text
