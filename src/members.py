"""Members: the finished runs of a track, rebuilt from their config.yaml and weights, and soups of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import timm
from hydra.utils import get_class
from omegaconf import DictConfig

from src import cli
from src.files import digest_of, write_json, write_text
from src.lightning_modules.classifier import Network
from src.manifest import HELD_OUT
from src.runs import read_classes, read_config, read_finished, read_split
from src.weights import load_weights, read_weights, uniform_soup, write_weights

MODULES = re.compile(r"src\.lightning_modules\.\w+\.[A-Z]\w*")
"""The LightningModules that a run's config.yaml may name: what comes from elsewhere must not choose the code."""

TRANSFORMS = re.compile(r"src\.transforms\.[A-Z]\w*")
"""The evaluation transforms that it may name."""

WEIGHTS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments of timm.create_model that say which weights a training started from: a member brings its own."""


class Member(NamedTuple):
    """A finished run that may vote.

    Attributes:
        folder: the run directory.
        stage, name: the last two parts of its path.
        config: its config.yaml.
        classes: class names by id.
        figures: its last metrics, from finished.json.
        digest: sha256 of its weights.
    """

    folder: Path
    stage: str
    name: str
    config: dict[str, Any]
    classes: list[str]
    figures: dict[str, float]
    digest: str

    @property
    def title(self) -> str:
        """How tables name it."""
        return f"{self.stage}/{self.name}"

    @property
    def size(self) -> int:
        """Side of its input, pixels: the last one of a training whose images changed their size."""
        size = self.config["datamodule"]["size"]
        return int(size[-1][1] if isinstance(size, list) else size)

    @property
    def view(self) -> dict[str, Any]:
        """How it wants its images, as the data module's settings: size and evaluation transform."""
        return {"size": self.size, "eval_transform": self.config["datamodule"]["eval_transform"]}


LeftOut = list[tuple[Path, str]]
"""Runs that do not vote, with the reason for each."""


def find_members(logs_dir: Path, track: int, stages: Sequence[str]) -> tuple[list[Member], LeftOut]:
    """The finished runs of `stages`, and the runs left out with the reason for each.

    Members must agree on the classes: runs whose classes are not those of most runs are left out.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: no stage is given, or as many runs have one list of classes as another.
    """
    if not stages:
        raise ValueError("ensemble.stages is empty: name the stages whose runs vote, such as [fdg,adapt]")
    runs = logs_dir / f"track{track}"
    folders = [path for stage in stages for path in sorted((runs / stage).glob("*")) if is_run(path)]
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter's lock
        found = list(pool.map(read_member, folders))
    members = [member for member in found if isinstance(member, Member)]
    left_out = [(folder, why) for folder, why in zip(folders, found, strict=True) if isinstance(why, str)]
    if not members:
        unfinished = f" ({len(left_out)} left out: {left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise FileNotFoundError(
            f"no finished run of {' or '.join(stages)} in {logs_dir}/track{track}{unfinished}: "
            f"train one (python train.py track={track} stage={stages[0]}) or choose another ensemble="
        )
    maps = Counter(tuple(member.classes) for member in members).most_common(2)
    if len(maps) > 1 and maps[0][1] == maps[1][1]:
        first, second = (next(m for m in members if tuple(m.classes) == classes) for classes, _ in maps)
        raise ValueError(
            f"the members {first.folder} and {second.folder} were trained with different label maps: "
            "remove or retrain one of them"
        )
    strangers = [member for member in members if tuple(member.classes) != maps[0][0]]
    left_out += [(member.folder, f"its classes are not those of the {maps[0][1]} other runs") for member in strangers]
    return [member for member in members if member not in strangers], left_out


def is_run(folder: Path) -> bool:
    """Whether a folder below a stage's is meant as a run, whatever became of it."""
    return any((folder / name).exists() for name in ("config.yaml", "finished.json", "weights.safetensors"))


def read_member(folder: Path) -> Member | str:
    """A run as a member, or why it is not one."""
    try:
        if not (folder / "finished.json").is_file():
            return "it has not reached its end"
        done = read_finished(folder)
        weights = folder / "weights.safetensors"
        if not weights.is_file() or digest_of(weights) != done["weights_sha256"]:
            return "its weights are missing or not those it finished with"
        config, classes = read_config(folder), read_classes(folder)
        if not isinstance(config.get("module"), Mapping) or "num_classes" not in config["module"]:
            return f"the stage {folder.parent.name} trains no classifier"
        check_rebuildable(config, f"the settings of {folder}")
        read_split(folder)
        if config["module"]["num_classes"] != len(classes):
            return f"its network has {config['module']['num_classes']} classes, its classes.json {len(classes)}"
    except (OSError, ValueError) as error:
        return str(error)
    return Member(folder, folder.parent.name, folder.name, config, classes, done["metrics"], done["weights_sha256"])


def rebuild(member: Member) -> Network:
    """The member's network with its weights, in evaluation mode: without optimiser, schedule and mixing.

    Raises:
        ValueError: its config.yaml asks for code or files that a member has no business with, or for a network that
            cannot be built or does not fit the weights.
    """
    settings = member.config["module"]
    check_rebuildable(member.config, f"the settings of {member.folder}")
    backbone = {key: value for key, value in settings["backbone"].items() if key not in ("_target_", *WEIGHTS)}
    try:
        network = network_of(settings["_target_"], "these settings")(
            backbone=timm.create_model(**backbone), num_classes=settings["num_classes"],
            mean=settings["mean"], std=settings["std"],
        )  # fmt: skip
    except Exception as error:  # whatever timm says of settings that it does not know
        raise ValueError(f"the network of {member.folder} cannot be built: {error}") from error
    load_weights(member.folder / "weights.safetensors", {part: getattr(network, part) for part in network.exported})
    return network.eval()


def check_rebuildable(config: Mapping[str, Any], whose: str) -> None:
    """Raise ValueError for a classifier that `rebuild` would not build again from the settings alone.

    A member may come from elsewhere: its settings name networks of timm, their plain arguments, and an evaluation
    transform of ours; nothing that is imported, downloaded, unpickled or filled in later. A stage that trains no
    classifier may have any.
    """
    module, datamodule = config.get("module"), config.get("datamodule")
    if not isinstance(module, Mapping) or not isinstance(datamodule, Mapping):
        raise ValueError(f"{whose} have no module and datamodule")
    if "num_classes" not in module:
        return
    backbone, view = module.get("backbone"), datamodule.get("eval_transform")
    network_of(str(module.get("_target_")), whose)
    if not isinstance(backbone, Mapping) or backbone.get("_target_") != "timm.create_model":
        raise ValueError(f"{whose} name a backbone that is not made by timm.create_model, so that it could not predict")
    name = backbone.get("model_name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"{whose} name the backbone {name!r}: expected a name of timm's, without a hub or a path")
    if not isinstance(view, Mapping) or not TRANSFORMS.fullmatch(str(view.get("_target_"))):
        raise ValueError(f"{whose} name an evaluation transform that is not one of src.transforms")
    for part in ({key: value for key, value in backbone.items() if key not in ("_target_", *WEIGHTS)},
                 {key: value for key, value in view.items() if key != "_target_"}):  # fmt: skip
        check_plain(part, whose)
    if type(module["num_classes"]) is not int or module["num_classes"] < 1:
        raise ValueError(f"{whose} have module.num_classes={module['num_classes']!r}")
    for key in ("mean", "std"):
        values = module.get(key)
        if not isinstance(values, list) or len(values) != 3 or not all(type(v) in (int, float) for v in values):
            raise ValueError(f"{whose} have module.{key}={values!r}: expected three numbers")
    sizes = datamodule.get("size")
    last = sizes[-1] if isinstance(sizes, list) and sizes else [0, sizes]
    if not isinstance(last, list) or len(last) != 2 or type(last[1]) is not int or last[1] < 1:
        raise ValueError(f"{whose} have datamodule.size={sizes!r}: expected a size, or pairs [first epoch, size]")


def network_of(target: str, whose: str) -> type[Network]:
    """The network that a LightningModule hands on, by the module's name in the settings.

    Raises:
        ValueError: the name is not that of a module of ours that trains a classifier.
    """
    with suppress(ImportError, ValueError):
        network = getattr(get_class(target), "network", None) if MODULES.fullmatch(target) else None
        if isinstance(network, type) and issubclass(network, Network):
            return network
    raise ValueError(f"{whose} name the module {target}: expected one of src.lightning_modules with a `network`")


def check_plain(settings: Any, whose: str) -> None:
    """Raise ValueError where settings hold more than plain values: a target, or something to be filled in."""
    if isinstance(settings, Mapping):
        if "_target_" in settings or "_args_" in settings:
            raise ValueError(f"{whose} ask for {settings.get('_target_')} where a plain value is expected")
        settings = list(settings.values())
    if isinstance(settings, list):
        for value in settings:
            check_plain(value, whose)
    elif isinstance(settings, str) and "${" in settings:
        raise ValueError(f"{whose} ask for {settings}: a finished run's are filled in")


def open_images(settings: DictConfig, member: Member) -> pl.LightningDataModule:
    """A data module that makes images as the member wants them.

    Args:
        settings: of the data module, without size and evaluation transform.
        member: completes them.
    """
    datamodule: pl.LightningDataModule = cli.instantiate(settings, **member.view)
    return datamodule


def held_out(members: Sequence[Member]) -> dict[str, list[str]]:
    """Image paths of the parts, of manifest.HELD_OUT, that all members hold out.

    Raises:
        ValueError: a member holds out nothing, or two hold out different images.
    """
    parts: dict[str, list[str]] = {}
    for member in members:
        split = read_split(member.folder)
        own = {part: split[part] for part in HELD_OUT if split[part]}
        if not own:
            raise ValueError(f"the member {member.folder} holds out no image (split=none)")
        if parts and own != parts:
            raise ValueError(f"the members {members[0].folder} and {member.folder} hold out different images (split=)")
        parts = own
    return parts


def make_soups(members: Sequence[Member], folder: Path) -> list[Member]:
    """Replace members that share network, input and start by one with their mean weights (weights.uniform_soup).

    A start is what a run began with, backbone and head; a member that others began with belongs to them. A
    soup is a run directory below `folder`, so it is rebuilt, exported and started from as any other. A member that
    shares its start with no other stays as it is.

    Raises:
        ValueError: there are several members, and no two share a start, or some that do hold out different images.
    """
    starts = [read_split(member.folder).get("started_from") for member in members]
    groups: dict[str, list[Member]] = {}
    for member, start in zip(members, starts, strict=True):
        whole = {"backbone", "head"} <= set(member.config.get("init_parts") or ())
        shared = member.digest if member.digest in starts else start if whole else None
        key = str([member.config["module"]["backbone"], member.view, shared]) if shared else member.digest
        groups.setdefault(key, []).append(member)
    if len(groups) == len(members) > 1:
        raise ValueError(
            f"no two of the {len(members)} members share network, size and start (init=, init_parts=[backbone,head]): "
            "the mean of their weights would be no network; let them vote (ensemble=all), or choose other stages "
            "(ensemble.stages=[...])"
        )
    return [group[0] if len(group) == 1 else make_soup(group, folder) for group in groups.values()]


def make_soup(members: Sequence[Member], folder: Path) -> Member:
    """Write the run directory of a soup of `members`, and read it as a member."""
    splits = [read_split(member.folder) for member in members]
    held = {part: splits[0][part] for part in HELD_OUT}
    if any(split[part] != held[part] for split in splits for part in HELD_OUT):
        raise ValueError(
            f"a soup of {members[0].folder} and {len(members) - 1} more, which hold out different images (split=), "
            "could not be measured on any: train them with one split"
        )
    train = {path for split in splits for path in split["train"]}
    before = {path for split in splits for path in split["trained_on_before"]} - train
    weights = uniform_soup([read_weights(member.folder / "weights.safetensors") for member in members])
    first = members[0]
    run = folder / f"{first.config['module']['backbone']['model_name']}-of-{len(members)}-{first.digest[:8]}"
    write_weights(run / "weights.safetensors", weights)
    write_text(run / "config.yaml", (first.folder / "config.yaml").read_text())
    write_json(run / "classes.json", first.classes)
    split = {"train": sorted(train), **held, "trained_on_before": sorted(before), "started_from": None}
    write_json(run / "split.json", split)
    made_of = [str(member.folder) for member in members]
    digest = digest_of(run / "weights.safetensors")
    write_json(run / "finished.json", {"weights_sha256": digest, "metrics": {}, "soup_of": made_of})
    soup = read_member(run)
    assert isinstance(soup, Member)
    return soup._replace(stage="soup")
