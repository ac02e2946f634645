"""A timm network's normalised input, and the requirements on it: a known name, its width, the run's image sizes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import timm
import torch
from timm.models import split_model_name_tag
from torch import nn
from torch.func import functional_call

from src.numbers import are_numbers

REFUSALS = (AssertionError, RuntimeError, ValueError, TypeError, IndexError, KeyError, ZeroDivisionError)
"""What timm's networks raise for images or settings that they do not accept."""


class Normalising(nn.Module):
    """A network that normalises its pixels, by itself and not by a part of it: compile=true compiles each part.

    Args:
        mean, std: of the pixels, by channel, for images in [0, 1]; in no checkpoint, as the settings have them.

    Raises:
        ValueError: they are not three finite numbers, those of std above 0.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        if not are_numbers(mean, 3):
            raise ValueError(f"pixels.mean is {mean}: expected three numbers")
        if not are_numbers(std, 3, 0, above=True):
            raise ValueError(f"pixels.std is {std}: expected three numbers above 0")
        super().__init__()
        for name, values in {"mean": mean, "std": std}.items():
            pixels = torch.tensor(values, dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(name, pixels, persistent=False)

    def normalised(self, image: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float in [0, 1] as a backbone takes them, of the same shape."""
        return (image - self.mean) / self.std


def check_name(settings: Mapping[str, Any]) -> None:
    """Raise ValueError, with similar names, for a network that timm lacks, or has no weights for if they are needed.

    Args:
        settings: of timm.create_model; its model_name is <architecture>, or <architecture>.<tag> for one of several
            weights. Anything else, or made by another function, is not checked.
    """
    name, pretrained = str(settings.get("model_name")), settings.get("pretrained")
    if not is_timms(settings):
        return
    architecture, tag = split_model_name_tag(name)
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        raise ValueError(f"timm has no model {name}, check model.model_name{did_you_mean(close)}")
    tags = [known for known in timm.list_models(f"{architecture}.*", pretrained=True) if known != architecture]
    if tag and name not in timm.list_models(f"{architecture}.*", pretrained=True, include_tags=True):
        close = difflib.get_close_matches(name, tags, 3, 0) or tags[:3]
        raise ValueError(f"timm has no weights {tag} for {architecture}, check model.model_name{did_you_mean(close)}")
    if pretrained and not tags:
        close = difflib.get_close_matches(architecture, timm.list_pretrained(), 3, 0.4)
        raise ValueError(
            f"model.pretrained=true: timm has no weights for {architecture}, set model.pretrained=false or another "
            f"model.model_name{did_you_mean(close)}"
        )


def is_timms(settings: Mapping[str, Any]) -> bool:
    """Whether timm makes the network by one of its own names, not from a hub, from which it would be downloaded."""
    name = str(settings.get("model_name"))
    return settings.get("_target_") == "timm.create_model" and re.fullmatch(r"[\w.-]+", name) is not None


def did_you_mean(close: list[str]) -> str:
    """The end of a sentence about a name: similar ones, if there are any."""
    return f": did you mean {', '.join(close)}" if close else ""


def fitted(settings: Mapping[str, Any], sizes: Iterable[int]) -> dict[str, Any]:
    """Settings of timm.create_model, with those that let the network take images of the run's sizes.

    Most networks take any size. Of those made for one size, timm lets many interpolate their positions at each pass
    (dynamic_img_size, with dynamic_img_pad if a side is no whole number of patches), which leaves their weights as they
    are; others must be made for another size (img_size). The first of these that works is added, and nothing if the
    network takes the images anyway, or never.

    Args:
        settings: of timm.create_model, all plain.
        sizes: sides of the square images in pixels.
    """
    if not is_timms(settings):
        return dict(settings)
    sizes = list(sizes)
    offers: list[dict[str, Any]] = [{}, {"dynamic_img_size": True}, {"dynamic_img_size": True, "dynamic_img_pad": True}]
    if len(sizes) == 1:
        offers.append({"img_size": sizes[0]})
    for offer in offers:
        if takes({**settings, **offer}, sizes):
            return {**settings, **offer}
    return dict(settings)


@torch.no_grad()
def takes(settings: Mapping[str, Any], sizes: Iterable[int]) -> bool:
    """Whether timm makes such a network, taking images of the sizes; the meta device computes only shapes."""
    random = torch.get_rng_state()
    try:
        with torch.device("meta"):
            plain = {key: value for key, value in settings.items() if key not in ("_target_", *START)}
            network = timm.create_model(**plain).eval()
            return all(network(torch.zeros(1, 3, size, size)).shape == (1, width_of(network)) for size in sizes)
    except REFUSALS:  # or NotImplementedError, one of RuntimeError's: what cannot be computed from shapes
        return False
    finally:
        torch.set_rng_state(random)


START = ("pretrained", "weights", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Settings that say which weights training starts from, not what the network is."""


def width_of(backbone: nn.Module) -> int:
    """C of the features (N, C) that a timm network without classifier outputs.

    That is timm's `head_hidden_size` if a network has layers between pooling and classifier (MobileNetV3, GhostNet,
    VGG), and `num_features`, the channels of its last map, otherwise.
    """
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type] # timm's


def name_of(backbone: nn.Module) -> str:
    """A timm network's name, for messages."""
    settings = getattr(backbone, "pretrained_cfg", None) or {}
    return str(settings.get("architecture") or type(backbone).__name__)


def made_for(backbone: nn.Module) -> str:
    """The image size that a timm network was made for, for messages."""
    settings = getattr(backbone, "pretrained_cfg", None) or {}
    return " x ".join(str(side) for side in settings.get("input_size", ())[1:]) or "another one"


def run_sizes(trainer: pl.Trainer) -> list[tuple[int, int]]:
    """Heights and widths of the images that a run trains on, in the order of its schedule."""
    return [(side, side) for side in dict.fromkeys(trainer.datamodule.sizes.values())]  # type: ignore[attr-defined] # ours


def freeze_unused(backbone: nn.Module) -> None:
    """Take gradients from the parameters that `backbone.forward` does not use, which DDP would wait for in vain.

    For a network whose forward is its forward_features: some have layers behind the pooling (MobileNetV3, GhostNet).
    Only shapes are computed; a network that refuses the image is left as it is, and check_sizes says why.
    """
    parameters = {
        name: torch.empty_like(parameter, device="meta", requires_grad=True)
        for name, parameter in backbone.named_parameters()
    }
    buffers = {name: buffer.to("meta") for name, buffer in backbone.named_buffers()}
    training, image = backbone.training, torch.zeros(1, 3, 64, 128, device="meta")
    try:
        with torch.enable_grad():
            made = functional_call(backbone.eval(), {**parameters, **buffers}, image)
            used = torch.autograd.grad(made.sum(), list(parameters.values()), allow_unused=True)
    except REFUSALS:
        return
    finally:
        backbone.train(training)
    for parameter, gradient in zip(backbone.parameters(), used, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)


@torch.no_grad()
def check_sizes(backbone: nn.Module, shapes: Iterable[tuple[int, int]], features: bool = False) -> None:
    """Try the shapes of a run's images before its first step, one image each; weights and statistics stay unchanged.

    Args:
        backbone: a timm network.
        shapes: heights and widths in pixels.
        features: try `forward_features` instead of `forward`: the result must be a map (1, num_features, h, w).

    Raises:
        ValueError: the network does not take such an image, or does not output such features.
    """
    training = {module: module.training for module in backbone.modules()}
    weight = next(backbone.parameters())
    backbone.eval()
    try:
        for height, width in shapes:
            image = torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype)
            where = f"{height} x {width} pixels"
            try:
                made = backbone.forward_features(image) if features else backbone.forward(image)  # type: ignore[operator] # not compiled
            except torch.OutOfMemoryError:
                raise
            except REFUSALS as error:
                advice = (
                    "maps are made of images of any size: choose a convolutional network for model="
                    if features
                    else f"set datamodule.size to one size that it takes (it is made for {made_for(backbone)}), or "
                    "choose another network for model="
                )
                why = " ".join(str(error).split())[:200]
                raise ValueError(f"{name_of(backbone)} does not take images of {where} ({why}): {advice}") from error
            shape = tuple(made.shape) if isinstance(made, torch.Tensor) else ()
            if features and (len(shape) != 4 or shape[1] != int(backbone.num_features)):  # type: ignore[arg-type] # timm's
                raise ValueError(
                    f"{name_of(backbone)} gives features of shape {shape} and not a map (N, {backbone.num_features}, "
                    "h, w) that could say where the foreground is: choose a convolutional network for model="
                )
            if not features and shape != (1, width_of(backbone)):
                raise ValueError(
                    f"{name_of(backbone)} gives features of shape {shape} and not (N, {width_of(backbone)}): choose "
                    "another network for model="
                )
    finally:
        for module, mode in training.items():
            module.training = mode
