"""What a person types on the command line, as Hydra 1.3 understands it."""

from __future__ import annotations

import os
import re
from typing import Any

TEXT = re.compile(
    r"[+~]*(data_root|manifest_dir|logs_dir|results_dir|mask_root|output|images|truth|init|masks|tag|"
    r"data|wsss\.truth_dir|track\.(name|train_dir|val_dir|test_dir|label_map|layout|table)|"
    r"datamodule\.(data_root|manifest_dir|masks|mask_root)|model\.weights)"
)
"""Settings whose value is a text, mostly a path: what a person types is meant as it stands."""
PLACED = {"optimizer": "module.optimizer", "schedule": "module.scheduler"}
"""Groups that a stage places in its module: `optimizer=timm` is Hydra's `optimizer@module.optimizer=timm`."""
NAMES = re.compile(r"[+~]*(split\.contexts|ensemble\.(runs|tags))")
"""Settings that are lists of names, which may look like numbers."""


def with_data_set(words: list[str]) -> list[str]:
    """`data=<folder>` as the settings that it stands for: the data root, and the layout that is found there.

    A table (`data=<file>.csv`) is one in its folder. A track that is named keeps its own folders.
    """
    found: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if key != "data" or not equals:
            found.append(word)
            continue
        plain = value[1:-1] if fully_quoted(value) and "," not in value else value
        plain = os.path.expanduser(plain) if plain.startswith("~/") else plain
        if not any(other.startswith("track=") for other in words):
            found.append("track=found")
        if plain.lower().endswith(".csv") and not os.path.isdir(plain):
            table = [f"data_root={os.path.dirname(plain) or '.'}", f"track.table={os.path.basename(plain)}"]
            found += [
                *table,
                *(
                    ()
                    if any(other.startswith("track.name=") for other in words)
                    else (f"track.name={folder_name(plain[:-4])}",)
                ),
            ]
        else:
            found.append(f"data_root={value}")
    return found


def as_typed(words: list[str]) -> list[str]:
    """Plain words with the data set named as a person would: the inverse of with_data_set."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if given.get("track") != "found" or "data_root" not in given:
        return words
    place, spelled = given["data_root"], {"track=found", f"data_root={given['data_root']}"}
    if "track.table" in given:
        place = os.path.join(place, given["track.table"])
        spelled |= {f"track.table={given['track.table']}", f"track.name={folder_name(place[:-4])}"}
    first = next(i for i, word in enumerate(words) if word in spelled)
    kept = [word for word in words if word not in spelled]
    return [*kept[:first], f"data={place}", *kept[first:]]


def folder_name(path: str) -> str:
    """The name of a data set that is not given one: its folder's, as the name of a file can hold it."""
    return re.sub(r"[^\w.+-]+", "_", os.path.basename(os.path.realpath(path))).strip("._+-")[:60] or "data"


def quoted(word: str, sweep: bool = False) -> str:
    """A word of the command line as Hydra takes it: `track=1,2` as `track='1','2'`, a path in quotes.

    A value that stands in quotes already stays as it is. In a sweep a comma parts the values, unless a file of the
    whole name exists; otherwise it belongs to the value.
    """
    key, equals, value = word.partition("=")
    if key in PLACED and equals:  # a choice of the group, wherever the stage has it
        return quoted(f"{key}@{PLACED[key]}{equals}{value}", sweep)
    if not equals or value in ("", "null") or key.startswith("-") or fully_quoted(value):
        return word
    if key == "track" and re.fullmatch(r"\d+(,\d+)*", value):
        return "track=" + ",".join(f"'{numeral}'" for numeral in value.split(","))
    if NAMES.fullmatch(key):
        return f"{key}=" + names_of(value, sweep)
    if TEXT.fullmatch(key):
        parts = [value] if not sweep or os.path.exists(value) else words_of(value)
        kept = [part if fully_quoted(part) or part == "null" else quote(part, key == "tag") for part in parts]
        return f"{key}=" + ",".join(kept)
    return word if understood(word) else f"{key}={quote(value)}"


QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""


def fully_quoted(value: str) -> bool:
    """Whether a value is one quoted text, or a list of them."""
    return re.fullmatch(rf"(?:{QUOTED})(?:,(?:{QUOTED}))*", value) is not None


def words_of(value: str) -> list[str]:
    """The parts between the commas, of which those in quotes part nothing."""
    return [part.strip() for part in re.findall(rf"(?:{QUOTED}|[^,])+", value)]


def names_of(value: str, sweep: bool) -> str:
    """Names as a list of quoted texts: `[2016,*[0-3]]`, or `water` alone; in a sweep `[a],[b]` or `a,b` are two."""
    groups = re.findall(rf"\[((?:{QUOTED}|\[[^\]]*\]|[^\]])*)\]", value) if value.startswith("[") else [value]
    if sweep and not value.startswith("["):
        groups = words_of(value)
    lists = [[word if fully_quoted(word) else quote(word) for word in words_of(group)] for group in groups]
    return ",".join(f"[{','.join(words)}]" for words in lists)


def quote(text: str, word: bool = False) -> str:
    """A text in Hydra's quotes.

    `~/` is the home. `${...}` stays an interpolation, unless the text is a word of the user's own or a file has that
    name.
    """
    if text.startswith("~/") and not os.path.exists(text):
        text = os.path.expanduser(text)
    if word or os.path.exists(text) or not re.search(r"\$\{[^{}]+\}", text):
        text = literal(text)
    # A backslash is itself, but before a quote, where it would escape it.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + (f"\\{m[2]}" if m[2] else ""), text) + "'"


def unquoted(word: str) -> str:
    """What `quoted` made this word from; the word itself where that is not known."""
    key, _, value = word.partition("=")
    plain = re.sub(r"'((?:[^'\\]|\\.)*)'", lambda m: re.sub(r"\\([\\'])", r"\1", m[1]), value)
    return f"{key}={plain}" if value != plain and quoted(f"{key}={plain}") == word else word


def understood(word: str) -> bool:
    """Whether Hydra can read an override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def literal(value: Any) -> Any:
    """Plain settings in which every text means itself: `${...}` in the name of a folder is not an interpolation."""
    if isinstance(value, dict):
        return {key: literal(one) for key, one in value.items()}
    if isinstance(value, list):
        return [literal(one) for one in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
