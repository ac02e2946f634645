"""Weights that no run made: files of any form are read or refused in a sentence, timm's come from its cache."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from src import cli
from src.files import digest_of
from src.prediction.members import Member, read_member, rebuild
from src.runs import pretrained
from src.runs.pretrained import load_start, start_of
from tests.conftest import sign

PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3}
State = dict[str, torch.Tensor]


def network(name: str = "test_vit", seed: int = 0, **settings: object) -> nn.Module:
    torch.manual_seed(seed)
    made: nn.Module = timm.create_model(name, **settings)
    return made


def load(path: Path, name: str = "test_vit", **settings: object) -> nn.Module:
    backbone = network(name, seed=9, num_classes=0, **settings)
    load_start(backbone, {"model_name": name, "weights": str(path)}, PIXELS)
    return backbone


def same(backbone: nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_a_file_of_any_form_and_head_fills_the_backbone(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = network(name, num_classes=7).state_dict()
    forms = {
        "plain": state,
        "timm's": {"state_dict": state, "args": argparse.Namespace(lr=0.1), "epoch": 3},
        "distributed": {"model": {f"module.{key}": value for key, value in state.items()}},
        "lightning": {"state_dict": {f"backbone.{k}": v for k, v in state.items()} | {"head.weight": torch.ones(2, 3)}},
    }
    for form, content in forms.items():
        path = tmp_path / f"{form}.pth"
        torch.save(content, path)
        assert same(load(path, name), state), form
        said = capsys.readouterr().out
        assert "are not used" in said and ("head" in said or "fc" in said)
    save_file(state, tmp_path / "plain.safetensors")
    assert same(load(tmp_path / "plain.safetensors", name), state)


def test_old_files_without_counters_are_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {
        key: value
        for key, value in network("test_resnet", num_classes=0).state_dict().items()
        if "num_batches_tracked" not in key
    }
    save_file(state, tmp_path / "w.safetensors")
    assert same(nn.ModuleList([load(tmp_path / "w.safetensors", "test_resnet")])[0], state | {
        key: torch.tensor(0) for key in network("test_resnet", num_classes=0).state_dict() if "num_batches" in key
    })  # fmt: skip
    assert not capsys.readouterr().out  # nothing was left over


def test_positions_of_another_size_are_resampled(tmp_path: Path) -> None:
    state = network(num_classes=0).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    made = load(tmp_path / "w.safetensors", img_size=64).state_dict()
    assert made["pos_embed"].shape != state["pos_embed"].shape
    assert all(torch.equal(value, state[key]) for key, value in made.items() if key != "pos_embed")
    # Constant positions stay what they are, whatever their number.
    grid = state["pos_embed"].shape[1] - made["pos_embed"].shape[1]
    assert grid > 0
    save_file(state | {"pos_embed": torch.full_like(state["pos_embed"], 0.25)}, tmp_path / "w.safetensors")
    flat = load(tmp_path / "w.safetensors", img_size=64).state_dict()["pos_embed"]
    torch.testing.assert_close(flat, torch.full_like(flat, 0.25))


def test_weights_of_another_network_are_counted_and_named(tmp_path: Path) -> None:
    save_file(network("test_convnext").state_dict(), tmp_path / "w.safetensors")
    backbone = network(seed=9, num_classes=0)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"does not hold weights of test_vit .* of its \d+ tensors 0 fit, \d+ are missing"
    ):
        load_start(backbone, {"model_name": "test_vit", "weights": str(tmp_path / "w.safetensors")}, PIXELS)
    assert same(backbone, before)
    state = network().state_dict()
    fit = len(network(num_classes=0).state_dict()) - 2
    del state["norm.bias"]
    state["cls_token"] = torch.zeros(1, 1, 3)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError, match=rf"{fit} fit, 1 are missing \(norm.bias\), 1 have another shape \(cls_token\)"
    ):
        load(tmp_path / "w.safetensors")


def test_files_that_are_refused(tmp_path: Path) -> None:
    save_file(network().state_dict(), tmp_path / "w.safetensors")
    torch.save(network().state_dict(), tmp_path / "w.pth")
    torch.save(network(), tmp_path / "module.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    for name in ("w.safetensors", "w.pth"):
        (tmp_path / f"cut-{name}").write_bytes((tmp_path / name).read_bytes()[:50_000])
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "nothing.pth").touch()
    messages = {
        "module.pth": "is a pickle that holds more than tensors", "empty.pth": "holds no tensors by name",
        "list.pth": "holds no tensors by name", "cut-w.safetensors": "is damaged: it is not a whole safetensors file",
        "cut-w.pth": "is damaged, or not a weights file", "text.pth": "is damaged, or not a weights file",
        "nothing.pth": "is damaged, or not a weights file",
    }  # fmt: skip
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message):
            load(tmp_path / name)


def test_tensors_that_are_no_plain_finite_numbers_are_refused(tmp_path: Path) -> None:
    state = network("test_resnet", num_classes=0).state_dict()
    key, path = "conv1.0.weight" if "conv1.0.weight" in state else next(iter(state)), tmp_path / "w.pth"
    value = state[key]
    odd = {
        "holds .* as torch.int32, where torch.float32": value.int(), "as torch.complex64": value.to(torch.complex64),
        "that are not finite": value * float("nan"), "in .* that are not finite": value.double() + 1e300,
        "as torch.sparse_coo": value.to_sparse(), "without its numbers": value.to("meta"),
        "torch.quint8|is damaged, or not": torch.quantize_per_tensor(value, 0.1, 0, torch.quint8),
    }  # fmt: skip
    for message, one in odd.items():
        torch.save({**state, key: one}, path)
        with pytest.raises(ValueError, match=message):
            load(path, "test_resnet")
    torch.save({**state, key: value.half()}, path)
    assert torch.equal(load(path, "test_resnet").state_dict()[key], value.half().float())


def test_files_that_are_no_weights_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    for content, message in (
        (b"\n<!DOCTYPE html><html>", "w.pth is a web page or XML, not a weights file: download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"", "it is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load(path)
    save_file({}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        load(tmp_path / "none.safetensors", "test_resnet")
    save_file({"other": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"of its \d+ tensors 0 fit"):  # BatchNorm's counters are not counted
        load(tmp_path / "other.safetensors", "test_resnet")


def test_what_a_resume_compares(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(1)}, path)
    digest = start_of({"weights": str(path)})
    assert digest == digest_of(path)
    moved = path.rename(tmp_path / "moved.safetensors")
    assert start_of({"weights": str(moved)}) == digest
    with pytest.raises(FileNotFoundError, match="does not exist"):
        start_of({"weights": str(path)}, begun=tmp_path / "no run")
    parts = {"train": [], "in_domain": [], "out_of_domain": [], "trained_on_before": [], "started_from": digest}
    (tmp_path / "split.json").write_text(json.dumps(parts))
    assert start_of({"weights": str(path)}, begun=tmp_path) == digest  # which the run no longer needs
    with pytest.raises(FileNotFoundError, match="is a folder"):
        start_of({"weights": str(tmp_path)})
    with pytest.raises(ValueError, match="are two starts: leave one of them out"):
        start_of({"weights": str(moved), "pretrained": True})
    assert start_of({"model_name": "test_vit", "pretrained": False, "weights": None}) is None
    theirs = start_of({"model_name": "test_vit", "pretrained": True})
    assert (
        theirs and "r160_in1k" in theirs and theirs == start_of({"model_name": "test_vit.r160_in1k", "pretrained": 1})
    )


# ------------------------------------------------------------------------------------------ timm's own


def no_network(*_: object, **__: object) -> None:
    raise URLError("no network")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], State]:
    """Puts weights of timm's name into an empty cache of the hub's; nothing asks the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(pretrained, "urlopen", no_network)

    def put(name: str) -> State:
        state = network(name).state_dict()
        folder = tmp_path / "hub" / f"models--timm--{timm.get_pretrained_cfg(name).hf_hub_id.split('/')[1]}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("0" * 40)
        (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
        save_file(state, folder / "snapshots" / ("0" * 40) / "model.safetensors")
        return state

    return put


def test_timms_weights_come_from_its_cache(
    cache: Callable[[str], State], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    settings = {"_target_": "timm.create_model", "model_name": "test_vit", "num_classes": 0, "pretrained": True}
    backbone = network(seed=9, num_classes=0)
    with pytest.raises(
        ValueError, match=r"timm/test_vit.r160_in1k are not cached here .*\(<urlopen .*model.weights=<path>"
    ):
        load_start(backbone, settings, PIXELS)
    state = cache("test_vit")
    load_start(backbone, settings, PIXELS)
    assert same(backbone, state) and not recwarn.list
    with pytest.warns(UserWarning, match=r"trained with pixels.mean=\[0.5, 0.5, 0.5\] pixels.std=\[0.5, 0.5, 0.5\]"):
        load_start(backbone, settings, {"mean": [0.4] * 3, "std": [0.5] * 3})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    load_start(backbone, settings, PIXELS)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        load_start(network("test_resnet", num_classes=0), settings | {"model_name": "test_convnext"}, PIXELS)


def test_settings_that_timms_weights_do_not_fit(cache: Callable[[str], State]) -> None:
    cache("test_vit")
    settings = {"model_name": "test_vit", "num_classes": 0, "embed_dim": 32, "pretrained": True}
    with pytest.raises(ValueError, match="do not fit test_vit with the settings of model="):
        load_start(network(num_classes=0, embed_dim=32), settings, PIXELS)


def test_a_pretrained_run_resumes_and_predicts_without_cache_and_network(
    cache: Callable[[str], State], train_run: Callable[..., Path], predict: Callable[..., Path], tmp_path: Path
) -> None:
    words = ["track=1", "stage=baseline", "model.model_name=test_vit", "model.pretrained=true"]
    with pytest.raises(ValueError, match="are not cached here"):
        train_run(*words)
    assert not (tmp_path / "logs").exists()  # a start that fails leaves nothing behind
    state = cache("test_vit")
    run = train_run(*words, "+trainer.max_steps=6", "module.optimizer.lr=0")
    assert not (run / "finished.json").exists()
    shutil.rmtree(tmp_path / "hub")
    train_run(*words, "module.optimizer.lr=0", "resume=true")
    saved = load_file(run / "weights.safetensors")
    assert all(torch.equal(saved[f"backbone.{key}"], state[key]) for key in network(num_classes=0).state_dict())
    assert len(json.loads((predict() / "prediction.json").read_text())) > 10


# ------------------------------------------------------------------------------------------ whole runs


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file(network("test_convnext").state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_a_run_from_a_file_starts_there_votes_and_is_timms(
    train_run: Callable[..., Path], predict: Callable[..., Path], weights: Path, tmp_path: Path
) -> None:
    words = ["track=1", "stage=baseline", "model.model_name=test_convnext", "trainer.max_epochs=1"]
    still = train_run(*words, f"model.weights={weights}", "module.optimizer.lr=0", "tag=still")
    start = load_file(weights)
    saved = load_file(still / "weights.safetensors")
    assert all(
        torch.equal(saved[f"backbone.{key}"], start[key])
        for key in network("test_convnext", num_classes=0).state_dict()
    )
    assert json.loads((still / "split.json").read_text())["started_from"] == digest_of(weights)

    run = train_run(*words, f"model.weights={weights}")
    weights.unlink()
    assert (predict() / "prediction.json").exists()
    member = read_member(run)
    assert isinstance(member, Member)
    ours, saved = rebuild(member), load_file(run / "weights.safetensors")
    theirs = network("test_convnext", seed=5, num_classes=0).eval()
    theirs.load_state_dict(
        {key.removeprefix("backbone."): value for key, value in saved.items() if key.startswith("backbone.")},
        strict=True,
    )
    image = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(member.config["module"][key]).view(3, 1, 1) for key in ("mean", "std"))
    logits = theirs((image - mean) / std) @ saved["head.weight"].T + saved["head.bias"]
    torch.testing.assert_close(ours(image), logits)


def test_a_resume_goes_on_from_the_same_weights_alone(train_run: Callable[..., Path], weights: Path) -> None:
    words = ["track=1", "stage=baseline", "model.model_name=test_convnext"]
    train_run(*words, f"model.weights={weights}", "+trainer.max_steps=6")
    moved = weights.rename(weights.with_name("moved.safetensors"))
    other = weights.with_name("other.safetensors")
    save_file(network("test_convnext", seed=3).state_dict(), other)
    with pytest.raises(SystemExit, match="weights to start from .*model.weights.*changed"), cli.clear_errors():
        train_run(*words, f"model.weights={other}", "resume=true")
    with pytest.raises(SystemExit, match="weights to start from .*model.weights.*changed"), cli.clear_errors():
        train_run(*words, "resume=true")
    assert (train_run(*words, f"model.weights={moved}", "resume=true") / "finished.json").exists()


def test_a_run_before_comes_first_and_that_is_said(
    train_run: Callable[..., Path], weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["track=1", "stage=baseline", "model.model_name=test_convnext", "trainer.max_epochs=1", "tag=b"]
    before = train_run(*words)
    run = train_run(*words[:-1], f"model.weights={weights}", f"init={before}", "module.optimizer.lr=0")
    assert "model.weights are not used: the run starts from" in capsys.readouterr().out
    assert torch.equal(*(load_file(r / "weights.safetensors")["backbone.stem.0.weight"] for r in (before, run)))


def test_runs_of_before_these_settings_go_on(train_run: Callable[..., Path]) -> None:
    """A run's config.yaml as version 0.2.0 wrote it."""
    import yaml

    words = ["track=1", "stage=baseline", "+trainer.max_steps=6"]
    run = train_run(*words)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    for one in (settings["model"], settings["module"]["backbone"]):
        del one["pretrained"], one["weights"]
    del settings["module"]["label_smoothing"], settings["recipe"], settings["cosine_epochs"]
    for one in (settings["mixing"], settings["module"]["mixing"]):
        del one["probability"], one["per_image"], one["until"]
    for name in ("jitter", "grey", "randaugment", "trivialaugment", "random_erasing"):
        del settings["datamodule"]["train_transform"][name]
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    train_run(*words[:2], "resume=true")
    assert (run / "finished.json").exists()
    sign(run)
    assert isinstance(read_member(run), Member)
    with pytest.raises(ValueError, match=r"module.label_smoothing: 0.0 there, 0.1 here"):
        train_run(*words[:2], "resume=true", "module.label_smoothing=0.1")
