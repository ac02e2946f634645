"""Networks for use elsewhere: ONNX, safetensors with a config.json, or a folder that timm reads."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from src.files import write_json, write_whole
from src.lightning_modules.classifier import Network
from src.prediction.members import Member, backbone_arguments, rebuild
from src.runs.weights import save_weights

NEEDS = {
    "onnx": ("onnx", "onnxscript"),
    "onnx_ensemble": ("onnx", "onnxscript", "onnxruntime"),
    "safetensors": ("safetensors",),
    "hf": ("safetensors", "huggingface_hub"),
}
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
        folder: below which <name>/<stage>/<run>/ is made.
        name: "onnx": network.onnx, from `image` (N, 3, size, size) float32 in [0, 1] to `logits` (N, K), N free.
            "safetensors": network.safetensors with the keys of weights.safetensors.
            "hf": model.safetensors and config.json in timm's format, for timm.create_model("local-dir:<folder>").

    Returns:
        The networks' files.

    Raises:
        ValueError: a member's head cannot be merged into timm's network ("hf").
    """
    file = "model.safetensors" if name == "hf" else f"network.{name}"
    paths = [folder / name / member.stage / member.name / file for member in members]
    for member, path in zip(members, paths, strict=True):
        module = rebuild(member)
        if name == "hf":
            write_timm(member, module, path.parent)
        else:
            if name == "onnx":
                write_onnx(module, member.size, path)
            else:
                save_weights(path, {part: getattr(module, part) for part in module.exported})
            write_json(path.with_name("config.json"), description(member))
        print(f"wrote {path}", flush=True)
    return paths


def traced(module: nn.Module, size: int, outputs: Sequence[str]) -> Any:
    """A network from images (N, 3, size, size) in evaluation mode as an ONNX model, N free."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        module, (torch.rand(2, 3, size, size),), input_names=["image"], output_names=list(outputs),
        dynamic_shapes=({0: batch},), dynamo=True, verbose=False,
    )  # fmt: skip
    assert program is not None
    return program.model_proto


def write_onnx(module: Network, size: int, path: Path) -> None:
    """Trace a network in evaluation mode and write it as ONNX."""
    with write_whole(path) as file:
        file.write(traced(module, size, ["logits"]).SerializeToString())


def merged(member: Member, network: Network) -> nn.Module:
    """timm's own network with the member's head for its classifier, in evaluation mode: without mean and std.

    Raises:
        ValueError: timm's network has another head than one linear layer, or computes other logits.
    """
    arguments = backbone_arguments(member) | {"num_classes": network.head.out_features}
    whole: nn.Module = timm.create_model(**arguments).eval()
    classifier = whole.get_classifier()  # type: ignore[operator] # timm's
    names = [name for name, module in whole.named_modules() if module is classifier]
    why = ""
    if not isinstance(classifier, nn.Linear) or not names or classifier.weight.shape != network.head.weight.shape:
        why = "its classifier is not one linear layer on the features"
    else:
        head = {f"{names[0]}.{key}": value for key, value in network.head.state_dict().items()}
        image = torch.rand(2, 3, member.size, member.size, generator=torch.Generator().manual_seed(0))
        try:
            whole.load_state_dict({**network.backbone.state_dict(), **head})
            with torch.no_grad():
                logits, expected = whole(network.normalised(image)), network(image)
            if not torch.allclose(logits, expected, rtol=1e-4, atol=1e-4):
                why = "it computes other logits"
        except RuntimeError as error:
            why = " ".join(str(error).split())[:200]
    if why:
        raise ValueError(
            f"the head of {member.folder} cannot be merged into timm's {arguments['model_name']} ({why}): "
            "export=safetensors writes backbone and head side by side"
        )
    return whole


def write_timm(member: Member, network: Network, folder: Path) -> None:
    """Write model.safetensors and config.json as timm reads and the Hugging Face Hub shows them.

    timm's preprocessing shrinks by its own filter, `interpolation`; ours takes the mean over an area.
    """
    whole = merged(member, network)
    known: Mapping[str, Any] = whole.pretrained_cfg  # type: ignore[assignment] # timm's
    shown = preprocessing(member)
    whole.pretrained_cfg = {  # of these weights, not of those that timm has for the network
        "architecture": known["architecture"],
        "num_classes": len(member.classes),
        "input_size": (3, member.size, member.size),
        "crop_pct": member.size / shown["resize_shorter_side"],
        "crop_mode": "center",
        "interpolation": "bilinear",
        "mean": shown["mean"],
        "std": shown["std"],
        **{key: known[key] for key in ("first_conv", "classifier", "fixed_input_size") if key in known},
    }  # type: ignore[assignment] # timm's
    arguments = {key: value for key, value in backbone_arguments(member).items() if key != "model_name"}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        timm.models.save_for_hf(
            whole, made, model_config={"label_names": member.classes}, safe_serialization=True,
            model_args=arguments | {"num_classes": len(member.classes)},
        )  # fmt: skip
        for file in Path(made).iterdir():
            os.replace(file, folder / file.name)


def preprocessing(member: Member) -> dict[str, Any]:
    """From a picture to the network's input in plain numbers.

    Raises:
        ValueError: its evaluation transform is not Evaluate, of which alone this is known.
    """
    view, module = member.view["eval_transform"], member.config["module"]
    if view["_target_"] != "src.transforms.Evaluate":
        raise ValueError(
            f"{member.folder} is evaluated by {view['_target_']}: only Evaluate can be given in plain numbers"
        )
    return {
        "layout": "NCHW",
        "dtype": "float32",
        "order": "RGB",
        "range": [0, 1],
        "resize_shorter_side": round(member.size / view["crop_pct"]),
        "resize_filter": "mean over the area where it shrinks, else bilinear",
        "crop": "centre",
        "size": member.size,
        "mean": module["mean"],
        "std": module["std"],
    }


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
