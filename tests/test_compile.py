"""compile=true: the networks that a step calls are compiled, and once more when the images change size."""

from collections.abc import Callable, Iterator

import pytest
import torch
from omegaconf import DictConfig
from torch._dynamo.testing import CompileCounter

from src import cli
from src.lightning_modules.c2am import C2AM
from src.lightning_modules.co_teacher import CoTeacher
from src.lightning_modules.moco import MoCo

FACTS = ("dataset.num_classes=8", "dataset.contexts=[a,b]", "dataset.images=100")


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def train_on(module: torch.nn.Module, size: int) -> None:
    """What a stage's step has its networks compute of images of a size, forward and backward."""
    x = torch.rand(4, 3, size, size).contiguous(memory_format=torch.channels_last)
    if isinstance(module, MoCo):
        made = module.encode(module.query_encoder, x)
    elif isinstance(module, C2AM):
        made = module.represent(x).activation
    else:
        made = module.student(x) if isinstance(module, CoTeacher) else module(x)
    made.sum().backward()


@pytest.mark.parametrize("stage", ["finetune", "fdg", "moco", "wsss"])
def test_a_change_of_size_compiles_once(configure: Callable[..., DictConfig], stage: str) -> None:
    words = ["track=1", f"stage={stage}", "init=null", "masks=none", "scale=demo", "trainer.max_epochs=2", *FACTS]
    module = cli.instantiate(configure("train", *words).module)
    counts = {}
    for name, network in module.named_children():
        counts[name] = CompileCounter()
        network.compile(backend=counts[name])
    seen = []
    for size in (64, 64, 128, 128):
        train_on(module, size)
        seen.append({name: count.frame_count for name, count in counts.items() if count.frame_count})
    first, again, larger, at_last = seen
    trained = {"finetune": ["backbone", "head"], "fdg": ["student"], "moco": ["query_encoder"]}
    assert list(first) == trained.get(stage, ["backbone", "head"]) and set(first.values()) == {1}
    assert again == first and at_last == larger
    # A linear head alone sees vectors, whatever the size.
    assert larger == {name: 1 if (stage, name) == ("finetune", "head") else 2 for name in first}
