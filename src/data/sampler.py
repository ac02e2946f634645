"""The order of the images: a function of the seed, the epoch and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


def keyed_seed(*key: int | str) -> int:
    """A 63-bit seed for a key such as (seed, epoch, index); independent draws for different keys."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def balanced_order(groups: Sequence[int], generator: torch.Generator) -> list[int]:
    """As many indices as there are images, in random order, with the same number from each group (up to one).

    Images of a small group are repeated, each of them once before any comes again; some of a large group's are left
    out, others in the next epoch.

    Args:
        groups: the group of each image, from 0 on without gaps.
        generator: of all draws.
    """
    of_image = torch.tensor(groups)
    count = int(of_image.max()) + 1
    share, rest = divmod(len(groups), count)
    shares = torch.full((count,), share)
    shares[torch.randperm(count, generator=generator)[:rest]] += 1
    picked = []
    for group, wanted in enumerate(shares.tolist()):
        members = (of_image == group).nonzero().flatten()
        rounds = -(-wanted // len(members))
        drawn = torch.cat([torch.randperm(len(members), generator=generator) for _ in range(max(1, rounds))])
        picked.append(members[drawn[:wanted]])
    order = torch.cat(picked)
    return order[torch.randperm(len(order), generator=generator)].tolist()


class KeyedSampler(Sampler[tuple[int, int]]):
    """Yield (epoch, index) for this rank's share of each epoch.

    Global batch b of an epoch holds the same images for any number of ranks: rank r takes every
    `num_replicas`-th index of the epoch's order, starting at r.

    Args:
        size: number of images.
        seed: key of the order, with the epoch.
        batch_size: images per batch on this rank.
        shuffle: a new order each epoch; False keeps 0, 1, 2, ...
        drop_last: leave out the images that fill no global batch (training); False gives every image
            exactly once over all ranks, without padding (evaluation).
        rank, num_replicas: this process and how many there are.
        groups: with shuffle, the group of each image: an epoch has equally many of each; None: every image once.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        rank: int = 0,
        num_replicas: int = 1,
        groups: Sequence[int] | None = None,
    ) -> None:
        self.size, self.seed, self.batch_size = size, seed, batch_size
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.num_replicas, self.groups = rank, num_replicas, groups
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to yield next (Lightning calls this); what a resume skipped is kept."""
        self.epoch = epoch

    def resume(self, epoch: int, batches: int) -> None:
        """Start the next pass in `epoch` after its first `batches` batches; later passes are whole."""
        self.epoch, self.skip = epoch, batches * self.batch_size

    def __len__(self) -> int:
        per_batch = self.batch_size * self.num_replicas
        if self.drop_last:
            return self.size // per_batch * self.batch_size
        return (self.size - self.rank + self.num_replicas - 1) // self.num_replicas

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.shuffle:
            generator = torch.Generator().manual_seed(keyed_seed("order", self.seed, self.epoch))
            if self.groups is None:
                order = torch.randperm(self.size, generator=generator).tolist()
            else:
                order = balanced_order(self.groups, generator)
        else:
            order = list(range(self.size))
        first, self.skip = self.skip, 0
        mine = order[self.rank :: self.num_replicas][: len(self)]
        for index in mine[first:]:
            yield self.epoch, index
