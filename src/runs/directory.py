"""A run directory: claimed by one process, described by files, handed to the next stage when finished.

config.yaml          the resolved settings              environment.json   revision, versions, command
split.json           the images of every part           classes.json       class names by id
last.ckpt best.ckpt  to resume from                      metrics.csv        one row per epoch
weights.safetensors  what the next stage reads          finished.json      written last: the run counts
"""

from __future__ import annotations

import copy
import importlib.metadata
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from src.cli import command_words
from src.distributed import is_rank_zero
from src.files import digest_of, write_json, write_text
from src.locks import Lock
from src.overrides import literal
from src.precision import check_precision
from src.runs.continuation import (
    check_checkpoint,
    check_same_classes,
    check_same_settings,
    differences,
    newest_checkpoint,
)
from src.runs.lineage import Inheritance
from src.runs.records import checked_digest, is_finished, last_row, read_config, read_split

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "timm", "albumentations", "opencv-python-headless", "numpy")


class Run:
    """A run directory that this process has claimed.

    Attributes:
        folder: the directory.
        checkpoint: where to resume from, None for a start.
        finished: whether the run is complete and nothing is left to do.
    """

    def __init__(self, folder: Path, checkpoint: Path | None, finished: bool, lock: Lock | None) -> None:
        self.folder, self.checkpoint, self.finished = folder, checkpoint, finished
        self._lock = lock

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.release()


def check_settings(cfg: DictConfig) -> None:
    """Raise ValueError for settings that no run can have, before anything is done; again with the facts of the data."""
    if type(cfg.seed) is not int or not 0 <= cfg.seed < 2**32:
        raise ValueError(f"seed is {cfg.seed}: expected a number from 0 to 2^32 - 1")
    check_precision(cfg.trainer.precision)
    if cfg.get("hparams"):
        raise ValueError("hparams= is a search: add -m, as in python train.py -m track=1 stage=baseline hparams=optuna")
    if OmegaConf.is_missing(cfg.dataset, "images") and OmegaConf.is_interpolation(cfg.trainer, "max_epochs"):
        return  # it follows from the number of images
    end = cfg.trainer.max_epochs
    if type(end) is not int or end < int("backbone" in cfg.module):  # without a network there is nothing to train
        raise ValueError(
            f"trainer.max_epochs is {end}: expected at least 1, as the rate's schedule must know the end "
            "(trainer.max_time and trainer.max_steps limit a single start)"
        )


def claim(cfg: DictConfig, classes: Sequence[str], split: Mapping[str, Sequence[str]], inherited: Inheritance) -> Run:
    """Make the run's directory and describe the run in it, or continue an existing one with resume=true.

    A directory without a checkpoint holds nothing to lose: its run starts over. Ranks other than 0, whose
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
    if not is_rank_zero():
        finished = cfg.resume and is_finished(folder)
        return Run(folder, newest_checkpoint(folder) if cfg.resume else None, finished, None)
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / ".lock")
    if not lock.acquire():
        raise ValueError(f"the run {folder} is being trained by another process right now ({lock.words()})")
    try:
        return open_run(cfg, folder, classes, split, inherited, lock)
    except BaseException:
        lock.release()
        raise


def open_run(
    cfg: DictConfig,
    folder: Path,
    classes: Sequence[str],
    split: Mapping[str, Sequence[str]],
    inherited: Inheritance,
    lock: Lock,
) -> Run:
    """As `claim`, of a folder whose lock this process holds."""
    settings = resolved(cfg)
    parts: dict[str, Any] = {part: list(paths) for part, paths in split.items()}
    parts["trained_on_before"] = sorted(inherited.images - set(parts["train"]))
    parts["started_from"] = inherited.weights_sha256
    parts["masks_from"] = inherited.masks_sha256
    parts |= inherited.several
    for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
        leftover.unlink()
    finished = is_finished(folder)
    if not finished and not any(folder.glob("*.ckpt")):
        write_text(folder / "config.yaml", OmegaConf.to_yaml(literal(settings), resolve=True))
        write_json(folder / "split.json", parts)
        write_json(folder / "classes.json", list(classes))
        write_json(folder / "environment.json", environment())
        return Run(folder, None, False, lock)
    check_same_settings(folder, settings)
    if not cfg.resume:
        state = "is finished" if finished else "exists and is not finished: resume=true continues it"
        raise ValueError(f"the run {folder} {state}; for another run, set tag=<word>, or remove the folder")
    check_same_classes(folder, classes)
    if read_split(folder) != parts:
        raise ValueError(
            "the data, the split, the masks, the teachers, the networks or the weights to start from (init, "
            f"model.weights, model.pretrained) have changed since {folder}/split.json was written: train a new run "
            "(tag=<word>)"
        )
    if finished:
        checked_digest(folder)
        return Run(folder, None, True, lock)
    checkpoint = newest_checkpoint(folder)
    if checkpoint and "module" in cfg:
        check_checkpoint(checkpoint, cfg)
    return Run(folder, checkpoint, False, lock)


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The settings as plain values, interpolations filled in."""
    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def keep_earlier_name(cfg: DictConfig) -> None:
    """Let resume=true find a run from before names included changes, by setting `changes` to null."""
    if not (cfg.resume and cfg.changes) or Path(cfg.run_dir).exists():
        return
    earlier = copy.deepcopy(cfg)
    earlier.changes = None
    try:
        there = read_config(Path(earlier.run_dir))
    except (OSError, ValueError):
        return
    earlier.dataset = there.get("dataset")  # a fact of the data, which nobody has looked at yet
    earlier.masks = cfg.masks or literal(there.get("masks"))  # what a run began with counts (lineage.predecessors)
    if not differences(there, resolved(earlier)):
        cfg.changes = None


def is_begun(folder: Path) -> bool:
    """Whether a run is finished, or has a checkpoint to resume from."""
    return is_finished(folder) or newest_checkpoint(folder) is not None


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
        "command": shlex.join(["python", *command_words()]),
        "revision": git("rev-parse", "HEAD") or None,
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


DESCRIBED_BY = ("config.yaml", "classes.json", "split.json")
"""The files that describe a finished run, and must not change afterwards."""


def finish(run: Run, figures: Mapping[str, float], passes: float) -> None:
    """Mark a run as complete, with the digests of its weights and of what describes it, its last figures, and its cost.

    Args:
        passes: images that went through the trained network and back, in epochs of the training images.
    """
    metrics = dict(figures) or last_row(run.folder / "metrics.csv")
    done = {
        "weights_sha256": digest_of(run.folder / "weights.safetensors"),
        "files": {name: digest_of(run.folder / name) for name in DESCRIBED_BY},
        "metrics": metrics,
        "passes": passes,
    }
    write_json(run.folder / "finished.json", done)


def left_to_do(trainer: pl.Trainer, settings: Mapping[str, Any]) -> str:
    """What keeps a run whose training returned from being finished, as the end of a sentence; "" where nothing does.

    Args:
        trainer: after fit.
        settings: the run's; the end is that of trainer.max_epochs.
    """
    debugging = debug_settings(settings["trainer"])
    if debugging:
        return f"is a debug run ({', '.join(debugging)}), which is never finished and never votes"
    end = settings["trainer"]["max_epochs"]
    if trainer.current_epoch < end:
        return f"stopped after epoch {trainer.current_epoch} of {end} and is not finished: resume=true continues it"
    return ""


def debug_settings(trainer: Mapping[str, Any]) -> list[str]:
    """The trainer's settings that limit a run to a part of its data, as name=value."""
    # What each is without a limit. To Lightning 1 is one batch, and 1.0 all of them.
    whole = {
        "fast_dev_run": ("None", "False", "0"),
        "overfit_batches": ("None", "0", "0.0"),
        "limit_train_batches": ("None", "1.0"),
        "limit_val_batches": ("None", "1.0", "0", "0.0"),  # a stage may validate nothing
        "limit_predict_batches": ("None", "1.0"),
    }
    limits = {name: str(trainer.get(name)) for name in whole}
    return [f"trainer.{name}={value}" for name, value in limits.items() if value not in whole[name]]
