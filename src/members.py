"""Members: the finished runs of a track, rebuilt from their config.yaml and weights, and their predictions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from hydra.utils import instantiate

from src.files import digest_of, read_json, write_json, write_whole
from src.manifest import Row, read_manifest
from src.runs import read_config
from src.weights import load_weights

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


def find_members(logs_dir: Path, track: int, stages: Sequence[str]) -> tuple[list[Member], list[tuple[Path, str]]]:
    """The finished runs of `stages`, and the runs left out with the reason for each.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: the members were trained with different label maps.
    """
    members: list[Member] = []
    left_out: list[tuple[Path, str]] = []
    for stage in stages:
        for folder in sorted(path.parent for path in (logs_dir / f"track{track}" / stage).glob("*/config.yaml")):
            if not (folder / "finished.json").is_file():
                left_out.append((folder, "it has not reached its end"))
                continue
            done = read_json(folder / "finished.json")
            weights = folder / "weights.safetensors"
            if not weights.is_file() or digest_of(weights) != done["weights_sha256"]:
                left_out.append((folder, "its weights are missing or not those it finished with"))
                continue
            config, classes = read_config(folder), read_json(folder / "classes.json")
            digest = done["weights_sha256"]
            members.append(Member(folder, stage, folder.name, config, classes, done["metrics"], digest))
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


def predict(member: Member, images: Mapping[str, Any], trainer: pl.Trainer) -> npt.NDArray[np.float32]:
    """Run a member over the test images, in the way it was validated: (N, K) float32 probabilities.

    Args:
        member: the member.
        images: settings of the data module, which the member's own size and evaluation transform complete.
        trainer: runs the network.
    """
    settings = {key: member.config["datamodule"][key] for key in ("size", "eval_transform")}
    check_targets(settings, member.folder)
    batches = trainer.predict(rebuild(member), instantiate(images, **settings))
    assert batches is not None
    return np.concatenate([np.asarray(batch) for batch in batches]).astype(np.float32)


def stored(folder: Path, member: Member, images: str) -> npt.NDArray[np.float32] | None:
    """A member's probabilities of an earlier call, where weights and images are still the same."""
    path = folder / member.stage / f"{member.name}.npz"
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            probabilities: npt.NDArray[np.float32] = file["probabilities"]
            return probabilities if str(file["key"]) == key_of(member, images) else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # damaged: as good as not there
        return None


def key_of(member: Member, images: str) -> str:
    """What a member's predictions depend on: its weights, its network and input, and the images' digest."""
    data = member.config["datamodule"]
    settings = json.dumps([member.config["module"], data["size"], data["eval_transform"]], sort_keys=True)
    return hashlib.sha256(f"{member.digest}\0{settings}\0{images}".encode()).hexdigest()


def store(
    folder: Path, member: Member, images: str, names: Sequence[str], probabilities: npt.NDArray[np.float32]
) -> None:
    """Keep a member's probabilities (.npz) and its labels (.json, the format of prediction.json)."""
    path = folder / member.stage / f"{member.name}.npz"
    labels = probabilities.argmax(1)
    write_json(path.with_suffix(".json"), dict(zip(names, map(int, labels), strict=True)))
    with write_whole(path) as file:
        np.savez(file, key=np.array(key_of(member, images)), names=np.array(names), probabilities=probabilities)


def read_truth(path: Path) -> list[Row]:
    """Labels of test images, from a manifest or from an object {image_name: label}."""
    entries = read_json(path)
    if isinstance(entries, Mapping):
        for name, label in entries.items():
            if type(label) is not int or label < 0:
                raise ValueError(f"{path} gives {name} the label {label!r}: expected an id >= 0")
        return [Row(image_path=name, image_name=name, label=label) for name, label in entries.items()]
    return read_manifest(path)


def match_truth(
    rows: Sequence[Row], names: Sequence[str], where: Path
) -> tuple[npt.NDArray[np.int64], list[str]] | None:
    """Labels (N,) and contexts (names or ids as text, "" where unknown) of the images `names`, by `rows`.

    Returns:
        None where no row has a label.

    Raises:
        ValueError: some of the images have a label and others not.
    """
    known = {row.name: row for row in rows if row.label is not None}
    if not known:
        return None
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"{where} has no label for {len(missing)} of {len(names)} test images (first: {missing[0]})")
    labels = np.array([known[name].label for name in names], np.int64)
    domains = [known[name].domain for name in names]
    return labels, ["" if domain is None else str(domain) for domain in domains]
