"""Whether a setting is a number that it can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def is_number(
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    whole: bool = False,
    above: bool = False,
    below: bool = False,
) -> bool:
    """Whether a value is a finite number from `low` to `high`; bool, text and None are not.

    Args:
        value: anything.
        low, high: the bounds; infinite: none.
        whole: it is an int.
        above, below: `low` itself, `high` itself, is excluded.
    """
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return False
    inside: bool = (low < value if above else low <= value) and (value < high if below else value <= high)
    return inside and -math.inf < value < math.inf


def are_numbers(
    values: Any,
    count: int | None,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    whole: bool = False,
    above: bool = False,
) -> bool:
    """Whether values are a list of `count` numbers, each as in `is_number`; None: of any number of them but 0."""
    if not isinstance(values, Sequence) or isinstance(values, str) or (len(values) != count if count else not values):
        return False
    return all(is_number(value, low, high, whole=whole, above=above) for value in values)


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    whole: bool = False,
    above: bool = False,
    below: bool = False,
) -> None:
    """Refuse a setting that is not such a number.

    Args:
        name: of the setting, as it is typed, such as "module.decay".
        value, low, high, whole, above, below: as in `is_number`.

    Raises:
        ValueError: "module.decay is 2: expected a number from 0 to 1".
    """
    if is_number(value, low, high, whole=whole, above=above, below=below):
        return
    kind = "a whole number" if whole else "a number"
    if high == math.inf and isinstance(value, float) and not math.isfinite(value):
        kind = kind.replace("a ", "a finite ")
    if low > -math.inf:
        kind += f" above {low}" if above else f" from {low}" if high < math.inf else f" of at least {low}"
    if high < math.inf:
        kind += f" {'and' if above else 'to'} {'below ' if below else 'at most ' if above else ''}{high}"
    typed = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    raise ValueError(f"{name} is {typed}: expected {kind}")
