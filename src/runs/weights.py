"""Save and strictly load a network's weights: what one stage hands to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from src.files import write_whole


def save_weights(path: Path, parts: Mapping[str, nn.Module]) -> None:
    """Write the parameters and buffers of named parts to a safetensors file, in one step.

    Args:
        path: the file; its keys are "<part>.<key in the part's state dict>".
        parts: the networks, such as {"backbone": ..., "head": ...}.
    """
    state = {
        f"{part}.{key}": value.detach().cpu().contiguous().clone()
        for part, network in parts.items()
        for key, value in network.state_dict().items()
    }
    write_weights(path, state)


def write_weights(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write tensors by "<part>.<key>" to a safetensors file, in one step."""
    with write_whole(path) as file:
        file.write(save(dict(state)))


def load_weights(path: Path, parts: Mapping[str, nn.Module]) -> None:
    """Fill named parts from a file of save_weights; every key of a part must be there, and no other.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a safetensors file, a part that the file does not have, or keys or shapes that differ: the
            file holds a different network.
    """
    state = read_weights(path)
    for part, network in parts.items():
        given = {key.split(".", 1)[1]: value for key, value in state.items() if key.startswith(f"{part}.")}
        wanted = network.state_dict()
        wrong = [f"{key} is missing" for key in wanted if key not in given]
        wrong += [f"{key} is unknown" for key in given if key not in wanted]
        wrong += [
            f"{key} has shape {list(given[key].shape)}, not {list(wanted[key].shape)}"
            for key in given
            if key in wanted and given[key].shape != wanted[key].shape
        ]
        if wrong:
            raise ValueError(
                f"the {part} in {path} is a different network from this run's (model=): "
                f"{'; '.join(wrong[:3])}{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}"
            )
        network.load_state_dict(given, strict=True)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file of save_weights, by "<part>.<key>".

    Raises:
        FileNotFoundError, ValueError: as load_weights.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the weights file {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error


def uniform_soup(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of networks' weights, key by key (Wortsman et al. 2022, uniform soup).

    Parameters and float buffers are averaged in float64, including BatchNorm's running statistics (an approximation:
    no network has exactly these); integers, such as its counter, are the first network's.

    Args:
        states: at least one; the networks must share a start, or their mean is meaningless.

    Raises:
        ValueError: keys or shapes differ.
    """
    first = states[0]
    for state in states[1:]:
        if {key: value.shape for key, value in state.items()} != {key: value.shape for key, value in first.items()}:
            raise ValueError("networks with different keys or shapes cannot be averaged")
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for key, value in first.items()
    }
