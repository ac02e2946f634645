from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from src.prediction.members import Member
from src.prediction.voting import Choice
from src.report.evaluation import Beside, EvaluatedSet, Evaluation, evaluate_all
from src.report.plots import Mark
from src.report.stages import Contender, gain_of
from src.report.summary import duration, marks_of, sentence, spoken_marks, stage_hits
from tests.report.test_results import evaluated

LABEL, WHERE = [0, 1, 2, 2], ["dim", "dim", "water", "water"]


def evaluation_of(
    test: EvaluatedSet, *held_out: EvaluatedSet, name: str = "track1", contexts: tuple[str, ...] = ()
) -> Evaluation:
    nowhere = Path("nowhere")
    settings: Any = SimpleNamespace(
        data_name=name, seed=0, select="all", logs_dir=nowhere, folder=nowhere, tta={}, precision="32-true"
    )
    config = {"dataset": {"contexts": list(contexts)}, "split_name": "holdout", "module": {},
              "datamodule": {"size": 64, "eval_transform": {}}}  # fmt: skip
    members = [
        Member(Path(f"nowhere/{name}/fdg/{i}"), "fdg", str(i), config, ["bus", "car", "dog"], {}, str(i))
        for i in range(len(test.probabilities))
    ]
    sets = [test, *(replace(one, images=one.images._replace(name="in_domain")) for one in held_out)]
    return evaluate_all(settings, members, [], Choice([*range(len(members))], []), sets, "")


def test_the_sentence_by_hand() -> None:
    # The vote is right on three of four, in-domain on all; members 3, 2 and 2; in-domain 4, 3 and 4: the first is best.
    test = evaluated([[0, 1, 2, 0], [0, 1, 1, 0], [1, 1, 2, 0]], LABEL, WHERE)
    held = evaluated([LABEL, [0, 1, 2, 0], LABEL], LABEL, ["rock"] * 4)
    assert sentence(evaluation_of(test, held)) == (
        "75.0 % on unseen contexts, 25.0 points below in-domain; worst: dog in water, 50 %; "
        "the vote is as accurate as the member that is best in-domain."
    )
    worse = evaluated([[0, 1, 2, 2], [0, 1, 1, 0], [1, 1, 2, 0]], LABEL, WHERE)
    assert sentence(evaluation_of(worse)) == (
        "75.0 % on unseen contexts; worst: dog in water, 50 %; "
        "the vote is 25.0 points below its best member, chosen on these images, within noise."
    )
    alone = evaluated([[0, 1, 2, 0]], LABEL, [""] * 4)
    assert sentence(evaluation_of(alone, name="track2")) == "75.0 % on unseen pairs of class and context."
    unknown = replace(test, images=test.images._replace(truth=None))
    assert sentence(evaluation_of(unknown, held)) == (
        "The labels of the 4 test images are not known; 100.0 % on held-out in-domain images; "
        "all members agree on 50.0 % of the test images."
    )


@pytest.mark.parametrize(
    ("contexts", "part", "words"),
    [(("rock",), "", "unseen contexts"), (("rock", "dim"), "", "the test images"), ((), "", "the test images"),
     (("dim",), "in_domain", "held-out images of the training contexts"),
     (("rock",), "out_of_domain", "contexts left out of training")],
)  # fmt: skip
def test_nothing_is_called_unseen_that_is_not(contexts: tuple[str, ...], part: str, words: str) -> None:
    test = evaluated([[0, 1, 2, 0]], LABEL, WHERE)
    test = replace(test, images=test.images._replace(part=part))
    assert sentence(evaluation_of(test, name="photos", contexts=contexts)).startswith(f"75.0 % on {words}")


def test_a_paired_difference_and_its_interval() -> None:
    first, second = np.array([1.0] * 60 + [0.0] * 40), np.array([1.0] * 50 + [0.0] * 50)
    one, other = (Contender("", (0,), {"test": hits[None]}) for hits in (first, second))
    gain = gain_of(one, other, "test", 0)  # ten of a hundred images differ, all one way
    assert gain.mean == pytest.approx(0.1)
    # The number of those ten that are drawn is binomial(100, 0.1): 5 to 16 in 95 %.
    assert gain.low == pytest.approx(0.05, abs=0.011) and gain.high == pytest.approx(0.16, abs=0.011)
    assert gain.words("it") == "10.0 points above it, beyond noise"
    assert gain._replace(mean=-0.003, low=-0.01, high=0.004).words("it") == "0.3 points below it, within noise"


def test_stages_beside_the_vote() -> None:
    test = evaluated([[0, 1, 2, 0], [0, 1, 1, 0]], LABEL, WHERE)
    held = evaluated([LABEL, [0, 1, 2, 0]], LABEL, ["rock"] * 4)
    made = evaluation_of(test, held)
    config = {**made.members[0].config, "mixing_name": "none", "module": {"mixing": {"_target_": "x.None"}}}
    plain = Member(Path("plain"), "baseline", "plain", config, [], {}, "")
    other = Member(
        Path("other"),
        "finetune",
        "other",
        {**config, "mixing_name": "mixup", "module": {"mixing": {"_target_": "x.Mixup"}}},
        [],
        {},
        "",
    )
    votes = {"test": np.array([LABEL, [0, 0, 0, 0]]), "in_domain": np.array([[0, 0, 2, 0], LABEL])}
    stages = stage_hits(made, Beside([other, plain], votes), [member.folder for member in made.members])
    assert list(stages) == ["baseline: plain training", "fdg: plain training", "finetune: mixup", "vote"]
    assert stages["finetune: mixup"]["test"].tolist() == [[1, 1, 1, 1]]
    assert set(stages["baseline: plain training"]) == {"test", "in_domain"}
    assert stages["baseline: plain training"]["test"].tolist() == [[1, 0, 0, 0]]
    assert stages["fdg: plain training"]["test"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    marks = marks_of(stages, made)
    assert list(marks) == ["baseline: plain training", "fdg: plain training (mean of 2)", "finetune: mixup", "vote"]
    mean = marks["fdg: plain training (mean of 2)"]["unseen contexts"]
    assert mean.value == 5 / 8 and 0 <= mean.low < 5 / 8 < mean.high <= 1
    assert marks["vote"]["unseen contexts"] == (0.5, *made.figures["test"]["accuracy_interval"])
    small = plain._replace(config={**config, "model": {"model_name": "small"}})
    titles = list(stage_hits(made, Beside([other, small], votes), []))
    assert titles[0] == "baseline: plain training, small" and "finetune: mixup" not in titles  # no mean over models
    assert spoken_marks({"vote": {"in-domain": Mark(0.5)}}) == "vote: in-domain 50.0 %"


def test_durations() -> None:
    assert [duration(s) for s in (7.6, 560, 11100)] == ["8 s", "9 min 20 s", "3 h 5 min"]
