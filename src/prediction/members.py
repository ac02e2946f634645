"""Members: the finished runs of a track, rebuilt from their config.yaml and weights, and soups of them."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import timm

from src.data.splits import HELD_OUT
from src.files import digest_of
from src.lightning_modules.classifier import Network
from src.progress import progress
from src.runs.records import read_classes, read_config, read_finished, read_split
from src.runs.weights import load_weights

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


def find_members(logs_dir: Path, data_name: str, stages: Sequence[str]) -> tuple[list[Member], LeftOut]:
    """The finished runs of `stages`, and the runs left out with the reason for each.

    Members must agree on the classes: runs whose classes are not those of most runs are left out.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: no stage is given, or as many runs have one list of classes as another.
    """
    if not stages:
        raise ValueError("ensemble.stages is empty: name the stages whose runs vote, such as [fdg,adapt]")
    runs = logs_dir / data_name
    folders = [path for stage in stages for path in sorted((runs / stage).glob("*")) if is_run(path)]
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter's lock
        found = list(progress(pool.map(read_member, folders), "reading finished runs", len(folders)))
    members = [member for member in found if isinstance(member, Member)]
    left_out = [(folder, why) for folder, why in zip(folders, found, strict=True) if isinstance(why, str)]
    if not members:
        unfinished = f" ({len(left_out)} left out: {left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise FileNotFoundError(
            f"no finished run of {' or '.join(stages)} in {runs}{unfinished}: "
            f"train one (python train.py {words_for(data_name)} stage={stages[0]}) or choose another ensemble="
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


def words_for(data_name: str) -> str:
    """What chooses a data set on the command line."""
    track = re.fullmatch(r"track(\d)", data_name)
    return f"track={track[1]}" if track else f"data=<the folder {data_name}>"


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
    if MODULES.fullmatch(target):
        home, name = target.rsplit(".", 1)
        with suppress(ImportError):
            network = getattr(getattr(importlib.import_module(home), name, None), "network", None)
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


def held_out(members: Sequence[Member]) -> dict[str, list[str]]:
    """Image paths of the parts, of splits.HELD_OUT, that all members hold out.

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
