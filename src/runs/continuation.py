"""What keeps an unfinished run from being continued: other settings or classes, damaged checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from src.cli import instantiate
from src.distributed import is_rank_zero
from src.numbers import is_number
from src.overrides import may_differ
from src.runs.records import read_classes, read_config

NEW = {
    "module.label_smoothing": 0.0,
    **{
        f"{place}.{name}": value
        for place in ("mixing", "module.mixing")
        for name, value in {"probability": 1.0, "per_image": False, "until": 1.0}.items()
    },
    "datamodule.train_transform.jitter": [0.0, 0.0, 0.0, 0.0],
    "datamodule.train_transform.grey": 0.0,
    "module.temperature_squared": False,
    "datamodule.train_transform.randaugment.num_ops": 0,
    "datamodule.train_transform.randaugment.magnitude": 9,
    "datamodule.train_transform.trivialaugment": False,
    "datamodule.train_transform.random_erasing": 0.0,
}
"""Settings that runs of 0.2.0 lack, with the values that those were trained with."""


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as {dotted key: value}."""
    if not isinstance(settings, Mapping):
        return {prefix: settings}
    return {
        key: value for k, v in settings.items() for key, value in flat(v, f"{prefix}.{k}" if prefix else str(k)).items()
    }


def check_same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise ValueError where the run in `folder` was started with other settings, naming each."""
    there = read_config(folder)
    if not isinstance(there.get("run_dir"), str):
        raise ValueError(
            f"{folder}/config.yaml is damaged: it has no run_dir; put it back from a copy of the run, or start another "
            "run with tag=<word>"
        )
    different = differences(there, settings)
    if different and older(there):
        raise ValueError(
            f"the run {folder} was started by an older version of this project: it can still predict, but this version "
            "cannot continue it; start it again as another run with tag=<word>, or go back to the revision in its "
            "environment.json"
        )
    if different:
        raise ValueError(
            f"the run {folder} exists with other settings ({'; '.join(different)}): "
            "set them as they were, or start another run with tag=<word>"
        )


def check_same_classes(folder: Path, classes: Sequence[str]) -> None:
    """Raise ValueError where the run in `folder` was started with other classes than `classes`, or nobody can know."""
    try:
        there = read_classes(folder)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{error}; where the data set's classes and their order are those that the run was started with, write "
            f"them into it: {json.dumps(list(classes), ensure_ascii=False)}"
        ) from error
    if there != list(classes):
        first = next(i for i, pair in enumerate(zip_longest(there, classes)) if len(set(pair)) > 1)
        a, b = ([*map(repr, names), "nothing"][min(first, len(names))] for names in (there, classes))
        raise ValueError(
            f"{folder}/classes.json has other classes than the data set (id {first} is {a} there, {b} here), and the "
            "network would mistake them: put back the label map and the folders of the data, or the file, or train a "
            "new run (tag=<word>)"
        )


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The settings that keep a run from being resumed, each with its two values."""
    # Paths inside of the run are compared without its own, which may be spelled in another way or have moved.
    before, now = (
        {
            key: str(value).replace(str(config.get("run_dir")), "<run>")
            for key, value in (NEW | flat(config)).items()
            if value is not None  # a setting that is new and null changes nothing
        }
        for config in (there, here)
    )
    return [
        f"{key}: {before.get(key, 'not set')} there, {now.get(key, 'not set')} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not may_differ(key)
    ]


def older(settings: Mapping[str, Any]) -> bool:
    """Whether a run's settings name a module of this project that no longer exists."""
    targets = [str(value) for key, value in flat(settings).items() if key.endswith("_target_")]
    homes = {Path(*target.split(".")[:-1]) for target in targets if target.startswith("src.")}
    root = Path(__file__).resolve().parents[2]
    return any(not (root / home).is_dir() and not (root / f"{home}.py").exists() for home in homes)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose digest verifies, None where the run never wrote one; damaged ones are named.

    Raises:
        ValueError: there are checkpoints and every one is damaged.
    """
    from src.callbacks.checkpoint_io import progress_of, verifies

    checkpoints = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    whole = next((path for path in checkpoints if verifies(path)), None)
    if checkpoints and whole is None:
        raise ValueError(f"every checkpoint in {folder} is damaged: remove the folder and train again")
    if whole is not None and whole != checkpoints[0] and is_rank_zero():
        damaged = " and ".join(path.name for path in checkpoints[: checkpoints.index(whole)])
        print(f"{folder}: {damaged} is damaged; {whole.name} goes back to {progress_of(whole)}", flush=True)
    return whole


def untrained_module(cfg: DictConfig) -> Any:
    """A run's module with the weights that its networks are drawn with: no pretrained ones are read."""
    plain = cfg.copy()
    if "model" in plain:
        plain.model.update(pretrained=False, weights=None)
    return instantiate(plain.module)


def check_checkpoint(path: Path, cfg: DictConfig) -> None:
    """Raise ValueError where a run cannot continue from a checkpoint: it lacks a part, or is of another network.

    Args:
        path: the checkpoint, whose digest verifies.
        cfg: the run's settings, which make its network.
    """
    from src.callbacks.checkpoint_io import read_checkpoint

    loaded = read_checkpoint(path, mmap=True)
    wanted = {key: value.shape for key, value in untrained_module(cfg).state_dict().items()}
    fault = fault_of(loaded) or fault_of_network(loaded["state_dict"], wanted)
    if fault:
        other = [one.name for one in sorted(path.parent.glob("*.ckpt")) if one != path]
        advice = f"and {other[0]} is continued from" if other else "and the run starts anew"
        raise ValueError(f"{path} is damaged, or not this run's ({fault}): remove it, {advice}")


def fault_of(loaded: Mapping[str, Any]) -> str | None:
    """What a checkpoint lacks of what Lightning and the data module read; None where it is whole."""
    kinds = {"state_dict": Mapping, "loops": Mapping, "callbacks": Mapping, "optimizer_states": Sequence,
             "lr_schedulers": Sequence, "epoch": int, "global_step": int, "pytorch-lightning_version": str}  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(loaded.get(name), kind):
            return f"it has no {name}" if name not in loaded else f"its {name} is {type(loaded[name]).__name__}"
    where = loaded.get("NicoDataModule", {})
    if where and not (isinstance(where, Mapping) and type(where.get("epoch")) is type(where.get("batches")) is int):
        return "it does not say where in the order of the images it was written"
    for state in loaded["optimizer_states"]:
        groups = state.get("param_groups") if isinstance(state, Mapping) else None
        if not isinstance(groups, list) or not groups or not isinstance(state.get("state"), Mapping):
            return "its optimizer_states have no state and param_groups"
        for group in groups:
            if not isinstance(group, Mapping) or not isinstance(group.get("params"), list):
                return "its optimizer_states have a group without parameters"
            for name in ("lr", "initial_lr", "momentum", "weight_decay"):
                if name in group and not is_rate(group[name]):
                    return f"the {name} in its optimizer_states is {group[name]!r:.40}"
    for state in loaded["lr_schedulers"]:
        if not isinstance(state, Mapping) or not isinstance(state.get("last_epoch", 0), int):
            return "its lr_schedulers do not say which epoch was the last"
        for name in ("base_lrs", "_last_lr"):
            values = state.get(name, [])
            if not isinstance(values, Sequence) or not all(map(is_rate, values)):
                return f"the {name} in its lr_schedulers is {values!r:.40}"
    return None


def is_rate(value: Any) -> bool:
    """Whether a value is a finite number, or a tensor, as some optimisers keep the rate."""
    return isinstance(value, torch.Tensor) or is_number(value)


def fault_of_network(state: Mapping[str, Any], wanted: Mapping[str, torch.Size]) -> str | None:
    """How the tensors of a checkpoint differ from those of a network, by the first of them; None where they fit."""
    for key in (*wanted, *state):
        if key not in state:
            return f"it lacks the tensor {key}"
        if key not in wanted:
            return f"its tensor {key} is unknown"
        if not isinstance(state[key], torch.Tensor) or state[key].shape != wanted[key]:
            shape = list(getattr(state[key], "shape", ()))
            return f"its tensor {key} has the shape {shape}, and the network {list(wanted[key])}"
    return None
