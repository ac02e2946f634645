import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src import stopping
from src.runs import directory
from tests.conftest import ROOT, TINY, weights

Train = Callable[..., Path]
BASELINE = ["track=1", "stage=baseline"]


pytestmark = pytest.mark.usefixtures("signals")


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGUSR2, 140)]
)
def test_at_once_or_later(signum: int, code: int, capfd: Any) -> None:
    stopping.request.deferred = True
    send(signum)
    send(signum)  # a scheduler repeats itself, a terminal and a sweep both pass a Ctrl-C on
    assert stopping.request.signum == signum
    stopping.request.__init__()  # type: ignore[misc] # a new one
    with pytest.raises(SystemExit) as stopped:
        send(signum)
        time.sleep(1)
    assert stopped.value.code == code
    assert f"stopped by {stopping.NAMES[signal.Signals(signum)]}: the same command" in capfd.readouterr().err


def test_a_person_who_insists_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "REPEAT", 0.0)
    stopping.request.deferred = True
    send(signal.SIGINT)
    with pytest.raises(SystemExit):
        send(signal.SIGINT)
        time.sleep(1)


def same(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("limit", ["trainer.max_steps=3", "trainer.max_steps=7", "trainer.max_time={milliseconds:1}"])
def test_a_limit_cuts_a_run_which_goes_on_as_if_it_had_not(
    train_run: Train, limit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*BASELINE, "trainer.max_epochs=3", "datamodule.batch_size=16"]
    whole = train_run(*words, "tag=whole")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        train_run(*words, "tag=cut", limit)
    assert stopped.value.code == 0
    cut = whole.with_name(whole.name.replace("whole", "cut"))
    said = capsys.readouterr().out
    assert f"stopped by {limit.split('=')[0]} in epoch " in said and "of 3, after step" in said
    assert "resume=true continues it" in said and not (cut / "finished.json").exists()
    train_run(*words, "tag=cut", "resume=true")
    assert (cut / "finished.json").exists() and same(whole, cut)


def test_a_limit_at_an_epochs_end(train_run: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = train_run(*BASELINE, "trainer.max_epochs=2", "tag=whole")
    steps = int((whole / "metrics.csv").read_text().splitlines()[1].split(",")[1])
    cut = train_run(*BASELINE, "trainer.max_epochs=2", "tag=cut", f"trainer.max_steps={steps}")
    assert "stopped after epoch 1 of 2 and is not finished: resume=true continues it" in capsys.readouterr().out
    assert not (cut / "finished.json").exists()
    train_run(*BASELINE, "trainer.max_epochs=2", "tag=cut", "resume=true")
    assert same(whole, cut)


@pytest.mark.parametrize("word", ["trainer.fast_dev_run=true", "trainer.limit_train_batches=2",
                                  "trainer.limit_val_batches=1", "trainer.overfit_batches=1"])  # fmt: skip
def test_debug_runs_never_vote(train_run: Train, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run(*BASELINE, "trainer.max_epochs=1", word)
    assert f"is a debug run ({word.split('=')[0]}=" in capsys.readouterr().out
    assert not (run / "finished.json").exists()


def test_what_limits_nothing_is_no_debug_run() -> None:
    settings = {"limit_train_batches": 1.0, "limit_val_batches": 0, "fast_dev_run": False, "overfit_batches": 0.0}
    assert directory.debug_settings(settings) == [] == directory.debug_settings({})
    assert directory.debug_settings({"limit_train_batches": 1}) == ["trainer.limit_train_batches=1"]


def test_early_stopping_is_not_the_end_that_the_settings_name(
    train_run: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = ["+callbacks.early._target_=pytorch_lightning.callbacks.EarlyStopping",
            "+callbacks.early.monitor=val/in_domain/accuracy", "+callbacks.early.stopping_threshold=10"]  # fmt: skip
    run = train_run(*BASELINE, "trainer.max_epochs=4", *stop)
    assert "stopped after epoch 1 of 4 and is not finished" in capsys.readouterr().out
    assert not (run / "finished.json").exists()


def test_the_row_of_an_interrupted_epoch_says_where_it_went_on(train_run: Train) -> None:
    words = [*BASELINE, "trainer.max_epochs=2", "tag=cut"]
    with pytest.raises(SystemExit):
        train_run(*words, "trainer.max_steps=2")
    run = train_run(*words, "resume=true")
    head, first, second = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    place = head.index("train/first_batch")
    assert (first[place], second[place]) == ("2.0", "")


def test_a_sweeps_job_ends_with_the_sweep_and_a_persons_process_does_not(tmp_path: Path) -> None:
    wait = "import os, sys, time; sys.path.insert(0, '.'); from src import stopping; stopping.install()\n"
    wait += "print(os.getpid(), flush=True); time.sleep(60)"
    parent = "import subprocess, sys, os, time; from src import stopping; stopping.install()\n"
    parent += "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", parent, wait], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize("way", ["return", "sys.exit(3)"])
def test_a_request_to_a_process_on_its_way_out_raises_nothing(way: str) -> None:
    late = "import atexit, os, sys, time; sys.path.insert(0, '.'); from src import cli\n"
    late += "atexit.register(lambda: (os.kill(os.getpid(), 15), time.sleep(0.2), print('out')))\n"
    late += f"def main():\n    {way}\ncli.start(main, 'train')"
    done = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3 if "exit" in way else 0, "out\n", "")


@pytest.mark.slow
def test_a_stuck_worker_is_an_error_with_its_settings(places: list[str], tmp_path: Path) -> None:
    # A FIFO stands for a disk that does not answer.
    stuck = "import os, time, cv2; real = cv2.imdecode\n"
    stuck += "def decode(*words):\n    time.sleep(600 if os.getpid() != main else 0)\n    return real(*words)\n"
    stuck += "main = os.getpid(); cv2.imdecode = decode; import sys, runpy; sys.argv = sys.argv[1:]\n"
    stuck += "runpy.run_path(sys.argv[0], run_name='__main__')"
    words = [*TINY, *places, *BASELINE, "datamodule.num_workers=1", "datamodule.timeout=3"]
    done = subprocess.run([sys.executable, "-c", stuck, "train.py", *words], capture_output=True, text=True, cwd=ROOT,
                          timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "no batch came from the data-loading workers within datamodule.timeout seconds" in done.stderr


def test_shared_memory_is_looked_at_before(tmp_path: Path) -> None:
    from src.data.checks import check_shared_memory

    check_shared_memory(0, 10**15, tmp_path)
    check_shared_memory(2, 1, tmp_path)
    check_shared_memory(2, 10**15, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"2 data-loading worker\(s\) .* of shared memory, and .* has .*shm-size"):
        check_shared_memory(2, 10**15, tmp_path)
