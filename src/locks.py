"""Locks between processes, on any file system: a file that names its owner.

The system's own locks are not available everywhere (Lustre without flock, NFS without a lock daemon, Windows), and a
worker that outlives its process keeps them. Here a lock is a file that is created exclusively. An owner on this machine
is looked up; one on another machine touches its file every few seconds, and is given up once it stops.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BEAT = 10.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one after which an owner on another machine counts as dead


class Lock:
    """A lock that one living process holds.

    Args:
        path: the lock's file, in a folder that exists; nothing else writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.token = secrets.token_hex(8)
        self.over = threading.Event()

    def acquire(self) -> bool:
        """Take the lock; False if a living process has it.

        Raises:
            OSError: the file cannot be written.
        """
        if not self.create() and not self.take_over():
            return False
        threading.Thread(target=self.beat, daemon=True).start()
        return True

    def take_over(self) -> bool:
        """Take the lock of an owner that has died; False if it lives, or if another process is taking the lock over."""
        owner = self.owner()
        if owner is None or self.lives(owner):
            return False
        guard = self.path.with_name(f"{self.path.name}.taken")  # one at a time looks, and replaces what it found
        try:
            os.mkdir(guard)
        except FileExistsError:
            if self.silence(guard) > SILENCE:  # the process that made it died between these lines
                with suppress(OSError):
                    os.rmdir(guard)
            return False
        try:
            owner = self.owner()
            if owner is None or self.lives(owner):
                return False
            mine = self.path.with_name(f"{self.path.name}.{self.token}")
            mine.write_text(self.text())
            os.replace(mine, self.path)
            return True
        finally:
            os.rmdir(guard)

    def release(self) -> None:
        """Give the lock back, if it is still this process's."""
        self.over.set()
        if (self.owner() or {}).get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def create(self) -> bool:
        """Make the file, with this process as its owner; False if it exists."""
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            file.write(self.text())
        return True

    def text(self) -> str:
        """What the file says: this process and this lock."""
        return json.dumps({**myself(), "token": self.token})

    def owner(self) -> dict[str, Any] | None:
        """What the file says; None if it is gone, {} if it says nothing (yet)."""
        try:
            owner = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            return {}
        return owner if isinstance(owner, dict) else {}

    def lives(self, owner: dict[str, Any]) -> bool:
        """Whether a lock's owner is alive: known on its own machine, else judged by its last sign of life."""
        if owner.get("machine") == machine() and os.name == "posix":
            started = started_at(owner.get("pid"))
            return started is not None and started == owner.get("started")
        return self.silence(self.path) < SILENCE

    def silence(self, path: Path) -> float:
        """Seconds since a file or folder was last touched, by the file server's clock; inf if it is gone."""
        probe = self.path.with_name(f"{self.path.name}.{self.token}")
        try:
            probe.touch()
            return probe.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return float("inf")
        finally:
            probe.unlink(missing_ok=True)

    def words(self) -> str:
        """The owner, for a person."""
        owner = self.owner() or {}
        machine = str(owner.get("machine", "")).split()
        return f"process {owner.get('pid')} on {machine[0]}" if machine else f"see {self.path}"

    def beat(self) -> None:
        """Show that the owner lives until the lock is given back."""
        while not self.over.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)


def myself() -> dict[str, Any]:
    """This process, in terms that others can look up: the machine (and container), the process number, its start."""
    return {"machine": machine(), "pid": os.getpid(), "started": started_at(os.getpid())}


def machine() -> str:
    """A name for this machine since its boot, and for this container: process numbers mean something only within it."""
    words = [platform.node()]
    with suppress(OSError):
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        words.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(words)


def started_at(pid: Any) -> str | None:
    """When a process of this machine was started, in the system's own words; None if there is no such process."""
    if type(pid) is not int or pid < 1:
        return None
    if Path("/proc/self/stat").exists():
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return None if fields[0] in "ZX" else fields[19]  # a zombie has ended
        return None
    with suppress(OSError):
        os.kill(pid, 0)
        return "alive"
    return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, waiting for it; a read-only folder needs none.

    Raises:
        OSError: the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / ".lock")
    try:
        while not lock.acquire():
            time.sleep(0.05)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    try:
        yield
    finally:
        lock.release()
