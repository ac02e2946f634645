from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from src.callbacks.sync_batch_norm import SyncBatchNorm

MODELS = sorted((Path(__file__).parents[2] / "conf/model").glob("*.yaml"))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_converted_network_computes_the_same(path: Path) -> None:
    torch.manual_seed(0)
    network = instantiate(OmegaConf.load(path)).eval()
    x = torch.rand(2, 3, 64, 64)
    keys = list(network.state_dict())
    with torch.no_grad():
        before = network(x)
        plugin = SyncBatchNorm(enabled=True)
        network = plugin.apply(plugin.apply(network))
        assert any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
        torch.testing.assert_close(network(x), before)
        torch.testing.assert_close(plugin.revert(network)(x), before)
    assert list(network.state_dict()) == keys


def test_it_obeys_the_trainer(configure: Callable[..., DictConfig]) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3))
    assert type(SyncBatchNorm(enabled=False).apply(network)[0]) is nn.BatchNorm2d
    for words, expected in ((["stage=finetune", "trainer=ddp"], True), (["stage=moco", "trainer=ddp"], False)):
        (plugin,) = [p for p in configure("train", *words).trainer.plugins if "SyncBatchNorm" in p["_target_"]]
        assert plugin.enabled is expected
