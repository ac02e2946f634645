"""Several machines and a cluster's scheduler, played by this one: torchrun, srun, submitit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from src.distributed import check_launch
from src.locks import Lock
from src.sweeps import jobs
from tests.conftest import ROOT, TINY
from tests.test_attacks import alive, nobody_is_left, wait_for

WORDS = [*TINY, "track=1", "stage=baseline", "trainer=ddp_cpu", "callbacks.divergence.every_n_steps=2"]
TWO_NODES = ["trainer.devices=1", "trainer.num_nodes=2"]
Train = Callable[..., Path]

# Notes what the second process writes below the runs, and has it warned in the second of two epochs of six steps.
WATCHED = """
import atexit, os, signal, sys
sys.path.insert(0, os.getcwd())
logs, warned = sys.argv.pop(1), sys.argv.pop(1) == "warned"
written, calls = [], 0
def watch(event, words):
    opened = event == "open" and words[2] & (os.O_WRONLY | os.O_RDWR)
    if (opened or event in ("os.rename", "os.mkdir", "os.remove")) and str(words[0]).startswith(logs):
        written.append(f"{event} {words[0]}")
if os.environ["SLURM_PROCID"] == "1":
    sys.addaudithook(watch)
    atexit.register(lambda: print("wrote", written))
    if warned:
        from src.lightning_modules.classifier import Classifier
        real = Classifier.training_step
        def step(*words):
            global calls
            calls += 1
            if calls == 8:
                os.kill(os.getpid(), signal.SIGUSR1)
            return real(*words)
        Classifier.training_step = step
__file__ = os.path.abspath("train.py")  # what a process that is spawned imports; sys.argv keeps this script
exec(compile(open(__file__).read(), __file__, "exec"))
"""


def run(commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]) -> list[tuple[int, str]]:
    """Run commands at the same time: the exit code of each, and what it said."""
    processes = [
        subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )
        for words, environment in zip(commands, environments, strict=True)
    ]  # fmt: skip
    said = [process.communicate(timeout=900)[0] for process in processes]
    assert all(nobody_is_left(process.pid) for process in processes)
    assert not any("Traceback" in text for text in said), "\n".join(said)[-4000:]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def srun(port: int, *words: str) -> list[tuple[int, str]]:
    """A job step of two nodes with a task each, by the variables that srun sets."""
    step = {
        "SLURM_JOB_ID": "123456", "SLURM_JOB_NAME": "train", "SLURM_JOB_NODELIST": "127.0.0.1",
        "SLURM_NODELIST": "127.0.0.1", "SLURM_NNODES": "2", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0", "MASTER_PORT": str(port),
    }  # fmt: skip
    return run([words] * 2, [{**step, "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)} for rank in (0, 1)])


def weights_of(logs: Path, tag: str) -> dict[str, torch.Tensor]:
    (run,) = logs.glob(f"track1/baseline/*-{tag}")  # one folder for all processes
    assert (run / "finished.json").exists()
    return load_file(run / "weights.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_two_nodes_train_what_one_does(places: list[str], tmp_path: Path, free_port: int) -> None:
    logs = tmp_path / "logs"
    ((code, said),) = run([["train.py", *WORDS, *places, "tag=one"]], [{}])
    assert code == 0, said[-3000:]
    whole = weights_of(logs, "one")

    torchrun = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1",
                f"--master-port={free_port}"]  # fmt: skip
    script = ["train.py", *WORDS, *TWO_NODES, *places, "tag=torchrun"]
    ended = run([[*torchrun, f"--node-rank={rank}", *script] for rank in (0, 1)], [{}, {}])
    assert [code for code, _ in ended] == [0, 0], ended
    assert same(weights_of(logs, "torchrun"), whole)

    # A warning that one node gets: all save and leave with its code, by which the job's script has it queued again.
    (tmp_path / "start.py").write_text(WATCHED)
    words = [*WORDS, *TWO_NODES, *places, "tag=srun", "resume=true"]
    ended = srun(free_port, str(tmp_path / "start.py"), str(logs), "warned", *words)
    assert [code for code, _ in ended] == [128 + signal.SIGUSR1] * 2, ended
    assert "stopped by SIGUSR1 in epoch 2 of 2, after step " in ended[0][1] and "last.ckpt is written" in ended[0][1]
    again = srun(free_port, str(tmp_path / "start.py"), str(logs), "again", *words)
    assert [code for code, _ in again] == [0, 0], again
    assert "resuming" in again[0][1] and all("wrote []" in each[1][1] for each in (ended, again))
    assert same(weights_of(logs, "srun"), whole)


@pytest.mark.slow
def test_a_job_that_submitit_queues_again_goes_on(train_run: Train, places: list[str], tmp_path: Path) -> None:
    """Its warning, SIGUSR2, reaches the whole job step: the task of submitit and the training that it started."""
    logs = tmp_path / "logs"
    words = ["track=1", "stage=baseline", "trainer.max_epochs=30"]
    whole = train_run(*words, "tag=whole")
    sweep = ["-m", *TINY, *places, *words, "tag=cut", "launcher=submitit", "resume=true"]
    with subprocess.Popen([sys.executable, "train.py", *sweep], cwd=ROOT, text=True, start_new_session=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # fmt: skip
        wait_for(lambda: bool(list(logs.glob("track1/baseline/*-cut/last.ckpt"))), process)
        for task in [pid for pid in alive(process.pid) if b"submitit.core._submit" in command_of(pid)]:
            for child in [*children(task), task]:
                os.kill(child, signal.SIGUSR2)
        text = process.communicate(timeout=900)[0]
    assert process.returncode == 0, text[-3000:]
    said = "".join(path.read_text() for path in logs.rglob("*_log.out"))
    assert "stopped by SIGUSR2 in epoch " in said and "last.ckpt is written" in said and "resuming " in said
    assert same(weights_of(logs, "cut"), load_file(whole / "weights.safetensors"))
    assert nobody_is_left(process.pid, 40)


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_warning_goes_to_the_job_and_then_to_its_launcher(
    signals: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Lock(tmp_path / "sweep.lock")
    lock.acquire()
    monkeypatch.setenv(jobs.SWEEP, f"{lock.token} {lock.path}")
    ready, seen = tmp_path / "ready", []
    signal.signal(signal.SIGUSR2, lambda signum, frame: seen.append((signum, (tmp_path / "saved").exists())))
    job = (
        "import pathlib, signal, sys, time\n"
        "def save(*words):\n    time.sleep(0.5)\n    pathlib.Path(sys.argv[2]).touch()\n    sys.exit(140)\n"
        "signal.signal(signal.SIGUSR2, save)\npathlib.Path(sys.argv[1]).touch()\ntime.sleep(60)"
    )

    def warn() -> None:
        while not ready.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR2)

    threading.Thread(target=warn, daemon=True).start()
    assert jobs.run_process([sys.executable, "-c", job, str(ready), str(tmp_path / "saved")]) == 140
    assert seen == [(signal.SIGUSR2, True)]
    lock.release()


@pytest.mark.parametrize(
    ("variables", "started"),
    [
        ({}, 1),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}, 2),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train"}, 4),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"}, 1),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train"}, 1),  # a job's script, without srun
    ],
)
def test_processes_that_do_not_know_of_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], started: int
) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name == "WORLD_SIZE":
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_launch(started)
    if started > 1:
        with pytest.raises(
            ValueError, match=f"{started} processes were started, and the training has 1: .*trainer=ddp"
        ):
            check_launch(1)
