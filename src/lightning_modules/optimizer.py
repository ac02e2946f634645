"""Make an optimiser and its schedule from their settings, and refuse settings that cannot train."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers, param_groups_weight_decay
from torch import nn

from src.lightning_modules.backbone import REFUSALS

SETTINGS = ("lr", "momentum", "weight_decay")
"""Numbers of an optimiser that must be finite and not negative."""
UNFIT = (*REFUSALS, ImportError, AttributeError)
"""What libraries raise for settings that do not suit them, or this machine."""


def timm_optimizer(
    network: nn.Module, *, opt: str, lr: float, weight_decay: float, **settings: Any
) -> torch.optim.Optimizer:
    """One of timm's optimisers, with weight decay for matrices and kernels only.

    Biases, the parameters of norms (all with one dimension) and those that a network names itself, such as a
    transformer's positions, are not decayed.

    Args:
        network: whose parameters are trained.
        opt: its name in timm, such as adamw, lamb, sgd; lookahead_adamw wraps one.
        lr, weight_decay: of every optimiser.
        settings: further ones of this optimiser, such as betas.

    Raises:
        ValueError: timm has no such optimiser, or one that needs what training here does not provide.
        TypeError: settings that it does not take.
    """
    name = str(opt).lower().removeprefix("lookahead_")
    known = [str(one) for one in list_optimizers()]
    if name not in known:
        close = difflib.get_close_matches(name, known, 3)
        hint = f": did you mean {', '.join(close)}" if close else ""
        raise ValueError(f"timm has no optimiser {opt}, check module.optimizer.opt{hint}")
    if get_optimizer_info(name).second_order:
        raise ValueError(f"{opt} needs second derivatives, which are not computed here: choose another one")
    # These ask how a network's parameters are grouped, which is decided here, and would be passed over in silence.
    refused = settings.keys() & inspect.signature(create_optimizer_v2).parameters.keys() - {"momentum", "foreach"}
    if refused:
        raise TypeError(f"it does not take {', '.join(sorted(refused))}")
    kept = [
        f"{prefix}.{own}" if prefix else own
        for prefix, part in network.named_modules()
        if hasattr(part, "no_weight_decay")
        for own in part.no_weight_decay()
    ]
    groups = param_groups_weight_decay(network, weight_decay, no_weight_decay_list=kept)
    return create_optimizer_v2(groups, opt=opt, lr=lr, weight_decay=weight_decay, **settings)


def make_optimizer(
    factory: Callable[..., torch.optim.Optimizer], trained: nn.Module | list[dict[str, Any]], setting: str
) -> torch.optim.Optimizer:
    """An optimiser for a network, or for groups of parameters with their own settings.

    Args:
        factory: from parameters to an optimiser; `timm_optimizer` gets the network, whose names it needs.
        trained: the network or the groups.
        setting: where its numbers are set, for the message, such as "module.optimizer".

    Raises:
        ValueError: a number that is negative, infinite or NaN (torch lets NaN pass), or one that the optimiser refuses.
    """
    by_name = getattr(factory, "func", factory) is timm_optimizer
    try:
        optimizer = factory(trained.parameters() if isinstance(trained, nn.Module) and not by_name else trained)
    except UNFIT as error:  # torch's own sentence, without our place in it
        raise ValueError(f"{setting} is refused: {str(error) or type(error).__name__}") from error
    for group in optimizer.param_groups:
        for name in SETTINGS:
            value = group.get(name, 0.0)
            if not isinstance(value, torch.Tensor) and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{setting}.{name} is {value}: expected a finite number, at least 0")
    return optimizer


def optimizer_and_schedule(
    optimizer: Callable[..., torch.optim.Optimizer],
    scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler],
    trained: nn.Module,
) -> dict[str, Any]:
    """The result of configure_optimizers for module.optimizer and module.scheduler, the schedule stepped once an epoch.

    Raises:
        ValueError: see make_optimizer; or the schedule refuses its settings.
    """
    made = make_optimizer(optimizer, trained, "module.optimizer")
    try:
        trial = torch.optim.SGD([torch.zeros(1)], lr=float(made.param_groups[0]["lr"]), momentum=0.9)
        first = scheduler(trial)
        trial.step()
        first.step()  # or what it refuses only then would end the training after its first epoch
        return {"optimizer": made, "lr_scheduler": scheduler(made)}
    except UNFIT as error:
        raise ValueError(
            f"module.scheduler is refused: {str(error) or type(error).__name__} (~module.scheduler.<name> leaves out a "
            "setting of the stage's own)"
        ) from error
