"""Run members over images: each image decoded once for several networks, and what came out kept."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import nn

from src.datamodules.nico import NicoDataModule
from src.files import digest_files, write_whole
from src.image_sets import ImageSet, Truth, draw_bank
from src.lightning_modules.classifier import Network
from src.manifest import Row, Sample
from src.members import LeftOut, Member, open_images, rebuild
from src.runs import read_split
from src.tta import Views

Probabilities = npt.NDArray[np.float32]
UNREADABLE = -1.0
"""The probabilities of an image whose file could not be read: no network looked at it."""


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
        self.failed: dict[int, str] = {}
        self.register_buffer("bank", bank, persistent=False)

    def predict_step(self, batch: Sample, batch_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (N,) and probabilities (M, N, K) float32, the views' logits averaged; on the CPU.

        Those of a network that cannot look at the images are NaN, with the reason in `failed`; those of an image that
        could not be read are UNREADABLE.
        """
        views = self.tta.views(batch.image, [self.names[i] for i in batch.position.tolist()], self.bank)
        logits = torch.stack([self.logits(i, views) for i in range(len(self.networks))])
        probabilities = logits.softmax(2)
        if batch.readable is not None:
            probabilities[:, ~batch.readable] = UNREADABLE
        return batch.position.cpu(), probabilities.cpu()

    def logits(self, i: int, views: Sequence[torch.Tensor]) -> torch.Tensor:
        """Network i's mean logits (N, K) float32 over views (N, 3, H, W)."""
        network = self.networks[i]
        assert isinstance(network, Network)
        try:
            return torch.stack([network(view).float() for view in views]).mean(0)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a size that it does not take, say; the other networks go on
            self.failed[i] = " ".join(str(error).split())[:300]
            return views[0].new_full((len(views[0]), network.head.out_features), torch.nan, dtype=torch.float32)


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
        max_pixels: of an image.
    """

    images: Any
    training: NicoDataModule
    tta: Views
    key: str
    trainer: pl.Trainer
    at_once: int
    folder: Path
    max_pixels: int


def how(
    images: Any, training: NicoDataModule, tta: Views, settings: Mapping[str, Any], trainer: pl.Trainer, folder: Path
) -> How:
    """As the settings of conf/predict.yaml have it; the training images are read where tta needs them."""
    if tta.bank:
        training.prepare_data()
        training.setup()
    key = json.dumps([settings["tta"], settings["trainer"]["precision"]], sort_keys=True)
    most = settings["datamodule"]["max_pixels"]
    return How(images, training, tta, key, trainer, settings["members_at_once"], folder, most)


class Task(NamedTuple):
    """A member, the training images that its views mix in, and where its predictions are kept under which key."""

    member: Member
    bank: list[Row]
    path: Path
    key: str


Result = Probabilities | str
"""What a member says of N images: probabilities (N, K) float32, or why it could not say anything."""


def predict_all(
    members: Sequence[Member], sets: Sequence[ImageSet], how: How
) -> tuple[list[Member], list[Probabilities], LeftOut]:
    """Every member's probabilities of every set: a member that cannot predict never stops the others.

    Returns:
        The members that could, their probabilities (M, N, K) float32 of each set (empty arrays on ranks other than
        0), and the members that are left out, with the reason.

    Raises:
        ValueError: no member could.
    """
    voters, left_out = list(members), []
    made: list[list[Probabilities]] = []
    for images in sets:
        results = predict(voters, images, how)
        broken = {i: result for i, result in enumerate(results) if isinstance(result, str)}
        left_out += [(voters[i].folder, why) for i, why in broken.items()]
        voters = [voter for i, voter in enumerate(voters) if i not in broken]
        made = [[one for i, one in enumerate(row) if i not in broken] for row in made]
        made.append([result for result in results if not isinstance(result, str)])
        if not voters:
            raise ValueError(f"no member could predict; the first one, {left_out[0][0]}: {left_out[0][1]}")
    main = how.trainer.is_global_zero
    return voters, [np.stack(row) if main else np.empty(0, np.float32) for row in made], left_out


def predict(members: Sequence[Member], images: ImageSet, how: How) -> list[Result]:
    """Every member's result; kept ones where nothing that they depend on changed.

    Ranks other than 0 get the reasons of those that failed, and empty arrays.

    Raises:
        ValueError: the ranks' files are not those of every image once.
    """
    digest = images.digest
    tasks = [task_of(member, images.name, digest, how) for member in members]
    known = [stored(task) for task in tasks]
    if any(rows is not None and (rows < 0).any() for rows in known):
        # Unreadable at that time: what stood in the way (a server, max_pixels) need not have been the file.
        blank = {i for rows in known if rows is not None for i in np.flatnonzero((rows < 0).any(1)).tolist()}
        mended = [i for i in sorted(blank) if not images.why_unreadable(i, how.max_pixels)]
        known = [None if rows is not None and (rows[mended] < 0).any() else rows for rows in known]
    broken: dict[int, str] = {}
    main = how.trainer.is_global_zero
    for i, (task, kept) in enumerate(zip(tasks, known, strict=True), 1):
        state = " (predictions kept)" if kept is not None else " (changed: made again)" if task.path.exists() else ""
        if main:
            print(f"member {i} of {len(tasks)}: {task.member.folder}, {images.name}{state}", flush=True)
    for places in groups(tasks, known, how.at_once):
        networks: dict[int, Network] = {}
        for i in places:
            try:
                networks[i] = rebuild(tasks[i].member)
            except (OSError, ValueError) as error:
                broken[i] = str(error)
        if not networks:
            continue
        panel, datamodule = panel_of(tasks[places[0]], list(networks.values()), images, how)
        batches = how.trainer.predict(panel, datamodule)
        assert batches is not None
        made = gather(how.trainer, how.folder, batches, len(images.rows))  # type: ignore[arg-type]
        for place, i in enumerate(networks):
            if made is None:
                known[i] = np.empty(0, np.float32)
            elif not np.isfinite(made[place]).all():
                broken[i] = panel.failed.get(place, "it predicts NaN: remove the run or train it again")
            else:
                known[i] = made[place]
                store(tasks[i], images.names, made[place])
    broken = how.trainer.strategy.broadcast(broken)  # a rank sees its own images alone
    results: list[Result] = []
    for i, one in enumerate(known):
        results.append(broken[i] if i in broken else np.empty(0, np.float32) if one is None else one)
    return results


REASONS = 10  # of unreadable images, that are printed


def unreadable(images: ImageSet, stack: Probabilities, max_pixels: int) -> list[str]:
    """Names of the images, of N with probabilities (M, N, K), that a member could not look at; the reasons are printed.

    Raises:
        ValueError: not one image could be read.
    """
    places = np.flatnonzero((stack < 0).any((0, 2))).tolist()
    reasons = [images.why_unreadable(i, max_pixels) for i in places[:REASONS]]
    if places and len(places) == len(images.rows):
        first = images.names[places[0]]
        raise ValueError(
            f"not one of the {len(places)} images below {images.root} can be read (first: {first})"
            f"{': ' if reasons[0] else ''}{reasons[0]}"
        )
    for i, reason in zip(places[:REASONS], reasons, strict=True):
        print(reason or f"{images.root / images.rows[i].image_path} could not be read before, and can be now")
    return [images.names[i] for i in places]


def without_unreadable(images: ImageSet, stack: Probabilities) -> tuple[ImageSet, Probabilities]:
    """An image set and its probabilities (M, N, K), both without the images that could not be read."""
    keep = np.flatnonzero((stack >= 0).all((0, 2)))
    truth = images.truth and Truth(images.truth.label[keep], [images.truth.contexts[i] for i in keep])
    return images._replace(rows=[images.rows[i] for i in keep], truth=truth), stack[:, keep]


def with_guesses(stack: Probabilities) -> Probabilities:
    """Probabilities (M, N, K) in which unreadable images have each member's mean over the others.

    A challenge wants a label for every image: this is the best guess of somebody who has not seen it.
    """
    guessed = (stack < 0).any((0, 2))
    if not guessed.any():
        return stack
    made = stack.copy()
    made[:, guessed] = stack[:, ~guessed].mean(1, keepdims=True)
    return made


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
    return list(read_split(member.folder)["train"])


def groups(tasks: Sequence[Task], known: Sequence[Probabilities | None], at_once: int) -> Iterator[list[int]]:
    """Places of tasks to do that see the same pixels, at most `at_once` together."""
    same: dict[str, list[int]] = {}
    for i, task in enumerate(tasks):
        if known[i] is None:
            same.setdefault(str([task.member.view, [row.image_path for row in task.bank]]), []).append(i)
    for places in same.values():
        for begin in range(0, len(places), at_once):
            yield places[begin : begin + at_once]


def panel_of(task: Task, networks: Sequence[nn.Module], images: ImageSet, how: How) -> tuple[Panel, NicoDataModule]:
    """Networks of members that see the same pixels as `task`'s, and a data module that shows them the images."""
    datamodule = open_images(how.images, task.member)
    assert isinstance(datamodule, NicoDataModule)
    bank = datamodule.pixels(task.bank, datamodule.last_size, tolerant=True)
    if task.bank and not len(bank):
        raise ValueError(f"not one of the {len(task.bank)} training images of tta=mixing can be read: check data_root")
    datamodule.show(images.rows, images.root)
    return Panel(networks, how.tta, images.names, bank), datamodule


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
        call = trainer.strategy.broadcast(secrets.token_hex(8))  # another prediction may use the folder at this time
        files = [folder / f".rank{rank}-{call}.npz" for rank in range(trainer.world_size)]
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
    """A member's probabilities (N, K) of an earlier call under the same key; None without, or of a damaged file."""
    if not task.path.is_file():
        return None
    try:
        with np.load(task.path, allow_pickle=False) as file:
            kept = {name: file[name] for name in ("key", "names", "probabilities", "digest")}
    except Exception:  # a damaged byte ends in any error of zipfile's or NumPy's
        return None
    own = digest_of_arrays(kept["key"], kept["names"], kept["probabilities"])
    if str(kept["digest"]) != own or str(kept["key"]) != task.key:
        return None
    return np.asarray(kept["probabilities"], np.float32)


def store(task: Task, names: Sequence[str], probabilities: Probabilities) -> None:
    """Keep a member's probabilities (N, K) with the images' names."""
    key, listed = np.array(task.key), np.array(names)
    digest = np.array(digest_of_arrays(key, listed, probabilities))
    with write_whole(task.path) as file:
        np.savez(file, key=key, names=listed, probabilities=probabilities, digest=digest)


def digest_of_arrays(*arrays: npt.NDArray[Any]) -> str:
    """sha256 of arrays' types, shapes and bytes: a zip file's own check is not made when an array is read from it."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(f"{array.dtype.str}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


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
