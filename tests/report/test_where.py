from typing import Any

import pytest
import timm
import torch
from torch import nn

from src.lightning_modules.classifier import Network
from src.report.where import evidence_map, on_grid, scaled, share_on


class Pooled(nn.Module):
    """A backbone by hand: its last map is the first two channels, pooled by their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Identity()
        self.feature_info = [{"module": "last", "num_chs": 2}]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(image[:, :2] * 1.0).mean((2, 3))


def by_hand(backbone: nn.Module) -> Any:
    network = nn.Module()
    network.backbone, network.head = backbone, nn.Linear(2, 3)
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    network.forward = lambda image: network.head(network.backbone(image))
    return network


def test_of_a_pooled_map_it_is_the_class_activation_map() -> None:
    image = torch.zeros(3, 3, 7, 7)
    image[0, 0, 0, :3] = torch.tensor([1.0, 2.0, 4.0])
    image[1, 0], image[1, 1, 3, 3] = 9.0, 0.5
    image[2, 0] = 1.0
    maps = evidence_map(by_hand(Pooled()).requires_grad_(False), image, torch.tensor([0, 1, 2]))
    assert maps is not None
    expected = torch.zeros(3, 7, 7)
    expected[0, 0, :3] = torch.tensor([1.0, 2.0, 4.0])
    expected[1, 3, 3] = 0.5  # and nothing speaks for class 2
    torch.testing.assert_close(49 * maps, expected)
    assert scaled(maps)[0, 0, :3].tolist() == [0.25, 0.5, 1.0] and not scaled(maps)[2].any()


def test_a_map_of_fewer_cells_or_none_at_all() -> None:
    assert evidence_map(by_hand(Pooled()), torch.rand(1, 3, 6, 6), torch.tensor([0])) is None
    bare = Pooled()
    bare.feature_info = []
    assert evidence_map(by_hand(bare), torch.rand(1, 3, 8, 8), torch.tensor([0])) is None


NETWORKS = [
    ("resnet10t", 224, 7), ("resnet10t", 64, 8), ("vit_tiny_patch16_224", 224, 14), ("convnext_atto", 224, 7),
    ("swin_tiny_patch4_window7_224", 224, 7), ("test_efficientnet", 128, 8),
]  # fmt: skip


@pytest.mark.parametrize(("name", "size", "cells"), NETWORKS)
def test_real_networks_have_a_map(name: str, size: int, cells: int) -> None:
    torch.manual_seed(0)
    network = Network(backbone=timm.create_model(name, num_classes=0), num_classes=3, mean=[0.5] * 3, std=[0.2] * 3)
    image, label = torch.rand(2, 3, size, size), torch.tensor([0, 2])
    before = network.eval()(image)
    maps = evidence_map(network, image, label)
    assert maps is not None and maps.shape[0] == 2 and min(maps.shape[1:]) >= cells and float(maps.min()) >= 0
    torch.testing.assert_close(network(image), before)  # no hook is left
    # An image's map does not depend on its batch.
    alone = evidence_map(network, image[1:], label[1:])
    assert alone is not None
    torch.testing.assert_close(alone[0], maps[1], rtol=1e-3, atol=1e-6)


def test_tokens_and_channels_go_on_a_grid() -> None:
    grid = torch.arange(24.0).view(1, 2, 3, 4)
    assert torch.equal(on_grid(grid, 2, 0), grid)
    assert torch.equal(on_grid(grid.permute(0, 2, 3, 1), 2, 0), grid)
    square = grid[..., :3]
    tokens = torch.cat([torch.full((1, 1, 2), 99.0), square.flatten(2).transpose(1, 2)], dim=1)
    assert torch.equal(on_grid(tokens, 2, 1), square)
    assert on_grid(tokens, 2, 0) is None and on_grid(torch.zeros(1, 2), 2, 0) is None


def test_the_share_on_the_object_by_hand() -> None:
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]] * 3)
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[0, :2, 2:] = True  # the cell with 2
    mask[1, 2:, :] = True  # those with 3 and 4
    mask[2, 3, 3] = True  # a quarter of the one with 4
    assert share_on(maps, mask).tolist() == pytest.approx([0.2, 0.7, 0.1])
    even = share_on(torch.ones(1, 2, 2), mask[:1])
    assert even.item() == pytest.approx(mask[0].float().mean().item())  # spread evenly: the object's share
    assert share_on(torch.zeros(1, 2, 2), mask[:1]).isnan().all()
