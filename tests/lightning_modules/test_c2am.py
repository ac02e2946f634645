import timm
import torch

from src.lightning_modules.c2am import C2AM, border_mean, disentangle


def make(**changes: float) -> C2AM:
    torch.manual_seed(0)
    backbone = timm.create_model("resnet10t", num_classes=0, channels=[8, 8, 16, 16], stem_width=8, output_stride=8)
    settings = {"alpha": 0.25, "area_weight": 0.1, "lr": 1e-3, "momentum": 0.0, "weight_decay": 1e-4, "power": 0.9,
                "head_multiplier": 1.0, "bias_multiplier": 1.0, **changes}  # fmt: skip
    return C2AM(backbone=backbone, mean=[0.5] * 3, std=[0.25] * 3, scales=[0.5, 1.0], **settings).eval()  # type: ignore[arg-type]


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
    assert border_mean(activation).item() == 0
    activation[..., 1:13, 1:13] = 1
    assert border_mean(activation).item() > 0
    assert border_mean(torch.ones(3, 1, 1, 5)).tolist() == [1, 1, 1]


def test_an_inverted_training_gives_the_same_maps() -> None:
    straight, inverted = make(), make()
    torch.nn.init.normal_(straight.head[0].weight)
    inverted.head[0].weight.data.copy_(-straight.head[0].weight)  # sigmoid(-z) = 1 - sigmoid(z)
    inverted.inverted.fill_(True)
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(straight.activation_map(image), inverted.activation_map(image))
    torch.testing.assert_close(straight.border_mean(image), 1 - inverted.border_mean(image))
    assert "inverted" in inverted.state_dict()


def test_a_map_does_not_depend_on_its_batch() -> None:
    module, image = make(), torch.rand(5, 3, 64, 128)
    alone = torch.cat([module.activation_map(image[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(module.activation_map(image), alone, rtol=1e-4, atol=1e-5)


def test_predictions_are_cut_to_the_image_and_reach_one() -> None:
    from src.datamodules.nico import Native

    image = torch.rand(2, 3, 64, 64)
    batch = Native(image, torch.tensor([50, 64]), torch.tensor([64, 33]), torch.tensor([0, 1]))
    maps = make().predict_step(batch, 0)
    assert [m.shape for m in maps] == [(50, 64), (64, 33)]
    assert all(m.max() == 1 and m.min() >= 0 for m in maps)


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


def test_the_rate_decays_to_zero_by_a_power() -> None:
    class Trainer:
        num_training_batches, max_epochs, accumulate_grad_batches = 10, 4, 2

    module = make()
    module._trainer = Trainer()  # type: ignore[assignment]
    assert module.decay(0) == 1 and module.decay(20) == 0
    assert module.decay(10) == 0.5**0.9
