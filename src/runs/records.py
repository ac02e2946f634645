"""What a run directory says: its settings, classes, split and end, read without trusting them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from src.data.splits import HELD_OUT
from src.digests import DigestOf
from src.files import digest_of, read_json

MAX_CONFIG = 2**20  # bytes of a config.yaml; ours have about five thousand
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # of plain values alone; libyaml's is ten times as fast


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config.yaml.

    Raises:
        FileNotFoundError: `folder` is not a run.
        ValueError: the file is not one that a run wrote; nothing that it refers to is opened.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run: it has no config.yaml")
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise ValueError("it is larger than a megabyte")
        depth = 0
        for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > 32 or isinstance(event, yaml.AliasEvent):  # which a few bytes can make enormous
                raise ValueError("it nests too deeply, or refers to itself")
        settings = yaml.load(path.read_text(encoding="utf-8"), LOADER)  # it was written resolved: "${" is plain text
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(settings, dict) or not settings:
        raise ValueError(f"{path} is damaged: it holds no settings")
    return {str(key): value for key, value in settings.items()}


def read_finished(folder: Path, digest_of: DigestOf = digest_of) -> dict[str, Any]:
    """A finished run's finished.json: the digest of its weights, those of its other files, its last figures.

    Args:
        folder: the run directory.
        digest_of: reads its files, or knows them.

    Raises:
        FileNotFoundError: the run is not finished.
        ValueError: the file is damaged, or a file that describes the run has changed since.
    """
    path = folder / "finished.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a finished run")
    done = read_json(path)
    if not isinstance(done, dict) or not isinstance(done.get("weights_sha256"), str):
        raise ValueError(f"{path} is damaged: remove it, and resume=true writes it again")
    metrics, files = done.get("metrics"), done.get("files", {})
    numbers = isinstance(metrics, dict) and all(type(value) in (int, float) for value in metrics.values())
    if not numbers or not isinstance(files, dict):
        raise ValueError(f"{path} is damaged: remove it, and resume=true writes it again")
    for name, digest in files.items():
        if Path(name).name != name or not (folder / name).is_file() or digest_of(folder / name) != digest:
            raise ValueError(f"{folder}/{name} is missing or has changed since the run finished")
    return done


def checked_digest(folder: Path) -> str:
    """The digest of a finished run's weights.

    Raises:
        ValueError: they are missing, or not those it finished with.
    """
    digest, path = str(read_finished(folder)["weights_sha256"]), folder / "weights.safetensors"
    if not path.is_file() or digest_of(path) != digest:
        problem = "damaged: the run finished with different content" if path.exists() else "missing"
        raise ValueError(
            f"{path} is {problem}; put it back from a copy, or remove {folder}/finished.json: the run's own command "
            "with resume=true makes both again, from its last checkpoint"
        )
    return digest


def is_finished(folder: Path) -> bool:
    """Whether a run reached its end.

    Raises:
        ValueError: see read_finished.
    """
    return (folder / "finished.json").exists() and bool(read_finished(folder))


def read_part(folder: Path, name: str, what: str) -> Any:
    """A JSON file of a run, which holds `what`.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is not JSON.
    """
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}, which holds the run's {what}, is missing: put it back from a copy of the run, or train it again"
        )
    return read_json(path)


def read_classes(folder: Path) -> list[str]:
    """A run's class names by id.

    Raises:
        OSError, ValueError: its classes.json is missing or damaged.
    """
    classes = read_part(folder, "classes.json", "class names by id")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{folder}/classes.json is damaged: expected a list of names")
    return classes


def read_split(folder: Path) -> dict[str, Any]:
    """A run's split.json: image paths of "train", the held-out parts and "trained_on_before", and where it started.

    Raises:
        OSError, ValueError: it is missing or damaged.
    """
    split = read_part(folder, "split.json", "images of every part")
    parts = ("train", *HELD_OUT, "trained_on_before")
    if not isinstance(split, dict) or not all(
        isinstance(split.get(part), list) and set(map(type, split[part])) <= {str} for part in parts
    ):
        raise ValueError(f"{folder}/split.json is damaged: expected lists of images by part")
    return split


def model_name_of(config: Mapping[str, Any]) -> str:
    """The name of a run's backbone, "" if its settings have none."""
    model = config.get("model")
    return str(model.get("model_name", "")) if isinstance(model, Mapping) else ""


def description_of(run: Path) -> dict[str, Any]:
    """What distinguishes a run from others of its stage; {} if it cannot be read."""
    try:
        settings = read_config(run)
    except (OSError, ValueError):
        return {}
    module, recipe = (part if isinstance(part := settings.get(name), Mapping) else {} for name in ("module", "recipe"))
    maps = str(module.get("_target_")).endswith(".C2AM")
    return {
        "model": model_name_of(settings),
        "split": settings.get("split_name"),
        "seed": settings.get("seed"),
        "tag": settings.get("tag"),
        "changes": settings.get("changes"),
        "recipe": recipe.get("name"),
        "mixing": settings.get("mixing_name"),
        "kind": "classifier" if "num_classes" in module else "run of wsss" if maps else None,
    }


def last_row(path: Path) -> dict[str, float]:
    """The metrics of the last epoch, for a run that was interrupted after its last epoch and before its end.

    Raises:
        ValueError: the file is damaged.
    """
    from src.callbacks.metrics_file import read_metrics

    rows = read_metrics(path)
    try:
        return {
            name: float(value)
            for name, value in (rows[-1].items() if rows else ())
            if value and name not in ("epoch", "step", "seconds")
        }
    except ValueError as error:
        raise ValueError(f"{path} is damaged: its last row holds something that is not a number") from error
