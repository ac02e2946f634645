"""Hydra's sweeper for this project: what -m does with the comma lists and ranges of a command."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException
from hydra.plugins import sweeper as hydra_sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from src import help, stopping
from src.cli import ROOT
from src.locks import Lock
from src.sweeps.jobs import NotLoggedError, shown, wanted

OF_THE_SWEEP = ("hparams", "launcher", "study", "jobs")
"""Settings of the sweep that its jobs do not get."""


class Sweeper(hydra_sweeper.Sweeper):
    """Runs every combination of the comma lists, or the trials of a study; a line for each job, a table at the end.

    Args:
        max_batch_size: jobs that the launcher gets at once; None: all.
    """

    def __init__(self, max_batch_size: int | None) -> None:
        self.max_batch_size = max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra hands over before the sweep."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run the jobs of a command's overrides.

        Raises:
            SystemExit: a mistake of the user's, in one sentence; jobs that failed; a request to stop.
        """
        try:
            return self.run(arguments)
        except ValueError as error:
            sys.exit(f"error: {error}")

    def run(self, arguments: list[str]) -> list[JobReturn]:
        """As `sweep`.

        Raises:
            ValueError: a mistake of the user's.
        """
        assert self.config is not None and self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = [o for o in parser.parse_overrides(arguments) if o.key_or_group.split(".")[0] not in OF_THE_SWEEP]
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        # A process in which a launcher runs jobs elsewhere has to find this package, and the same files.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        if not self.config.get("hparams"):
            return self.run_grid(overrides, Lock(folder / f".sweep-{os.getpid()}.lock"))
        return self.run_study(overrides, folder)

    def run_grid(self, overrides: list[Override], lock: Lock) -> list[JobReturn]:
        """Every combination of the comma lists."""
        stopping.request.advice = "resume=true continues it"
        varied = [override.get_key_element() for override in overrides if override.is_sweep_override()]
        if any(override.is_sweep_override() and not override.is_discrete_sweep() for override in overrides):
            raise ValueError("an interval cannot be swept value by value: search it with hparams=optuna")
        batches = BasicSweeper.split_arguments(overrides, self.max_batch_size)
        self.check_names([words for batch in batches for words in batch])
        firsts = accumulate((len(batch) for batch in batches), initial=0)
        lock.acquire()
        try:
            results = list(self.run_batches(zip(firsts, batches, strict=False), lock))
        finally:
            lock.release()
        rows = [(i, words, outcome(result)) for i, (words, result) in enumerate(results)]
        print(table(varied, rows, self.objective))
        failed = [" ".join(words) for words, result in results if result.status is not JobStatus.COMPLETED]
        if failed:
            sys.exit(f"error: {len(failed)} of the sweep's jobs failed: {'; '.join(failed)}")
        return [result for _, result in results]

    def run_study(self, overrides: list[Override], folder: Path) -> list[JobReturn]:
        """The trials of a study of Optuna, until it has as many as were asked for."""
        from src.sweeps.study import Study

        assert self.config is not None
        stopping.request.advice = "the same command continues its study"
        study = Study(self.config, overrides)
        lock = Lock(folder / f".study-{study.name}.lock")
        if not lock.acquire():
            raise ValueError(f"the study {study.name} is being run by another process right now ({lock.words()})")
        try:
            self.check_names(study.examples())  # before anything is written
            study.open()
            print(study.greeting(), flush=True)
            results = []
            for _, result in self.run_batches(study.batches(), lock):
                if isinstance(result._return_value, NotLoggedError):
                    raise result._return_value
                study.tell(result.return_value if result.status is JobStatus.COMPLETED else None)
                results.append(result)
            rows = [(i, words, "failed" if figure is None else shown(figure)) for i, words, figure in study.trials()]
        finally:
            lock.release()
        print(table(study.keys, rows, self.objective))
        print(study.verdict())
        return results

    @property
    def objective(self) -> str:
        """The heading of the figures."""
        assert self.config is not None
        return str(self.config.get("objective") or "")

    def run_batches(
        self, batches: Iterable[tuple[int, list[list[str]]]], lock: Lock
    ) -> Iterator[tuple[list[str], JobReturn]]:
        """The jobs of each batch, which comes with the number of its first one, and what they returned, in order."""
        assert self.launcher is not None
        for number, batch in batches:
            try:
                with wanted(lock):
                    results = self.launcher.launch(batch, initial_job_idx=number)
            except Exception:  # a launcher's own, of any library
                if not stopping.request.signum:
                    raise
                results = []  # a launcher whose processes were stopped with this one
            if stopping.request.signum:
                stopping.request.leave(f"the sweep is stopped by {stopping.request.name}: {stopping.request.advice}")
            yield from zip(batch, results, strict=True)

    def check_names(self, jobs: list[list[str]]) -> None:
        """Compose the settings of each job.

        Raises:
            ValueError: there is no such setting, or two jobs are the same run.
            HydraException: another mistake, in Hydra's words.
        """
        names: set[str] = set()
        for words in jobs:
            config = self.composed(words)
            if "run_name" not in config:  # predict.py's
                continue
            HydraConfig.instance().set_config(config)
            if config.run_dir in names:
                raise ValueError(
                    f"two jobs of the sweep are one run, {config.run_dir}: leave out tag= and changes=, so that the "
                    "name says what differs"
                )
            names.add(config.run_dir)

    def composed(self, words: list[str]) -> DictConfig:
        """A job's settings.

        Raises:
            ValueError: there is no such setting.
            HydraException: another mistake, in Hydra's words.
        """
        assert self.config is not None and self.hydra_context is not None
        loader = self.hydra_context.config_loader
        try:
            return loader.load_sweep_config(self.config, words)
        except ConfigCompositionException as error:
            match = re.match(r"Could not override '([^']+)'", str(error))
            if not match:
                raise
            others = [word for word in words if word.partition("=")[0] != match[1]]
            settings = OmegaConf.to_container(loader.load_sweep_config(self.config, others))
            near = help.meant(help.near_keys(match[1], help.keys(settings)))
            raise ValueError(f"there is no setting {match[1]}{near} (--help lists all)") from error


def outcome(result: JobReturn) -> str:
    """What a table says of a job."""
    value = result._return_value
    if result.status is not JobStatus.COMPLETED:
        return str(value)
    return shown(value)


def table(varied: Sequence[str], rows: Sequence[tuple[int, Sequence[str], str]], objective: str) -> str:
    """A line for each job: its number, the values that vary, and the figure."""
    cells = [["job", *varied, objective]]
    for number, words, figure in rows:
        values = dict(word.split("=", 1) for word in words)
        cells.append([str(number), *(values.get(key, "").strip("'") for key in varied), figure])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
