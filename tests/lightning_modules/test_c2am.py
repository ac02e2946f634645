from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import timm
import torch

from src.callbacks.map_sign import MapSign
from src.data.batch import Batch
from src.lightning_modules.c2am import C2AM, border_mean, disentangle
from src.losses import pull_loss, push_loss


def make(normalise: str = "maximum", **changes: float) -> C2AM:
    torch.manual_seed(0)
    backbone = timm.create_model("resnet10t", num_classes=0, channels=[8, 8, 16, 16], stem_width=8, output_stride=8)
    settings = {"alpha": 0.25, "area_weight": 0.1, "lr": 1e-3, "momentum": 0.0, "weight_decay": 1e-4, "power": 0.9,
                "head_multiplier": 1.0, "bias_multiplier": 1.0, **changes}  # fmt: skip
    return C2AM(
        backbone=backbone, mean=[0.5] * 3, std=[0.25] * 3, scales=[0.5, 1.0], normalise=normalise, **settings
    ).eval()  # type: ignore[arg-type]


def test_disentangle_equals_a_slow_loop() -> None:
    torch.manual_seed(0)
    features, activation = torch.rand(2, 5, 3, 4), torch.rand(2, 1, 3, 4)
    foreground, background = disentangle(features, activation)
    for n in range(2):
        for c in range(5):
            cells = [(h, w) for h in range(3) for w in range(4)]
            fg = sum(float(activation[n, 0, h, w] * features[n, c, h, w]) for h, w in cells) / 12
            bg = sum(float((1 - activation[n, 0, h, w]) * features[n, c, h, w]) for h, w in cells) / 12
            torch.testing.assert_close(foreground[n, c], torch.tensor(fg))
            torch.testing.assert_close(background[n, c], torch.tensor(bg))


def test_border_is_a_frame_of_a_seventh() -> None:
    activation = torch.zeros(1, 1, 14, 14)
    activation[..., 2:12, 2:12] = 1
    assert border_mean(activation).tolist() == [[0, pytest.approx(100 / 196)]]
    activation[..., 1:13, 1:13] = 1
    assert border_mean(activation).tolist() == [[pytest.approx(44 / 96), pytest.approx(144 / 196)]]
    assert border_mean(torch.ones(3, 1, 1, 5)).tolist() == [[1, 1]] * 3


def test_an_inverted_training_gives_the_same_maps() -> None:
    straight, inverted = make(), make()
    torch.nn.init.normal_(straight.head[0].weight)
    inverted.head[0].weight.data.copy_(-straight.head[0].weight)  # sigmoid(-z) = 1 - sigmoid(z)
    inverted.inverted.fill_(True)
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(straight.activation_map(image), inverted.activation_map(image))
    torch.testing.assert_close(straight.border_mean(image), 1 - inverted.border_mean(image))
    assert "inverted" in inverted.state_dict()


def test_the_map_is_turned_around_where_it_was_decided_and_only_there() -> None:
    module, image = make(), torch.rand(2, 3, 64, 64)
    torch.nn.init.normal_(module.head[0].weight)
    as_trained = module.represent(image).activation
    assert (as_trained - 0.5).abs().max() > 0.01
    torch.testing.assert_close(module(image), as_trained)
    module.inverted.fill_(True)
    torch.testing.assert_close(module(image), 1 - as_trained)
    torch.testing.assert_close(module.represent(image).activation, as_trained)


class Image(NamedTuple):
    image: torch.Tensor


class Borders(torch.nn.Module):
    """A module whose maps' means, on the border and on the whole, are the images themselves."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inverted", torch.tensor(False))
        self.logged: dict[str, float] = {}

    def border_mean(self, image: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return image

    def log_dict(self, figures: dict[str, float], **_: Any) -> None:
        self.logged = figures


def decide(batches: list[list[float]], epoch: int = 9, rule: str = "border", whole: float = 0.5) -> Borders:
    """What MapSign makes of the border means of an epoch's batches; the tenth epoch is the last."""
    images = [Image(torch.tensor([[border, whole] for border in batch])) for batch in batches]
    trainer = SimpleNamespace(
        current_epoch=epoch, max_epochs=10, is_global_zero=True,
        datamodule=SimpleNamespace(train_part_dataloader=lambda: images),
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
        strategy=SimpleNamespace(batch_to_device=lambda batch: batch, reduce=lambda value, reduce_op: value),
    )  # fmt: skip
    module = Borders()
    MapSign(rule).on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    assert module.training
    return module


def test_the_sign_is_decided_over_all_images_at_the_trainings_end() -> None:
    assert decide([[0.6, 0.6], [0.6]]).inverted and not decide([[0.4, 0.4], [0.4]]).inverted
    assert not decide([[0.5, 0.5]]).inverted and decide([[0.51, 0.5]]).inverted
    # Over images, not batches: .45 here, where the batches' means have a mean of .6. Over all, not the first or last.
    assert not decide([[0.3, 0.3, 0.3], [0.9]]).inverted
    assert decide([[0.1], [0.8, 0.8, 0.8], [0.2]]).inverted
    module = decide([[0.3, 0.3, 0.3], [0.9]])
    assert module.logged == {
        "sign/border_mean": pytest.approx(0.45), "sign/whole_mean": pytest.approx(0.5), "sign/inverted": 0.0
    }  # fmt: skip
    assert decide([[0.9]], epoch=8).logged == {}  # before the end there is no decision


def test_by_the_rule_of_the_centre_the_border_is_compared_with_the_whole_map() -> None:
    for whole in (0.1, 0.45, 0.8):
        assert decide([[whole + 0.01]], rule="centre", whole=whole).inverted
        assert not decide([[whole]], rule="centre", whole=whole).inverted
        assert not decide([[whole + 0.05, whole - 0.06]], rule="centre", whole=whole).inverted
    assert not decide([[0.49]], whole=0.1).inverted  # by the published rule the rest of the map does not matter
    with pytest.raises(ValueError, match="callbacks.sign.rule is 'edge': expected border or centre"):
        MapSign("edge")


def test_the_loss_is_the_sum_of_its_terms() -> None:
    torch.manual_seed(0)
    image = torch.rand(4, 3, 64, 64)
    losses, figures = {}, {}
    for weight in (0.0, 0.1, 0.7):
        module = make(area_weight=weight)
        torch.nn.init.normal_(module.head[0].weight)
        module.all_gather = lambda rows, **_: rows[None]  # type: ignore[method-assign] # one process
        module.log_dict = lambda made, **_: figures.update(made)  # type: ignore[method-assign]
        losses[weight] = module.training_step(Batch(image, *[torch.zeros(4)] * 3), 0)
        mine = module.represent(image)
        area = mine.activation.mean()
        assert figures["train/area"].item() == pytest.approx(weight * area.item())
        expected = pull_loss(mine.foreground, 0.25) + pull_loss(mine.background, 0.25)
        expected = expected + push_loss(mine.foreground, mine.background) + weight * area
        torch.testing.assert_close(losses[weight], expected)
    assert 0.1 < area.item() < 0.9
    assert (losses[0.7] - losses[0.0]).item() == pytest.approx(0.7 * area.item(), rel=1e-4)


def test_a_map_does_not_depend_on_its_batch() -> None:
    module, image = make(), torch.rand(5, 3, 64, 128)
    alone = torch.cat([module.activation_map(image[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(module.activation_map(image), alone, rtol=1e-4, atol=1e-5)


def test_predictions_are_cut_to_the_image_and_reach_one() -> None:
    from src.data.batch import FullSizeBatch

    image = torch.rand(2, 3, 64, 64)
    batch = FullSizeBatch(image, torch.tensor([50, 64]), torch.tensor([64, 33]), torch.tensor([0, 1]))
    maps = make().predict_step(batch, 0)
    assert [m.shape for m in maps] == [(50, 64), (64, 33)]
    assert all(m.max() == 1 and m.min() >= 0 for m in maps)


def test_a_map_is_normalised_by_its_maximum_or_between_its_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    from src.data.batch import FullSizeBatch

    summed = torch.tensor([[[2.0, 4.0], [6.0, 9.0]]])
    size = torch.tensor([2])
    for normalise, expected in (("maximum", summed[0] / 9), ("range", (summed[0] - 2) / 7)):
        module = make(normalise)
        monkeypatch.setattr(module, "activation_map", lambda image: summed)
        torch.testing.assert_close(module.predict_step(FullSizeBatch(summed, size, size, size), 0)[0], expected)
        flat = FullSizeBatch(summed, torch.tensor([1]), torch.tensor([1]), size)  # one value: no division by nothing
        assert module.predict_step(flat, 0)[0].item() == (normalise == "maximum")
    with pytest.raises(ValueError, match="module.normalise is 'sum': expected maximum or range"):
        make("sum")


def test_every_parameter_is_in_exactly_one_group() -> None:
    for head, bias in ((1.0, 1.0), (10.0, 2.0)):
        module = make(head_multiplier=head, bias_multiplier=bias, momentum=0.9)
        module.trainer = object()  # type: ignore[assignment]
        optimizer = module.configure_optimizers()["optimizer"]
        grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in module.parameters())
        rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
        assert rates[id(module.head[0].weight)] == 1e-3 * head
        assert rates[id(module.head[1].bias)] == 1e-3 * head * bias
        assert rates[id(module.backbone.conv1[0].weight)] == 1e-3
        assert rates[id(module.backbone.bn1.bias)] == 1e-3 * bias


@pytest.mark.parametrize(("accumulated", "steps"), [(1, 40), (2, 20), (4, 12)])  # of 10 batches: 4, 4 and 2
def test_the_rate_decays_to_zero_by_a_power(accumulated: int, steps: int) -> None:
    class Trainer:
        num_training_batches, max_epochs, accumulate_grad_batches = 10, 4, accumulated

    module = make()
    module._trainer = Trainer()  # type: ignore[assignment]
    assert module.decay(0) == 1 and module.decay(steps) == 0
    assert module.decay(steps // 2) == 0.5**0.9 and module.decay(steps - 1) == pytest.approx((1 / steps) ** 0.9)


@pytest.mark.parametrize(("name", "unused"), [("resnet10t", []), ("mobilenetv3_small_050", ["conv_head.bias",
                                              "conv_head.weight"])])  # fmt: skip
def test_every_parameter_that_is_trained_gets_a_gradient(name: str, unused: list[str]) -> None:
    backbone = timm.create_model(name, num_classes=0)
    module = C2AM(
        backbone=backbone, mean=[0.5] * 3, std=[0.25] * 3, alpha=0.25, area_weight=0.1, lr=0.1, momentum=0.0,
        weight_decay=0.0, power=0.9, head_multiplier=1.0, bias_multiplier=1.0, scales=[1.0], normalise="maximum",
    )  # fmt: skip
    assert all(part.training for part in module.modules())
    module.represent(torch.rand(2, 3, 64, 64)).activation.sum().backward()
    assert sorted(name for name, own in backbone.named_parameters() if not own.requires_grad) == unused
    assert all((own.grad is not None) == own.requires_grad for own in module.parameters())


def test_the_network_sees_normalised_pixels() -> None:
    module, plain = make(), make()
    for one in (module, plain):
        torch.manual_seed(1)
        torch.nn.init.normal_(one.head[0].weight)
    plain.mean.zero_()
    plain.std.fill_(1)
    image = torch.rand(2, 3, 64, 64)
    assert torch.equal(module.represent(image).activation, plain.represent((image - 0.5) / 0.25).activation)


def test_a_map_is_the_sum_over_scales_and_flips_turned_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for the network that looks to the left: of an image and its mirror it makes different maps."""
    module, image, seen = make(), torch.rand(2, 3, 64, 64), []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[3])
        return x[:, :1] * torch.linspace(0, 1, x.shape[3])

    monkeypatch.setattr(module, "forward", look)
    expected = torch.zeros(2, 64, 64)
    for size in (32, 64):
        x = torch.nn.functional.interpolate(image, size=(size, size), mode="bilinear")
        both = look(x) + look(x.flip(3)).flip(3)
        expected += torch.nn.functional.interpolate(both, size=(64, 64), mode="bilinear")[:, 0]
    torch.testing.assert_close(module.activation_map(image), expected)
    assert seen == [32, 32, 64, 64] * 2
    from src.data.batch import FullSizeBatch

    batch = FullSizeBatch(image, torch.tensor([64, 64]), torch.tensor([64, 64]), torch.tensor([0, 1]))
    for made, whole in zip(module.predict_step(batch, 0), expected, strict=True):
        torch.testing.assert_close(made, whole / whole.max())
