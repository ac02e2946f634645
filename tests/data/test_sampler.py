from collections import Counter

import pytest
import torch

from src.data.loading import groups_to_sample
from src.data.manifest import Row
from src.data.sampler import KeyedSampler, balanced_order, keyed_seed


def batches(sampler: KeyedSampler) -> list[list[int]]:
    order = [index for _, index in sampler]
    size = sampler.batch_size
    return [order[i : i + size] for i in range(0, len(order), size)]


def make(ranks: int = 1, rank: int = 0, size: int = 103, batch: int = 12, train: bool = True) -> KeyedSampler:
    return KeyedSampler(
        size, seed=3, batch_size=batch // ranks, shuffle=train, drop_last=train, rank=rank, num_replicas=ranks
    )


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_global_batches_do_not_depend_on_the_number_of_ranks(ranks: int) -> None:
    one = batches(make())
    per_rank = [batches(make(ranks, rank)) for rank in range(ranks)]
    assert len(one) == 103 // 12 == len(per_rank[0])
    for b, batch in enumerate(one):
        assert sorted(batch) == sorted(i for rank in per_rank for i in rank[b])


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_evaluation_gives_every_image_once(ranks: int) -> None:
    samplers = [make(ranks, rank, size=7, batch=5 * ranks, train=False) for rank in range(ranks)]
    assert sorted(i for sampler in samplers for _, i in sampler) == list(range(7))
    assert all(len(sampler) == len(list(sampler)) for sampler in samplers)


def test_every_epoch_has_its_own_order_and_the_seed_fixes_it() -> None:
    sampler = make()
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert {e for e, _ in first} == {0} and {e for e, _ in second} == {1}
    assert [i for _, i in first] != [i for _, i in second]
    sampler.set_epoch(0)
    assert list(sampler) == first == list(make())


@pytest.mark.parametrize("epoch", [0, 3])
def test_another_seed_gives_another_order(epoch: int) -> None:
    orders = []
    for seed in (0, 0, 1, 2, 1000):
        sampler = KeyedSampler(103, seed=seed, batch_size=12, shuffle=True, drop_last=True)
        sampler.set_epoch(epoch)
        orders.append(tuple(index for _, index in sampler))
    assert orders[0] == orders[1] and len(set(orders)) == 4
    assert orders[0] != tuple(range(len(orders[0])))


def test_resume_continues_with_the_next_batch_and_later_epochs_are_whole() -> None:
    whole, resumed = make(), make()
    whole.set_epoch(4)
    resumed.resume(epoch=4, batches=3)
    assert batches(resumed) == batches(whole)[3:]
    assert batches(resumed) == batches(whole)


def test_keyed_seeds_differ_and_stay_the_same_for_ever() -> None:
    assert keyed_seed(0, 1, 2) == 603432347784401458
    assert len({keyed_seed(a, b, c) for a in range(5) for b in range(5) for c in range(5)}) == 125
    assert keyed_seed(1, 23) != keyed_seed(12, 3)


@pytest.mark.parametrize("counts", [(1, 2, 40), (7, 7), (3, 50, 50, 4)])
def test_a_balanced_epoch_has_equally_many_of_each_group(counts: tuple[int, ...]) -> None:
    groups = [group for group, count in enumerate(counts) for _ in range(count)]
    order = balanced_order(groups, torch.Generator().manual_seed(0))
    seen = Counter(groups[i] for i in order)
    assert len(order) == len(groups) and max(seen.values()) - min(seen.values()) <= 1 and len(seen) == len(counts)
    for group in range(len(counts)):
        times = Counter(i for i in order if groups[i] == group)
        assert max(times.values()) - min(times.get(i, 0) for i, g in enumerate(groups) if g == group) <= 1


def test_balanced_orders_are_of_the_seed_and_epoch_and_the_ranks_share_them() -> None:
    groups = [0] * 30 + [1] * 6 + [2] * 4

    def epoch(number: int, seed: int = 0, rank: int = 0, world: int = 1) -> list[int]:
        sampler = KeyedSampler(40, seed=seed, batch_size=8 // world, shuffle=True, drop_last=True,
                               rank=rank, num_replicas=world, groups=groups)  # fmt: skip
        sampler.set_epoch(number)
        return [index for _, index in sampler]

    assert epoch(3) == epoch(3) and epoch(3) != epoch(4) and epoch(3) != epoch(3, seed=1)
    assert [
        i for pair in zip(epoch(2, rank=0, world=2), epoch(2, rank=1, world=2), strict=True) for i in pair
    ] == epoch(2)
    all_of_it = {i for number in range(30) for i in epoch(number)}
    assert all_of_it == set(range(40))  # of a large group every image has its turn


def test_groups_are_classes_contexts_or_both() -> None:
    rows = [Row("a", 5, domain=1), Row("b", 5, domain=0), Row("c", 2, domain=1), Row("d", 5, domain=1)]
    assert groups_to_sample(rows, None) is None
    assert groups_to_sample(rows, "class") == [0, 0, 1, 0]
    assert groups_to_sample(rows, "context") == [0, 1, 0, 0]
    assert groups_to_sample(rows, "group") == [0, 1, 2, 0]
    with pytest.raises(ValueError, match="sampling=group needs images with contexts"):
        groups_to_sample([Row("a", 1)], "group")
