import json
import os
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from threading import Thread

import pytest

from src import locks
from src.locks import Lock, locked
from tests.conftest import ROOT

HOLD = "import sys, time; from pathlib import Path; from src.locks import Lock\n"
HOLD += "print(Lock(Path(sys.argv[1])).acquire(), flush=True); time.sleep(60)"


def holder(path: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    return process


def test_a_living_owner_keeps_it_and_a_dead_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    other = holder(path)
    assert not Lock(path).acquire()
    assert f"process {other.pid} on " in Lock(path).words()
    other.kill()  # no handler, no clean-up
    # Not waited for: a zombie has ended too.
    end = time.monotonic() + 10
    while not (taken := Lock(path).acquire()) and time.monotonic() < end:
        time.sleep(0.05)
    assert taken
    other.wait()


def test_no_system_lock_is_needed() -> None:
    # Nor can a worker keep one: nothing here is inherited.
    without = "import sys; sys.modules['fcntl'] = None\nimport src.locks, src.files, src.runs"
    subprocess.run([sys.executable, "-c", without], check=True, cwd=ROOT)


def test_it_is_given_back_and_only_by_its_owner(tmp_path: Path) -> None:
    mine = Lock(tmp_path / ".lock")
    assert mine.acquire()
    Lock(tmp_path / ".lock").release()
    assert not Lock(tmp_path / ".lock").acquire()
    mine.release()
    assert not mine.path.exists() and Lock(tmp_path / ".lock").acquire()


def test_an_owner_elsewhere_is_judged_by_its_last_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    path.write_text(json.dumps({"machine": "another", "pid": os.getpid(), "started": "1", "token": "x"}))
    assert not Lock(path).acquire()
    os.utime(path, (time.time() - locks.SILENCE - 5,) * 2)
    monkeypatch.setattr(locks, "BEAT", 0.05)
    mine = Lock(path)
    assert mine.acquire()
    os.utime(path, (1, 1))
    time.sleep(0.5)
    assert path.stat().st_mtime > 1  # it shows that it lives
    mine.release()


def test_a_process_number_that_another_process_has_now_is_no_owner(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text(json.dumps({**locks.myself(), "started": "before", "token": "x"}))
    assert Lock(path).acquire()


def test_an_empty_file_of_an_older_version_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.touch()
    os.utime(path, (1, 1))
    assert Lock(path).acquire()


def test_of_many_that_take_over_a_dead_owners_lock_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text(json.dumps({**locks.myself(), "pid": 2**22 + 1, "token": "x"}))
    taken: list[bool] = []
    threads = [Thread(target=lambda: taken.append(Lock(path).acquire())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.count(True) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


def test_a_process_that_died_while_it_took_over_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text(json.dumps({**locks.myself(), "pid": 2**22 + 1, "token": "x"}))
    guard = tmp_path / ".lock.taken"
    guard.mkdir()
    assert not Lock(path).acquire()
    os.utime(guard, (1, 1))
    assert not Lock(path).acquire() and Lock(path).acquire()


def add_one(folder: Path) -> None:
    for _ in range(20):
        with locked(folder):
            path = folder / "count"
            path.write_text(str(int(path.read_text()) + 1))


def test_waiting_for_it_loses_no_update(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    processes = [get_context("spawn").Process(target=add_one, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "count").read_text() == "40"


def test_a_folder_that_may_only_be_read_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(lock: Lock) -> bool:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Lock, "create", refused)
    with locked(tmp_path):
        pass
