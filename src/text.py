"""Text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words with their columns aligned: the first one to the left, numbers in the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *(word.rjust(w) for word, w in zip(others, widths[1:], strict=True))])
        for first, *others in rows
    )
