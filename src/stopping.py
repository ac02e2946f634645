"""Being asked to stop (SIGTERM, Ctrl-C), and ending with a parent that died.

A process that is asked leaves at once, with the exit code of the signal and one sentence. Where work would be lost,
as in training, the request is deferred: it is noted, and obeyed at the next place where everything is saved.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
PARENT = "DECOUPLED_MIXUP_PARENT"
"""Environment variable with the process that starts others of ours: the sweep of its jobs, rank 0 of its ranks."""
GRACE = 8.0  # seconds between the request to an orphan and its end: ten after its parent's, nobody is left
EXIT_WITHIN = 30.0  # seconds that leaving may take: the exception that ends a process can be lost in a destructor
REPEAT = 2.0  # seconds within which a second Ctrl-C is the same one: a terminal and a sweep both pass it on


class Request:
    """The request to stop of this process.

    Attributes:
        signum: the signal that asked first; 0: none has.
        deferred: whether a request is noted (True) or obeyed at once.
        left: whether this process is on its way out: what a request would raise then would be lost, with a traceback.
        advice: what a person who stopped the process does next, for the sentence.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.deferred = False
        self.advice = "the same command starts it again"
        self.since = 0.0
        self.left = False

    @property
    def exit_code(self) -> int:
        """The shell's code of the signal: 143 for SIGTERM, 130 for Ctrl-C."""
        return 128 + (self.signum or signal.SIGTERM)

    @property
    def name(self) -> str:
        """The signal's name, as a person knows it."""
        return NAMES[signal.Signals(self.signum or signal.SIGTERM)]

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """The handler of both signals."""
        again = self.signum and signum == signal.SIGINT and time.monotonic() - self.since > REPEAT
        if not self.signum:
            self.signum, self.since = signum, time.monotonic()
        if self.left:  # on its way out, which another request does not quicken unless a person insists
            if again:
                os._exit(self.exit_code)
            self.end_soon()
        elif not self.deferred or again:  # a second Ctrl-C does not wait
            self.leave(f"stopped by {self.name}: {self.advice}")

    def leave(self, sentence: str) -> None:
        """Say a sentence and leave with the signal's exit code.

        Raises:
            SystemExit: always.
        """
        self.left = True
        say(sentence)
        self.end_soon()
        tell_parent(self.signum or signal.SIGTERM)
        raise SystemExit(self.exit_code)

    def end_soon(self) -> None:
        """Give leaving a limit."""
        with suppress(RuntimeError):  # too late for a thread: the interpreter has almost ended
            threading.Thread(target=end_after, args=(EXIT_WITHIN, self.exit_code), daemon=True).start()


request = Request()


def install() -> None:
    """Handle both signals, and end with the parent where that is one of ours; in the main thread."""
    for signum in NAMES:
        signal.signal(signum, request.receive)
    if started_by is not None:
        threading.Thread(target=end_with_parent, args=(started_by,), daemon=True).start()
    os.environ[PARENT] = str(os.getpid())


def say(sentence: str) -> None:
    """Write a line to stderr; print() must not be used in a signal's handler, which may interrupt another print()."""
    os.write(2, (sentence + "\n").encode())


def tell_parent(signum: int) -> None:
    """A rank that leaves stops rank 0, which would wait for it; a sweep's parent sees the job's exit code."""
    if int(os.environ.get("LOCAL_RANK", 0)) > 0 and started_by is not None:
        with suppress(OSError):
            os.kill(started_by, signum)


started_by = int(os.environ[PARENT]) if os.environ.get(PARENT, "").isdecimal() else None
"""The process of ours that started this one: a sweep's, or rank 0; None for a process that a person started."""


def end_with_parent(parent: int) -> None:
    """Ask this process to stop when its parent is gone, and end it when it does not: it may wait for a dead process."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    end_after(GRACE, 128 + signal.SIGTERM)


def end_after(seconds: float, code: int) -> None:
    """End this process after a while, whatever it is doing."""
    time.sleep(seconds)
    os._exit(code)
