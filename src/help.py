"""What can be set: `--help` of the entry points, and what a person meant who mistyped a word of the command line."""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parent.parent / "conf"
NO_CHOICE = {
    "train": ("callbacks", "datamodule", "module", "scale/recipe", "scale/stage"),
    "predict": ("datamodule", "model"),
}
"""Groups whose options are parts of a stage, or of a member: a person changes their settings, not the choice."""
FLAGS = {"-h", "--help", "-m", "--multirun"}


def attend(name: str) -> None:
    """Answer --help, or refuse a word of the command line that means nothing; called before Hydra takes over.

    Args:
        name: of the configuration, "train" or "predict".

    Raises:
        SystemExit: there is nothing to run.
    """
    check_extras()
    flags = {word for word in sys.argv[1:] if word.startswith("-")}
    if flags - FLAGS:
        return  # Hydra's own
    try:
        words = [word for word in sys.argv[1:] if word not in FLAGS]
        overrides = OverridesParser.create().parse_overrides(words)
        if problem := mistake(name, overrides):
            sys.exit(f"error: {problem}")
        if flags & {"-h", "--help"}:
            print(help_text(name, words, shutil.get_terminal_size((100, 24)).columns))
            sys.exit()
    except HydraException:
        return  # it says itself what it does not understand
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        sys.exit(1)


SEARCH = {
    "hparams=optuna": "optuna",
    "launcher=joblib": "hydra_plugins.hydra_joblib_launcher",
    "launcher=submitit": "hydra_plugins.hydra_submitit_launcher",
    "launcher=slurm": "hydra_plugins.hydra_submitit_launcher",
}
"""Words that need a package of the extra `search`."""


def check_extras() -> None:
    """Leave with one sentence where this command's words need a package that is not installed."""
    for word in sys.argv[1:]:
        module = SEARCH.get(word)
        if module and importlib.util.find_spec(module) is None:
            name = module.rsplit(".", 1)[-1].replace("_", "-")
            sys.exit(f"error: {word} needs {name}: pip install {name}, or the whole extra: pip install '.[search]'")


def commands_to_show() -> list[list[str]]:
    """With -m, `--cfg job` shows the settings of each job, one after the other: the words of these; [] otherwise.

    Hydra does not take both. A range that is no list is left out.
    """
    flags = [word for word in sys.argv[1:] if word.startswith("-")]
    multirun = {"-m", "--multirun"} & set(flags)
    if not multirun or not any(re.match(r"(--cfg|-c)(=|$)", flag) for flag in flags):
        return []
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra._internal.utils import get_args_parser

    given = get_args_parser().parse_args()
    options = [word for word in sys.argv[1:] if word not in (*multirun, *given.overrides)]
    typed = OverridesParser.create().parse_overrides(given.overrides)
    swept = [one for one in typed if one.is_discrete_sweep() or not one.is_sweep_override()]
    return [[*options, *words] for words in BasicSweeper.split_arguments(swept, None)[0]]


# ------------------------------------------------------------------------------------------------ did you mean


def mistake(name: str, overrides: Sequence[Override]) -> str:
    """What is wrong with the words of a command line, in a sentence; "" where nothing is known to be.

    A group's choice has to be one of its files, and a key has to be in the configuration with these choices, unless it
    is added by `+`. Of a sweep every choice is looked at, and the keys of its first job.
    """
    script = f"{name}.py"
    own = [one for one in overrides if not one.key_or_group.startswith("hydra")]
    chosen = [one for one in own if (CONF / one.key_or_group).is_dir()]
    for one in chosen:
        there = options(one.key_or_group)
        for choice in re.findall(r"[^\s,'\"\[\]]+", ",".join(alternatives(one))):
            if choice not in ("null", *there):
                near = difflib.get_close_matches(choice, there, 2, 0.5)
                return f"{group_of(one)}={choice} is none of {', '.join(there)}{meant(near)}"
    if problem := misfit(own):
        return problem
    words = {group_of(one): f"{prefix(one)}{group_of(one)}={next(alternatives(one), 'null')}" for one in chosen}
    try:
        cfg = composed(name, list(words.values()))
    except HydraException:
        return strange_group(script, words)
    groups = [group for group in cfg.hydra.runtime.choices if not group.startswith("hydra")]
    del cfg["hydra"]
    known = keys(OmegaConf.to_container(cfg, resolve=False))
    for one in own:
        key = one.key_or_group
        if one not in chosen and not one.is_add() and not one.is_force_add() and "[" not in key and key not in known:
            return f"there is no setting {key}{meant(near_keys(key, [*groups, *known]))} ({script} --help lists all)"
    return ""


def misfit(overrides: Sequence[Override]) -> str:
    """The sentence for a recipe and a stage that it is not for, in any job; "" where all fit."""
    chosen = {one.key_or_group: [word.strip("'\"") for word in alternatives(one)] for one in overrides}
    for recipe in chosen.get("recipe", []):
        path = CONF / "recipe" / f"{recipe}.yaml"
        settings = yaml.safe_load(path.read_text()) if path.exists() else None
        fitting = settings["recipe"]["stages"] if settings else None  # published has no settings: it is for all
        for stage in chosen.get("stage", []):
            if fitting and stage not in fitting:
                return f"recipe={recipe} is for stage={' and stage='.join(fitting)}: leave it out for stage={stage}"
    return ""


def strange_group(script: str, words: Mapping[str, str]) -> str:
    """The sentence for words, by the groups that they choose, that do not go together: the one that is too many."""
    name = script.removesuffix(".py")
    for group in words:
        try:
            cfg = composed(name, [word for other, word in words.items() if other != group])
        except HydraException:
            continue
        near = [one for one in cfg.hydra.runtime.choices if one.split("@")[0] == group.split("@")[0]]
        beside = " with these choices" if len(words) > 1 else ""
        return f"{script} has no group {group}{beside}{meant(near)} ({script} --help lists all)"
    return ""  # Hydra says why


def group_of(override: Override) -> str:
    """A group as it is chosen: with the place of its settings where that is another one."""
    return f"{override.key_or_group}@{override.package}" if override.package else override.key_or_group


def prefix(override: Override) -> str:
    """The sign by which a word adds or removes."""
    return "~" if override.is_delete() else "+" if override.is_add() else "++" if override.is_force_add() else ""


def alternatives(override: Override) -> Iterator[str]:
    """The values of a word: in a sweep one for each job, none where the sweeper draws them or looks for them."""
    if not override.is_sweep_override():
        yield str(override.get_value_element_as_str()) if override.value() is not None else "null"
    elif override.is_choice_sweep() or override.is_range_sweep():
        yield from override.sweep_string_iterator()


def meant(near: Sequence[str]) -> str:
    """The question that goes with a mistake."""
    return f": did you mean {' or '.join(near)}?" if near else ""


def near_keys(key: str, known: Sequence[str]) -> list[str]:
    """Up to three settings like a key: of its last name at another place, or spelled nearly like it."""
    last = {other: other.rsplit(".", 1)[-1] for other in known}
    same = [other for other, name in last.items() if name == key.rsplit(".", 1)[-1]]
    near = difflib.get_close_matches(key, known, 1, 0.8)
    names = difflib.get_close_matches(key.rsplit(".", 1)[-1], sorted(set(last.values())), 1, 0.75)
    alike = [other for other, name in last.items() if name in names]
    return list(dict.fromkeys([*same, *near] or alike))[:3]


def keys(settings: Any, prefix: str = "") -> list[str]:
    """The dotted names of all settings, of groups of settings too."""
    found: list[str] = []
    for name, value in settings.items() if isinstance(settings, Mapping) else ():
        found += [f"{prefix}{name}", *keys(value, f"{prefix}{name}.")]
    return found


def options(group: str) -> list[str]:
    """The choices of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(name: str, words: Sequence[str]) -> DictConfig:
    """The configuration with Hydra's own part, nothing filled in."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(name, list(words), return_hydra_config=True)
    OmegaConf.set_struct(cfg, False)
    return cfg


# ------------------------------------------------------------------------------------------------ --help


def help_text(name: str, words: Sequence[str], width: int) -> str:
    """What an entry point does, its groups with a line for each option, and all settings that these words leave it.

    Args:
        name: of the configuration.
        words: overrides.
        width: of the terminal.
    """
    cfg = composed(name, words)
    hydra = cfg.pop("hydra")
    lines = [hydra.help.header, "Groups (group=option; * is chosen here):", ""]
    for group, chosen in sorted(hydra.runtime.choices.items()):
        folder = group.split("@")[0]
        if group.startswith("hydra") or folder in NO_CHOICE[name]:
            continue
        lines.append(group)
        for option in options(folder):
            mark = "*" if option in ([chosen] if isinstance(chosen, str) else chosen or []) else " "
            lines += columns(f"  {mark} {option}", first_comment(CONF / folder / f"{option}.yaml"), 22, width)
    lines += ["", "Settings (setting=value; null: none):", ""]
    settings: Any = OmegaConf.to_container(cfg, resolve=False)
    top = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    said = comments(name, words)
    for key, value in [*leaves(top), *leaves({key: settings[key] for key in settings if key not in top})]:
        lines += columns(f"{key}={words_of(value)}", said.get(key, ""), 44, width)
    return "\n".join([*lines, "", hydra.help.footer]).rstrip()


def comments(name: str, words: Sequence[str]) -> dict[str, str]:
    """{dotted key: comment} of the files that a configuration is made of; of two comments the later file's."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        files = loader.compute_defaults_list(name, list(words), RunMode.RUN).defaults
    found: dict[str, str] = {}
    for file in files:
        if file.config_path and not file.config_path.startswith("hydra/"):
            place = "" if file.package in ("", "_global_") else f"{file.package}."
            own = comments_of(CONF / f"{file.config_path}.yaml")
            found |= {f"{place}{key}": text for key, text in own.items()}
    return found


def first_comment(path: Path) -> str:
    """The first line of comment of a yaml file that is meant for a person."""
    found = re.findall(r"^# (?!@package)(.*)$", path.read_text(), re.MULTILINE)
    return found[0] if found else ""


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of the settings that a person changes."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        elif name not in ("_target_", "_partial_") and not wired(value):
            yield f"{prefix}{name}", value


WIRES = re.compile(r"\$\{[\w.]+\}|\$\{run_dir\}/.*|\$\{oc\.dict\.values:\w+\}|\?\?\?")
"""Values that say where another setting goes, where a run's file lies, or that the data fill in."""


def wired(value: Any) -> bool:
    """Whether a setting is no person's to change."""
    parts = isinstance(value, list) and any(isinstance(one, dict) for one in value)
    return parts or (isinstance(value, str) and WIRES.fullmatch(value) is not None)


def words_of(value: Any) -> str:
    """A value as a person types it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False).replace('"', "").replace(", ", ",")


def columns(left: str, right: str, indent: int, width: int) -> list[str]:
    """A name, and what is said of it beside it, from a column on, in lines of a width."""
    if not right:
        return [left]
    wrapped = textwrap.wrap(right, max(width - indent, 24))
    head = [f"{left:<{indent - 1}} {wrapped[0]}"] if len(left) < indent else [left, " " * indent + wrapped[0]]
    return [*head, *(" " * indent + line for line in wrapped[1:])]


def comments_of(path: Path) -> dict[str, str]:
    """{dotted key: the comment behind it, with the lines that go on below it} of a yaml file."""
    lines = path.read_text().split("\n")
    found = {}
    for key, number in places(yaml.compose(path.read_text())):
        match = re.match(r"^[^#]*?(?:\s|^)(#+ )", lines[number])
        if not match:
            continue
        column = match.start(1)
        text = [lines[number][match.end(1) :].strip()]
        for line in lines[number + 1 :]:
            if line[:column].strip() or line[column : column + 2] != "# ":
                break
            text.append(line[column + 2 :].strip())
        found[key] = " ".join(text)
    return found


def places(node: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """(dotted key, line) of a yaml's mapping."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        yield f"{prefix}{key.value}", key.start_mark.line
        yield from places(value, f"{prefix}{key.value}.")
