"""Weights from outside this project for a backbone to start from: timm's, or a local file."""

from __future__ import annotations

import argparse
import pickle
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import urlopen

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import nn

from src.cli import instantiate
from src.distributed import is_rank_zero
from src.files import digest_of
from src.lightning_modules.backbone import START
from src.runs.records import read_split

State = dict[str, torch.Tensor]
REACH = 5
"""Seconds within which the server that has timm's weights must respond."""
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which checkpoints of timm, torchvision, MoCo and Lightning keep the weights; the first found counts."""


def start_of(model: Mapping[str, Any], begun: Path | None = None) -> str | None:
    """What identifies the weights that `model` starts from: a file's sha256, timm's own name, None from scratch.

    Args:
        model: the settings of that name.
        begun: a run that is resumed; it holds what is needed of a file that is no longer there.

    Raises:
        FileNotFoundError: no such file.
        ValueError: weights and pretrained at once.
    """
    path, pretrained = model.get("weights"), model.get("pretrained")
    if path and pretrained:
        raise ValueError(f"model.weights={path} and model.pretrained=true are two starts: leave one of them out")
    if path:
        if begun and not Path(path).exists() and (begun / "split.json").exists():
            return read_split(begun).get("started_from")
        if not Path(path).is_file():
            problem = "is a folder" if Path(path).is_dir() else "does not exist"
            raise FileNotFoundError(f"model.weights={path} {problem}: name a .safetensors or .pth file of weights")
        return digest_of(Path(path))
    if pretrained:
        weights = timm.get_pretrained_cfg(model["model_name"])
        assert weights, "backbone.check_name asks for them"
        return f"{weights.hf_hub_id or weights.url} {weights.architecture}.{weights.tag}"
    return None


def load_start(backbone: nn.Module, model: Mapping[str, Any], pixels: Mapping[str, Any]) -> None:
    """Fill a whole backbone with the weights that `model` starts from; unused tensors of a file are named.

    Args:
        backbone: the network of these settings.
        model: the settings of that name.
        pixels: mean and std that the images are normalised by; a warning where timm's weights want others.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file cannot be read or is another network's, or timm's weights cannot be obtained.
    """
    if model.get("weights"):
        load_from_file(backbone, Path(model["weights"]), str(model["model_name"]))
    elif model.get("pretrained"):
        backbone.load_state_dict(timms_weights(model, pixels), strict=True)


def rehearse(model: Mapping[str, Any], pixels: Mapping[str, Any]) -> None:
    """Do what load_start does, for its errors, before a run's folder is made.

    Raises:
        OSError, ValueError: as load_start.
    """
    backbone = instantiate({**model, "pretrained": False, "weights": None})
    with redirect_stdout(StringIO()):  # what is not used is said when it counts
        load_start(backbone, model, pixels)


# ------------------------------------------------------------------------------------------ a file


def load_from_file(backbone: nn.Module, path: Path, name: str) -> None:
    """Fill a backbone from a file that names its tensors as timm does, under any prefix, or in a way that timm knows.

    Args:
        backbone: the network; all of it is filled.
        path: the file. What the backbone lacks, such as a head for any number of classes, is ignored and named.
        name: the network's, for messages.

    Raises:
        ValueError: the file cannot be read, or is another network's: what fits is counted, what does not is named; or
            it holds something else than finite numbers.
    """
    wanted = backbone.state_dict()
    state, left = without_prefix(read_tensors(path), wanted)
    for candidate in (state, *translations(backbone, state)):
        missing, other_shape = differences(candidate, wanted)
        if not missing and not other_shape:
            check_numbers(path, candidate, wanted)
            backbone.load_state_dict({key: candidate.get(key, value) for key, value in wanted.items()}, strict=True)
            left += [key for key in candidate if key not in wanted]
            if left and is_rank_zero():
                print(f"{path}: {len(left)} tensors are not used ({named(left)})", flush=True)
            return
    missing, other_shape = differences(state, wanted)
    problems = [f"{len(keys)} {what} ({named(keys)})"
                for keys, what in ((missing, "are missing"), (other_shape, "have another shape")) if keys]  # fmt: skip
    needed = len([key for key in wanted if key in state]) + len(missing)
    raise ValueError(
        f"model.weights={path} does not hold weights of {name} with the settings of model=: of its {needed} "
        f"tensors {needed - len(missing) - len(other_shape)} fit, {', '.join(problems)}: choose the "
        "model.model_name that the file belongs to"
    )


def read_tensors(path: Path) -> State:
    """The tensors of a safetensors file, or of a PyTorch file that holds nothing but plain values, by their names.

    Raises:
        ValueError: it is neither, or a tensor is stored in a way that no network here has.
    """
    head = b""
    try:
        with open(path, "rb") as file:
            head = file.read(200)
        if head[8:9] == b"{":  # behind the length of its header
            found: Any = load_file(path)
        else:
            # Checkpoints of timm's own training hold their arguments, as a namespace.
            with torch.serialization.safe_globals([argparse.Namespace]):
                found = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: it is not a whole safetensors file ({error})") from error
    except pickle.UnpicklingError as error:
        if head.startswith((b"PK", b"\x80")) and re.search("Unsupported global|weights_only", str(error), re.I):
            raise ValueError(
                f"{path} is a pickle that holds more than tensors, and loading it would run code, which is refused: "
                "if you trust it, save its state_dict as safetensors (safetensors.torch.save_file)"
            ) from error
        raise ValueError(f"{path} is {what_is(head)}") from error
    except PermissionError:
        raise
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is {what_is(head)}") from error  # pickle's own words say no more
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
            break
    items = found.items() if isinstance(found, Mapping) else ()
    tensors = {str(key): value for key, value in items if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name: expected a network's state_dict")
    for key, value in tensors.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized or value.is_nested:
            how = "without its numbers" if value.is_meta else f"as {value.layout} of {value.dtype}"
            raise ValueError(f"{path} holds the tensor {key} {how}: save the network's state_dict as plain tensors")
    return clean_state_dict(tensors)


def what_is(head: bytes) -> str:
    """What a file that cannot be read is, by its first bytes."""
    if head.lstrip()[:1] == b"<":
        return "a web page or XML, not a weights file: download the file itself"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the weights themselves: fetch them (git lfs pull)"
    return "damaged, or not a weights file" if head else "damaged, or not a weights file: it is empty"


def check_numbers(path: Path, state: State, wanted: State) -> None:
    """Raise ValueError where a tensor of a file does not hold the finite numbers that a network's tensor takes."""
    for key, own in wanted.items():
        value = state.get(key, own)
        if value.is_complex() or (own.is_floating_point() and not value.is_floating_point()):
            raise ValueError(
                f"model.weights={path} holds {key} as {value.dtype}, where {own.dtype} is expected: whole or "
                "complex numbers are quantised weights, or another network's: save them as floats"
            )
        if not torch.isfinite(value.to(own.dtype)).all():
            raise ValueError(
                f"model.weights={path} holds numbers in {key} that are not finite: its training diverged or the file "
                "is damaged; choose another file"
            )


def without_prefix(state: State, wanted: State) -> tuple[State, list[str]]:
    """The part of `state` whose names are those of `wanted` under one prefix, without it; and the names of the rest.

    Among several prefixes the one with the most names of `wanted` counts: "backbone." in our own runs, none in most
    files.
    """
    first = next(iter(wanted))
    prefixes = {key.removesuffix(first) for key in state if key == first or key.endswith(f".{first}")} | {""}
    prefix = max(sorted(prefixes), key=lambda one: sum(one + key in state for key in wanted))
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return inside, [key for key in state if not key.startswith(prefix)]


def translations(backbone: nn.Module, state: State) -> Iterator[State]:
    """`state` as timm translates the names of other libraries, and positions of another size, for this network.

    Each of its files of architectures has a function for that, such as checkpoint_filter_fn.
    """
    home = vars(sys.modules[type(backbone).__module__])
    for translate in (value for name, value in home.items() if "filter" in name and callable(value)):
        try:
            made = translate(dict(state), backbone)
        except Exception:  # written for the files that timm knows: of another one it may raise anything
            continue
        if isinstance(made, Mapping):
            yield {str(key): value for key, value in made.items() if isinstance(value, torch.Tensor)}


def differences(state: State, wanted: State) -> tuple[list[str], list[str]]:
    """Names of `wanted` that `state` lacks, and those whose shapes differ.

    BatchNorm's counter of batches may be missing: files from before PyTorch 0.4.1 have none, and nothing here uses it.
    """
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    return missing, [key for key in wanted if key in state and state[key].shape != wanted[key].shape]


def named(keys: list[str]) -> str:
    """Names of tensors, those of one part of the network together: "fc.weight, head (12 of them)"."""
    parts = Counter(key.split(".")[0] for key in keys)
    words = [next(k for k in keys if k.split(".")[0] == part) if count == 1 else f"{part} ({count} of them)"
             for part, count in parts.items()]  # fmt: skip
    return ", ".join(words[:6]) + (", ..." if len(words) > 6 else "")


def first_line(error: BaseException) -> str:
    """The beginning of what a library says."""
    return (" ".join(str(error).split()) or type(error).__name__)[:160]


# ---------------------------------------------------------------------------------------- timm's own


def timms_weights(model: Mapping[str, Any], pixels: Mapping[str, Any]) -> State:
    """A network's state with timm's weights, as timm's own loader makes it, from its cache or else downloaded.

    Raises:
        ValueError: they are neither cached nor downloadable, or do not fit the settings.
    """
    weights = timm.get_pretrained_cfg(model["model_name"])
    assert weights, "backbone.check_name asks for them"
    settings = {key: value for key, value in model.items() if key not in ("_target_", *START)}
    where, file = weights.hf_hub_id or weights.url, cached(weights)
    try:
        if file is None:
            reach(weights)
        # A file that is there is handed over: asking for a newer one would wait for a network that may not answer.
        overlay = {"state_dict": read_tensors(file)} if file and not weights.custom_load else None
        state: State = timm.create_model(**settings, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    except Exception as error:  # whatever network, cache and loader say
        if "size mismatch" in str(error):
            raise ValueError(
                f"timm's weights {where} do not fit {model['model_name']} with the settings of model= "
                f"({first_line(error)}): leave out those that change the network, or set model.pretrained=false"
            ) from error
        state_of_things = f"in {file} cannot be used" if file else "are not cached here and cannot be downloaded"
        raise ValueError(
            f"timm's weights {where} {state_of_things} ({first_line(error)}): start once with a network connection, "
            f"or name a local file of them with model.weights=<path> instead of model.pretrained=true"
        ) from error
    theirs, ours = ([*map(float, one["mean"]), *map(float, one["std"])] for one in (weights.to_dict(), pixels))
    if theirs != ours and is_rank_zero():
        mean, std = ([round(float(v), 4) for v in one] for one in (weights.mean, weights.std))
        warnings.warn(
            f"timm's weights {where} were trained with pixels.mean={mean} pixels.std={std}, unlike this run",
            stacklevel=2,
        )
    return state


def cached(weights: Any) -> Path | None:
    """The file of timm's weights that an earlier start, or timm elsewhere, has left on this machine."""
    from huggingface_hub import try_to_load_from_cache

    if weights.hf_hub_id:
        repository, _, revision = weights.hf_hub_id.partition("@")
        names = [weights.hf_hub_filename] if weights.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
        for name in names:
            found = try_to_load_from_cache(repository, name, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    if isinstance(weights.url, str) and weights.url:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
        return path if path.is_file() else None
    return None


def reach(weights: Any) -> None:
    """Check that the server of the weights responds: without a network its library would retry for minutes.

    Raises:
        OSError: no answer.
    """
    from huggingface_hub import constants

    if weights.hf_hub_id and constants.is_offline_mode():
        raise OSError("HF_HUB_OFFLINE is set")
    parts = urlparse(constants.ENDPOINT if weights.hf_hub_id else weights.url)
    with suppress(HTTPError):  # which is an answer
        urlopen(f"{parts.scheme}://{parts.netloc}", timeout=REACH).close()
