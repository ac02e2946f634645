import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from src.data.datasets import Images
from src.data.manifest import Row
from src.prediction.export import export
from src.prediction.members import Member, read_member, rebuild
from src.transforms import Evaluate


def first(two_members: list[Path]) -> Member:
    member = read_member(two_members[0])
    assert isinstance(member, Member)
    return member


def pixels(data: Path, member: Member, count: int) -> torch.Tensor:
    """Test images as the member sees them: (count, 3, size, size) float32 in [0, 1]."""
    root = data / "data/public_dg_0416/public_test_flat"
    rows = [Row(path.name) for path in sorted(root.iterdir())[:count]]
    images = Images(rows, root, None, Evaluate(member.view["size"], crop_pct=0.95), 0)
    return torch.stack([torch.from_numpy(images[0, i].pixels[0]) for i in range(len(rows))]).permute(0, 3, 1, 2) / 255


def test_the_onnx_network_agrees_on_the_demos_images(two_members: list[Path], data: Path, tmp_path: Path) -> None:
    import onnxruntime

    member = first(two_members)
    (path,) = export([member], tmp_path / "export", "onnx")
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for count in (1, 7, 60):
        image = pixels(data, member, count)
        with torch.no_grad():
            expected = rebuild(member)(image).numpy()
        (logits,) = session.run(["logits"], {"image": image.numpy()})
        assert logits.shape == expected.shape and np.abs(logits - expected).max() < 1e-4
    assert expected.std() > 1e-2


def test_safetensors_and_its_config_are_enough_to_build_the_network(
    two_members: list[Path], data: Path, tmp_path: Path
) -> None:
    member = first(two_members)
    (path,) = export([member], tmp_path / "export", "safetensors")
    config, state = json.loads(path.with_name("config.json").read_text()), load_file(path)
    assert config["classes"] == member.classes and config["input"]["size"] == 32
    settings = {key: value for key, value in config["backbone"].items() if key != "_target_"}
    backbone = timm.create_model(**settings)
    backbone.load_state_dict({key[9:]: value for key, value in state.items() if key.startswith("backbone.")})
    image = pixels(data, member, 3)
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        logits = backbone.eval()((image - mean) / std) @ state["head.weight"].T + state["head.bias"]
        assert torch.allclose(logits, rebuild(member)(image), atol=1e-5)


def test_a_format_that_does_not_exist_or_is_not_installed(
    two_members: list[Path], predict: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="error: export=tflite is not a format: choose one of onnx, safetensors"):
        predict("export=tflite")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else there(name))
    with pytest.raises(SystemExit, match="error: export=onnx needs onnxscript: pip install onnxscript"):
        predict("export=onnx")
