"""What a person types on the command line, as Hydra 1.3 understands it."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help answers at once
    from hydra.core.override_parser.types import Override

TEXT = re.compile(
    r"[+~]*(data_root|manifest_dir|logs_dir|results_dir|mask_root|output|images|truth|init|masks|tag|"
    r"data|study|objective|wsss\.truth_dir|track\.(name|train_dir|val_dir|test_dir|label_map|layout|table)|"
    r"datamodule\.(data_root|manifest_dir|masks|mask_root)|model\.weights)"
)
"""Settings whose value is a text, mostly a path: what a person types is taken literally."""
PLACED = {"optimizer": "module.optimizer", "schedule": "module.scheduler"}
"""Groups that a stage places in its module: `optimizer=timm` is Hydra's `optimizer@module.optimizer=timm`."""
NAMES = re.compile(r"[+~]*(split\.contexts|ensemble\.(runs|tags)|teachers|networks)")
"""Settings that are lists of names, which may look like numbers."""
MAY_DIFFER_ON_RESUME = (
    "resume",
    "logger",
    "logged_as",
    "callbacks.divergence",
    "logged_to",
    "callbacks.progress",
    "callbacks.steps",
    "data_root",
    "manifest_dir",
    "logs_dir",
    "results_dir",
    "manifest",
    "mask_root",
    "changes",
    "objective",
    "study",
    "jobs",
    "hparams",
    "launcher",
    "before",  # what these find counts: `started_from` and `masks_from` of split.json
    "before_masks",
    "init",
    "teachers",  # which weights counts: `taught_by` of split.json
    "networks",
    "model.pretrained",  # which weights counts: `started_from` of split.json
    "model.weights",
    "module.backbone.pretrained",
    "module.backbone.weights",
    "wsss.truth_dir",
    "callbacks.masks.truth_dir",
    "compile",
    "callbacks.masks.processes",
    "datamodule.data_root",
    "datamodule.manifest_dir",
    "datamodule.mask_root",
    "datamodule.num_workers",
    "datamodule.timeout",
    "datamodule.persistent_workers",
    "datamodule.rebuild",
    "datamodule.check",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.logger",
    "trainer.callbacks",
    "trainer.plugins",
    "trainer.max_time",  # limits of one start; if they cut a run short, resume=true continues it
    "trainer.max_steps",
    "trainer.profiler",
    "trainer.detect_anomaly",
    "mixing_name",
    "cosine_epochs",  # module.scheduler.total counts
    "module.scheduler.epochs",  # trainer.max_epochs counts
    "dataset",
)
"""Settings that may differ between a run and its continuation: where things are and what computes them."""
UNNAMED = ("track", "stage", "scale", "debug", "trainer")
"""Groups that a run's name leaves out: those that its folder shows, and the trainer, which only computes it."""
START = ("model.pretrained", "model.weights", "teachers", "networks")
"""Settings that may differ when a run is resumed, as it has begun by then, but that distinguish a new run."""


def with_data_set(words: list[str]) -> list[str]:
    """`data=<folder>` as the settings that it stands for: the data root, and the layout that is found there.

    A table (`data=<file>.csv`) has its folder as the data root. A track that is named keeps its own folders.

    Raises:
        ValueError: no folder is named, or several where one is meant.
    """
    roots = [word for word in words if word.startswith(("data=", "data_root="))]
    if len(roots) > 1 and any(word.startswith("data=") for word in roots):
        raise ValueError(f"{' and '.join(roots)} name two data sets: leave one of them out")
    found: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if key != "data" or not equals:
            found.append(word)
            continue
        plain = value[1:-1] if fully_quoted(value) and "," not in value else value
        plain = os.path.expanduser(plain) if plain.startswith("~/") else plain
        if not plain.strip():
            raise ValueError("data= names no folder: expected data=<folder or CSV>")
        if re.search(r"\.csv['\"]?(,|$)", plain, re.I) and "," in plain and not os.path.exists(plain):
            raise ValueError(f"there is no file {plain}; of several tables each needs a command of its own")
        if not any(other.startswith("track=") for other in words):
            found.append("track=found")
        if plain.lower().endswith(".csv") and not os.path.isdir(plain):
            found += [f"data_root={os.path.dirname(plain) or '.'}", f"track.table={os.path.basename(plain)}"]
            if not any(other.startswith("track.name=") for other in words):
                found.append(f"track.name={folder_name(plain[:-4])}")
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
    """The name of a data set that is not given one: its folder's, reduced to what a file's name can hold."""
    name = unicodedata.normalize("NFC", os.path.basename(os.path.realpath(path)))  # accents as letters
    return re.sub(r"[^\w.+-]+", "_", name).strip("._+-")[:60] or "data"


def quoted(word: str, sweep: bool = False) -> str:
    """A word of the command line as Hydra takes it: `track=1,2` as `track='1','2'`, a path in quotes.

    A value that is already in quotes stays as it is. In a sweep a comma separates values, unless a file of the whole
    name exists; otherwise it belongs to the value.
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
    """The parts between commas; a comma in quotes separates nothing."""
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
    """Plain settings in which every text is literal: `${...}` in the name of a folder is not an interpolation."""
    if isinstance(value, dict):
        return {key: literal(one) for key, one in value.items()}
    if isinstance(value, list):
        return [literal(one) for one in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def may_differ(key: str) -> bool:
    """Whether a setting may differ between a run and its continuation."""
    return any(key == free or key.startswith(f"{free}.") for free in MAY_DIFFER_ON_RESUME)


def changes_of(words: Sequence[str], name: str) -> str | None:
    """What overrides change in a run that its name does not show yet, by the last part of each key: "lr0.03".

    Args:
        words: overrides, as Hydra takes them.
        name: the name's template; what it interpolates is in the name already.

    Returns:
        The changes in the order of their keys, joined by "-"; None where there are none.
    """
    said = {"model.model_name": "model", "mixing_name": "mixing", "split_name": "split", "recipe.name": "recipe"}
    named = {word for key in re.findall(r"[\w.]+", name) for word in (key, said.get(key))} | set(UNNAMED)
    if "split_name" in named:
        named.add("split.contexts")
    found: dict[str, Any] = {}
    for override in parsed(words):
        key = override.key_or_group.replace("/", ".")
        if key not in named and not key.startswith("track.") and (key in START or not may_differ(key)):
            found[key] = None if override.is_delete() else override.value()  # the later of two counts
    last = Counter(key.rsplit(".", 1)[-1] for key in found)
    texts = []
    for key, value in sorted(found.items()):
        short = key.rsplit(".", 1)[-1]
        if last[short] > 1 or short in named:  # such as split.seed
            short = ".".join(key.split(".")[-2:])
        number = isinstance(value, int | float) and not isinstance(value, bool)
        texts.append(f"{short}{value}" if number else f"{short}_{'+'.join(leaves(value))}")
    return "-".join(texts) or None


def leaves(value: Any) -> list[str]:
    """The plain values in nested lists and mappings, as yaml writes them."""
    if isinstance(value, dict):
        return [f"{key}_{leaf}" for key, inner in value.items() for leaf in leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner)]
    return ["null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)]


def parsed(words: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(list(words))
