"""What a run is made from: the weights it starts from, the masks it uses, the images they saw."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from src.cli import command_words
from src.files import digest_of, read_json
from src.runs.records import is_finished, model_name_of, read_classes, read_config, read_finished, read_split


class Inheritance(NamedTuple):
    """What a run has from the runs before it.

    Attributes:
        images: those that they were trained on.
        weights_sha256: digest of the weights that it starts from.
        masks_sha256: of the weights that made its masks, or of the masks' manifest where no run of ours made them.
    """

    images: set[str]
    weights_sha256: str | None
    masks_sha256: str | None


NOTHING = Inheritance(set(), None, None)


class Predecessors(NamedTuple):
    """What a run is made from: the run whose weights it starts from, and the manifest of its masks; or None."""

    init: Path | None
    masks: Path | None


def predecessors(cfg: DictConfig) -> Predecessors:
    """The settings `init` and `masks`; null and "none" are none.

    Raises:
        FileNotFoundError: they are not there; the commands that make them are named.
    """
    before = Predecessors(*(Path(name) if name and name != "none" else None for name in (cfg.init, cfg.masks)))
    missing = []
    if before.init and not is_finished(before.init):
        command = command_for(before.init, "model", "seed")
        missing.append(f"init={before.init} is not a finished run: train it first{command}")
    if before.masks:
        maker = before.masks.parent  # a run that has a model and a seed of its own; or somebody's folder
        if not before.masks.exists():
            missing.append(f"the masks {before.masks} do not exist: make them first{command_for(maker)}")
        elif (maker / "environment.json").exists() and not is_finished(maker):
            command = command_of(maker)
            missing.append(f"the run {maker} that makes the masks is not finished: resume it: {command} resume=true")
    if missing:
        raise FileNotFoundError("; ".join(missing))
    return before


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
        weights = read_finished(before.init)["weights_sha256"]
        if digest_of(before.init / "weights.safetensors") != weights:
            raise ValueError(f"{before.init}/weights.safetensors is damaged: it is not what the run finished with")
    if before.masks:
        maker = before.masks.parent
        if (maker / "split.json").exists():
            images |= trained_on(maker, command_for(maker), classes, split)
            masks = digest_of(maker / "weights.safetensors")
        else:
            masks = digest_of(before.masks)
    return Inheritance(images, weights, masks)


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
            f"which would make its accuracy a lie: train it with this run's split= first{command}"
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
        more: settings of this command, beside those of data and split, that the run shares.
    """
    track, stage = folder.parent.parent.name, folder.parent.name
    if not track.startswith("track"):
        return ""
    shared = "|".join(("scale", "split", "data_root", "manifest_dir", "logs_dir", *more))
    same = re.compile(rf"({shared})[.\w]*=")
    return ": " + shlex.join(
        ["python", "train.py", f"track={track[5:]}", f"stage={stage}", *filter(same.match, command_words()[1:])]
    )
