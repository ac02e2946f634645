"""timm's optimisers and schedules by name."""

import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from src.lightning_modules.moco import Encoder
from src.lightning_modules.optimizer import make_optimizer, optimizer_and_schedule, timm_optimizer
from src.schedules import TimmSchedule, WarmupCosine

SETTINGS = {"opt": "adamw", "lr": 0.1, "weight_decay": 0.5}


def networks() -> list[nn.Module]:
    """As the stages hand them over: a backbone that names parameters itself, below one name or another."""
    vit, convnext = (timm.create_model(name, num_classes=0) for name in ("test_vit", "test_convnext"))
    return [Encoder(vit, 8), nn.Sequential(convnext, nn.Linear(convnext.num_features, 5))]


def test_a_step_without_gradients_shrinks_matrices_and_kernels_alone() -> None:
    for network in networks():
        optimizer = make_optimizer(partial(timm_optimizer, **SETTINGS), network, "module.optimizer")
        before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        kinds = set()
        for name, parameter in network.named_parameters():
            decayed = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token", "reg_token"))
            kinds.add(decayed)
            torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.1 * 0.5 if decayed else 1), msg=name)
        assert kinds == {True, False}


def test_every_parameter_is_trained_once_and_frozen_ones_never() -> None:
    network = networks()[1]
    next(network.parameters()).requires_grad_(False)
    optimizer = timm_optimizer(network, **SETTINGS)
    trained = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"opt": "adamm"}, "module.optimizer is refused: timm has no optimiser adamm, .*did you mean adam"),
        ({"opt": "lookahead_"}, "timm has no optimiser lookahead_"),
        ({"opt": "adahessian"}, "adahessian needs second derivatives"),
        ({"layer_decay": 0.7}, "module.optimizer is refused: it does not take layer_decay"),
        ({"rate": 1}, "module.optimizer is refused: .*unexpected keyword argument 'rate'"),
        ({"lr": float("nan")}, "module.optimizer is refused: .*nan"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"betas": [0.9]}, "module.optimizer is refused: "),
        ({"opt": "fusedadam"}, "module.optimizer is refused: "),
        ({"opt": None}, "timm has no optimiser None"),
    ],
)
def test_what_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_optimizer(partial(timm_optimizer, **SETTINGS | settings), networks()[1], "module.optimizer")


@pytest.mark.parametrize(("opt", "kind"), [("sgd", "SGD"), ("lamb", "Lamb"), ("lookahead_adam", "Lookahead")])
def test_any_optimiser_of_timm(opt: str, kind: str) -> None:
    made = make_optimizer(partial(timm_optimizer, **SETTINGS | {"opt": opt}), nn.Linear(2, 2), "module.optimizer")
    assert type(made).__name__ == kind and {group["lr"] for group in made.param_groups} == {0.1}
    assert sorted(group["weight_decay"] for group in made.param_groups) == [0.0, 0.5]


def rates(schedule: TimmSchedule, optimizer: torch.optim.Optimizer, epochs: int) -> list[float]:
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_a_warm_up_and_then_a_cosine() -> None:
    settings = {"sched": "cosine", "num_epochs": 20, "warmup_epochs": 4, "warmup_lr": 0.01, "min_lr": 0.02}
    expected = [0.01 + epoch / 4 * (0.5 - 0.01) for epoch in range(4)]
    expected += [0.02 + (0.5 - 0.02) / 2 * (1 + math.cos(math.pi * epoch / 20)) for epoch in range(4, 20)]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    assert rates(TimmSchedule(optimizer, **settings), optimizer, 20) == pytest.approx(expected)

    # A run that goes on has the state alone, in a checkpoint that is read without pickles.
    first = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    begun = TimmSchedule(first, **settings)
    rates(begun, first, 7)
    assert all(isinstance(value, int | float | list | bool | None) for value in begun.state_dict().values())
    second = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    goes_on = TimmSchedule(second, **settings)
    second.load_state_dict(first.state_dict())
    goes_on.load_state_dict(begun.state_dict())
    assert rates(goes_on, second, 13) == pytest.approx(expected[7:])


@pytest.mark.parametrize("sched", ["plateau", "none", "cosin"])
def test_schedules_that_there_are_not(sched: str) -> None:
    with pytest.raises(ValueError, match=f"no schedule {sched}, check module.scheduler.sched: "):
        TimmSchedule(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5), sched=sched, num_epochs=3)


@pytest.mark.parametrize(
    "scheduler",
    [
        partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=0),
        partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max="ten"),
        partial(TimmSchedule, sched="step", decay_epochs=0),
        partial(TimmSchedule, sched="cosine", num_epochs=0),
        partial(torch.optim.lr_scheduler.ReduceLROnPlateau),
    ],
)
def test_schedules_whose_first_step_fails_are_refused_at_once(scheduler: Any) -> None:
    with pytest.raises(ValueError, match="module.scheduler is refused: "):
        optimizer_and_schedule(partial(torch.optim.SGD, lr=0.1), scheduler, nn.Linear(2, 2))


def test_the_trial_of_a_schedule_leaves_no_trace() -> None:
    scheduler = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=10)
    made = optimizer_and_schedule(partial(torch.optim.AdamW, lr=0.1), scheduler, nn.Linear(2, 2))
    alone = torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=0.1)
    scheduler(alone)
    for own, other in zip(made["optimizer"].param_groups, alone.param_groups, strict=True):
        assert {**own, "params": []} == {**other, "params": []}


def test_a_run_has_both_by_name(train_run: Callable[..., Path]) -> None:
    words = ["track=1", "stage=baseline", "optimizer=timm", "schedule=timm", "module.optimizer.lr=0.004"]
    run = train_run(*words, "module.scheduler.warmup_epochs=1", "module.scheduler.warmup_lr=0.001")
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    expected = [0.001, 0.004 / 2 * (1 + math.cos(math.pi / 2))]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(expected)


def test_a_warm_up_grows_evenly_and_a_cosine_follows() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = WarmupCosine(optimizer, T_max=10, warmup_epochs=3)
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    later = [0.2 * (1 + math.cos(math.pi * e / 7)) for e in range(8)]
    assert rates[3:] == pytest.approx(later) and rates[10] == pytest.approx(0)
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    WarmupCosine(plain, T_max=10, warmup_epochs=0)
    assert plain.param_groups[0]["lr"] == 0.4
    for epochs in (-1, 10):
        with pytest.raises(ValueError, match="warmup_epochs is .* fewer than the 10 epochs"):
            WarmupCosine(plain, T_max=10, warmup_epochs=epochs)
