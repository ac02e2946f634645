"""A member's network for use elsewhere: ONNX, or safetensors with a config.json."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from src.files import write_json, write_whole
from src.lightning_modules.classifier import Network
from src.prediction.members import Member, rebuild
from src.runs.weights import save_weights

NEEDS = {"onnx": ("onnx", "onnxscript"), "safetensors": ("safetensors",)}
"""The formats that export= takes, and the packages that write each."""


def check_format(name: str) -> None:
    """Raise ValueError if export= names no format, or one whose packages are not installed."""
    if name not in NEEDS:
        raise ValueError(f"export={name} is not a format: choose one of {', '.join(NEEDS)}")
    missing = [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"export={name} needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def export(members: Sequence[Member], folder: Path, name: str) -> list[Path]:
    """Write the members' networks, each with a config.json of what its user must know.

    Args:
        members: the members.
        folder: receives <stage>/<name>/.
        name: "onnx": network.onnx, from `image` (N, 3, size, size) float32 in [0, 1] to `logits` (N, K), N free.
            "safetensors": network.safetensors with the keys of weights.safetensors.

    Returns:
        The networks' files.

    Raises:
        ValueError: see check_format.
    """
    check_format(name)
    paths = [folder / member.stage / member.name / f"network.{name}" for member in members]
    for member, path in zip(members, paths, strict=True):
        module = rebuild(member)
        if name == "onnx":
            write_onnx(module, member.size, path)
        else:
            save_weights(path, {part: getattr(module, part) for part in module.exported})
        write_json(path.with_name("config.json"), description(member))
        print(f"wrote {path}", flush=True)
    return paths


def write_onnx(module: Network, size: int, path: Path) -> None:
    """Trace a network in evaluation mode and write it as ONNX."""
    example = torch.rand(2, 3, size, size)
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        module, (example,), input_names=["image"], output_names=["logits"], dynamic_shapes=({0: batch},), dynamo=True,
        verbose=False,
    )  # fmt: skip
    assert program is not None
    with write_whole(path) as file:
        file.write(program.model_proto.SerializeToString())


def description(member: Member) -> dict[str, Any]:
    """What a network's user must know: its input, its classes by id, how it is built, where it comes from."""
    settings = member.config["module"]
    return {
        "input": {"range": [0, 1], "order": "RGB", **json.loads(json.dumps(member.view))},
        "mean": settings["mean"],
        "std": settings["std"],
        "logits": "head(backbone((image - mean) / std))",  # the ONNX file contains all of this
        "classes": member.classes,
        "backbone": settings["backbone"],
        "run": str(member.folder),
        "weights_sha256": member.digest,
    }
