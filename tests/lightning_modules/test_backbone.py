"""Networks of timm that are not like a ResNet: they work, or one sentence says what to do."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from omegaconf import DictConfig

from src import cli
from src.lightning_modules.backbone import check_name, check_sizes, fitted, width_of
from src.lightning_modules.optimizer import make_optimizer
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "name", ["resnet10t", "mobilenetv3_small_050", "mobilenetv4_conv_small_050", "ghostnet_050", "lcnet_035",
             "hgnetv2_b0", "fasternet_t0", "efficientvit_b0", "repvgg_a0", "vit_tiny_patch16_224", "convnext_atto",
             "vgg11"],
)  # fmt: skip
def test_the_width_is_what_the_network_gives(name: str) -> None:
    # On meta shapes alone are computed; efficientvit turns autocast off, which meta has not, before timm 1.0.30.
    with torch.device("cpu" if name == "efficientvit_b0" else "meta"):
        backbone = timm.create_model(name, num_classes=0).eval()
        assert backbone(torch.zeros(2, 3, 224, 224)).shape == (2, width_of(backbone))


def test_a_check_of_sizes_leaves_the_network_as_it_was() -> None:
    backbone = timm.create_model("resnet10t", num_classes=0, channels=[8, 8, 16, 16], stem_width=8)
    backbone.bn1.eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    modes = [module.training for module in backbone.modules()]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    check_sizes(backbone, [(32, 32), (64, 128)])
    check_sizes(backbone, [(32, 32), (64, 128)], features=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [module.training for module in backbone.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def vit(**settings: object) -> torch.nn.Module:
    network: torch.nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, **settings)
    return network


def test_sizes_that_a_network_does_not_take() -> None:
    with pytest.raises(
        ValueError,
        match=r"vit_tiny_patch16_224 does not take images of 64 x 64 pixels .*set datamodule.size .*made for 224 x 224",
    ):
        check_sizes(vit(), [(224, 224), (64, 64)])
    check_sizes(vit(), [(224, 224)])
    check_sizes(vit(img_size=64), [(64, 64)])
    check_sizes(vit(dynamic_img_size=True), [(64, 64), (96, 96)])
    with pytest.raises(ValueError, match="does not take images of 70 x 70"):
        check_sizes(vit(dynamic_img_size=True), [(70, 70)])
    with pytest.raises(ValueError, match=r"64 x 64 pixels .*: maps are made of images of any size: choose a convol"):
        check_sizes(vit(), [(64, 64)], features=True)


def test_features_that_are_no_map() -> None:
    with pytest.raises(ValueError, match=r"gives features of shape \(1, 17, 192\) and not a map \(N, 192, h, w\)"):
        check_sizes(vit(dynamic_img_size=True), [(64, 64)], features=True)
    with pytest.raises(ValueError, match=r"gives features of shape \(1, 17, 192\) and not \(N, 192\)"):
        check_sizes(vit(dynamic_img_size=True, global_pool=""), [(64, 64)])


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay"])
def test_numbers_that_no_optimiser_can_have(name: str, value: float) -> None:
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, name: value}
    with pytest.raises(
        ValueError, match=f"^module.optimizer(.{name} is {value}: expected a finite| is refused: Invalid)"
    ):
        make_optimizer(partial(torch.optim.SGD, **settings), torch.nn.Linear(1, 1), "module.optimizer")


def test_settings_that_an_optimiser_does_not_know_and_one_that_works() -> None:
    network = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="module.optimizer is refused: .*unexpected keyword argument 'rate'"):
        make_optimizer(partial(torch.optim.SGD, rate=1), network, "module.optimizer")
    made = make_optimizer(partial(torch.optim.AdamW, lr=torch.tensor(0.1)), network, "module.optimizer")
    assert isinstance(made, torch.optim.AdamW)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stage=wsss", "model.model_name=mobilenetv3_small_050"], "timm cannot make this network .*output_stride"),
        (
            ["stage=baseline", "model.model_name=test_maxvit", "datamodule.size=[[0,32],[1,64]]"],
            "images of 32 x 32 pixels",
        ),
        (["stage=wsss", "model.model_name=test_vit"], "timm cannot make this network .*output_stride"),
        (
            ["stage=baseline", "module.label_smoothing=1"],
            "module.label_smoothing is 1: expected a number from 0 to below 1",
        ),
        (["stage=baseline", "optimizer=timm", "module.optimizer.opt=adamm"], "no optimiser adamm, .*did you mean adam"),
        (
            ["stage=baseline", "schedule=timm", "module.scheduler.sched=cosin"],
            "no schedule cosin, .*did you mean cosine",
        ),
        (
            ["stage=fdg", "schedule=timm", "mixing=spectrum"],
            r"module.scheduler is refused: .*'start' \(~module.scheduler",
        ),
        (["stage=fdg", "mixing=spectrum", "module.optimizer.lr=nan"], "module.optimizer.lr is nan: expected a finite"),
        (["stage=moco", "module.queue_size=16", "module.optimizer.lr=-1"], "Invalid learning rate: -1"),
        (["stage=wsss", "module.lr=nan"], "module.lr is nan: expected a finite number"),
    ],
)
def test_a_stage_ends_in_a_sentence(
    train_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=message), cli.clear_errors():
        train_run("track=1", "init=none", "masks=none", *words)


def test_a_wider_head_votes(train_run: Callable[..., Path], predict: Callable[..., Path]) -> None:
    train_run("track=1", "stage=baseline", "model.model_name=lcnet_035", "trainer.max_epochs=1")
    assert (predict() / "prediction.json").exists()


@pytest.mark.parametrize(
    ("name", "sizes", "added"),
    [
        ("resnet10t", [32, 64], {}),
        ("convnext_atto", [64], {}),
        ("vit_tiny_patch16_224", [224], {}),
        ("vit_tiny_patch16_224", [64, 96], {"dynamic_img_size": True}),
        ("vit_small_patch14_dinov2", [64], {"dynamic_img_size": True, "dynamic_img_pad": True}),
        ("swin_tiny_patch4_window7_224", [64, 96], {"dynamic_img_size": True}),
        ("test_maxvit", [32], {"img_size": 32}),
        ("test_maxvit", [32, 64], {}),  # it takes one size alone: the run's check says so
        ("no_such_network", [32], {}),
    ],
)
def test_what_lets_a_network_take_the_runs_images(name: str, sizes: list[int], added: dict[str, object]) -> None:
    settings = {"_target_": "timm.create_model", "model_name": name, "num_classes": 0, "pretrained": True}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert fitted(settings, sizes) == settings | added
    assert torch.equal(torch.get_rng_state(), state)


def test_dynamic_sizes_leave_the_weights_those_of_timm() -> None:
    settings = {"model_name": "vit_tiny_patch16_224", "num_classes": 0, "depth": 1}
    plain = timm.create_model(**settings)
    made = timm.create_model(**fitted(settings, [64, 96]))
    made.load_state_dict(plain.state_dict(), strict=True)
    image = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(made.eval()(image), plain.eval()(image))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_name": "resnet5O"}, "timm has no model resnet5O, check model.model_name: did you mean resnet5"),
        ({"model_name": "resnet50.a9_in1k"}, "timm has no weights a9_in1k for resnet50, .*did you mean resnet50.ra"),
        ({"model_name": "lcnet_035", "pretrained": True}, "no weights for lcnet_035, .*did you mean lcnet_0"),
    ],
)
def test_names_that_timm_has_not(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_name({"_target_": "timm.create_model", **settings})
    check_name({"_target_": "somebody.elses", **settings})
    for name in ("resnet50", "resnet50.a1_in1k", "vit_tiny_patch16_224"):
        check_name({"_target_": "timm.create_model", "model_name": name, "pretrained": True})


def test_the_tiny_networks_channels_are_of_no_other(configure: Callable[..., DictConfig]) -> None:
    tiny, other = (
        configure("train", "track=1", "scale=demo", *words).model for words in ([], ["model.model_name=resnet18"])
    )
    assert list(tiny.channels) == [16, 32, 64, 128] and tiny.stem_width == 8
    assert other.channels is None and other.stem_width is None
    assert sum(p.numel() for p in cli.instantiate(other).parameters()) == sum(
        p.numel() for p in timm.create_model("resnet18", num_classes=0).parameters()
    )
