"""A data set named by words of a command line, for commands that do not use Hydra."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from src.data.layouts import Layout
from src.overrides import folder_name, fully_quoted, with_data_set

TRACKS = Path(__file__).resolve().parents[2] / "conf/track"


def plain(value: str) -> str:
    """A value without the quotes around it, and `~` as the home, as the commands of Hydra take it."""
    value = value[1:-1] if fully_quoted(value) and not os.path.exists(value) else value
    return os.path.expanduser(value) if value.startswith("~/") or value == "~" else value


class DataSet(NamedTuple):
    """A data set, and the words that are not about it, {key: value}."""

    root: Path
    layout: Layout
    others: dict[str, str]


def read_data_set(words: Sequence[str]) -> DataSet:
    """The data set of `data=`, or of `track=` and `data_root=`, with any setting of conf/track.

    Raises:
        ValueError: no data set is named, or one that does not exist; a word that is not key=value.
    """
    for word in words:
        if "=" not in word:
            raise ValueError(f"{word!r} is not a setting: expected key=value")
    given = dict(word.split("=", 1) for word in with_data_set(list(words)))
    if "track" not in given:
        raise ValueError("no data set is named: add data=<folder or CSV>, or track=1 data=<folder>")
    track = given.pop("track").strip("'")
    path = TRACKS / f"{track}.yaml"
    if path.parent != TRACKS or "/" in track or not path.is_file():
        known = ", ".join(sorted(one.stem for one in TRACKS.glob("*.yaml")))
        raise ValueError(f"track={track} is not one of conf/track: {known}")
    root = Path(plain(given.pop("data_root", "data")))
    settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "${" in str(settings["name"]):
        settings["name"] = folder_name(str(root))
    for key in [key for key in given if key.startswith("track.")]:
        name, value = key.removeprefix("track."), given.pop(key)
        if name not in Layout._fields:
            raise ValueError(f"{key} is not a setting: expected one of {', '.join(Layout._fields)}")
        settings[name] = None if value == "null" else plain(value)
    return DataSet(root, Layout(**settings), given)
