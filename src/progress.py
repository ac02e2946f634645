"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")
FIRST_LINE_AFTER = 3.0  # seconds
SECONDS_BETWEEN_LINES = 10.0


def progress(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` and show how far they are; in a log, work of less than three seconds stays silent."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.file_proxy import FileProxy
        from rich.progress import track

        # Where a training's bar has the terminal, it takes what is printed and shows it above itself.
        if not isinstance(sys.stderr, FileProxy):
            yield from track(items, title, total, console=Console(stderr=True), transient=True)
            return
    begin = time.monotonic()
    due = begin + FIRST_LINE_AFTER
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now >= due:
            due = now + SECONDS_BETWEEN_LINES
            left = f", about {(now - begin) / done * (total - done):.0f} s left" if total else ""
            print(f"{title}: {done}{f' of {total}' if total else ''}{left}", file=sys.stderr, flush=True)
