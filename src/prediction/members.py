"""Members: finished runs, read without trust and rebuilt from their config.yaml and weights."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import timm
from torch import nn

from src.data.splits import HELD_OUT
from src.digests import DigestOf
from src.files import digest_of
from src.lightning_modules.backbone import START
from src.lightning_modules.c2am import C2AM
from src.lightning_modules.classifier import Network
from src.lightning_modules.distillation import Teacher
from src.runs.records import read_classes, read_config, read_finished, read_split
from src.runs.weights import load_weights

MODULES = re.compile(r"src\.lightning_modules\.\w+\.[A-Z]\w*")
"""The LightningModules that a run's config.yaml may name: what comes from elsewhere must not choose the code."""
TRANSFORMS = re.compile(r"src\.transforms\.[A-Z]\w*")
"""The evaluation transforms that it may name."""


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
        """The name it has in tables."""
        return f"{self.stage}/{self.name}"

    @property
    def split(self) -> str:
        """The name of the split it was trained on, as its folder's name has it."""
        return str(self.config.get("split_name"))

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


def read_member(folder: Path, digest_of: DigestOf = digest_of) -> Member | str:
    """A run as a member, or why it is not one; `digest_of` reads its files, or knows them."""
    try:
        if not (folder / "finished.json").is_file():
            return "it has not reached its end"
        done = read_finished(folder, digest_of)
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
        ValueError: its config.yaml asks for code or files that a member must not use, or for a network that cannot be
            built or does not fit the weights.
    """
    settings = member.config["module"]
    check_rebuildable(member.config, f"the settings of {member.folder}")
    try:
        network = network_of(settings["_target_"], "these settings")(
            backbone=timm.create_model(**backbone_arguments(member)), num_classes=settings["num_classes"],
            mean=settings["mean"], std=settings["std"],
        )  # fmt: skip
    except Exception as error:  # whatever timm says of settings that it does not know
        raise ValueError(f"the network of {member.folder} cannot be built: {error}") from error
    load_weights(member.folder / "weights.safetensors", {part: getattr(network, part) for part in network.exported})
    return network.eval()


def read_teacher(folder: Path) -> Teacher:
    """A finished run as a teacher.

    Raises:
        ValueError: it is not one, or its network cannot be rebuilt.
    """
    member = read_member(folder)
    if isinstance(member, str):
        raise ValueError(f"{folder} cannot teach ({member}): leave it out with teachers=[<globs or folders>]")
    return Teacher(rebuild(member), member.size)


def read_network(folder: Path) -> C2AM:
    """A finished run of wsss as the network that makes its maps, with the sign that the run decided.

    Its weights are taken to be those that it finished with (lineage.inheritance).

    Raises:
        ValueError: it is not one, or its network cannot be rebuilt.
    """
    try:
        config, done = read_config(folder), read_finished(folder)
        settings = config.get("module")
        if not isinstance(settings, Mapping) or settings.get("_target_") != f"{C2AM.__module__}.{C2AM.__name__}":
            raise ValueError("it is no run of wsss")
        plain = {key: value for key, value in settings.items() if key not in ("_target_", "backbone")}
        check_plain(plain, "its settings")
        backbone = timm.create_model(**plain_backbone(settings.get("backbone"), "its settings"))
        network = C2AM(backbone=backbone, **plain)
        load_weights(folder / "weights.safetensors", {part: getattr(network, part) for part in network.exported})
        if "sign/inverted" not in done["metrics"]:
            raise ValueError("it lacks the decision on its sign")
        network.inverted.fill_(bool(done["metrics"]["sign/inverted"]))
    except Exception as error:  # whatever timm says of settings that it does not know
        raise ValueError(
            f"the maps of {folder} cannot be averaged ({error}): leave it out with networks=[<globs or folders>]"
        ) from error
    return network.eval()


def read_several(setting: str, folders: Sequence[Path]) -> dict[str, Any]:
    """The finished runs that a setting of lineage.SEVERAL names as networks, by the setting; {} where there are none.

    Raises:
        ValueError: as `read_teacher` and `read_network`.
    """
    if not folders:
        return {}
    if setting == "teachers":
        return {setting: [read_teacher(folder) for folder in folders]}
    return {setting: nn.ModuleList([read_network(folder) for folder in folders])}


def backbone_arguments(member: Member) -> dict[str, Any]:
    """What timm.create_model makes a member's backbone of, without weights."""
    settings: Mapping[str, Any] = member.config["module"]["backbone"]
    return {key: value for key, value in settings.items() if key not in ("_target_", *START)}


def check_rebuildable(config: Mapping[str, Any], whose: str) -> None:
    """Raise ValueError for a classifier that `rebuild` would not build again from the settings alone.

    A member may come from elsewhere: its settings may name only timm's networks with plain arguments and one of this
    project's evaluation transforms; nothing that is imported, downloaded, unpickled or filled in later. A stage that
    trains no classifier may have any settings.
    """
    module, datamodule = config.get("module"), config.get("datamodule")
    if not isinstance(module, Mapping) or not isinstance(datamodule, Mapping):
        raise ValueError(f"{whose} have no module and datamodule")
    if "num_classes" not in module:
        return
    view = datamodule.get("eval_transform")
    network_of(str(module.get("_target_")), whose)
    plain_backbone(module.get("backbone"), whose)
    if not isinstance(view, Mapping) or not TRANSFORMS.fullmatch(str(view.get("_target_"))):
        raise ValueError(f"{whose} name an evaluation transform that is not one of src.transforms")
    check_plain({key: value for key, value in view.items() if key != "_target_"}, whose)
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
        ValueError: the name is not that of one of this project's modules that train a classifier.
    """
    if MODULES.fullmatch(target):
        home, name = target.rsplit(".", 1)
        with suppress(ImportError):
            network = getattr(getattr(importlib.import_module(home), name, None), "network", None)
            if isinstance(network, type) and issubclass(network, Network):
                return network
    raise ValueError(f"{whose} name the module {target}: expected one of src.lightning_modules with a `network`")


def plain_backbone(backbone: Any, whose: str) -> dict[str, Any]:
    """The arguments of a backbone, without its weights.

    Raises:
        ValueError: it is more than a network of timm's with plain arguments.
    """
    if not isinstance(backbone, Mapping) or backbone.get("_target_") != "timm.create_model":
        raise ValueError(f"{whose} name a backbone that is not made by timm.create_model, and could not predict")
    name = backbone.get("model_name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"{whose} name the backbone {name!r}: expected a name of timm's, without a hub or a path")
    plain = {key: value for key, value in backbone.items() if key not in ("_target_", *START)}
    check_plain(plain, whose)
    return plain


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
        raise ValueError(f"{whose} ask for {settings}: in a finished run's settings everything is filled in")


def held_out(members: Sequence[Member]) -> dict[str, list[str]]:
    """Image paths of the parts, of splits.HELD_OUT, that all members hold out.

    Raises:
        ValueError: a member holds out nothing, or two hold out different images.
    """
    parts: dict[str, list[str]] = {}
    for member in members:
        own = held_out_by(member)
        if not own:
            raise ValueError(f"the member {member.folder} holds out no image (split=none)")
        if parts and own != parts:
            raise ValueError(f"the members {members[0].folder} and {member.folder} hold out different images (split=)")
        parts = own
    return parts


def held_out_by(member: Member) -> dict[str, list[str]]:
    """Image paths of the parts, of splits.HELD_OUT, that a member holds out: those that have images."""
    split = read_split(member.folder)
    return {part: split[part] for part in HELD_OUT if split[part]}
