"""Searches as a person or a cluster stops them, and jobs side by side: real trainings (slow)."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.conftest import TINY, command
from tests.test_attacks import nobody_is_left, start

pytestmark = [pytest.mark.slow, pytest.mark.training]

WORDS = ["-m", *(word for word in TINY if word != "changes=null"), "track=1", "stage=baseline", "trainer.max_epochs=1"]
RATES = "module.optimizer.lr=0.01,0.02,0.03"
STUDY = ["hparams=optuna", "hparams.trials=6", "module.optimizer.lr=tag(log,interval(0.01,1))"]


def table_of(text: str) -> list[list[str]]:
    """The rows of the table that a sweep prints at its end."""
    lines = text.splitlines()
    first = max(i for i, line in enumerate(lines) if line.startswith("job "))
    return [line.split() for line in lines[first + 1 :] if re.match(r"\d+ ", line)]


def figures(logs: Path) -> dict[str, str]:
    """The accuracy of each finished run, by its rate."""
    found = {}
    for path in logs.glob("track1/baseline/*/finished.json"):
        rate = re.search(r"-lr([\d.]+)-", path.parent.name)
        assert rate, path
        found[rate[1]] = f"{json.loads(path.read_text())['metrics']['val/in_domain/accuracy']:.4f}"
    return found


@pytest.mark.parametrize("launcher", ["joblib", "submitit"])
def test_jobs_side_by_side(places: list[str], tmp_path: Path, launcher: str) -> None:
    done = command("train.py", *WORDS, *places, RATES, f"launcher={launcher}")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = table_of(done.stdout)
    assert [row[:2] for row in rows] == [["0", "0.01"], ["1", "0.02"], ["2", "0.03"]]
    assert {rate: figure for _, rate, figure in rows} == figures(tmp_path / "logs")


def test_trials_side_by_side(places: list[str], tmp_path: Path) -> None:
    done = command("train.py", *WORDS, *places, *STUDY, "hparams.trials=3", "launcher=joblib")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = table_of(done.stdout)
    assert len(rows) == 3 and {rate: figure for _, rate, figure in rows} == figures(tmp_path / "logs")


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_study_that_is_stopped_goes_on_to_its_number_of_trials(
    places: list[str], tmp_path: Path, signum: signal.Signals
) -> None:
    words = ["train.py", *WORDS, *places, *STUDY, "trainer.max_epochs=3"]
    with start(*words) as process:
        assert process.stdout is not None
        seen = ""
        while not re.search(r"sweep job 2: train.*\n(.*\n)*.*epoch 1/3", seen):
            seen += (line := process.stdout.readline())
            assert line, seen
        process.send_signal(signum)
        text = process.communicate(timeout=60)[0]
    assert process.returncode == (143 if signum == signal.SIGTERM else -signal.SIGKILL) and "Traceback" not in text
    if signum == signal.SIGTERM:
        assert "the same command continues its study" in text
    done = command(*words)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 of 6 trials are finished, 1 of them begun" in done.stdout
    # The same trial, from its checkpoint; or done, where its process had ended before it missed the sweep.
    assert re.search(r"sweep job 2: .*\n(?:(?!sweep job).*\n)*(resuming |\S+ is finished: nothing)", done.stdout)
    rows = table_of(done.stdout)
    assert [row[0] for row in rows] == list("012345")
    assert {rate: figure for _, rate, figure in rows} == figures(tmp_path / "logs")
    assert nobody_is_left(process.pid)


@pytest.mark.parametrize("launcher", ["joblib", "submitit"])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_jobs_elsewhere_end_with_their_sweep(
    places: list[str], tmp_path: Path, launcher: str, signum: signal.Signals
) -> None:
    words = [*WORDS, *places, RATES, "trainer.max_epochs=500", f"launcher={launcher}"]
    with start("train.py", *words) as process:
        logs = tmp_path / "logs/track1/baseline"
        while len(list(logs.glob("*/last.ckpt"))) < 2:
            assert process.poll() is None
        process.send_signal(signum)
        text = process.communicate(timeout=60)[0]
    assert process.returncode == (143 if signum == signal.SIGTERM else -signal.SIGKILL) and "Traceback" not in text
    assert len(list(logs.iterdir())) == 2  # the third has not begun
    for run in logs.iterdir():
        wait_until_free(run)
    assert nobody_is_left(process.pid, 40)  # nor one of the launcher's processes that waits for a job


def wait_until_free(run: Path) -> None:
    import time

    from src.locks import Lock

    lock, end = Lock(run / ".lock"), time.monotonic() + 25
    while (owner := lock.owner()) is not None and lock.lives(owner):
        assert time.monotonic() < end, f"{run} is still being trained"
        time.sleep(0.2)
