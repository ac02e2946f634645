"""Being asked to stop (SIGTERM, Ctrl-C, a cluster's SIGUSR1 or SIGUSR2), and ending with a parent that died.

A process that is asked to stop leaves at once, with the signal's exit code and one sentence. Where work would be lost,
as in training, the request is deferred: it is noted, and obeyed at the next point where everything is saved.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType

# What a cluster warns with before a job's time is up: SIGUSR1 by custom, SIGUSR2 by submitit. Windows has neither.
WARNINGS: list[signal.Signals] = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", **{signum: signum.name for signum in WARNINGS}}
PARENT = "DECOUPLED_MIXUP_PARENT"
"""Environment variable with the process that started this one: a job's sweep, or a rank's rank 0."""
GRACE = 8.0  # seconds between an orphan's request to stop and its end: ten seconds after its parent, nobody is left
EXIT_WITHIN = 30.0  # seconds that leaving may take: the exception that ends a process can get lost in a destructor
REPEAT = 2.0  # seconds within which a second Ctrl-C is the same one: a terminal and a sweep both pass it on


class Request:
    """The request to stop of this process.

    Attributes:
        signum: the first signal received; 0: none.
        deferred: whether a request is noted (True) or obeyed at once.
        left: whether this process is on its way out: an exception raised then would be lost, with a traceback.
        advice: what a person who stopped the process can do next, for the sentence.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.deferred = False
        self.advice = "the same command starts it again"
        self.since = 0.0
        self.left = False

    @property
    def exit_code(self) -> int:
        """The shell's code of the signal: 143 for SIGTERM, 130 for Ctrl-C, 138 for SIGUSR1, 140 for SIGUSR2."""
        return 128 + (self.signum or signal.SIGTERM)

    @property
    def name(self) -> str:
        """The signal's name, as a person knows it."""
        return NAMES[signal.Signals(self.signum or signal.SIGTERM)]

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """The handler of all these signals."""
        again = self.signum and signum == signal.SIGINT and time.monotonic() - self.since > REPEAT
        if not self.signum:
            self.signum, self.since = signum, time.monotonic()
        if self.left:  # already on its way out, which another request does not speed up unless a person insists
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
    """Handle these signals, and end with the parent if that is one of ours; call this in the main thread."""
    for signum in NAMES:
        signal.signal(signum, request.receive)
    if started_by is not None:
        threading.Thread(target=end_with_parent, args=(started_by,), daemon=True).start()
    os.environ[PARENT] = str(os.getpid())


def say(sentence: str) -> None:
    """Write a line to stderr; a signal handler must not call print(), as it may interrupt another print()."""
    os.write(2, (sentence + "\n").encode())


def tell_parent(signum: int) -> None:
    """A rank that leaves stops rank 0, which would wait for it; a sweep sees its job's exit code."""
    if int(os.environ.get("LOCAL_RANK", 0)) > 0 and started_by is not None:
        with suppress(OSError):
            os.kill(started_by, signum)


started_by = int(os.environ[PARENT]) if os.environ.get(PARENT, "").isdecimal() else None
"""The process of ours that started this one: a sweep's, or rank 0; None for a process that a person started."""


def end_with_parent(parent: int) -> None:
    """Ask this process to stop once its parent is gone, and end it if it does not: it may wait for a dead process."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    end_after(GRACE, 128 + signal.SIGTERM)


def end_after(seconds: float, code: int) -> None:
    """End this process after a while, in the middle of anything."""
    time.sleep(seconds)
    os._exit(code)
