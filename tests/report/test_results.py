import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from src.data.manifest import Row
from src.files import write_json
from src.prediction.image_sets import ImageSet, Truth
from src.prediction.voting import elect
from src.report.comparison import RunRow, read_runs, runs_table
from src.report.evaluation import EvaluatedSet, diversity, evaluate, temperature_of
from src.report.results import write_labels
from src.report.tables import as_csv, as_markdown
from tests.conftest import sign


def evaluated(votes: list[list[int]], label: list[int], contexts: list[str], sure: float = 0.8) -> EvaluatedSet:
    """Members that give their label the probability `sure`, and the other classes of three the rest."""
    probabilities = np.full((len(votes), len(label), 3), (1 - sure) / 2, np.float32)
    for member, own in zip(probabilities, votes, strict=True):
        member[np.arange(len(label)), own] = sure
    rows = [Row(f"{i}.jpg") for i in range(len(label))]
    images = ImageSet("test", Path("."), rows, Truth(np.array(label), contexts))
    return EvaluatedSet(images, probabilities, elect(probabilities, "majority", range(len(votes))))


def test_figures_by_hand() -> None:
    # The vote is 0 1 2 0: right, right, right, wrong.
    made = evaluated([[0, 1, 2, 0], [0, 1, 1, 0], [1, 1, 2, 2]], [0, 1, 2, 2], ["dim", "dim", "water", "water"])
    figures = evaluate(made, ["bus", "car", "dog"], None, seed=0)
    assert figures["accuracy"] == 0.75 and figures["accuracy/dim"] == 1 and figures["worst_context"] == 0.5
    assert figures["macro_accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert figures["worst_group"] == {"class": "dog", "context": "water", "images": 2, "accuracy": 0.5}
    assert figures["by_class"] == {"bus": 1, "car": 1, "dog": 0.5} and figures["accuracy_top5"] == 1
    assert figures["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    # Mean probability of the label: (.8 .8 .1)/3, .8, (.8 .1 .8)/3, (.1 .1 .8)/3; of the elected: the last is 1.7/3.
    own = np.array([1.7 / 3, 0.8, 1.7 / 3, 1.0 / 3])
    assert figures["nll"] == pytest.approx(-np.log(own).mean(), abs=1e-6)
    assert figures["ece"] == pytest.approx((3 * abs(2 / 3 - 1.7 / 3) + abs(1 - 0.8)) / 4, abs=1e-6)
    # Confidence 1.7/3, .8, 1.7/3, 1.7/3; the wrong one is below one right one and level with two. The risk of the
    # surest, of two, three and four: 0, then a third of each image that is level.
    assert figures["auroc"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert figures["aurc"] == pytest.approx((0 + 1 / 3 / 2 + 2 / 3 / 3 + 1 / 4) / 4)
    low, high = figures["accuracy_interval"]
    assert 0 <= low < 0.75 < high <= 1 and "ece_tempered" not in figures
    json.dumps(figures)


def test_the_temperature_makes_the_held_out_likelihood_better() -> None:
    made = evaluated([[0, 1, 2, 0] * 10], [0, 1, 2, 2] * 10, [""] * 40, sure=0.99)
    temperature = temperature_of(made)
    assert temperature is not None and temperature > 1  # too sure: three of four right
    figures = evaluate(made, ["bus", "car", "dog"], temperature, seed=0)
    assert figures["nll_tempered"] < figures["nll"] and figures["ece_tempered"] == pytest.approx(0, abs=1e-3)
    assert "worst_group" not in figures and temperature_of(None) is None


def test_diversity_by_hand() -> None:
    made = evaluated([[0, 1, 2, 0], [0, 1, 1, 0], [1, 1, 2, 2]], [0, 1, 2, 2], [""] * 4)
    figures = diversity(made)
    # Pairs differ in 1, 2 and 3 of 4 images; all agree on one; hits 3, 2, 3 of 4; every image has a right member.
    assert figures["disagreement"] == pytest.approx(6 / 12) and figures["unanimous"] == 0.25
    assert figures["mean_member"] == pytest.approx(8 / 12) and figures["any_member"] == 1
    assert "disagreement" not in diversity(evaluated([[0]], [0], [""]))


ROWS = [
    RunRow("adapt", "resnet34", "decoupled", "0.3", "holdout", "", seed, {"val/in_domain/accuracy": value})
    for seed, value in ((0, 0.5), (1, 0.6), (2, 0.7))
] + [RunRow("baseline", "resnet34", "mixup", "", "none", "x|y", 0, {}),
     RunRow("baseline", "resnet34", "mixup", "", "holdout", "", 7, {"val/in_domain/accuracy": 0.25})]  # fmt: skip


def test_runs_beside_each_other_by_hand() -> None:
    head, adapt, none, single = runs_table(ROWS)
    assert head == ["stage", "model", "mixing", "ratio", "split", "tag", "seeds", "in domain accuracy"]
    assert adapt == ["adapt", "resnet34", "decoupled", "0.3", "holdout", "", "0 1 2", "60.0 ± 5.8"]  # .1 / sqrt 3
    assert none[-1] == "-" and single[-2:] == ["7", "25.0"]
    markdown = as_markdown(runs_table(ROWS)).splitlines()
    assert markdown[1] == "|" + "---|" * 8 and "x\\|y" in markdown[3]
    table = list(csv.DictReader(io.StringIO(as_csv(runs_table(ROWS, exact=True)))))
    assert float(table[0]["val/in_domain/accuracy"]) == pytest.approx(0.6)
    assert float(table[0]["val/in_domain/accuracy standard error"]) == pytest.approx(0.1 / 3**0.5, abs=1e-6)
    assert table[2]["val/in_domain/accuracy standard error"] == table[1]["val/in_domain/accuracy"] == ""


def test_finished_runs_are_read(two_members: list[Path], tmp_path: Path) -> None:
    rows = read_runs(tmp_path / "logs/track1")
    assert [row[:6] for row in rows] == [("baseline", "resnet10t", "mixup", "", "holdout", "")] * 2
    assert [row.seed for row in rows] == [0, 1] and "val/in_domain/accuracy" in rows[0].figures
    # Two files of one class are two strategies.
    text = (two_members[1] / "config.yaml").read_text()
    (two_members[1] / "config.yaml").write_text(text.replace("mixing_name: mixup", "mixing_name: mine"))
    sign(two_members[1])
    assert [row.mixing for row in read_runs(tmp_path / "logs/track1")] == ["mixup", "mine"]
    # So are two recipes.
    text = (two_members[0] / "config.yaml").read_text()
    settings = yaml.safe_load(text) | {"recipe": {"name": "erm", "stages": ["baseline"]}}
    (two_members[0] / "config.yaml").write_text(yaml.safe_dump(settings))
    sign(two_members[0])
    assert [row.mixing for row in read_runs(tmp_path / "logs/track1")] == ["mixup (erm)", "mine"]
    # So are two rates, which stand in the name.
    (two_members[0] / "config.yaml").write_text(text)
    (two_members[1] / "config.yaml").write_text(yaml.safe_dump(yaml.safe_load(text) | {"seed": 0, "changes": "lr0.03"}))
    sign(two_members[0]), sign(two_members[1])
    assert [row[5:7] for row in runs_table(read_runs(tmp_path / "logs/track1"))[1:]] == [["", "0"], ["lr0.03", "0"]]
    (two_members[0] / "finished.json").unlink()
    assert len(read_runs(tmp_path / "logs/track1")) == 1


def test_what_a_prediction_writes(two_members: list[Path], predict: Callable[..., Path], data: Path) -> None:
    results = predict(f"truth={data / 'truth/track1_test_truth.json'}", "tta=flip")
    facts = json.loads((results / "ensemble.json").read_text())
    assert (
        facts["vote"] == "adaptive"
        and facts["stages"] == ["baseline"]
        and facts["tta"] == {"_target_": "src.prediction.tta.Flip"}
    )
    assert [m["run"] for m in facts["members"]] == [str(run) for run in two_members]
    done = [json.loads((run / "finished.json").read_text()) for run in two_members]
    assert [m["weights_sha256"] for m in facts["members"]] == [d["weights_sha256"] for d in done]
    assert len(facts["images"]["digest"]) == 64 and facts["temperature"] > 0 and facts["command"].startswith("python ")
    figures = json.loads((results / "figures.json").read_text())
    assert set(figures) == {"test", "in_domain"} and {"nll_tempered", "worst_group"} <= figures["test"].keys()
    assert figures["in_domain"]["images"] == len(json.loads((two_members[0] / "split.json").read_text())["in_domain"])
    predict("vote=soft")  # what an earlier call knew does not stay beside a new vote
    assert json.loads((results / "ensemble.json").read_text())["vote"] == "soft"
    assert json.loads((results / "figures.json").read_text()) == {}
    held = figures["in_domain"]
    assert {f"accuracy/{name}" for name in ("autumn", "dim", "grass", "rock")} <= held.keys()


def test_members_that_hold_out_different_images(
    two_members: list[Path], predict: Callable[..., Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = json.loads((two_members[1] / "split.json").read_text())
    (two_members[1] / "split.json").write_text(json.dumps({**split, "in_domain": split["in_domain"][1:]}))
    sign(two_members[1])
    results = predict(f"truth={data / 'truth/track1_test_truth.json'}")
    assert "No figures on held-out images, and no temperature: the members" in capsys.readouterr().out
    assert set(json.loads((results / "figures.json").read_text())) == {"test"}


def test_each_vote_is_kept_and_no_report_stays_beside_another_vote(
    two_members: list[Path], predict: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    report = ("report.html", "runs.csv", "runs.md")

    def there(folder: Path) -> list[bool]:
        return [(folder / name).exists() for name in report]

    results = predict("report=true")
    adaptive, soft = results / "votes/baselines", results / "votes/baselines-vote-soft"
    assert f"this vote is kept in {adaptive}" in capsys.readouterr().out
    for name in ("prediction.json", "ensemble.json", "figures.json", *report):
        assert (results / name).read_bytes() == (adaptive / name).read_bytes()
    kept = {path.name: path.read_bytes() for path in adaptive.iterdir()}
    predict("vote=soft")  # another vote, without a report
    words = f"report.html and runs.csv and runs.md of the previous vote are now in {adaptive}"
    assert words in capsys.readouterr().out and there(results) == there(soft) == [False] * 3
    assert {path.name: path.read_bytes() for path in adaptive.iterdir()} == kept
    assert json.loads((results / "ensemble.json").read_text())["vote"] == "soft"
    assert (results / "prediction.json").read_bytes() == (soft / "prediction.json").read_bytes()
    predict()  # the first one again: its older report is of another day
    assert there(results) == there(adaptive) == [False] * 3
    assert f"removed report.html and runs.csv and runs.md of an older vote from {adaptive}" in capsys.readouterr().out


def test_a_report_of_an_older_version_is_moved(two_members: list[Path], predict: Callable[..., Path]) -> None:
    results = predict()
    facts = json.loads((results / "ensemble.json").read_text())
    del facts["name"]
    (results / "ensemble.json").write_text(json.dumps(facts))
    (results / "report.html").write_text("old")
    predict()
    assert (results / "votes/before/report.html").read_text() == "old" and not (results / "report.html").exists()


def test_labels_are_written_as_json_writes_them(tmp_path: Path) -> None:
    names, labels = ["a.jpg", 'b/\u00e9 "q".jpg', "c\\d.jpg"], np.array([2, 0, 11])
    write_labels(tmp_path / "made.json", names, labels)
    write_json(tmp_path / "slow.json", dict(zip(names, labels.tolist(), strict=True)))
    assert (tmp_path / "made.json").read_bytes() == (tmp_path / "slow.json").read_bytes()
