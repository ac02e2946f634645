"""Members: the finished runs of a track, rebuilt from their config.yaml and weights, and soups of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from src.files import digest_of, read_json, write_json, write_text
from src.manifest import HELD_OUT
from src.runs import read_config
from src.weights import load_weights, read_weights, uniform_soup, write_weights

TARGETS = re.compile(
    r"src\.(lightning_modules|mixing)\.\w+\.[A-Z]\w*|src\.(transforms|schedules)\.[A-Z]\w*|torch\.optim\.(lr_scheduler\.)?[A-Z]\w*|timm\.create_model"
)
"""What a run's config.yaml may instantiate: a run from elsewhere must not choose what code runs here."""


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


def find_members(logs_dir: Path, track: int, stages: Sequence[str]) -> tuple[list[Member], list[tuple[Path, str]]]:
    """The finished runs of `stages`, and the runs left out with the reason for each.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: the members were trained with different label maps.
    """
    runs = logs_dir / f"track{track}"
    folders = [path.parent for stage in stages for path in sorted((runs / stage).glob("*/config.yaml"))]
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
    for member in members[1:]:
        if member.classes != members[0].classes:
            raise ValueError(
                f"the members {members[0].folder} and {member.folder} were trained with different label maps: "
                "remove or retrain one of them"
            )
    return members, left_out


def read_member(folder: Path) -> Member | str:
    """A run as a member, or why it is none."""
    weights = folder / "weights.safetensors"
    if not (folder / "finished.json").is_file():
        return "it has not reached its end"
    done = read_json(folder / "finished.json")
    if not weights.is_file() or digest_of(weights) != done["weights_sha256"]:
        return "its weights are missing or not those it finished with"
    config, classes = read_config(folder), read_json(folder / "classes.json")
    if "num_classes" not in config["module"]:
        return f"the stage {folder.parent.name} trains no classifier"
    return Member(folder, folder.parent.name, folder.name, config, classes, done["metrics"], done["weights_sha256"])


def rebuild(member: Member) -> pl.LightningModule:
    """The member's module with its weights, in evaluation mode.

    Raises:
        ValueError: its config.yaml asks for code or files that a member has no business with.
    """
    settings = member.config["module"]
    check_targets(settings, member.folder)
    module: pl.LightningModule = instantiate(settings)
    parts = {part: getattr(module, part) for part in module.exported}  # type: ignore[union-attr]
    load_weights(member.folder / "weights.safetensors", parts)
    return module.eval()


def check_targets(settings: Any, folder: Path) -> None:
    """Raise ValueError where settings name a target outside of TARGETS, or a model to download or unpickle."""
    if isinstance(settings, Mapping):
        target = str(settings.get("_target_", "timm.create_model"))
        foreign = settings.keys() & {"pretrained", "checkpoint_path", "pretrained_cfg", "_args_"}
        if not TARGETS.fullmatch(target) or foreign or not set(str(settings.get("model_name", ""))).isdisjoint(":/"):
            raise ValueError(
                f"the settings of {folder} ask for {target}{' with ' + ', '.join(foreign) if foreign else ''}"
            )
        settings = list(settings.values())
    if isinstance(settings, str) and "${" in settings:  # it would be filled in after this check
        raise ValueError(f"the settings of {folder} ask for {settings}: a finished run's are filled in")
    if isinstance(settings, list):
        for value in settings:
            check_targets(value, folder)


def open_images(settings: DictConfig, member: Member) -> pl.LightningDataModule:
    """A data module that makes images as the member wants them.

    Args:
        settings: of the data module, without size and evaluation transform.
        member: completes them.
    """
    check_targets(member.view, member.folder)
    datamodule: pl.LightningDataModule = instantiate(settings, **member.view)
    return datamodule


def held_out(members: Sequence[Member]) -> dict[str, list[str]]:
    """Image paths of the parts, of manifest.HELD_OUT, that all members hold out.

    Raises:
        ValueError: a member holds out nothing, or two hold out different images.
    """
    parts: dict[str, list[str]] = {}
    for member in members:
        split = read_json(member.folder / "split.json")
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
    starts = [read_json(member.folder / "split.json").get("started_from") for member in members]
    groups: dict[str, list[Member]] = {}
    for member, start in zip(members, starts, strict=True):
        whole = {"backbone", "head"} <= set(member.config["init_parts"])
        shared = member.digest if member.digest in starts else start if whole else None
        key = str([member.config["model"], member.view, shared]) if shared else member.digest
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
    splits = [read_json(member.folder / "split.json") for member in members]
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
    run = folder / f"{first.config['model']['model_name']}-of-{len(members)}-{first.digest[:8]}"
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
