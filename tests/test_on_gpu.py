"""What only a GPU shows: `python -m pytest -m gpu` on a machine that has one. Elsewhere these are skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.mixing.test_contract import STRATEGIES, strategy_of
from tests.mixing.test_mixing import batch_of

pytestmark = pytest.mark.gpu
REPEATABLE = ["trainer=gpu", "trainer.deterministic=true", "trainer.benchmark=false"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_batch_is_mixed_as_on_the_cpu(name: str) -> None:
    strategy, batch = strategy_of(name)(), batch_of(8)
    torch.manual_seed(0)
    expected = strategy(batch)
    torch.manual_seed(0)
    mixed = strategy(type(batch)(*(part if part is None else part.cuda() for part in batch)))
    for here, there in zip(mixed, expected, strict=True):
        if isinstance(there, torch.Tensor):
            torch.testing.assert_close(here.cpu(), there, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("stage", ["stage=baseline", "stage=moco module.queue_size=64 datamodule.batch_size=16"])
def test_the_same_seed_gives_the_same_weights_in_bfloat16(train_run: Callable[..., Path], stage: str) -> None:
    runs = [
        train_run("track=1", *stage.split(), *REPEATABLE, "trainer.max_epochs=1", f"tag={tag}") for tag in ("a", "b")
    ]
    first, second = (load_file(run / "weights.safetensors") for run in runs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
