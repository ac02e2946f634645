import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

from src.data.datasets import Images
from src.data.manifest import Row
from src.lightning_modules.classifier import Network
from src.prediction.export import export, preprocessing, write_timm
from src.prediction.members import Member, backbone_arguments, read_member, rebuild
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
    with pytest.raises(
        SystemExit, match="export=tflite is not a format: choose one of onnx, onnx_ensemble, safetensors, hf"
    ):
        predict("export=tflite")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else there(name))
    with pytest.raises(SystemExit, match="error: export=onnx needs onnxscript: pip install onnxscript"):
        predict("export=onnx")
    with pytest.raises(SystemExit, match="error: export= writes networks, which see an image once: leave tta= out"):
        predict("export=hf", "tta=flip")


def test_timm_loads_a_run_and_its_card_tells_what_was_measured(
    two_members: list[Path], predict: Callable[..., Path], data: Path
) -> None:
    truth = f"truth={data / 'truth/track1_test_truth.json'}"
    results = predict("export=hf", truth, "license=cc-by-nc-4.0", "ensemble.runs=[*seed1]")
    (folder,) = (results / "export/hf/baseline").iterdir()
    member = read_member(two_members[1])
    assert isinstance(member, Member) and folder.name == member.name
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    image = pixels(data, member, 5)
    settings = timm.data.resolve_data_config(model=network)
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        logits, expected = network((image - mean) / std), rebuild(member)(image)
    assert torch.allclose(logits, expected, atol=1e-6) and expected.std() > 1e-2
    assert network.num_classes == len(member.classes) and network.pretrained_cfg["label_names"] == member.classes
    assert settings["input_size"] == (3, 32, 32) and settings["crop_mode"] == "center"
    assert math.floor(32 / settings["crop_pct"]) == preprocessing(member)["resize_shorter_side"]  # timm's rule and ours
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "cc-by-nc-4.0" and front["library_name"] == "timm"
    # The only member's vote has the same figures.
    predict(truth, "vote=soft", "ensemble.runs=[*seed1]")
    figures = json.loads((results / "figures.json").read_text())
    rows = {row.split(" | ")[0]: row for row in card.replace("| ", "", 1).splitlines() if row.startswith("| ")}
    for context in ("outdoor", "water"):
        assert f"| {context} | {100 * figures['test'][f'accuracy/{context}']:.2f} |" in card
    for context in ("autumn", "dim", "grass", "rock"):
        assert f"| {context} | - | {100 * figures['in_domain'][f'accuracy/{context}']:.2f} |" in card
    ece = rows["| expected calibration error"]
    assert [f"{100 * figures[name]['ece']:.2f}" in ece for name in ("test", "in_domain")] == [True, True]
    assert f"| training images | {len(json.loads((two_members[1] / 'split.json').read_text())['train'])} |" in card


def test_a_card_without_the_images_has_the_runs_last_figures(
    two_members: list[Path], predict: Callable[..., Path], tmp_path: Path
) -> None:
    results = predict("export=hf", f"data_root={tmp_path}/nowhere", "ensemble.runs=[*seed0]")
    ((card),) = (results / "export/hf/baseline").glob("*/README.md")
    last = json.loads((two_members[0] / "finished.json").read_text())["metrics"]
    for context in ("autumn", "dim", "grass", "rock"):
        key = f"in_domain/accuracy/{context}"
        assert f"| {key} | {100 * last[f'val/{key}']:.2f} |" in card.read_text()
    assert "Calibration was not measured: " in card.read_text() and "license: unknown" in card.read_text()


def untrained(member: Member, name: str, size: int, **arguments: object) -> tuple[Member, Network]:
    """A member of another network, with random weights."""
    backbone = {"_target_": "timm.create_model", "model_name": name, "num_classes": 0, **arguments}
    config = {**member.config, "module": {**member.config["module"], "backbone": backbone}}
    other = member._replace(config={**config, "datamodule": {**member.config["datamodule"], "size": size}})
    torch.manual_seed(0)
    backbone = timm.create_model(**backbone_arguments(other))
    return other, Network(backbone=backbone, num_classes=8, mean=[0.4] * 3, std=[0.2] * 3).eval()


@pytest.mark.parametrize(
    ("name", "arguments"), [("mobilenetv3_small_050", {}), ("vit_tiny_patch16_224", {"img_size": 32})]
)
def test_the_head_goes_where_timm_has_it(
    two_members: list[Path], name: str, arguments: dict[str, object], tmp_path: Path
) -> None:
    member, network = untrained(first(two_members), name, 32, **arguments)
    write_timm(member, network, tmp_path / "made")
    made = timm.create_model(f"local-dir:{tmp_path / 'made'}", pretrained=True).eval()
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(made((image - 0.4) / 0.2), network(image), atol=1e-4)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["dla46_c", "deit_tiny_distilled_patch16_224"])  # a convolution; two classifiers
def test_a_head_that_cannot_be_merged_is_refused(two_members: list[Path], name: str, tmp_path: Path) -> None:
    member, network = untrained(first(two_members), name, 224)
    with pytest.raises(ValueError, match=rf"cannot be merged into timm's {name} .*: export=safetensors writes"):
        write_timm(member, network, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_plain_numbers_are_those_of_the_transform(two_members: list[Path]) -> None:
    member = first(two_members)
    for size, crop_pct in ((32, 0.95), (224, 0.875), (448, 1.0), (512, 0.95)):
        view = {"_target_": "src.transforms.Evaluate", "_partial_": True, "crop_pct": crop_pct}
        other = member._replace(config={**member.config, "datamodule": {"size": size, "eval_transform": view}})
        assert preprocessing(other)["resize_shorter_side"] == Evaluate(size, crop_pct=crop_pct).min_side
