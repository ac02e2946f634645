import math
import multiprocessing
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import timm
import torch
import torch.nn.functional as F

from src.data.batch import TwoViewBatch
from src.distributed import gather
from src.lightning_modules.moco import MoCo

UNKNOWN = torch.zeros(0)


TINY = {"channels": [8, 8, 16, 16], "stem_width": 8}


def make(
    num_splits: int = 1, queue_size: int = 16, key_momentum: float = 0.5, name: str = "resnet10t", **settings: object
) -> MoCo:
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0, **(settings or TINY))
    return MoCo(
        backbone=backbone, mean=[0.5] * 3, std=[0.25] * 3, dim=8, queue_size=queue_size, key_momentum=key_momentum,
        temperature=0.2, num_splits=num_splits, collapse_below=0.1,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer),
    )  # fmt: skip


def views(count: int = 8, seed: int = 1) -> TwoViewBatch:
    images = torch.rand(count, 2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return TwoViewBatch(*images.unbind(1), torch.zeros(count, dtype=torch.long), UNKNOWN, UNKNOWN)


def step(module: MoCo, batch: TwoViewBatch, seed: int = 0) -> float:
    """One step as the trainer makes it, without the trainer."""
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    torch.manual_seed(seed)
    optimizer = module.configure_optimizers()["optimizer"]
    loss = module.training_step(batch, 0)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def parameters(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def test_the_key_encoder_starts_as_the_query_encoder_and_follows_as_its_momentum_average() -> None:
    module = make(key_momentum=0.75)
    start = parameters(module.query_encoder)
    assert all(torch.equal(a, b) for a, b in zip(start, module.key_encoder.parameters(), strict=True))
    assert not any(p.requires_grad for p in module.key_encoder.parameters())
    step(module, views())
    # The average is taken between the two encodings, of the weights that made the queries: still the start.
    assert all(torch.equal(a, b) for a, b in zip(start, module.key_encoder.parameters(), strict=True))
    after = parameters(module.query_encoder)
    assert not torch.equal(start[0], after[0])
    step(module, views(seed=2))
    for first, second, key in zip(start, after, module.key_encoder.parameters(), strict=True):
        torch.testing.assert_close(key, 0.75 * first + 0.25 * second)


def test_the_key_encoder_moves_once_where_gradients_are_accumulated(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = pl.Trainer(accelerator="cpu", accumulate_grad_batches=2, logger=False, enable_checkpointing=False)
    module, moved = make(), []
    module.trainer = trainer
    monkeypatch.setattr(module, "update_key_encoder", lambda: moved.append(batch_idx))
    for batch_idx in (0, 1, 2, 3, 4, 0, 1):  # an epoch of five batches, and the next one
        module.on_train_batch_start(views(), batch_idx)
        step(module, views())
    assert moved == [0, 2, 4, 0]


def test_a_batch_is_not_among_its_own_negatives_and_in_the_next_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    from src.lightning_modules import moco

    seen = []

    def spy(query: torch.Tensor, key: torch.Tensor, negatives: torch.Tensor, t: float) -> tuple[torch.Tensor, ...]:
        seen.append((key.clone(), negatives.clone()))
        return moco_info_nce(query, key, negatives, t)

    moco_info_nce = moco.info_nce
    monkeypatch.setattr(moco, "info_nce", spy)
    module = make()
    before = module.queue.clone()
    for seed in (1, 2, 3):
        step(module, views(seed=seed))
    (keys1, queue1), (keys2, queue2), (_, queue3) = seen
    assert torch.equal(queue1, before)
    assert torch.equal(queue2, torch.cat([keys1, before[8:]]))
    assert torch.equal(queue3, torch.cat([keys1, keys2]))
    assert module.pointer == 8  # three batches of 8 in a queue of 16: it went round


def test_keys_come_back_in_their_own_order() -> None:
    module, batch = make().eval(), views()  # in evaluation mode a key does not depend on its group
    torch.manual_seed(3)
    keys = module.shuffled_keys(batch.second)
    torch.testing.assert_close(keys, module.encode(module.key_encoder, batch.second))
    assert gather(keys) is keys


@pytest.mark.parametrize("groups", [2, 4])
def test_a_key_shares_its_group_with_others_than_its_query(groups: int) -> None:
    module, image = make(num_splits=groups), views(count=16).second
    x, expected = (image - 0.5) / 0.25, torch.empty(16, 8)
    torch.manual_seed(3)
    order = torch.randperm(16)
    with torch.no_grad():
        for group in range(groups):  # BatchNorm's statistics, in training, are those of every groups-th of the shuffled
            places = order[group::groups]
            expected[places] = module.key_encoder(x[places])
        torch.manual_seed(3)
        keys = module.shuffled_keys(image)
        as_queries = module.encode(module.key_encoder, image)
    torch.testing.assert_close(keys, expected)
    assert (keys - as_queries).norm(dim=1).min() > 1e-3  # in other company every key is another one
    torch.manual_seed(4)
    assert not torch.allclose(module.shuffled_keys(image), keys)  # drawn anew for each batch


def test_batch_norm_sees_a_group_at_a_time() -> None:
    module, image = make(num_splits=2), views().first
    x = (image - 0.5) / 0.25
    expected = torch.empty(8, 8)
    for group in (0, 1):
        expected[group::2] = module.query_encoder(x[group::2])
    torch.testing.assert_close(module.encode(module.query_encoder, image), expected)
    whole = make(num_splits=1)
    assert not torch.allclose(whole.encode(whole.query_encoder, image), expected)


@pytest.mark.parametrize("name", ["resnet10t", "densenet121"])  # BatchNorm, and timm's with the activation inside
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_one_pass_is_a_loop_over_the_groups(name: str, groups: int) -> None:
    settings = {"growth_rate": 4, "block_config": (1, 2)} if name == "densenet121" else {}
    once, loop = make(groups, name=name, **settings).double(), make(1, name=name, **settings).double()
    loop.load_state_dict(once.state_dict())
    image = views(count=16).first.double().contiguous(memory_format=torch.channels_last)
    x, weight = (image - 0.5) / 0.25, torch.randn(16, 8).double()
    convolved: list[torch.Size] = []
    first = next(part for part in once.query_encoder.modules() if isinstance(part, torch.nn.Conv2d))
    first.register_forward_hook(lambda part, given, made: convolved.append(made.shape))
    made = once.encode(once.query_encoder, image)
    expected = torch.empty_like(made)
    for group in range(groups):
        expected[group::groups] = loop.query_encoder(x[group::groups])
    assert len(convolved) == 1 and convolved[0][0] == 16
    for features in (made, expected):
        (features * weight).sum().backward()
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    for one, other in zip(once.query_encoder.parameters(), loop.query_encoder.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-9)
    for (key, one), other in zip(once.query_encoder.named_buffers(), loop.query_encoder.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
        assert one == groups if key.endswith("num_batches_tracked") else one.is_floating_point()
    once.eval(), loop.eval()
    torch.testing.assert_close(once.encode(once.query_encoder, image), loop.query_encoder(x), rtol=0, atol=1e-9)


def test_spread_tells_a_collapse() -> None:
    torch.manual_seed(0)
    assert MoCo.spread(F.normalize(torch.randn(2000, 32), dim=1)) == pytest.approx(1, abs=0.05)
    assert MoCo.spread(F.normalize(torch.ones(10, 32), dim=1)) == 0


def two_steps(rank: int, ranks: int, folder: Path) -> None:
    """Two steps of one of `ranks` processes on its share of two batches; the result goes into a file."""
    torch.set_num_threads(1)
    if ranks > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    module = make(num_splits=2)
    network = torch.nn.parallel.DistributedDataParallel(Step(module)) if ranks > 1 else Step(module)
    optimizer = module.configure_optimizers()["optimizer"]
    losses = []
    for seed in (1, 2):
        batch = views(seed=seed)
        mine = batch._replace(
            first=batch.first[rank::ranks], second=batch.second[rank::ranks], label=batch.label[rank::ranks]
        )
        torch.manual_seed(seed + 100 * rank)  # rank 0's permutation is everybody's
        loss = network(mine)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(gather(loss.detach()[None]).mean().item())
    made = {"loss": torch.tensor(losses), "queue": module.queue, "pointer": module.pointer,
            "conv": module.backbone.conv1[0].weight.detach()}  # fmt: skip
    torch.save(made, folder / f"{ranks}-{rank}.pt")


class Step(torch.nn.Module):
    """What Lightning wraps: the module, called for a training step."""

    def __init__(self, module: MoCo) -> None:
        super().__init__()
        self.module = module
        module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]

    def forward(self, batch: TwoViewBatch) -> torch.Tensor:
        return self.module.training_step(batch, 0)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=two_steps, args=(rank, 2, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    two_steps(0, 1, tmp_path)
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    alone, first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert torch.equal(first["queue"], second["queue"]) and first["pointer"] == second["pointer"] == 0
    for name in alone:
        torch.testing.assert_close(first[name], alone[name], rtol=0, atol=1e-5)
        torch.testing.assert_close(second[name], alone[name], rtol=0, atol=1e-5)


def test_state_dict_keys_are_the_same_when_compiled() -> None:
    module = make()
    before = list(module.state_dict())
    for network in module.children():
        network.compile()
    assert list(module.state_dict()) == before
    assert math.isfinite(float(module.state_dict()["queue"].sum()))


def start(module: MoCo, batch: int, batches: int, world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of a training of `batches` steps, each with `batch` images on every one of the processes."""
    monkeypatch.setattr("src.lightning_modules.moco.rank_and_world_size", lambda: (0, world_size))
    loader = SimpleNamespace(batch_size=batch)
    module._trainer = SimpleNamespace(train_dataloader=loader, num_training_batches=batches)  # type: ignore[assignment]
    module.on_train_start()


@pytest.mark.parametrize(
    ("queue_size", "num_splits", "batch", "batches", "world_size"),
    [
        (32, 2, 8, 10, 1),
        (48, 2, 8, 10, 2),  # the batch is that of both processes
        (80, 2, 8, 10, 1),  # an epoch
        (64, 4, 8, 10, 1),  # two images per group
        (64, 4, 16, 10, 1),
        (48, 4, 8, 10, 2),
        (48, 3, 12, 10, 1),
        (64, 2, 4, 10, 4),  # more processes than groups: each is one
        (80, 2, 4, 10, 5),
    ],
)
def test_a_queue_and_groups_that_fit_are_taken_without_a_word(
    queue_size: int, num_splits: int, batch: int, batches: int, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start(make(num_splits, queue_size), batch, batches, world_size, monkeypatch)


@pytest.mark.parametrize(
    ("queue_size", "num_splits", "batch", "batches", "world_size", "message"),
    [
        (40, 2, 16, 10, 1, "module.queue_size=40 is not a multiple of datamodule.batch_size=16"),
        (40, 2, 8, 10, 2, "module.queue_size=40 is not a multiple of datamodule.batch_size=16"),
        (88, 2, 8, 10, 1, "module.queue_size=88 exceeds the 80 images of an epoch"),
        (32, 3, 8, 10, 1, "module.num_splits=3 does not divide datamodule.batch_size=8 over 1 process"),
        (48, 3, 6, 10, 2, "module.num_splits=3 does not divide datamodule.batch_size=12 over 2 process"),
        (32, 8, 8, 10, 1, r"BatchNorm would see 1 image\(s\) at a time"),
        (32, 1, 1, 40, 4, r"BatchNorm would see 1 image\(s\) at a time"),
    ],
)
def test_a_queue_and_groups_that_do_not_fit(
    queue_size: int, num_splits: int, batch: int, batches: int, world_size: int, message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with pytest.raises(ValueError, match=message):
        start(make(num_splits, queue_size), batch, batches, world_size, monkeypatch)


def test_one_group_alone_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="can be matched by them alone"):
        start(make(num_splits=1), 8, 10, 1, monkeypatch)


def test_a_collapse_is_below_the_limit_and_said_once() -> None:
    module = make()  # collapse_below is .1
    for spread, said in ((0.5, False), (0.1, False), (0.09, True), (0.01, False)):
        module._trainer = SimpleNamespace(callback_metrics={"train/feature_spread": torch.tensor(spread).double()})  # type: ignore[assignment]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            module.on_train_epoch_end()
        assert len(caught) == said


def test_the_spread_is_that_of_each_dimension_over_the_images() -> None:
    assert MoCo.spread(torch.tensor([[0.6, 0.8, 0.0]] * 4)) == 0


def test_a_query_whose_key_is_its_own_is_always_first() -> None:
    module, figures = make(queue_size=24).eval(), {}
    module.log_dict = lambda made, **_: figures.update(made)  # type: ignore[method-assign]
    batch = views()
    module.training_step(batch._replace(second=batch.first), 0)
    assert figures["train/contrastive_top1"] == figures["train/contrastive_top5"] == 1


def test_a_sheet_shows_the_views_of_an_image_side_by_side() -> None:
    batch = views(count=3)
    images, partner, lam = make().training_images(batch)
    assert partner.tolist() == [0, 1, 2] and lam == 1
    assert images.shape == (6, 3, 32, 32)
    assert torch.equal(images[0::2], batch.first) and torch.equal(images[1::2], batch.second)


def test_keys_and_queue_carry_no_gradient() -> None:
    module, batch = make(num_splits=2), views()
    module.update_key_encoder()
    assert all(p.is_leaf and not p.requires_grad for p in module.key_encoder.parameters())
    assert not module.shuffled_keys(batch.second.requires_grad_()).requires_grad
    module.enqueue(torch.rand(8, 8, requires_grad=True))
    assert not module.queue.requires_grad


def test_settings_go_by_name() -> None:
    with pytest.raises(TypeError):
        MoCo(torch.nn.Identity())  # type: ignore[call-arg, misc]
