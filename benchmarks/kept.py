"""Finished runs that nobody trained, with drawn predictions that are kept: for benchmarks of what follows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from omegaconf import DictConfig

from src import cli
from src.data.manifest import Row
from src.files import digest_of, write_json, write_text
from src.lightning_modules.classifier import Network
from src.prediction.image_sets import ImageSet, with_digest
from src.prediction.kept import store, task_of
from src.prediction.members import Member, read_member
from src.prediction.settings import read_settings
from src.runs.directory import DESCRIBED_BY, resolved
from src.runs.weights import save_weights

TRAIN, TEST = "public_dg_0416/train", "public_dg_0416/public_test_flat"
"""Where track 1 has its images."""


def words_of(folder: Path) -> list[str]:
    """What a command line says of data, runs and results that lie in a folder."""
    return [
        "track=1", "scale=demo", f"data_root={folder}/data", f"manifest_dir={folder}/json", f"logs_dir={folder}/logs",
        f"results_dir={folder}/results",
    ]  # fmt: skip


def make_runs(folder: Path, count: int, classes: Sequence[str], split: Mapping[str, Sequence[str]]) -> None:
    """Write finished baselines of drawn weights, that differ in their seeds."""
    for seed in range(count):
        words = [*words_of(folder), "stage=baseline", f"seed={seed}", "datamodule.size=32", "changes=null"]
        cfg = cli.composed("train", *words)
        write_run(Path(cfg.run_dir), cfg, classes, split)


def write_run(
    run: Path,
    cfg: DictConfig,
    classes: Sequence[str],
    split: Mapping[str, Sequence[str]],
    contexts: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
    passes: float = 1,
) -> None:
    """Write what a finished run of a classifier is read from, with weights that its seed draws.

    Args:
        run: the run directory.
        cfg: what train.py was called with; what it finds out of the data is filled in.
        classes, contexts: names.
        split: image paths of parts; the others are empty.
        metrics, passes: of finished.json.
    """
    cfg.dataset = {"num_classes": len(classes), "contexts": list(contexts), "images": 0, "context_information": 0}
    cfg.init = cfg.masks = "none"
    settings = resolved(cfg)
    parts = {"train": [], "in_domain": [], "out_of_domain": [], "trained_on_before": [], **split}
    write_text(run / "config.yaml", yaml.safe_dump(settings))
    write_json(run / "classes.json", list(classes))
    write_text(run / "split.json", json.dumps(parts))
    torch.manual_seed(settings["seed"])
    backbone = cli.instantiate({**settings["model"], "pretrained": False, "weights": None})
    network = Network(backbone=backbone, num_classes=len(classes), mean=[0.5] * 3, std=[0.2] * 3)
    save_weights(run / "weights.safetensors", {"backbone": network.backbone, "head": network.head})
    done = {
        "weights_sha256": digest_of(run / "weights.safetensors"),
        "files": {name: digest_of(run / name) for name in DESCRIBED_BY},
        "metrics": dict(metrics or {}),
        "passes": passes,
    }
    write_json(run / "finished.json", done)


def members_in(folder: Path) -> list[Member]:
    """The runs of `make_runs`."""
    found = [read_member(run) for run in sorted((folder / "logs/track1/baseline").iterdir())]
    assert all(isinstance(one, Member) for one in found), found
    return [one for one in found if isinstance(one, Member)]


def drawn(label: npt.NDArray[np.int64], classes: int, seed: int) -> npt.NDArray[np.float32]:
    """Probabilities (N, K) that have about three of four labels (N,) right."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((len(label), classes), np.float32)
    scores[np.arange(len(label)), label] += 3
    np.exp(scores, out=scores)
    return scores / scores.sum(1, keepdims=True)


def keep(folder: Path, images: ImageSet, label: npt.NDArray[np.int64], classes: int, *words: str) -> None:
    """Keep drawn predictions of every run for images, as predict.py with `words` looks for them."""
    settings = read_settings(resolved(cli.composed("predict", *words_of(folder), *words)))
    images = with_digest(images, settings.digests())
    for seed, member in enumerate(members_in(folder)):
        task = task_of(member, images.name, images.digest, [], "", settings)
        store(task, images.names, drawn(label, classes, seed))


def write_truth(path: Path, rows: Sequence[Row], label: npt.NDArray[np.int64], contexts: Sequence[str]) -> None:
    """A file for truth=: the rows' names with their labels and contexts."""
    entries: list[dict[str, Any]] = [
        {"image_path": row.image_path, "image_name": row.name, "label": own, "domain": context}
        for row, own, context in zip(rows, label.tolist(), contexts, strict=True)
    ]
    write_text(path, json.dumps(entries))
