"""A job of a sweep: a process of its own, which ends with its sweep, and the figure that Hydra gets of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src import stopping
from src.cli import ROOT
from src.locks import Lock

SWEEP = "DECOUPLED_MIXUP_SWEEP"
"""Environment variable with the token and the path of the lock that a sweep holds as long as its jobs are wanted."""
ORPHANS = 15.0  # seconds that a job waits for the run's earlier process, whose sweep was killed, to end
LOOK = 2.0  # seconds between two looks at that lock, where a launcher runs jobs in other processes than the sweep's

held: list[Lock] = []
"""The lock of this process's sweep; empty in the processes in which a launcher runs jobs elsewhere."""


class NotLoggedError(ValueError):
    """A run that does not log the objective it was asked for."""


class StoppedError(RuntimeError):
    """A job that ended, or did not begin, because its sweep is over."""


def in_sweep() -> bool:
    """Whether Hydra calls this process's main for a job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def run_job(script: str, cfg: DictConfig) -> float | None:
    """Run a sweep's job as a process of its own, and return its figure (`figure_of`); None for one without.

    Lightning starts the other ranks with this process's command line: under -m each of them would run the whole sweep.
    A process of its own also gives every job fresh memory. The sweeper shows a job that fails, and goes on.

    Raises:
        RuntimeError: the job failed.
        NotLoggedError: see figure_of.
        StoppedError: the sweep is over; in its own process the request to stop is obeyed, with SystemExit.
    """
    from hydra.core.hydra_config import HydraConfig

    config = HydraConfig.get()
    words = OmegaConf.to_container(config.overrides.task)  # as typed: `\${x}` in a name stays one
    assert isinstance(words, list)
    if SWEEP in os.environ and not held:
        watch_sweep()
    if "objective" in cfg:
        wait_for_orphan(Path(cfg.run_dir))
    if stopping.request.signum or sweep_is_over():
        stop()
    print(f"sweep job {config.job.num}: {' '.join([script, *words])}", flush=True)
    os.environ.setdefault("WANDB_RUN_GROUP", f"sweep-{time.strftime('%Y%m%d-%H%M%S')}")
    code = run_process([sys.executable, str(ROOT / script), *words])
    for signum in stopping.NAMES:
        if code in (128 + signum, -signum):  # the job was stopped, by its own handler or before it had one
            stopping.request.signum = stopping.request.signum or signum
    if stopping.request.signum:
        stop()
    if code:
        raise RuntimeError(f"failed with exit code {code}")
    if "objective" not in cfg:
        return None
    figure = figure_of(cfg)
    print(f"sweep job {config.job.num}: {cfg.objective} {shown(figure)}", flush=True)
    return figure


def wait_for_orphan(run: Path) -> None:
    """Wait for a process that still trains a run: where its sweep was killed, it is about to save and end."""
    lock, end = Lock(run / ".lock"), time.monotonic() + ORPHANS
    while time.monotonic() < end and not stopping.request.signum:
        owner = lock.owner()
        if owner is None or not lock.lives(owner):
            return
        time.sleep(0.2)


def shown(figure: float | None) -> str:
    """A figure in a line or a table."""
    return "-" if figure is None else f"{figure:.4f}"


def figure_of(cfg: DictConfig) -> float | None:
    """The figure that sweeps compare runs by: the last one of `objective`, in the run's finished.json.

    Returns:
        None where the run is not finished; and where it does not log the objective, if nobody asked for that.

    Raises:
        NotLoggedError: the command names an objective that the run does not log.
    """
    from hydra.core.hydra_config import HydraConfig

    from src.runs.records import read_finished

    if cfg.resume and cfg.changes and not Path(cfg.run_dir).exists():
        from src.runs.directory import keep_earlier_name  # loads Lightning

        keep_earlier_name(cfg)
    try:
        figures = read_finished(Path(cfg.run_dir))["metrics"]
    except FileNotFoundError:
        return None
    if cfg.objective in figures:
        return float(figures[cfg.objective])
    if any(word.startswith("objective=") for word in HydraConfig.get().overrides.task):
        raise NotLoggedError(
            f"{cfg.run_dir} does not log objective={cfg.objective}: name one of {', '.join(sorted(figures))}"
        )
    return None


@contextmanager
def wanted(lock: Lock) -> Iterator[None]:
    """While a launcher runs jobs: a request to stop is noted, and ends them by giving up the sweep's lock."""

    def note(signum: int, frame: Any) -> None:
        lock.release()
        stopping.request.deferred = True
        stopping.request.receive(signum, frame)

    os.environ[SWEEP] = f"{lock.token} {lock.path.resolve()}"
    held.append(lock)
    before = {signum: signal.signal(signum, note) for signum in stopping.NAMES}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        stopping.request.deferred = False
        held.clear()
        del os.environ[SWEEP]


def sweep_is_over(died: bool = False) -> bool:
    """In a process where a launcher runs jobs elsewhere: whether the sweep has given up its lock, or has died.

    Args:
        died: whether only the latter counts.
    """
    token, _, path = os.environ.get(SWEEP, "").partition(" ")
    if not path or held:
        return False
    lock = Lock(Path(path))
    owner = lock.owner()
    if owner is None:
        return not died
    return owner.get("token", token) != token or not lock.lives(owner)


def end_with_sweep() -> None:
    """End a launcher's process, which would wait for more jobs for ever, some time after its sweep was killed."""
    while not sweep_is_over(died=True):
        time.sleep(LOOK)
    stopping.end_after(ORPHANS, 128 + signal.SIGTERM)


@cache
def watch_sweep() -> None:
    """Start `end_with_sweep`, once in a process."""
    threading.Thread(target=end_with_sweep, daemon=True).start()


def stop() -> None:
    """Obey a request to stop: leave, or give the process of another launcher's back to it.

    Raises:
        SystemExit: in the sweep's own process.
        StoppedError: in another one.
    """
    if SWEEP in os.environ and not held:
        raise StoppedError("was stopped")
    stopping.request.leave(f"the sweep is stopped by {stopping.request.name}: {stopping.request.advice}")


def run_process(words: list[str]) -> int:
    """Run a command to its end and return its exit code; a request to stop is passed on, and waited for.

    Where a launcher runs jobs, a cluster's warning then goes to that launcher: submitit has the job queued again.
    """
    environment = {**os.environ, stopping.PARENT: str(os.getpid())}  # it ends with this process
    if "SLURM_JOB_ID" in environment:
        environment["SLURM_JOB_NAME"] = "interactive"  # to Lightning: the ranks are its own, as are signals
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        return subprocess.run(words, env=environment).returncode
    process: subprocess.Popen[bytes] | None = None

    def pass_on(signum: int, frame: Any) -> None:
        stopping.request.signum = stopping.request.signum or signum
        if held:
            held[0].release()
        if process is not None:
            process.send_signal(signum)

    before = {signum: signal.signal(signum, pass_on) for signum in stopping.NAMES}
    try:
        process = subprocess.Popen(words, env=environment)
        if stopping.request.signum:  # asked while it was started
            process.send_signal(stopping.request.signum)
        elsewhere = SWEEP in os.environ and not held
        while True:
            try:
                code = process.wait(LOOK if elsewhere else None)
                break
            except subprocess.TimeoutExpired:
                if not stopping.request.signum and sweep_is_over():
                    pass_on(signal.SIGTERM, None)
        for signum in stopping.WARNINGS:
            if elsewhere and signum == stopping.request.signum and callable(handler := before[signum]):
                handler(signum, None)
        return code
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
