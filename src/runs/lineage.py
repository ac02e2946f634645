"""What a run is made from: the weights it starts from, the masks it uses, the images they saw."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from omegaconf import DictConfig

from src.cli import command_words
from src.files import digest_of, read_json
from src.runs.records import (
    checked_digest,
    description_of,
    is_finished,
    model_name_of,
    read_classes,
    read_config,
    read_split,
)


class Inheritance(NamedTuple):
    """What a run has from the runs before it.

    Attributes:
        images: those that they were trained on.
        weights_sha256: digest of the weights that it starts from.
        masks_sha256: of the weights that made its masks, or of the masks' manifest if they come from elsewhere.
        several: of the weights of its several runs, by their name in split.json.
    """

    images: set[str]
    weights_sha256: str | None
    masks_sha256: str | None
    several: Mapping[str, Sequence[str]] = MappingProxyType({})


NOTHING = Inheritance(set(), None, None)


SEVERAL = {"teachers": ("classifier", "taught_by"), "networks": ("run of wsss", "maps_from")}
"""Settings that name several finished runs: what each of these is, and their name in split.json. A stage has one."""
NONE = "none"
"""The word for nothing, of the settings `init` and `masks`."""


class Predecessors(NamedTuple):
    """What a run is made from: the run whose weights it starts from, the manifest of its masks, or None; several runs.

    `named_in` is the setting of SEVERAL that names `several`.
    """

    init: Path | None
    masks: Path | None
    several: tuple[Path, ...] = ()
    named_in: str = ""


def predecessors(cfg: DictConfig) -> Predecessors:
    """The settings `init` and `masks`, or what `before` and `before_masks` find where these are null; `several` runs.

    A run that is resumed keeps what it began with.

    Raises:
        FileNotFoundError: they are not there; the commands that make them are named.
        ValueError: several runs fit.
    """
    begun = begun_with(Path(cfg.run_dir)) if cfg.resume else {}
    init, masks = (cfg[name] or begun.get(name) for name in ("init", "masks"))
    missing: list[str] = []
    found: dict[str, Path | None] = {"init": None, "masks": None}
    for name, given, before in (("init", init, cfg.before), ("masks", masks, cfg.before_masks)):
        try:
            if given:
                found[name] = None if given == NONE else checked(name, Path(given))
            elif before.stage:
                run = find_run(cfg, name, before)
                found[name] = run if name == "init" else run / f"{cfg.track.name}_train_with_mask_label.json"
        except FileNotFoundError as error:  # of both at once
            missing.append(str(error))
    if missing:
        raise FileNotFoundError("; ".join(missing))
    name = next((name for name in SEVERAL if name in cfg), "")
    several = begun.get(name) or (find_several(cfg, name) if name else ())
    return Predecessors(found["init"], found["masks"], tuple(map(Path, several)), name)


def begun_with(folder: Path) -> dict[str, Any]:
    """The `init`, `masks` and several runs that a run in a folder began with; {} where there is none."""
    try:
        settings = read_config(folder)
    except (OSError, ValueError):
        return {}
    found = {name: settings[name] for name in ("init", "masks") if isinstance(settings.get(name), str)}
    lists = {name: settings.get(name) for name in SEVERAL}
    return found | {
        name: paths
        for name, paths in lists.items()
        if isinstance(paths, list) and all(isinstance(path, str) for path in paths)
    }


def checked(name: str, path: Path) -> Path:
    """A run or a manifest of masks that the user named.

    Raises:
        FileNotFoundError: it is not there, or the run is not finished.
    """
    if name == "init":
        if not is_finished(path):
            command = command_for(path, "model", "seed")
            raise FileNotFoundError(f"init={path} is not a finished run: train it first{command}")
        return path
    maker = path.parent  # a run that has a model and a seed of its own; or somebody's folder
    if not path.exists():
        raise FileNotFoundError(f"the masks {path} do not exist: make them first{command_for(maker)}")
    if (maker / "environment.json").exists() and not is_finished(maker):
        raise FileNotFoundError(
            f"the run {maker} that makes the masks is not finished: resume it: {command_of(maker)} resume=true"
        )
    return path


def find_run(cfg: DictConfig, name: str, before: DictConfig) -> Path:
    """The one finished run that a run is made from.

    It has the run's track and split; for `init` its model and seed too, for `masks` the seed of `before`. If several
    fit, the one with this run's tag and changes counts, else one of the published recipe without
    any, else one with the mixing that `before`
    names; never simply the newest.

    Args:
        cfg: the run's settings.
        name: "init" or "masks": the setting that decides where this function cannot.
        before: the setting `before` or `before_masks`: the stage, and what else is asked.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.
    """
    folder = Path(cfg.logs_dir) / str(cfg.track.name) / str(before.stage)
    wanted = {"split": cfg.split_name}
    if name == "init":
        wanted |= {"model": cfg.model.model_name, "seed": cfg.seed}
    elif before.seed is not None:
        wanted["seed"] = before.seed
    asked = ", ".join(f"{key}={value}" for key, value in wanted.items())
    described = {path.parent: description_of(path.parent) for path in sorted(folder.glob("*/config.yaml"))}
    fitting = [run for run, own in described.items() if own and all(own[key] == wanted[key] for key in wanted)]
    finished = [run for run in fitting if is_finished(run)]
    if not finished:
        same = ("model", "seed") if name == "init" else ()
        begun = f" ({fitting[0]} is not finished)" if fitting else ""
        other = f" (there is {next(iter(described))})" if described and not fitting else ""
        raise FileNotFoundError(
            f"there is no finished run of {before.stage} with {asked} in {folder}{begun}{other}: train it first"
            f"{command_for(folder / 'run', *same)}; or set {name}=<another>, or {name}={NONE} to do without"
        )
    of_this_run = {"tag": cfg.tag, "changes": cfg.get("changes")}
    for chosen in (of_this_run, {"tag": None, "changes": None, "recipe": None}, {"mixing": before.get("mixing")}):
        finished = [run for run in finished if chosen.items() <= described[run].items()] or finished
    if len(finished) > 1:
        raise ValueError(
            f"{len(finished)} finished runs of {before.stage} have {asked}: choose one with {name}= "
            f"({', '.join(str(run) for run in finished[:8])}{', ...' if len(finished) > 8 else ''})"
        )
    return finished[0]


def find_several(cfg: DictConfig, setting: str) -> list[Path]:
    """The finished runs that a setting of SEVERAL names, each once.

    A folder is that of a run, or of a kept vote, which stands for the runs that have a weight in it. A glob (`fits`)
    stands for this run's track and split, and for what SEVERAL says.

    Raises:
        FileNotFoundError: a name fits no run, or a run that is not finished.
        ValueError: they are fewer than two, or a kept vote is damaged.
    """
    runs, kind = Path(cfg.logs_dir) / str(cfg.track.name), SEVERAL[setting][0]
    described = {path.parent: description_of(path.parent) for path in sorted(runs.glob("*/*/config.yaml"))}
    others = [
        run for run, own in described.items()
        if own and own["split"] == cfg.split_name and own["kind"] == kind and run != Path(cfg.run_dir)
    ]  # fmt: skip
    advice = f"name finished runs with {setting}=[<globs or folders>]"
    found: dict[Path, Path] = {}  # by their real paths
    for name in cfg[setting] or ():
        folder = Path(name)
        fitting = (voters_of(folder) or [folder]) if folder.is_dir() else [run for run in others if fits(run, name)]
        if not fitting:
            there = ", ".join(f"{run.parent.name}/{run.name}" for run in others[:20]) or "none"
            wanted = f"{kind} with split={cfg.split_name} in {runs}"
            raise FileNotFoundError(f"{setting}={name} fits no {wanted} (there are {there}): {advice}")
        found |= {run.resolve(): run for run in fitting if run.resolve() not in found}
    for run in found.values():
        if not is_finished(run):
            raise FileNotFoundError(f"the run {run} is not finished (resume=true continues a run): {advice}")
    if len(found) < 2:
        names = ", ".join(map(str, found.values())) or "none"
        raise ValueError(f"at least two runs are needed, and {setting}= names {names}: {advice}")
    return list(found.values())


def fits(folder: Path, glob: str) -> bool:
    """Whether a glob fits a run's folder, by its name or by <stage>/<name>; * takes a / too."""
    return fnmatchcase(folder.name, glob) or fnmatchcase(f"{folder.parent.name}/{folder.name}", glob)


def voters_of(vote: Path) -> list[Path]:
    """The runs that have a weight in a kept vote; none where the folder keeps no vote.

    Raises:
        ValueError: its ensemble.json is damaged.
    """
    path = vote / "ensemble.json"
    if not path.is_file():
        return []
    try:
        return [Path(member["run"]) for member in read_json(path)["members"] if member["weight"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: predict again") from error


def inheritance(
    before: Predecessors, model_name: str, classes: Sequence[str], split: Mapping[str, Sequence[str]]
) -> Inheritance:
    """What a run inherits, as `split` allows it.

    Raises:
        ValueError: a run before has another backbone or other classes, an image that it was trained on is held out
            now, or its weights are not those it finished with.
    """
    images: set[str] = set()
    weights = masks = None
    if before.init:
        backbone = model_name_of(read_config(before.init))
        if backbone != model_name:
            raise ValueError(
                f"the run {before.init} has the backbone {backbone}, this run {model_name}: "
                f"train it with this run's model= first{command_for(before.init, 'model', 'seed')}"
            )
        images |= trained_on(before.init, command_for(before.init, "model", "seed"), classes, split)
        weights = checked_digest(before.init)
    if before.masks:
        maker = before.masks.parent
        if (maker / "split.json").exists():
            images |= trained_on(maker, command_for(maker), classes, split)
            masks = digest_of(maker / "weights.safetensors")
        else:
            masks = digest_of(before.masks)
    for run in before.several:
        theirs = trained_on(run, command_for(run), classes, split)
        if before.named_in == "networks" and theirs.isdisjoint(path for paths in split.values() for path in paths):
            raise ValueError(f"the run {run} was trained on another data set: none of its images is in this one")
        images |= theirs
    return Inheritance(images, weights, masks, digests_of_several(before))


def digests_of_several(before: Predecessors) -> dict[str, list[str]]:
    """The digests of the weights of several runs, by their name in split.json; {} where there are none.

    Raises:
        ValueError: two runs have the same, and one network would count twice.
    """
    if not before.several:
        return {}
    first: dict[str, Path] = {}
    for run in before.several:
        digest = checked_digest(run)
        if digest in first:
            raise ValueError(
                f"the runs {first[digest]} and {run} have the same weights, and one network would count twice: name "
                f"one of them alone with {before.named_in}=[<globs or folders>]"
            )
        first[digest] = run
    return {SEVERAL[before.named_in][1]: list(first)}


def trained_on(run: Path, command: str, classes: Sequence[str], split: Mapping[str, Sequence[str]]) -> set[str]:
    """The images that a run, and those before it, were trained on.

    Raises:
        ValueError: they had other classes, or one of the images is held out by `split`.
    """
    if read_classes(run) != list(classes):
        raise ValueError(f"the run {run} was trained on other classes than this data set's: train it again")
    parts = read_split(run)
    images = set(parts["train"]) | set(parts["trained_on_before"])
    shared = images & {path for part, paths in split.items() if part != "train" for path in paths}
    if shared:
        raise ValueError(
            f"the run {run} was trained on {len(shared)} images that this run holds out (first: {min(shared)}), "
            f"which would make its accuracy meaningless: train it with this run's split= first{command}"
        )
    return images


def command_of(folder: Path) -> str:
    """The command that started a run, "" where it is not known."""
    try:
        described = read_json(folder / "environment.json")
    except (OSError, ValueError):
        return ""
    return str(described.get("command", "")) if isinstance(described, dict) else ""


def command_for(folder: Path, *more: str) -> str:
    """The command that makes a run, from where it lies and from this command's words: ": python train.py ...".

    Args:
        folder: the run directory.
        more: settings of this command, in addition to those of data and split, that the run shares.
    """
    track, stage = folder.parent.parent.name, folder.parent.name
    if not track.startswith("track"):
        return ""
    shared = "|".join(("scale", "split", "data_root", "manifest_dir", "logs_dir", *more))
    same = re.compile(rf"({shared})[.\w]*=")
    return ": " + shlex.join(
        ["python", "train.py", f"track={track[5:]}", f"stage={stage}", *filter(same.match, command_words()[1:])]
    )
