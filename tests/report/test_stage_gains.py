from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as reference

from src.prediction.members import Member
from src.report import stages
from src.report.evidence import gains_table, shown_of, vote_steps
from src.report.stages import Contender, Group, changes, gain_of, interval, short_titles, steps_of, words_of


def member(stage: str, name: str, seed: int = 0, **config: Any) -> Member:
    settings = {"seed": seed, "module": {"backbone": {}}, **config}
    return Member(Path(f"logs/track1/{stage}/{name}"), stage, name, settings, ["a", "b"], {}, f"{stage}/{name}")


def group(stage: str, start: str, mixing: str, before: int | None, name: str = "", masks: str = "none") -> Group:
    facts = {"stage": stage, "model": "resnet", "start": start, "mixing": mixing, "masks": masks}
    return Group(name or stage, [member(stage, name or stage)], facts, before)


def test_titles_are_short_and_differ() -> None:
    runs = [
        member("baseline", "resnet-none-holdout-seed0"), member("adapt", "resnet-decoupled-r0.2-holdout-seed0"),
        member("adapt", "resnet-decoupled-r0.5-holdout-seed0"), member("fdg", "resnet-decoupled-holdout-seed0"),
    ]  # fmt: skip
    assert short_titles(runs) == ["baseline: none", "adapt: decoupled r0.2", "adapt: decoupled r0.5", "fdg: decoupled"]
    assert short_titles(runs[:1]) == ["baseline"]
    long = [member("fdg", f"{'x' * 60}{end}-{end}-seed0") for end in ("1234abcd", "5678abcd")]
    titles = short_titles(long)
    assert len(set(titles)) == 2 and max(map(len, titles)) == len("fdg: ") + stages.LONGEST


def test_seeds_of_one_recipe_are_one_group() -> None:
    runs = [member("baseline", f"resnet-{mix}-holdout-seed{s}", s) for mix in ("none", "mixup") for s in (1, 0)]
    made = stages.groups_of(runs, Path("logs"))
    assert [one.title for one in made] == ["baseline: none", "baseline: mixup"]
    assert [stages.seed_of(one) for one in made[0].members] == [0, 1]


def test_what_is_compared() -> None:
    groups = [
        group("baseline", "scratch", "none", None), group("finetune", "moco", "decoupled", None),
        group("finetune", "scratch", "decoupled", None, "finetune: scratch"), group("fdg", "finetune", "foreground", 1),
    ]  # fmt: skip
    made = {(step.after, step.before): step for step in steps_of(groups)}
    assert set(made) == {(1, 0), (2, 0), (2, 1), (3, 1), (3, 0)}
    assert made[2, 1].change == "start scratch (was moco)"  # what moco adds, alone
    assert made[1, 0].change == "start moco (was scratch); mixing decoupled (was none)"
    assert made[2, 0].change == "mixing decoupled (was none)"
    assert not made[3, 0].drawn and made[3, 1].drawn and made[1, 0].drawn


def test_a_setting_is_a_difference_within_a_stage() -> None:
    plain, mixup, long, wide = (
        group("baseline", "scratch", mixing, None)._replace(settings={"trainer.max_epochs": epochs, **more})
        for mixing, epochs, more in (
            ("none", 40, {"mixing.alpha": 1}), ("mixup", 40, {"mixing.alpha": 2}), ("none", 108, {}),
            ("none", 40, {"mixing.alpha": 1, "module.lr": 1, "module.optimizer.lr": 1}),
        )
    )  # fmt: skip
    assert changes(plain, mixup) == ["mixing mixup (was none)"]  # alpha is part of it
    assert changes(plain, long) == ["alpha None (was 1)", "max_epochs 108 (was 40)"]
    assert changes(plain, wide) == ["lr 1 (was None)"]
    compared = {(step.after, step.before) for step in steps_of([plain, mixup, long, wide])}
    assert (2, 1) not in compared  # longer training and another mixing at once
    ratios = [group("adapt", "fdg", "decoupled", None, f"r{r}")._replace(settings={"mixing.ratio": r}) for r in (1, 2)]
    assert steps_of(ratios) == []  # or ten of them would be 45 rows
    assert {(1, 0), (2, 0), (3, 0)} <= compared  # with plain training, and with what differs in one thing
    assert steps_of([plain, wide])[0].change == "lr 1 (was None)"
    assert words_of([str(i) for i in range(7)]) == "0; 1; 2; 3; 4; 2 more"


def test_networks_that_are_looked_into() -> None:
    plain, other = group("baseline", "scratch", "none", None), group("baseline", "scratch", "mixup", None, "mixup")
    tuned = group("finetune", "moco", "decoupled", None)
    adapted = [group("adapt", "finetune", "decoupled", 2, f"r{r}") for r in (2, 5)]
    everyone = [other, plain, tuned, *adapted]
    assert shown_of(everyone, adapted[1].members) == [plain, other, tuned, adapted[1]]
    assert shown_of(everyone, plain.members) == [plain, other, tuned, adapted[0]]
    assert shown_of([tuned], tuned.members) == [tuned]


def test_the_interval_is_that_of_a_binomial() -> None:
    values = np.repeat([1.0, 0.0], [300, 100])
    low, high = interval(values, 0)
    expected = reference.binom(400, 0.75).ppf([0.025, 0.975]) / 400
    assert [low, high] == pytest.approx(expected, abs=0.008)


def test_a_gain_by_hand() -> None:
    later = Contender("later", (0,), {"test": np.array([[1.0, 1, 1, 0, 1, 0]])})
    earlier = Contender("earlier", (0,), {"test": np.array([[1.0, 0, 0, 1, 1, 0]])})
    gain = gain_of(later, earlier, "test", 0)
    assert gain.mean == pytest.approx(1 / 6) and (gain.won, gain.lost) == (2, 1)
    assert gain.low < 1 / 6 < gain.high and (gain.seeds, gain.error) == (1, None)
    same = gain_of(later, later, "test", 0)
    assert same[:5] == (0, 0, 0, 0, 0)


def test_a_gain_over_seeds_pairs_them() -> None:
    ours = Contender("ours", (0, 1, 2), {"test": np.array([[1.0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])})
    theirs = Contender("theirs", (1, 2, 5), {"test": np.array([[1.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])})
    gain = gain_of(ours, theirs, "test", 0)
    # Seeds 1 and 2 are common: 2/4 - 1/4 and 1/4 - 0.
    assert gain.mean == pytest.approx(0.25) and gain.seeds == 2 and gain.error == pytest.approx(0)
    uneven = Contender("uneven", (1, 2), {"test": np.array([[0.0, 0, 0, 0], [0, 0, 0, 0]])})
    apart = gain_of(ours, uneven, "test", 0)
    low, high = reference.t.interval(0.95, 1, loc=0.375, scale=reference.sem([0.5, 0.25]))
    assert apart.error is not None and [apart.mean - apart.error, apart.mean + apart.error] == pytest.approx(
        [low, high]
    )
    without = Contender("vote", (), {"test": np.array([[1.0, 1, 1, 1]])})
    assert gain_of(without, ours, "test", 0).mean == pytest.approx(1 - 6 / 12)


def test_the_vote_against_its_members() -> None:
    hits = {"test": np.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 0]]), "in_domain": np.array([[1.0, 0], [0, 0], [1, 1]])}
    right = {"test": np.array([1.0, 1, 1]), "in_domain": np.array([1.0, 1])}
    made, steps = vote_steps([0, 1], hits, right, first=5, plain=2)
    mean, best, vote = made
    assert mean.hits["test"].tolist() == [[1.0, 0.5, 0.0]]
    assert best.hits["test"].tolist() == [[1.0, 0, 0]]  # the best in-domain of the two that vote
    assert vote.hits["test"].tolist() == [[1.0, 1, 1]]
    assert [(step.after, step.before) for step in steps] == [(7, 5), (7, 6), (7, 2)]
    table = gains_table([("vote", "mean", "they vote")], [{"test": gain_of(vote, mean, "test", 0)}], {"test": "test"})
    assert table[1][:2] == ["vote", "mean"] and table[1][2].startswith("+50.0 (") and table[1][-1] == "they vote"
    assert "over seeds" not in " ".join(table[0])
