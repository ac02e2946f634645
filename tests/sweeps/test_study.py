"""A study of Optuna, without any training: what its trials try, and how it goes on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from src.cli import around
from src.overrides import parsed
from src.sweeps.study import HOPELESS, Study, distribution_of, written
from tests.conftest import ROOT

LR, DECAY = "module.optimizer.lr", "module.optimizer.weight_decay"
RANGE = f"{LR}=tag(log,interval(0.001,1))"


def study(folder: Path, *words: str, trials: int = 6, **changes: object) -> Study:
    """A study of the baseline, opened, whose file lies in a folder."""
    made = unopened(folder, *words, f"hparams.trials={trials}", **changes)
    made.open()
    return made


def unopened(folder: Path, *words: str, **changes: object) -> Study:
    own = [f"{key}={value}" for key, value in {"stage": "baseline", "logs_dir": folder, **changes}.items()]
    ranges = [word for word in words if word.startswith("module.")]
    others = [word for word in words if word not in ranges]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config: DictConfig = compose("train", ["hparams=optuna", *own, *others], return_hydra_config=True)
    return Study(config, parsed(ranges))


def values(words: list[str]) -> dict[str, float]:
    """The numbers that a trial's words set."""
    own = [word.split("=") for word in words if word.startswith("module.")]
    return {key: float(value) for key, value in own}


def accuracy(words: list[str]) -> float:
    """Best at a rate of 0.1."""
    return 1 - math.log10(values(words)[LR] / 0.1) ** 2


def run(made: Study, stop_after: int = 1000) -> None:
    """Run trials to the end, or until a kill in the midst of one."""
    for _, batch in made.batches():
        for words in batch:
            if stop_after == 0:
                return
            stop_after -= 1
            made.tell(accuracy(words))


@pytest.mark.parametrize(
    ("word", "distribution"),
    [
        (f"{LR}=interval(0.1,1)", FloatDistribution(0.1, 1.0)),
        (RANGE, FloatDistribution(0.001, 1.0, log=True)),
        (f"{LR}=interval(1,9)", FloatDistribution(1.0, 9.0)),
        (f"{LR}=int(interval(1,9))", IntDistribution(1, 9)),
        (f"{LR}=range(1,9)", IntDistribution(1, 8)),
        (f"{LR}=range(1,9,3)", IntDistribution(1, 7, step=3)),
        (f"{LR}=0.1,0.2", CategoricalDistribution(["0.1", "0.2"])),
        ("mixing=choice(cutmix,mixup)", CategoricalDistribution(["cutmix", "mixup"])),
    ],
)
def test_a_range_is_what_optuna_draws_from(word: str, distribution: object) -> None:
    assert distribution_of(parsed([word])[0]) == distribution


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the range module.optimizer.lr=tag\(log,interval\(0,1.5\)\) cannot be"):
        distribution_of(parsed([f"{LR}=tag(log,interval(0,1.5))"])[0])


def test_a_number_has_few_digits_and_stays_in_its_range() -> None:
    space = FloatDistribution(0.00123456, 0.98765)
    for value in (0.00123456, 0.0123456, 0.5, 0.98765):
        word = written(value, space)
        assert space.low <= float(word) <= space.high and abs(float(word) / value - 1) < 0.005
        assert value in (space.low, space.high) or len(word) <= len("0.0123")
        assert parsed([f"{LR}={word}"])[0].value() == float(word)
    assert written(7, IntDistribution(1, 9)) == "7"
    assert written(0.1 + 0.2, FloatDistribution(0.1, 0.5, step=0.1)) == "0.3"


def test_the_default_space_lies_around_the_stages_values(tmp_path: Path) -> None:
    assert around(0.1, 10) == "tag(log,interval(0.01,1.0))"
    space = unopened(tmp_path, stage="adapt").space
    assert space[LR] == FloatDistribution(1e-5, 1e-3, log=True)
    assert space[DECAY] == FloatDistribution(5e-5, 5e-3, log=True)
    assert list(unopened(tmp_path, f"{DECAY}=0").space) == [LR]  # what the command line fixes is not searched
    assert list(unopened(tmp_path, RANGE).space) == [LR]  # its own ranges are all
    with pytest.raises(ValueError, match="hparams.space does not fit this stage .*name ranges of your own"):
        unopened(tmp_path, stage="wsss")


@pytest.mark.parametrize("killed_after", [0, 1, 4])
def test_a_study_that_was_killed_ends_as_one_that_was_not(tmp_path: Path, killed_after: int) -> None:
    whole = study(tmp_path / "whole", RANGE, "hparams.sampler.n_startup_trials=2")
    run(whole)
    run(study(tmp_path / "cut", RANGE, "hparams.sampler.n_startup_trials=2"), killed_after)
    again = study(tmp_path / "cut", RANGE, "hparams.sampler.n_startup_trials=2")
    assert f"{killed_after} of 6 trials are finished, 1 of them begun" in again.greeting()
    run(again)
    assert again.trials() == whole.trials() and len(whole.trials()) == 6
    assert len({tuple(words) for _, words, _ in whole.trials()}) == 6  # no two alike
    run(study(tmp_path / "cut", RANGE))
    assert len(again.trials()) == 6  # there is nothing left to do


def test_the_best_trial_is_named_as_a_command_would(tmp_path: Path) -> None:
    made = study(tmp_path, RANGE, trials=3)
    run(made)
    best = max((figure, words) for _, words, figure in made.trials() if figure is not None)
    assert made.verdict() == f"best of 3 trials, with val/in_domain/accuracy {best[0]:.4f}: {best[1][-1]}"


def test_a_failed_trial_does_not_count_and_many_are_hopeless(tmp_path: Path) -> None:
    made = study(tmp_path, RANGE, trials=3)
    figures = [0.5, None, math.nan, 0.6]
    for _, batch in made.batches():
        for _ in batch:
            made.tell(figures.pop(0))
    assert not figures or made.failed == 2
    assert made.finished() + made.failed == 3
    again = study(tmp_path, RANGE, trials=3)  # makes up for them
    run(again)
    assert again.finished() == 3 and len(again.trials()) == 5
    hopeless = study(tmp_path / "other", RANGE, trials=9)
    with pytest.raises(ValueError, match="the first 3 trials failed"):
        for told, (_, batch) in enumerate(hopeless.batches()):
            assert len(batch) == 1 and told < HOPELESS
            hopeless.tell(None)


def test_jobs_at_once_are_drawn_together(tmp_path: Path) -> None:
    made, sizes = study(tmp_path, RANGE, "jobs=4", trials=6), []
    for first, batch in made.batches():
        sizes.append((first, len(batch)))
        for words in batch:
            made.tell(accuracy(words))
    assert sizes == [(0, 4), (4, 2)]


@pytest.mark.parametrize(
    ("words", "changes", "what"),
    [
        ([f"{LR}=interval(0.001,1)"], {}, r"its space: \{.*0.001 to 1.0, log\}; here \{.*0.001 to 1.0\}"),
        ([RANGE, f"{DECAY}=0"], {}, "its settings"),
        ([RANGE], {"objective": "train/loss"}, "its objective: maximize val/in_domain/accuracy; here maximize train"),
    ],
)
def test_a_study_of_another_search_is_refused(
    tmp_path: Path, words: list[str], changes: dict[str, str], what: str
) -> None:
    run(study(tmp_path, RANGE, trials=1))
    with pytest.raises(ValueError, match=f"the study track1-baseline in .*{what}.*: study=<word> starts another one"):
        study(tmp_path, *words, **changes)
    assert study(tmp_path, *words, study="mine", **changes).name == "mine"


def test_other_words_for_the_same_search_go_on_with_it(tmp_path: Path) -> None:
    run(study(tmp_path, RANGE, trials=1))
    words = [f"{LR}=tag(log,interval(1e-3,1.0))", "hparams.sampler.n_startup_trials=3"]
    assert study(tmp_path, *words).finished() == 1


def test_a_file_that_is_no_studys_is_named(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("nothing of the kind" * 100)
    with pytest.raises(ValueError, match=f"{tmp_path}/studies.db is not a file of studies .*: move it away"):
        study(tmp_path, RANGE)


def test_a_study_is_of_one_stage(tmp_path: Path) -> None:
    made = unopened(tmp_path, RANGE)
    config = made.settings._get_root()
    for word in ("track='1','2'", "stage=baseline,moco"):
        with pytest.raises(ValueError, match=f"a study has one {word.partition('=')[0]}"):
            Study(config, parsed([word]))
