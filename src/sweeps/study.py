"""A study of Optuna: ranges of settings, trials that are runs, kept in a file so that a killed search goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from src.cli import dash, instantiate
from src.overrides import may_differ, parsed

DIGITS = 3  # of a number from an interval: as many as a run's name can show
HOPELESS = 3  # failures without a success after which the study asks its user


class Study:
    """The trials of a search. Each is a run of train.py, with resume=true: one that was interrupted goes on.

    What the n-th trial tries depends on the seed, n, and the figures known by then: with one job at a time a study that
    was killed and went on has the same trials as one that was not.

    Args:
        config: the command's settings: seed, objective, study, jobs and hparams (conf/hparams/optuna.yaml).
        overrides: the command's overrides, without those of the sweep itself.

    Raises:
        ValueError: the ranges are none that can be searched.
    """

    def __init__(self, config: DictConfig, overrides: list[Override]) -> None:
        self.settings = config.hparams
        self.seed, self.objective, self.jobs = config.seed, config.objective, config.jobs
        stage = config.hydra.runtime.choices.stage
        self.name = dash(config.study or f"{config.track.name}-{stage}").removeprefix("-")
        ranges = [override for override in overrides if override.is_sweep_override()]
        self.fixed = {o.get_key_element(): o.get_value_element_as_str() for o in overrides if o not in ranges}
        for key in ("track", "stage"):
            if any(override.key_or_group == key for override in ranges):
                raise ValueError(f"a study has one {key}: name one, and search the others with separate commands")
        space = ranges or self.default_space()
        self.space = {override.get_key_element(): distribution_of(override) for override in space}
        if not self.space:
            raise ValueError("there is nothing to search: name a range, such as 'module.optimizer.lr=interval(0.01,1)'")
        self.keys = list(self.space)
        self.failed = 0
        self.waiting: list[FrozenTrial | optuna.Trial] = []

    def default_space(self) -> list[Override]:
        """The ranges of hparams.space, except for settings that the command line fixes."""
        words = OmegaConf.to_container(self.settings.space)  # as they stand: resolved below, where they are wanted
        assert isinstance(words, list)
        wanted = [i for i, word in enumerate(words) if word.partition("=")[0] not in self.fixed]
        try:
            return parsed([self.settings.space[i] for i in wanted])
        except Exception as error:  # OmegaConf's and Hydra's have no base in common
            raise ValueError(
                f"hparams.space does not fit this stage ({str(error).splitlines()[0]}): name ranges of your own, "
                "such as 'module.lr=tag(log,interval(1e-4,1e-2))'"
            ) from error

    def open(self) -> None:
        """Make the study, or continue the one of this name.

        Raises:
            ValueError: that one belongs to another search, or the file is not Optuna's.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = Path(self.settings.storage).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {
            "space": {key: described(found) for key, found in self.space.items()},
            "settings": {key: value for key, value in sorted(self.fixed.items()) if not may_differ(key)},
            "objective": f"{self.settings.direction} {self.objective}",
        }
        try:
            self.study = optuna.create_study(
                storage=f"sqlite:///{path}",
                study_name=self.name,
                direction=self.settings.direction,
                load_if_exists=True,
            )
            known = self.study.user_attrs or kind
        except Exception as error:  # SQLAlchemy's, SQLite's and Optuna's, of a file that is damaged
            if isinstance(error, ValueError):
                raise
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} is not a file of studies that can be opened ({reason}): move it away") from error
        for what, own in kind.items():
            if known.get(what) != own:
                raise ValueError(
                    f"the study {self.name} in {path} belongs to another search (its {what}: "
                    f"{brief(known.get(what))}; here {brief(own)}): study=<word> starts another one"
                )
            self.study.set_user_attr(what, own)
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):
            if trial.params.keys() == self.space.keys():
                self.waiting.append(trial)  # of an earlier start that was killed
            else:  # while it was drawn
                self.study.tell(trial.number, state=TrialState.FAIL)

    def greeting(self) -> str:
        """The first line."""
        ranges = "; ".join(f"{key} {described(found)}" for key, found in self.space.items())
        begun = f", {len(self.waiting)} of them begun" if self.waiting else ""
        return f"study {self.name}: {self.finished()} of {self.settings.trials} trials are finished{begun} ({ranges})"

    def finished(self) -> int:
        """The number of trials with a figure."""
        return len(self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))

    def batches(self) -> Iterator[tuple[int, list[list[str]]]]:
        """The next trials, as many as run at once: the number of the first, and their words. `tell` answers each."""
        begun, self.waiting = self.waiting, []
        while True:
            left = self.settings.trials - self.finished() - self.failed
            if left < 1:
                return
            batch, begun = begun[: self.jobs], begun[self.jobs :]
            while not begun and len(batch) < min(left, self.jobs):
                batch.append(self.draw())
            self.waiting = batch[:left]
            yield self.waiting[0].number, [self.words(trial.params) for trial in self.waiting]

    def draw(self) -> optuna.Trial:
        """A new trial."""
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = instantiate(self.settings.sampler, seed=(self.seed * 1_000_003 + number) % 2**32)
        return self.study.ask(self.space)

    def words(self, params: dict[str, Any]) -> list[str]:
        """The overrides of a trial's run."""
        own = [f"{key}={written(params[key], self.space[key])}" for key in self.keys]
        fixed = {**self.fixed, "objective": self.objective, "resume": "true"}
        return [*(f"{key}={value}" for key, value in fixed.items()), *own]

    def examples(self) -> list[list[str]]:
        """The words of two trials that nobody draws, from the two ends of each range."""
        ends = {key: ends_of(space) for key, space in self.space.items()}
        both = [self.words({key: pair[i] for key, pair in ends.items()}) for i in range(2)]
        return both if both[0] != both[1] else both[:1]

    def tell(self, figure: float | None) -> None:
        """The figure of the next of the trials that are waited for; None where it failed."""
        trial = self.waiting.pop(0)
        number = trial.number
        if figure is None or not math.isfinite(figure):
            self.failed += 1
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, figure)
        if self.failed >= HOPELESS and not self.finished():
            raise ValueError(
                f"the first {self.failed} trials failed, each for the reason above: the same command tries others"
            )

    def trials(self) -> list[tuple[int, list[str], float | None]]:
        """Number, words and figure of every trial that has ended."""
        ended = self.study.get_trials(states=[TrialState.COMPLETE, TrialState.FAIL])
        whole = [trial for trial in ended if trial.params.keys() == self.space.keys()]
        return [(trial.number, self.words(trial.params), trial.value) for trial in whole]

    def verdict(self) -> str:
        """The last line: the best trial, as words for a command.

        Raises:
            ValueError: every trial failed.
        """
        if not self.finished():
            raise ValueError(
                f"no trial of the study {self.name} has a figure: the jobs' messages above give the reason"
            )
        best = self.study.best_trial
        words = " ".join(self.words(best.params)[-len(self.keys) :])
        return f"best of {self.finished()} trials, with {self.objective} {best.value:.4f}: {words}"


def written(value: Any, space: BaseDistribution) -> str:
    """A drawn value as a word of a command line; one from an interval with few digits, for a run's name."""
    if not isinstance(space, FloatDistribution):
        return str(value)
    if space.step is not None:
        return f"{value:.10g}"
    short = float(f"{value:.{DIGITS}g}")
    return str(short if space.low <= short <= space.high else value)


def distribution_of(override: Override) -> BaseDistribution:
    """What Optuna draws a setting from: a comma list or choice(), range() or interval(), which tag(log,...) may scale.

    Raises:
        ValueError: it is not one that can be searched.
    """
    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            log = "log" in value.tags
            if isinstance(value.start, int) and isinstance(value.end, int):
                return IntDistribution(value.start, value.end, log=log)
            assert value.start is not None and value.end is not None
            return FloatDistribution(float(value.start), float(value.end), log=log)
        if isinstance(value, RangeSweep) and not value.shuffle:
            values = list(value.range())
            if all(isinstance(one, int) for one in values):
                return IntDistribution(values[0], values[-1], step=int(value.step))
            return FloatDistribution(float(values[0]), float(values[-1]), step=float(value.step))
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    except (ValueError, IndexError) as error:
        raise ValueError(f"the range {override.input_line} cannot be searched: {error}") from error


def ends_of(space: BaseDistribution) -> tuple[Any, Any]:
    """The first and the last value of a range."""
    if isinstance(space, CategoricalDistribution):
        return space.choices[0], space.choices[-1]
    assert isinstance(space, FloatDistribution | IntDistribution)
    return space.low, space.high


def described(space: BaseDistribution) -> str:
    """A range, for a person; of two ranges that differ the words differ."""
    if isinstance(space, CategoricalDistribution):
        return f"one of {', '.join(map(str, space.choices))}"
    assert isinstance(space, FloatDistribution | IntDistribution)
    step = f" by {space.step}" if space.step not in (None, 1) else ""
    return f"{space.low} to {space.high}{step}{', log' if space.log else ''}"


def brief(value: Any) -> str:
    """A mapping in a sentence."""
    return json.dumps(value, ensure_ascii=False).replace('"', "")
