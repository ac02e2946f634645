"""The runs that led to the members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from src.prediction.members import Member
from src.report.names import without_machine
from src.runs.lineage import SEVERAL, command_of
from src.runs.records import read_config, read_finished


class Link(NamedTuple):
    """A run in the chain that led to the members."""

    title: str
    command: str
    config: str
    from_runs: list[str]


def chain(members: Sequence[Member], logs_dir: Path) -> dict[Path, list[Path]]:
    """The members and the runs that led to them, each after the runs that it was made from: {run: those}."""
    order: dict[Path, list[Path]] = {}
    seen: set[Path] = set()

    def visit(folder: Path) -> bool:
        """Whether the folder is a readable run; one that leads back to itself is read once."""
        if folder in seen:
            return folder in order
        seen.add(folder)
        try:
            made_from = predecessors_of(folder, logs_dir)
        except (OSError, ValueError):
            return False
        order[folder] = [path for path in made_from if visit(path)]
        order[folder] = order.pop(folder)  # after those
        return True

    for member in members:
        visit(member.folder)
    return order


def predecessors_of(folder: Path, logs_dir: Path) -> list[Path]:
    """The folders of the runs that a finished run names as those that it was made from.

    Raises:
        OSError, ValueError: it is not a finished run, or damaged.
    """
    config, done = read_config(folder), read_finished(folder)
    weights = weights_from(config, done, logs_dir)
    if isinstance(done.get("soup_of"), list):  # its settings are a member's
        return weights
    masks = config.get("masks")
    named = [Path(masks).parent] if isinstance(masks, str) and masks != "none" else []
    named += [Path(str(path)) for name in SEVERAL for path in config.get(name) or []]
    return weights + [moved(path, config, logs_dir) for path in named]


def weights_from(config: Mapping[str, Any], done: Mapping[str, Any], logs_dir: Path) -> list[Path]:
    """The runs whose weights a finished run started from, or is the mean of, by its config.yaml and finished.json."""
    soup, init = done.get("soup_of"), config.get("init")
    if isinstance(soup, list):
        return [Path(str(path)) for path in soup]
    return [moved(Path(init), config, logs_dir)] if isinstance(init, str) and init != "none" else []


def moved(path: Path, config: Mapping[str, Any], logs_dir: Path) -> Path:
    """Where a run is now whose path was written below the logs_dir of `config`."""
    there = Path(str(config.get("logs_dir")))
    return logs_dir / path.relative_to(there) if path.is_relative_to(there) else path


def link_of(folder: Path, made_from: Sequence[Path]) -> Link:
    """A run's command and settings."""
    titles = [f"{path.parent.name}/{path.name}" for path in made_from]
    text = without_machine((folder / "config.yaml").read_text())
    return Link(f"{folder.parent.name}/{folder.name}", without_machine(command_of(folder)), text, titles)
