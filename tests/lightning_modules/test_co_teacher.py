import math
from types import SimpleNamespace
from typing import ClassVar

import pytest
import pytorch_lightning as pl
import timm
import torch
from torch.utils.data import DataLoader

from src.data.batch import Batch
from src.fourier import mix_amplitude
from src.lightning_modules.co_teacher import CoTeacher
from src.losses import consistency, mixed_cross_entropy, ramp_up
from src.mixing import Settings
from src.mixing.foreground import Foreground
from src.mixing.spectrum import Spectrum
from src.schedules import CosineFrom

ALL: Settings = {"probability": 1.0, "per_image": False, "until": 1.0}
MIXING = Foreground(alpha=2.0, mean=[0.5] * 3, other_context=False, **ALL)


def make(mixing: object = MIXING, **changes: float) -> CoTeacher:
    torch.manual_seed(0)
    backbone = timm.create_model("resnet10t", num_classes=0, channels=[8, 8, 16, 16], stem_width=8)
    settings = {"ratio": 0.4, "temperature": 10.0, "temperature_squared": False, "copy_from_original": 2.0,
                "original_from_copy": 1.0, "ramp_up_epochs": 0, "decay": 0.75, "label_smoothing": 0.0,
                **changes}  # fmt: skip
    module = CoTeacher(
        backbone=backbone, mixing=mixing, num_classes=5, contexts=["dim", "water"], mean=[0.5] * 3, std=[0.25] * 3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer), **settings,
    )  # fmt: skip
    return module.train()


def pairs(count: int = 3) -> Batch:
    torch.manual_seed(1)
    position = torch.arange(2 * count)
    return Batch(
        torch.rand(2 * count, 3, 32, 32), position % 5, position % 2, position, torch.rand(2 * count, 32, 32) > 0.5
    )


def test_an_image_and_its_copy_are_mixed_alike() -> None:
    batch = pairs()
    for mixing in (MIXING, Spectrum(alpha=2.0, ratio=0.5, other_context=False, **ALL)):
        module = make(mixing)
        torch.manual_seed(7)
        mixed, copies = module.mix(batch)
        torch.manual_seed(7)
        lam = torch.rand(3).repeat(2)
        other = torch.tensor([3, 4, 5, 0, 1, 2])  # both directions
        state = torch.get_rng_state()
        expected = mixing(batch)
        torch.set_rng_state(state)
        copied = mixing(batch._replace(image=mix_amplitude(batch.image, other, lam, 0.4).clamp(0, 1)))
        assert torch.equal(mixed.image, expected.image) and torch.equal(mixed.partner, expected.partner)
        assert torch.equal(copies, copied.image) and torch.equal(copied.partner, expected.partner)
        assert not torch.equal(copies, mixed.image)


def test_the_loss_is_the_sum_of_its_terms() -> None:
    batch, seen = pairs(), []
    module = make()
    module.log_dict = lambda figures, **_: seen.append(figures)  # type: ignore[method-assign]
    torch.manual_seed(3)
    loss = module.training_step(batch, 0)

    again = make()
    torch.manual_seed(3)
    mixed, copies = again.mix(batch)
    x = (torch.cat([mixed.image, copies]) - 0.5) / 0.25
    original, copied = again.student(x).chunk(2)
    aim, aim_copied = again.teacher.eval()(x).chunk(2)
    labels = batch.label, batch.label[mixed.partner], mixed.lam
    expected = (
        0.5 * mixed_cross_entropy(original, *labels)
        + 0.5 * mixed_cross_entropy(copied, *labels)
        + 2.0 * consistency(copied, aim, 10.0)
        + 1.0 * consistency(original, aim_copied, 10.0)
    )
    torch.testing.assert_close(loss, expected)
    assert len(seen[0]) == 5


@pytest.mark.parametrize("name", ["copy_from_original", "original_from_copy"])
def test_a_weight_of_zero_leaves_its_term_out(name: str) -> None:
    module, seen = make(**{name: 0.0}), []
    module.log_dict = lambda figures, **_: seen.append(figures)  # type: ignore[method-assign]
    module.training_step(pairs(), 0)
    assert f"train/{name}" not in seen[0] and len(seen[0]) == 4


def terms(**changes: float) -> dict[str, float]:
    """What a step logs, of the same batch, weights and draws."""
    module, seen = make(**changes), []
    module.log_dict = lambda figures, **_: seen.append(figures)  # type: ignore[method-assign]
    torch.manual_seed(3)
    module.training_step(pairs(), 0)
    return {name: float(value.detach()) for name, value in seen[0].items()}


def test_t_squared_scales_both_consistency_terms_alone() -> None:
    for temperature in (10.0, 3.0):
        plain, scaled = (terms(temperature=temperature, temperature_squared=way) for way in (False, True))
        for name in ("train/copy_from_original", "train/original_from_copy"):
            assert scaled[name] == pytest.approx(temperature**2 * plain[name], rel=1e-5)
        for name in ("train/original", "train/copy"):
            assert scaled[name] == plain[name]


def test_with_t_squared_small_logits_get_the_same_gradient_at_every_temperature() -> None:
    """KL(softmax(b / T) || softmax(a / T)) has the gradient (a - b) / (K T^2) in a, where a and b have mean 0 and are
    small against T (Hinton et al. 2015, eq. 4)."""
    torch.manual_seed(0)
    a, b = (x - x.mean(1, keepdim=True) for x in 0.01 * torch.randn(2, 6, 5, dtype=torch.float64))
    for temperature in (1.0, 4.0, 10.0):
        student = a.clone().requires_grad_()
        scale = make(temperature=temperature, temperature_squared=True).consistency_scale
        (scale * consistency(student, b, temperature)).backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(student.grad, (a - b) / 5 / 6, rtol=0.05, atol=1e-6)
    assert make(temperature=10.0).consistency_scale == 1  # as published


def test_the_teacher_averages_parameters_and_buffers_and_stays_in_evaluation() -> None:
    module = make()
    assert module.student.training and not module.backbone.training and not module.head.training
    assert not any(p.requires_grad for p in module.teacher.parameters())
    for step, momentum in enumerate((0.5, 2 / 3, 0.75, 0.75), start=1):
        with torch.no_grad():
            for tensor in module.student.state_dict().values():
                tensor.add_(1 if not tensor.is_floating_point() else torch.rand_like(tensor))
        before = {name: tensor.clone() for name, tensor in module.teacher.state_dict().items()}
        module.update_teacher(step)
        student = module.student.state_dict()
        assert any("running_mean" in name for name in student)
        for name, now in module.teacher.state_dict().items():
            if now.is_floating_point():
                torch.testing.assert_close(now, momentum * before[name] + (1 - momentum) * student[name])
            else:
                assert torch.equal(now, student[name])


def test_the_teachers_average_by_hand() -> None:
    module = make(decay=0.75)
    teacher, student = module.teacher.head.bias, module.student.head.bias
    seen = []
    with torch.no_grad():
        teacher.zero_()
        for step in (1, 2, 3, 4):
            student.fill_(step)
            module.update_teacher(step)
            seen.append(teacher[0].item())
    # (0 + 1) / 2; 2/3 of that and 1/3 of 2; then 3/4 of the teacher and 1/4 of the student
    assert seen == pytest.approx([0.5, 1.0, 1.5, 2.125])


def test_the_first_step_of_a_training_keeps_half_of_what_the_teacher_came_with() -> None:
    class One(pl.LightningDataModule):
        sizes: ClassVar = {0: 32}

        def train_dataloader(self) -> DataLoader[Batch]:
            return DataLoader([pairs(), pairs()], batch_size=None)  # type: ignore[arg-type] # a list is a dataset

    module = make(decay=0.9995)
    start = {name: tensor.clone() for name, tensor in module.teacher.state_dict().items()}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, max_epochs=1, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, One())
    student = module.student.state_dict()
    assert not torch.equal(student["head.weight"], start["head.weight"])
    for name, now in module.teacher.state_dict().items():
        if now.is_floating_point():
            torch.testing.assert_close(now, (start[name] + student[name]) / 2)


def test_the_weights_of_the_consistency_terms_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = []
    for epoch in (0, 2, 5):
        module, seen = make(ramp_up_epochs=5), []
        monkeypatch.setattr(CoTeacher, "current_epoch", epoch)
        module.log_dict = lambda figures, _seen=seen, **_: _seen.append(figures)  # type: ignore[method-assign]
        torch.manual_seed(3)
        module.training_step(pairs(), 0)
        terms.append([seen[0][f"train/{name}"].item() for name in ("copy_from_original", "original_from_copy")])
        assert seen[0]["train/loss"].item() == pytest.approx(sum(v.item() for v in list(seen[0].values())[:-1]))
    for early, middle, late in zip(*terms, strict=True):
        assert early == pytest.approx(late * math.exp(-5), rel=1e-4)
        assert middle == pytest.approx(late * math.exp(-5 * 0.6**2), rel=1e-4)


def test_prediction_is_the_teachers() -> None:
    module, image = make().eval(), torch.rand(2, 3, 32, 32)
    before = module(image)
    with torch.no_grad():
        for parameter in module.student.parameters():
            parameter.zero_()
    assert torch.equal(module(image), before) and module.exported == ("backbone", "head")
    with pytest.raises(ValueError, match="module.ratio is 0"):
        make(ratio=0.0)


def test_the_cosine_goes_on_where_the_stage_before_stopped() -> None:
    def rates(start: int, epochs: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule, made = CosineFrom(optimizer, start=start, total=200, epochs=epochs), []
        for _ in range(epochs):
            made.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return made

    whole = rates(0, 200)
    assert whole == pytest.approx([0.05 * (1 + math.cos(math.pi * e / 200)) for e in range(200)])
    assert rates(120, 80) == pytest.approx(whole[120:]) and rates(120, 1)[0] == pytest.approx(0.0345, abs=1e-4)
    assert rates(195, 6)[-1] == 0  # where a scale has rounded the epochs of both stages up
    with pytest.raises(ValueError, match="be 0 from epoch 80 of 120 on, where its cosine ends: set cosine_epochs=240"):
        rates(120, 120)
    assert ramp_up(0, 5) == pytest.approx(math.exp(-5))


def test_the_student_starts_from_the_teacher_and_only_at_the_start() -> None:
    for step, same in ((0, True), (1, False), (40, False)):
        module = make()
        module._trainer = SimpleNamespace(global_step=step)  # type: ignore[assignment]
        with torch.no_grad():
            module.head.weight.add_(1)  # the weights to start from come after the student was made
        module.on_train_start()
        assert torch.equal(module.student.head.weight, module.teacher.head.weight) == same


@pytest.mark.parametrize("ratio", [-0.1, 0.0, 1.01, 2.0])
def test_a_ratio_outside_its_range(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"module.ratio is {ratio}"):
        make(ratio=ratio)


def test_the_whole_spectrum_is_a_ratio() -> None:
    assert make(ratio=1).ratio == 1


def test_settings_go_by_name() -> None:
    with pytest.raises(TypeError):
        CoTeacher(0.4)  # type: ignore[call-arg, misc]
    with pytest.raises(TypeError, match="classes"):
        make(classes=5)


def test_a_sheet_shows_each_mixed_original_beside_its_copy() -> None:
    module, batch = make(), pairs()
    torch.manual_seed(3)
    mixed, copies = module.mix(batch)
    torch.manual_seed(3)
    images, partner, lam = module.training_images(batch)
    assert torch.equal(partner, mixed.partner) and torch.equal(lam, mixed.lam)
    assert images.shape == (12, 3, 32, 32)
    assert torch.equal(images[0::2], mixed.image) and torch.equal(images[1::2], copies)
