"""Kills, signals and broken processes at the worst moments, as a cluster or a person deals them out (slow)."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT, TINY

pytestmark = pytest.mark.slow

# Runs an entry point that sends itself (or its group) a signal before the n-th call of a function.
HOOKED = """
import importlib, os, runpy, signal, sys, time
where, count, signum, group = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "group"
module, *names = where.split(":")
owner = importlib.import_module(module)
for name in names[:-1]:
    owner = getattr(owner, name)
real, calls = getattr(owner, names[-1]), 0
def hooked(*words, **options):
    global calls
    calls += 1
    if calls == count:
        (os.killpg if group else os.kill)(os.getpgid(0) if group else os.getpid(), signum)
        time.sleep(0.5 if group else 0)
    return real(*words, **options)
setattr(owner, names[-1], hooked)
sys.argv = sys.argv[5:]
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
"""
Train = Callable[..., Path]
WSSS = [
    "track=1",
    "stage=wsss",
    "trainer.max_epochs=1",
    "callbacks.masks.processes=1",
    "datamodule.native_pixels=65536",
]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment(), start_new_session=True, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def hooked(where: str, count: int, signum: int, to: str, *words: str) -> tuple[int, str]:
    with start("-c", HOOKED, where, str(count), str(int(signum)), to, "train.py", *words) as process:
        text = process.communicate(timeout=120)[0]
    assert "Traceback" not in text, text[-3000:]
    return process.returncode, text


def alive(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def nobody_is_left(session: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while alive(session) and time.monotonic() < end:
        time.sleep(0.1)
    left = alive(session)
    for process in left:
        os.kill(process, signal.SIGKILL)
    return not left


def masks(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("masks/**/*.png"))}


def equal(a: Path, b: Path) -> bool:
    one, two = (load_file(run / "weights.safetensors") for run in (a, b))
    return all(bool((one[key] == two[key]).all()) for key in one) and masks(a) == masks(b)


@pytest.fixture
def baseline(train_run: Train) -> Path:
    return train_run("track=1", "stage=baseline", "trainer.max_epochs=1")


SCENES = [
    ("src.lightning_modules.classifier:Classifier:validation_step", 4, "baseline", "self"),  # the last validation
    ("src.runs.weights:write_weights", 1, "baseline", "self"),
    ("src.runs.directory:claim", 1, "baseline", "self"),
    ("src.callbacks.map_sign:progress", 1, "wsss", "self"),
    ("src.callbacks.mask_writer:MaskWriter:write_on_batch_end", 3, "wsss", "self"),
    ("src.callbacks.mask_writer:MaskWriter:write_on_batch_end", 3, "wsss", "group"),
    ("src.callbacks.mask_writer:MaskWriter:conclude", 1, "wsss", "group"),
]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("where", "count", "stage", "to"), SCENES)
def test_a_signal_is_obeyed_wherever_it_comes_and_nothing_is_lost(
    train_run: Train, baseline: Path, places: list[str], where: str, count: int, stage: str, to: str, signum: int
) -> None:
    words = WSSS if stage == "wsss" else ["track=1", "stage=baseline", "trainer.max_epochs=2"]
    whole = train_run(*words, "tag=whole")
    code, text = hooked(where, count, signum, to, *TINY, *places, *words, "tag=cut")
    assert code == 128 + signum and "stopped by " in text
    cut = train_run(*words, "tag=cut", "resume=true")
    assert (cut / "finished.json").exists() and equal(whole, cut)


def test_nobody_outlives_a_killed_main_process(train_run: Train, baseline: Path, places: list[str]) -> None:
    with start("train.py", *TINY, *places, *WSSS) as process:
        wait_for(lambda: len(list(baseline.parents[1].glob("wsss/*/masks/**/*.png"))) > 3, process)
        process.kill()
    assert nobody_is_left(process.pid)
    # Its workers keep nothing: the run goes on at once.
    run = train_run(*WSSS, "resume=true")
    assert (run / "finished.json").exists()


def test_nobody_outlives_a_killed_rank_0(places: list[str]) -> None:
    words = ["track=1", "stage=baseline", "trainer=ddp_cpu", "trainer.max_epochs=500"]
    for ready in ("", "training "):  # while rank 1 starts up, and in training
        with start("train.py", *TINY, *places, *words, "resume=true") as process:
            assert process.stdout is not None
            while ready and not process.stdout.readline().startswith(ready):
                pass
            wait_for(lambda: len(alive(process.pid)) > 1, process)
            process.kill()
            assert nobody_is_left(process.pid)


def test_a_rank_that_is_stopped_in_an_epoch_stops_the_other_there(places: list[str], tmp_path: Path) -> None:
    words = ["track=1", "stage=baseline", "trainer=ddp_cpu", "datamodule.batch_size=4", "trainer.max_epochs=3",
             "callbacks.divergence.every_n_steps=2", "tag=cut", *places]  # fmt: skip
    with start("train.py", *TINY, *words) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("epoch 1/3"):
            pass
        (second,) = (pid for pid in alive(process.pid) if pid != process.pid and is_rank(pid))
        os.kill(second, signal.SIGTERM)
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and "Traceback" not in text
    assert re.search(r"stopped by SIGTERM in epoch [23] of 3, after step \d+: .*last.ckpt is written", text)
    assert nobody_is_left(process.pid)
    tagged = {"cut": [*words, "resume=true"], "whole": [*words, "tag=whole"]}
    for each in tagged.values():
        subprocess.run([sys.executable, "train.py", *TINY, *each], cwd=ROOT, env=environment(), check=True)
    one, other = (load_file(next(tmp_path.glob(f"logs/*/baseline/*{tag}*/weights.safetensors"))) for tag in tagged)
    assert all(torch.equal(one[key], other[key]) for key in other) and one.keys() == other.keys()


def test_nobody_outlives_a_killed_sweep(places: list[str]) -> None:
    words = ["-m", "track=1", "stage=baseline", "seed=0,1", "trainer.max_epochs=500"]
    with start("train.py", *TINY, *places, *words) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("training "):
            pass
        process.kill()
        assert nobody_is_left(process.pid)


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_a_sweep_that_is_stopped_starts_no_further_job(places: list[str], seconds: float) -> None:
    words = ["-m", "track=1", "stage=baseline", "seed=0,1,2", "trainer.max_epochs=500"]
    with start("train.py", *TINY, *places, *words) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("sweep job 0"):
            pass
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and "sweep job" not in text and "Traceback" not in text


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped_among_masks_stops_the_others(
    train_run: Train, baseline: Path, places: list[str], rank: int
) -> None:
    whole = train_run(*WSSS, "tag=whole")
    with start("train.py", *TINY, *places, *WSSS, "trainer=ddp_cpu", "tag=cut") as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("making "):
            pass
        of_rank = [pid for pid in alive(process.pid) if pid != process.pid and is_rank(pid)]
        os.kill([process.pid, *of_rank][rank], signal.SIGTERM)
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and "Traceback" not in text
    assert nobody_is_left(process.pid)
    again = ["train.py", *TINY, *places, *WSSS, "trainer=ddp_cpu", "tag=cut", "resume=true"]
    done = subprocess.run([sys.executable, *again],
                          cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)  # fmt: skip
    assert "finished " in done.stdout
    cut = whole.with_name(whole.name.replace("whole", "cut"))
    assert masks(cut).keys() == masks(whole).keys()


def is_rank(pid: int) -> bool:
    return b"train.py" in (Path("/proc") / str(pid) / "cmdline").read_bytes()


def wait_for(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 90
    while not happened():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
