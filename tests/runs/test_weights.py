from pathlib import Path

import pytest
import torch
from torch import nn

from src.runs.weights import load_weights, read_weights, save_weights, uniform_soup, write_weights


def test_round_trip_of_parameters_and_buffers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    a, b = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    a(torch.randn(2, 3, 5, 5))
    save_weights(
        tmp_path / "w.safetensors", {"backbone": a.to(memory_format=torch.channels_last), "head": nn.Linear(2, 2)}
    )
    load_weights(tmp_path / "w.safetensors", {"backbone": b})
    assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def test_another_network_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"head": nn.Linear(2, 3)})
    other = nn.Linear(2, 5)
    before = other.weight.clone()
    with pytest.raises(ValueError, match=r"the head in .*weight has shape \[3, 2\], not \[5, 2\]"):
        load_weights(tmp_path / "w.safetensors", {"head": other})
    assert torch.equal(other.weight, before)
    with pytest.raises(ValueError, match="weight is missing; bias is missing"):
        load_weights(tmp_path / "w.safetensors", {"backbone": other})
    with pytest.raises(ValueError, match="0.weight is missing; .*weight is unknown"):
        load_weights(tmp_path / "w.safetensors", {"head": nn.Sequential(nn.Linear(2, 3, bias=False))})


def test_no_file_and_no_safetensors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_weights(tmp_path / "w.safetensors", {})
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load_weights(tmp_path / "w.safetensors", {"head": nn.Linear(1, 1)})


def test_a_soup_is_the_mean_and_of_one_network_that_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for _ in range(3)]
    for i, network in enumerate(networks):
        for _ in range(i + 1):
            network(torch.randn(8, 3, 5, 5))
    states = [network.state_dict() for network in networks]
    alone = uniform_soup(states[:1])
    assert all(torch.equal(alone[key], value) for key, value in states[0].items())
    soup = uniform_soup(states)
    for key in ("0.weight", "1.running_var"):
        slow = torch.tensor(
            [sum(float(state[key].flatten()[i]) for state in states) / 3 for i in range(soup[key].numel())]
        )
        assert torch.allclose(soup[key].flatten(), slow)
    assert soup["1.num_batches_tracked"] == 1 and soup["1.num_batches_tracked"].dtype == torch.int64
    assert not torch.equal(soup["0.weight"], states[0]["0.weight"])
    write_weights(tmp_path / "soup.safetensors", soup)
    assert read_weights(tmp_path / "soup.safetensors").keys() == soup.keys()
    with pytest.raises(ValueError, match="different keys or shapes cannot be averaged"):
        uniform_soup([states[0], nn.Conv2d(3, 4, 1).state_dict()])
