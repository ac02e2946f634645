"""A run directory: claimed by one process, described by files, handed to the next stage when finished.

config.yaml          the resolved settings              environment.json   revision, versions, command
split.json           the images of every part           classes.json       class names by id
last.ckpt best.ckpt  to resume from                      metrics.csv        one row an epoch
weights.safetensors  what the next stage reads          finished.json      written last: the run counts
"""

from __future__ import annotations

import csv
import fcntl
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from src.files import digest_of, read_json, write_json, write_text

FREE = (
    "resume",
    "logger",
    "logged_as",
    "callbacks.progress",
    "data_root",
    "manifest_dir",
    "logs_dir",
    "results_dir",
    "manifest",
    "mask_root",
    "init",  # what it points to counts: `started_from` of split.json
    "wsss.truth_dir",
    "callbacks.masks.truth_dir",
    "compile",
    "callbacks.masks.processes",
    "datamodule.data_root",
    "datamodule.manifest_dir",
    "datamodule.mask_root",
    "datamodule.num_workers",
    "datamodule.persistent_workers",
    "datamodule.rebuild",
    "datamodule.check",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.logger",
    "trainer.callbacks",
    "trainer.plugins",
    "dataset",
)
"""Settings that may differ between a run and its continuation: where things lie and who computes them."""

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "timm", "albumentations", "opencv-python-headless", "numpy")


class Run:
    """A run directory that this process has claimed.

    Attributes:
        folder: the directory.
        checkpoint: where to resume from, None for a start.
        finished: whether the run is complete and nothing is left to do.
    """

    def __init__(self, folder: Path, checkpoint: Path | None, finished: bool, lock: Any) -> None:
        self.folder, self.checkpoint, self.finished = folder, checkpoint, finished
        self._lock = lock  # an open file; the system closes it when the process ends, however it ends

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.close()


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


def claim(cfg: DictConfig, classes: Sequence[str], split: Mapping[str, Sequence[str]], inherited: Inheritance) -> Run:
    """Make the run's directory and describe the run in it, or take up an existing one with resume=true.

    A directory without a checkpoint holds nothing to lose: its run starts anew. Ranks other than 0, whose
    rank 0 has claimed the run, only look at it.

    Args:
        cfg: the settings.
        classes: class names by id.
        split: image paths of each part, "train" and the held-out ones.
        inherited: what it has from the runs before it.

    Raises:
        ValueError: the run exists (without resume), has other settings or another split, its checkpoints
            are damaged, or it belongs to a live process.
    """
    folder = Path(cfg.run_dir)
    finished = (folder / "finished.json").exists()
    if getattr(rank_zero_only, "rank", 0):
        return Run(folder, newest_checkpoint(folder) if cfg.resume else None, finished and cfg.resume, None)
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / ".lock", "a")  # noqa: SIM115 (held until the process ends)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of two starts at once, one gets it
    except OSError as error:
        lock.close()
        raise ValueError(f"the run {folder} is being trained by another process right now") from error
    settings = resolved(cfg)
    parts: dict[str, Any] = {part: list(paths) for part, paths in split.items()}
    parts["trained_on_before"] = sorted(inherited.images - set(parts["train"]))
    parts["started_from"] = inherited.weights_sha256
    parts["masks_from"] = inherited.masks_sha256
    finished = (folder / "finished.json").exists()
    for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
        leftover.unlink()
    if not finished and not any(folder.glob("*.ckpt")):
        write_text(folder / "config.yaml", OmegaConf.to_yaml(settings))
        write_json(folder / "split.json", parts)
        write_json(folder / "classes.json", list(classes))
        write_json(folder / "environment.json", environment())
        return Run(folder, None, False, lock)
    check_same_settings(folder, settings)
    if not cfg.resume:
        state = "is finished" if finished else "exists and is not finished: resume=true continues it"
        raise ValueError(f"the run {folder} {state}; for another run beside it set tag=<word>, or remove the folder")
    if read_json(folder / "split.json") != parts:
        raise ValueError(
            f"the data, the split, the masks or the weights to start from (init) changed since {folder}/split.json was "
            "written: train a new run (tag=<word>)"
        )
    return Run(folder, None if finished else newest_checkpoint(folder), finished, lock)


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The settings as plain values, interpolations filled in."""
    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as {dotted key: value}."""
    if not isinstance(settings, Mapping):
        return {prefix: settings}
    return {
        key: value for k, v in settings.items() for key, value in flat(v, f"{prefix}.{k}" if prefix else str(k)).items()
    }


def check_same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise ValueError where the run in `folder` was started with other settings, naming each."""
    # Paths inside of the run are compared without its own, which may be spelled in another way or have moved.
    there = read_config(folder)
    before, now = (
        {
            key: str(value).replace(str(config["run_dir"]), "<run>")
            for key, value in flat(config).items()
            if value is not None  # a setting that is new and null changes nothing
        }
        for config in (there, settings)
    )
    different = [
        f"{key}: {before.get(key, 'not set')} there, {now.get(key, 'not set')} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(key == free or key.startswith(f"{free}.") for free in FREE)
    ]
    if different:
        raise ValueError(
            f"the run {folder} exists with other settings ({'; '.join(different)}): "
            "set them as they were, or name another run with tag=<word>"
        )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose digest verifies; None where the run never wrote one.

    Raises:
        ValueError: there are checkpoints and every one is damaged.
    """
    from src.callbacks.checkpoint_io import verifies

    checkpoints = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    whole = next((path for path in checkpoints if verifies(path)), None)
    if checkpoints and whole is None:
        raise ValueError(f"every checkpoint in {folder} is damaged: remove the folder and train again")
    return whole


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config.yaml.

    Raises:
        FileNotFoundError: `folder` is no run.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no run: it has no config.yaml")
    settings = OmegaConf.to_container(OmegaConf.load(path), resolve=False)  # it was written resolved
    return {str(key): value for key, value in settings.items()} if isinstance(settings, dict) else {}


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
    if before.init and not (before.init / "finished.json").exists():
        command = command_for(before.init, "model", "seed")
        missing.append(f"init={before.init} is no finished run: train it first{command}")
    if before.masks:
        maker = before.masks.parent  # a run that has a model and a seed of its own; or somebody's folder
        if not before.masks.exists():
            missing.append(f"the masks {before.masks} do not exist: make them first{command_for(maker)}")
        elif (maker / "environment.json").exists() and not (maker / "finished.json").exists():
            command = read_json(maker / "environment.json")["command"]
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
        backbone = read_config(before.init)["model"]["model_name"]
        if backbone != model_name:
            raise ValueError(
                f"the run {before.init} has the backbone {backbone}, this run {model_name}: "
                f"train it with this run's model= first{command_for(before.init, 'model', 'seed')}"
            )
        images |= trained_on(before.init, command_for(before.init, "model", "seed"), classes, split)
        weights = read_json(before.init / "finished.json")["weights_sha256"]
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
    if read_json(run / "classes.json") != list(classes):
        raise ValueError(f"the run {run} was trained on other classes than this data set's: train it anew")
    parts = read_json(run / "split.json")
    images = set(parts["train"]) | set(parts["trained_on_before"])
    shared = images & {path for part, paths in split.items() if part != "train" for path in paths}
    if shared:
        raise ValueError(
            f"the run {run} was trained on {len(shared)} images that this run holds out (first: {min(shared)}), "
            f"which would make its accuracy a lie: train it with this run's split= first{command}"
        )
    return images


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
        ["python", "train.py", f"track={track[5:]}", f"stage={stage}", *filter(same.match, sys.argv[1:])]
    )


def environment() -> dict[str, Any]:
    """What a reader needs to repeat a run: git revision, versions, machine, command."""

    def git(*words: str) -> str:
        try:
            return subprocess.run(
                ["git", *words], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    return {
        # Without the quotes that cli.prepare_arguments puts around a track for Hydra's sake.
        "command": shlex.join(["python", *(re.sub(r"^(track=)'(\d)'$", r"\1\2", word) for word in sys.argv)]),
        "revision": git("rev-parse", "HEAD") or None,
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def finish(run: Run, figures: Mapping[str, float]) -> None:
    """Mark a run as complete, with the digest of its weights and its last figures."""
    metrics = dict(figures) or last_row(run.folder / "metrics.csv")
    done = {"weights_sha256": digest_of(run.folder / "weights.safetensors"), "metrics": metrics}
    write_json(run.folder / "finished.json", done)


def last_row(path: Path) -> dict[str, float]:
    """The metrics of the last epoch, for a run that was interrupted between its last epoch and its end."""
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: float(value) for name, value in rows[-1].items() if value and name not in ("epoch", "step", "seconds")
    }
