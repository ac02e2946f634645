"""Run members over images: each image is decoded once for several networks, and the results are kept."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import nn

from src.data.batch import Batch
from src.data.manifest import Row
from src.datamodules.nico import NicoDataModule
from src.digests import Digests
from src.files import write_whole
from src.lightning_modules.classifier import Network
from src.prediction.image_sets import ImageSet, draw_bank, with_digest
from src.prediction.kept import Probabilities, Task, store, stored, task_of
from src.prediction.members import LeftOut, Member, rebuild
from src.prediction.settings import PredictionSettings
from src.prediction.tta import Views
from src.prediction.unreadable import UNREADABLE
from src.runs.records import read_split


class Panel(pl.LightningModule):
    """Networks that share the views of each batch.

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

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (N,) and probabilities (M, N, K) float32, the views' logits averaged; on the CPU.

        For a network that does not accept the images they are NaN, with the reason in `failed`; for an image that
        could not be read they are UNREADABLE.
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
        except Exception as error:  # such as for a size that it does not take; the other networks continue
            self.failed[i] = " ".join(str(error).split())[:300]
            return views[0].new_full((len(views[0]), network.head.out_features), torch.nan, dtype=torch.float32)


OpenImages = Callable[..., NicoDataModule]
"""Makes a data module that shows images as a member needs them, from the settings in Member.view."""

Result = Probabilities | str
"""A member's probabilities (N, K) float32 of N images, or why it has none."""


class Predictor:
    """Shows images to members, and keeps their predictions.

    Args:
        open_images: makes data modules.
        training: the training images, which are read only if tta draws from them.
        tta: test-time augmentation.
        trainer: runs the networks.
        settings: of the prediction.
        digests: of files.
    """

    def __init__(
        self,
        open_images: OpenImages,
        training: NicoDataModule,
        tta: Views,
        trainer: pl.Trainer,
        settings: PredictionSettings,
        digests: Digests,
    ) -> None:
        if tta.bank:
            training.prepare_data()
            training.setup()
        self.open_images, self.training, self.tta, self.trainer = open_images, training, tta, trainer
        self.settings, self.folder, self.digests = settings, settings.folder / "members", digests

    def predict(
        self, members: Sequence[Member], sets: Sequence[ImageSet]
    ) -> tuple[list[Member], list[Probabilities], LeftOut]:
        """Every member's probabilities for every set: a member that cannot predict never stops the others.

        Returns:
            The members that could, their probabilities (M, N, K) float32 of each set (empty arrays on ranks other
            than 0), and the members that were skipped, with the reason.

        Raises:
            ValueError: no member could predict.
        """
        voters, left_out = list(members), []
        made: list[list[Probabilities]] = []
        for images in sets:
            results = self.results(voters, images)
            broken = {i: result for i, result in enumerate(results) if isinstance(result, str)}
            left_out += [(voters[i].folder, why) for i, why in broken.items()]
            voters = [voter for i, voter in enumerate(voters) if i not in broken]
            made = [[one for i, one in enumerate(row) if i not in broken] for row in made]
            made.append([result for result in results if not isinstance(result, str)])
            del results
            if not voters:
                raise ValueError(f"no member could predict; the first one, {left_out[0][0]}: {left_out[0][1]}")
        main = self.trainer.is_global_zero
        return voters, [stacked(row) if main else np.empty(0, np.float32) for row in made], left_out

    def results(self, members: Sequence[Member], images: ImageSet) -> list[Result]:
        """Every member's result; kept ones if nothing that they depend on has changed.

        Ranks other than 0 get the reasons of failed members, and empty arrays.

        Raises:
            ValueError: the ranks' files do not hold every image once.
        """
        images = images if images.digest else with_digest(images, self.digests)
        tasks = [self.task(member, images.name, images.digest) for member in members]
        kept = self.kept(tasks, images)
        for i, (task, known) in enumerate(zip(tasks, kept, strict=True), 1):
            if self.trainer.is_global_zero:
                again = " (changed: predicting again)" if task.path.exists() else ""
                state = again if known is None else " (predictions kept)"
                print(f"member {i} of {len(tasks)}: {task.member.folder}, {images.name}{state}", flush=True)
        results: dict[int, Result] = {i: known for i, known in enumerate(kept) if known is not None}
        for indices in self.groups(tasks, [i for i, known in enumerate(kept) if known is None]):
            results |= self.compute(tasks, indices, images)
        reasons = {i: result for i, result in results.items() if isinstance(result, str)}
        results |= self.trainer.strategy.broadcast(reasons)  # a rank sees only its own images
        return [results[i] for i in range(len(tasks))]

    def task(self, member: Member, name: str, digest: str) -> Task:
        """What is to be done for a member and an image set with a name and a digest."""
        bank: list[Row] = []
        if self.tta.bank:
            trained_on = read_split(member.folder)["train"]
            bank = draw_bank(self.training.rows, trained_on, self.tta.bank, self.tta.seed)
        drawn = self.digests.of_files(self.training.data_root, [row.image_path for row in bank]) if bank else ""
        return task_of(member, name, digest, bank, drawn, self.settings)

    def kept(self, tasks: Sequence[Task], images: ImageSet) -> list[Probabilities | None]:
        """Each task's result from an earlier call, or None if the member has to predict."""
        known = [stored(task) for task in tasks]
        # Unreadable at the time: the cause may have been something other than the file (a server, max_pixels).
        blank = {i for rows in known if rows is not None for i in np.flatnonzero((rows < 0).any(1)).tolist()}
        mended = [i for i in sorted(blank) if not images.why_unreadable(i, self.settings.max_pixels)]
        return [None if rows is not None and (rows[mended] < 0).any() else rows for rows in known]

    def groups(self, tasks: Sequence[Task], to_do: Sequence[int]) -> Iterator[list[int]]:
        """Indices of tasks that see the same pixels, at most `members_at_once` together."""
        same: dict[str, list[int]] = {}
        for i in to_do:
            same.setdefault(str([tasks[i].member.view, [row.image_path for row in tasks[i].bank]]), []).append(i)
        for indices in same.values():
            for begin in range(0, len(indices), self.settings.members_at_once):
                yield indices[begin : begin + self.settings.members_at_once]

    def compute(self, tasks: Sequence[Task], indices: Sequence[int], images: ImageSet) -> dict[int, Result]:
        """Predict the tasks `indices`, which see the same pixels, and keep their results."""
        results: dict[int, Result] = {}
        networks: dict[int, Network] = {}
        for i in indices:
            try:
                networks[i] = rebuild(tasks[i].member)
            except (OSError, ValueError) as error:
                results[i] = str(error)
        if not networks:
            return results
        panel, datamodule = self.panel(tasks[indices[0]], list(networks.values()), images)
        batches = self.trainer.predict(panel, datamodule)
        assert batches is not None
        made = collect(self.trainer, self.folder, batches, len(images.rows))  # type: ignore[arg-type] # Lightning types predictions as lists of anything
        for m, i in enumerate(networks):
            if made is None:
                results[i] = np.empty(0, np.float32)
            elif not np.isfinite(made[m]).all():
                results[i] = panel.failed.get(m, "it predicts NaN: remove the run or train it again")
            else:
                results[i] = made[m]
                store(tasks[i], images.names, made[m])
        return results

    def panel(self, task: Task, networks: Sequence[nn.Module], images: ImageSet) -> tuple[Panel, NicoDataModule]:
        """Networks of members that see the same pixels as `task`'s, and a data module that shows them the images."""
        datamodule = self.open_images(**task.member.view)
        bank = datamodule.pixels(task.bank, datamodule.last_size, tolerant=True)
        if task.bank and not len(bank):
            raise ValueError(f"none of the {len(task.bank)} training images of tta=mixing can be read: check data_root")
        datamodule.show(images.rows, images.root)
        return Panel(networks, self.tta, images.names, bank), datamodule


def stacked(rows: list[Probabilities]) -> Probabilities:
    """Probabilities (N, K) of M members as (M, N, K); the list is emptied on the way, so that memory has them once."""
    rows.reverse()
    made = np.empty((len(rows), *rows[0].shape), np.float32)
    for own in made:
        own[:] = rows.pop()
    return made


def collect(
    trainer: pl.Trainer, folder: Path, batches: Sequence[tuple[torch.Tensor, torch.Tensor]], count: int
) -> Probabilities | None:
    """All ranks' rows in the images' order: (M, count, K) on rank 0, None elsewhere.

    Args:
        trainer: knows the ranks.
        folder: shared by all ranks, each of which writes a file there.
        batches: this rank's positions (N,) and probabilities (M, N, K).
        count: number of images.

    Raises:
        ValueError: the files do not hold every image once.
    """
    rows = [(position.numpy(), probabilities.numpy()) for position, probabilities in batches]
    if trainer.world_size > 1:
        call = trainer.strategy.broadcast(secrets.token_hex(8))  # another prediction may be using the folder
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
