import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from src.runs.summary import summary


def test_a_validations_figures_are_those_of_its_epoch_and_the_last_epoch_has_some(
    train_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    name = "val/in_domain/accuracy"
    words = ["trainer.max_epochs=5", "trainer.check_val_every_n_epoch=2"]
    run = train_run("track=1", "stage=baseline", *words)
    rows = list(csv.DictReader(open(run / "metrics.csv")))
    assert [bool(row[name]) for row in rows] == [False, True, False, True, True]
    assert all(row["train/loss"] for row in rows)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [name in line for line in lines] == [False, True, False, True, True]
    assert json.loads((run / "finished.json").read_text())["metrics"][name] == float(rows[-1][name])
    assert f"{100 * float(rows[-1][name]):.1f}%" in summary(run)
    whole = train_run("track=1", "stage=baseline", "trainer.max_epochs=5", "tag=whole")
    own = list(csv.DictReader(open(whole / "metrics.csv")))
    assert [row[name] for row in rows if row[name]] == [own[i][name] for i in (1, 3, 4)]
