"""The field's table: which epoch counts by which rule, and what average, worst and error are of."""

import shutil
from pathlib import Path

import pytest
import yaml

from src.report.comparison.__main__ import compared
from src.report.comparison.left_out import RULES, Epoch, LeftOutRun, compare, read_left_out
from src.report.comparison.settings import flat
from src.report.tables import as_latex
from tests.conftest import TINY, command

CURVE = [Epoch(0.5, 0.2), Epoch(0.9, 0.3), Epoch(0.9, 0.6), Epoch(0.7, 0.4)]


def test_each_rule_takes_its_epoch() -> None:
    assert RULES["training-domain validation"](CURVE) == CURVE[1]  # the first of the best
    assert RULES["last epoch"](CURVE) == CURVE[3]
    assert RULES["oracle"](CURVE) == CURVE[2]


def run(context: str, seed: int, out: float, mixing: str = "none", tag: str = "") -> LeftOutRun:
    return LeftOutRun(("baseline", "net", mixing, tag), context, seed, [Epoch(0.8 + seed / 10, out)])


def test_average_and_worst_are_of_a_seeds_contexts_and_the_error_is_over_seeds() -> None:
    runs = [run("rock", 0, 0.6), run("sea", 0, 0.4), run("rock", 1, 0.8), run("sea", 1, 0.4)]
    made = compare(runs)
    assert made.notes == [] and set(made.tables) == set(RULES)
    head, row = made.tables["last epoch"]
    assert head == ["stage", "model", "mixing", "seeds", "rock", "sea", "average", "worst", "in-domain"]
    # sample standard deviations of (.6, .8), (.5, .6) and (.8, .9), over the root of two
    assert row == [
        "baseline",
        "net",
        "none",
        "0 1",
        "70.0 ± 10.0",
        "40.0 ± 0.0",
        "55.0 ± 5.0",
        "40.0 ± 0.0",
        "85.0 ± 5.0",
    ]


def test_one_seed_has_no_error_and_a_missing_context_is_said() -> None:
    made = compare([run("rock", 0, 0.6), run("sea", 0, 0.4), run("rock", 1, 0.8), run("sea", 3, 0.5, "mixup")])
    table = made.tables["oracle"]
    assert table[1][3:] == ["0 1", "70.0 ± 10.0", "40.0", "50.0", "40.0", "80.0"]
    assert table[2][2:] == ["mixup", "3", "-", "50.0", "-", "-", "-"]
    assert made.notes == [
        "baseline net none: seed 1 has no finished run without sea, and no average",
        "baseline net mixup: seed 3 has no finished run without rock, and no average",
    ]


def test_a_context_that_no_run_leaves_out_is_said() -> None:
    known = [one._replace(known=("rock", "sea", "ice")) for one in (run("rock", 0, 0.6), run("sea", 0, 0.4))]
    assert compare(known).notes == ["no finished run leaves out ice: average and worst are without"]


def test_a_tag_is_a_method_of_its_own() -> None:
    table = compare([run("rock", 0, 0.6, tag="lr0.1"), run("rock", 0, 0.7, tag="lr0.3")]).tables["last epoch"]
    assert [row[3] for row in table] == ["tag", "lr0.1", "lr0.3"]
    assert [row[5] for row in table[1:]] == ["60.0", "70.0"]


def test_what_every_run_has_of_its_own_is_not_compared() -> None:
    settings = {
        "seed": 1, "run_dir": "logs/x", "module": {"lr": 0.1, "seed": 1}, "callbacks": {"best": {"dirpath": "a/b"}},
        "split": {"contexts": ["sea"]}, "datamodule": {"num_workers": 3, "size": 32},
    }  # fmt: skip
    assert flat(settings) == {"module.lr": 0.1, "datamodule.size": 32}


def test_two_runs_of_one_seed_and_context_are_named() -> None:
    made = compare([run("rock", 0, 0.6), run("rock", 0, 0.8)])
    assert made.tables["oracle"][1][4] == "80.0"
    assert made.notes == ["baseline net none: seed 0 has several runs without rock, and the last by name counts"]


def test_settings_that_follow_from_the_data_make_no_method_and_a_context_may_be_a_number(tmp_path: Path) -> None:
    for i, (context, changes) in enumerate(((2016, None), (True, None), (["2016"], "fraction0.5"))):
        folder = tmp_path / f"baseline/{i}"
        folder.mkdir(parents=True)
        config = {
            "seed": 0,
            "split": {"contexts": context},
            "module": {},
            "tag": None,
            "changes": changes,
            "trainer": {"max_epochs": 10 + i},  # as scale=small has them, by the number of images
            "model": {"model_name": "net"},
            "dataset": {"contexts": ["2016", "true"]},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "finished.json").write_text('{"weights_sha256": "a", "metrics": {}}')
        (folder / "metrics.csv").write_text("epoch,val/in_domain/accuracy,val/out_of_domain/accuracy\n0,0.5,0.25\n")
    runs = read_left_out(tmp_path)
    assert [run.context for run in runs] == ["2016", "true", "2016"]
    assert [row[3] for row in compare(runs).tables["oracle"]] == ["tag", "", "fraction0.5"]
    assert compare(runs[:2]).notes == []
    (folder / "metrics.csv").write_text("epoch,val/in_domain/accuracy,val/out_of_domain/accuracy\n0,much,0.25\n")
    assert len(read_left_out(tmp_path)) == 2


def test_the_exact_table_has_a_column_for_each_number() -> None:
    rows = compare([run("rock", 0, 0.6), run("rock", 1, 0.8), run("sea", 1, 0.8)]).program
    assert rows[0][:8] == ["selection", "stage", "model", "mixing", "seeds", "rock", "rock standard error", "sea"]
    assert len(rows) == 1 + len(RULES) and {len(row) for row in rows} == {len(rows[0])}
    assert rows[1][5:11] == ["70.0", "10.0", "80.0", "", "80.0", ""]


def test_latex_escapes_names_and_aligns_numbers() -> None:
    text = as_latex([["a_b", "n"], ["50% & {x}", "1.0 ± 0.1"], ["~", "-"]])
    assert r"\begin{tabular}{lr}" in text and r"a\_b & n \\" in text
    assert r"50\% \& \{x\} & 1.0 $\pm$ 0.1 \\" in text and r"\textasciitilde{} & - \\" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no data set is named"),
        (["track=1", "format=pdf"], "format=pdf is not a setting"),
        (["track=1", "logs=x"], "'logs' is not a setting"),
        (
            ["track=1", "logs_dir=/nowhere"],
            "no finished run in /nowhere/track1 left one .* train.py -m",
        ),
    ],
)
def test_words_that_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compared(words)


@pytest.mark.slow
def test_each_context_in_a_sweep_and_its_table(data: Path, tmp_path: Path, places: list[str]) -> None:
    root = tmp_path / "birds"
    for context in ("rock", "autumn"):
        shutil.copytree(data / "data/public_dg_0416/train" / context, root / context)
    words = [f"data={root}", *places[1:], "stage=baseline", *TINY, "trainer.max_epochs=1"]
    refused = command("train.py", *words, "split=each_context")
    assert refused.returncode == 1 and f"train.py -m data={root} manifest_dir=" in refused.stderr
    assert command("train.py", "-m", *words, "split=each_context", "seed=0,1").returncode == 0
    names = sorted(path.name for path in (tmp_path / "logs/birds/baseline").iterdir())
    assert names == [f"resnet10t-mixup-leave_context_out-{context}-seed{seed}" for context in ("autumn", "rock")
                     for seed in (0, 1)]  # fmt: skip
    text = compared([f"data={root}", f"logs_dir={tmp_path / 'logs'}"])
    assert text.count("resnet10t") == 3 and "0 1" in text and "±" in text
    out = tmp_path / "table.tex"
    assert (
        compared([f"data={root}", f"logs_dir={tmp_path / 'logs'}", "format=latex", f"output={out}"]) == f"wrote {out}"
    )
    assert out.read_text().count(r"\toprule") == 3
