"""Text for a terminal, and what names say."""

from __future__ import annotations

import re
from collections.abc import Sequence


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words with their columns aligned: the first one to the left, numbers in the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *(word.rjust(w) for word, w in zip(others, widths[1:], strict=True))])
        for first, *others in rows
    )


def method_of(name: str) -> str:
    """A run's name without its seed: what runs that differ in the seed alone share."""
    return re.sub(r"-seed\d+(?=-|$)", "", name, count=1)
