"""Run members over images: each image decoded once for several networks, and what came out kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import nn

from src.datamodules.nico import NicoDataModule
from src.files import digest_files, read_json, write_whole
from src.image_sets import ImageSet, draw_bank
from src.manifest import Row, Sample
from src.members import Member, open_images, rebuild
from src.tta import Views

Probabilities = npt.NDArray[np.float32]


class Panel(pl.LightningModule):
    """Networks that look at the same views of each batch.

    Args:
        networks: M modules, from images (N, 3, H, W) in [0, 1] to logits (N, K).
        tta: test-time augmentation.
        names: of the images, by their position.
        bank: (B, 3, H, W) uint8, for tta.
    """

    bank: torch.Tensor

    def __init__(self, networks: Sequence[nn.Module], tta: Views, names: Sequence[str], bank: torch.Tensor) -> None:
        super().__init__()
        self.networks, self.tta, self.names = nn.ModuleList(networks), tta, names
        self.register_buffer("bank", bank, persistent=False)

    def predict_step(self, batch: Sample, batch_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (N,) and probabilities (M, N, K) float32, the views' logits averaged; on the CPU."""
        views = self.tta.views(batch.image, [self.names[i] for i in batch.position.tolist()], self.bank)
        logits = [torch.stack([network(view).float() for view in views]).mean(0) for network in self.networks]
        return batch.position.cpu(), torch.stack(logits).softmax(2).cpu()


class How(NamedTuple):
    """How predictions are made.

    Attributes:
        images: the data module's configuration, which a member's size and evaluation transform complete.
        training: the training images' data module, set up where tta draws from them.
        tta: test-time augmentation.
        key: what else predictions depend on: the settings of tta, the precision.
        trainer: runs the networks.
        at_once: networks that share a pass over the images.
        folder: where predictions are kept.
    """

    images: Any
    training: NicoDataModule
    tta: Views
    key: str
    trainer: pl.Trainer
    at_once: int
    folder: Path


def how(
    images: Any, training: NicoDataModule, tta: Views, settings: Mapping[str, Any], trainer: pl.Trainer, folder: Path
) -> How:
    """As the settings of conf/predict.yaml have it; the training images are read where tta needs them."""
    if tta.bank:
        training.prepare_data()
        training.setup()
    key = json.dumps([settings["tta"], settings["trainer"]["precision"]], sort_keys=True)
    return How(images, training, tta, key, trainer, settings["members_at_once"], folder)


class Task(NamedTuple):
    """A member, the training images that its views mix in, and where its predictions are kept under which key."""

    member: Member
    bank: list[Row]
    path: Path
    key: str


def predict(members: Sequence[Member], images: ImageSet, how: How) -> Probabilities:
    """Every member's probabilities (M, N, K) float32; kept ones where nothing that they depend on changed.

    Ranks other than 0 get an empty array.

    Raises:
        ValueError: a member predicts NaN, or the ranks' files are not those of every image once.
    """
    digest = images.digest
    tasks = [task_of(member, images.name, digest, how) for member in members]
    known = [stored(task) for task in tasks]
    main = how.trainer.is_global_zero
    for i, (task, kept) in enumerate(zip(tasks, known, strict=True), 1):
        state = " (predictions kept)" if kept is not None else " (changed: made anew)" if task.path.exists() else ""
        if main:
            print(f"member {i} of {len(tasks)}: {task.member.folder}, {images.name}{state}", flush=True)
    for places in groups(tasks, known, how.at_once):
        batches = how.trainer.predict(*panel_of([tasks[i] for i in places], images, how))
        assert batches is not None
        made = gather(how.trainer, how.folder, batches, len(images.rows))  # type: ignore[arg-type]
        if made is not None:
            for i, probabilities in zip(places, made, strict=True):
                store(tasks[i], images.names, probabilities)
                known[i] = probabilities
    return np.stack([part for part in known if part is not None]) if main else np.empty(0, np.float32)


def task_of(member: Member, name: str, digest: str, how: How) -> Task:
    """What there is to do for a member and an image set of a name and a digest.

    The key holds the weights, the network and its input, the images, the bank, and `How.key`.
    """
    bank: list[Row] = []
    if how.tta.bank:
        bank = draw_bank(how.training.rows, trained_on(member), how.tta.bank, how.tta.seed)
    drawn = digest_files(how.training.data_root, [row.image_path for row in bank])
    facts = json.dumps([member.config["module"], member.view], sort_keys=True)
    key = "\0".join([member.digest, facts, digest, drawn, how.key])
    path = how.folder / member.stage / f"{member.name}.{name}.npz"
    return Task(member, bank, path, hashlib.sha256(key.encode()).hexdigest())


def trained_on(member: Member) -> list[str]:
    """Paths of the images that a member was trained on."""
    return list(read_json(member.folder / "split.json")["train"])


def groups(tasks: Sequence[Task], known: Sequence[Probabilities | None], at_once: int) -> Iterator[list[int]]:
    """Places of tasks to do that see the same pixels, at most `at_once` together."""
    same: dict[str, list[int]] = {}
    for i, task in enumerate(tasks):
        if known[i] is None:
            same.setdefault(str([task.member.view, [row.image_path for row in task.bank]]), []).append(i)
    for places in same.values():
        for begin in range(0, len(places), at_once):
            yield places[begin : begin + at_once]


def panel_of(tasks: Sequence[Task], images: ImageSet, how: How) -> tuple[Panel, NicoDataModule]:
    """The tasks' networks, and a data module that shows them the images."""
    datamodule = open_images(how.images, tasks[0].member)
    assert isinstance(datamodule, NicoDataModule)
    bank = datamodule.pixels(tasks[0].bank, datamodule.last_size)
    datamodule.show(images.rows, images.root)
    return Panel([rebuild(task.member) for task in tasks], how.tta, images.names, bank), datamodule


def gather(
    trainer: pl.Trainer, folder: Path, batches: Sequence[tuple[torch.Tensor, torch.Tensor]], count: int
) -> Probabilities | None:
    """All ranks' rows in the images' order: (M, count, K) on rank 0, None on the others.

    Args:
        trainer: knows the ranks.
        folder: one that all ranks share; each writes a file there.
        batches: this rank's positions (N,) and probabilities (M, N, K).
        count: number of images.

    Raises:
        ValueError: the files do not hold every image once.
    """
    rows = [(position.numpy(), probabilities.numpy()) for position, probabilities in batches]
    if trainer.world_size > 1:
        files = [folder / f".rank{rank}.npz" for rank in range(trainer.world_size)]
        with write_whole(files[trainer.global_rank]) as file:
            np.savez(file, *(part for pair in rows for part in pair))
        trainer.strategy.barrier("every rank has written its rows")
        if trainer.is_global_zero:
            rows = [pair for path in files for pair in read_rows(path)]
            for path in files:
                path.unlink()
        trainer.strategy.barrier("rank 0 has read them")
        if not trainer.is_global_zero:
            return None
    position = np.concatenate([part for part, _ in rows])
    probabilities = np.concatenate([part for _, part in rows], axis=1)
    if not np.array_equal(np.sort(position), np.arange(count)):
        raise ValueError(f"{len(position)} rows came back for {count} images: run it again")
    return np.asarray(probabilities[:, np.argsort(position)], np.float32)


def read_rows(path: Path) -> list[tuple[npt.NDArray[np.int64], Probabilities]]:
    """One rank's batches."""
    if not path.exists():
        raise ValueError(f"{path} is missing: results_dir must be a folder that all machines share")
    with np.load(path, allow_pickle=False) as file:
        parts = [file[f"arr_{i}"] for i in range(len(file.files))]
    return list(zip(parts[::2], parts[1::2], strict=True))


def stored(task: Task) -> Probabilities | None:
    """A member's probabilities (N, K) of an earlier call under the same key."""
    if not task.path.is_file():
        return None
    try:
        with np.load(task.path, allow_pickle=False) as file:
            probabilities: Probabilities = file["probabilities"]
            return probabilities if str(file["key"]) == task.key else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # damaged: as good as not there
        return None


def store(task: Task, names: Sequence[str], probabilities: Probabilities) -> None:
    """Keep a member's probabilities (N, K) with the images' names.

    Raises:
        ValueError: they are not finite.
    """
    if not np.isfinite(probabilities).all():
        raise ValueError(f"the member {task.member.folder} predicts NaN: remove the run or train it again")
    with write_whole(task.path) as file:
        np.savez(file, key=np.array(task.key), names=np.array(names), probabilities=probabilities)


def class_activation(module: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor | None:
    """Class activation maps (Zhou et al. 2016): the head's weights of a class over the last feature map.

    Args:
        module: a classifier with `backbone`, a linear `head`, `mean` and `std`.
        image: (N, 3, H, W) float in [0, 1].
        label: (N,) class ids.

    Returns:
        (N, h, w) float32, the cells with evidence for the class divided by their maximum (0 elsewhere); None
        where the backbone has no map, such as a transformer's list of tokens.
    """
    with torch.inference_mode():
        features = module.backbone.forward_features((image - module.mean) / module.std)
        if features.ndim != 4 or features.shape[1] != module.head.in_features:
            return None
        maps = torch.einsum("nchw,nc->nhw", features, module.head.weight[label]).float().clamp(min=0)
        return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
