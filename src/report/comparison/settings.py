"""The settings in which runs differ, without those that every run has of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.overrides import MAY_DIFFER_ON_RESUME, START

OWN = (
    "seed",
    "split",
    "split_name",
    "run_name",
    "run_dir",
    "logged_as",
    "logged_to",
    "tag",
    "init",
    "masks",
    "before",
    "track",
)
"""Settings that every run has of its own, or that say where things lie; their copies elsewhere have the same names."""


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, without what every run has of its own and what may differ on a resume."""
    if not isinstance(settings, Mapping):
        return {} if isinstance(settings, str) and "/" in settings else {prefix: settings}  # not where things lie
    values: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if name in START or (str(key) not in OWN and name not in MAY_DIFFER_ON_RESUME):
            values |= {name: value} if name in START else flat(value, name)
    return values


def differing(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of settings in which flat settings differ, short names first; one that is missing is another value."""
    keys = {key for run in runs for key in run}
    return sorted(
        (key for key in keys if len({repr(run.get(key)) for run in runs}) > 1), key=lambda key: (len(key), key)
    )
