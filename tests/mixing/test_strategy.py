"""The settings that every strategy has."""

from types import SimpleNamespace

import pytest
import torch
from hydra.errors import InstantiationException

from src.lightning_modules.classifier import Classifier
from src.mixing import choose, unmixed
from tests.mixing.test_mixing import FAR, batch_of, beta_2_2, distance, strategy_of

MIXES = ["amplitude", "background", "cutmix", "decoupled", "fmix", "foreground", "mixup", "spectrum"]


@pytest.mark.parametrize("name", MIXES)
def test_probability_0_is_the_identity(name: str) -> None:
    batch = batch_of(6)
    mixed = strategy_of(name, probability=0.0)(batch)
    assert torch.equal(mixed.image, batch.image)
    assert mixed.partner.tolist() == list(range(6)) and bool((mixed.lam == 1).all())


@pytest.mark.parametrize("name", MIXES)
def test_each_image_is_mixed_with_the_probability_and_alone(name: str) -> None:
    count, draws = 10, 300
    batch = batch_of(count, 8, 8)._replace(domain=torch.arange(count))
    settings = (
        {} if name in ("cutmix", "fmix", "mixup") else {"other_context": True}
    )  # else a partner is itself in one of ten
    strategy = strategy_of(name, probability=0.3, per_image=True, **settings)
    torch.manual_seed(0)
    mixed = torch.stack([strategy(batch).partner for _ in range(draws)]) != torch.arange(count)
    expected = 0.3 * (1 if settings else 1 - 1 / count)
    assert mixed.float().mean().item() == pytest.approx(expected, abs=0.03)
    # The count in a batch is binomial: with one draw for the batch its variance would be ten times this.
    assert mixed.sum(1).float().var().item() == pytest.approx(count * expected * (1 - expected), rel=0.3)


@pytest.mark.parametrize("name", ["cutmix", "decoupled", "fmix", "foreground", "mixup", "spectrum"])
def test_one_weight_for_the_batch_or_one_for_each_image(name: str) -> None:
    batch = batch_of(40, 16, 16)
    torch.manual_seed(0)
    assert len(strategy_of(name)(batch).lam.expand(40).unique()) == 1
    own = strategy_of(name, per_image=True)(batch).lam
    assert own.shape == (40,) and len(own.unique()) > 20


@pytest.mark.parametrize("name", ["foreground", "mixup", "spectrum"])
def test_the_images_weights_have_the_batchs_distribution(name: str) -> None:
    torch.manual_seed(0)
    lam = strategy_of(name, per_image=True)(batch_of(3000, 2, 4)).lam
    assert distance(lam.double(), beta_2_2) < FAR


def test_every_image_is_mixed_with_its_own_weight() -> None:
    batch = batch_of(5)
    torch.manual_seed(0)
    mixed = strategy_of("mixup", per_image=True)(batch)
    for i, j in enumerate(mixed.partner.tolist()):
        expected = mixed.lam[i] * batch.image[i] + (1 - mixed.lam[i]) * batch.image[j]
        torch.testing.assert_close(mixed.image[i], expected)


def test_decoupled_chooses_for_each_image() -> None:
    batch, strategy = batch_of(600, 4, 4), strategy_of("decoupled", per_image=True, by_context=0.3)
    torch.manual_seed(0)
    mixed = strategy(batch)
    torch.manual_seed(0)
    by_context = torch.rand(600) < 0.3
    one, other = strategy.foreground.mix(batch), strategy.spectrum.mix(batch)  # type: ignore[attr-defined]
    assert 130 < by_context.sum() < 230
    for part in ("image", "partner", "lam"):
        assert torch.equal(getattr(mixed, part)[by_context], getattr(one, part)[by_context])
        assert torch.equal(getattr(mixed, part)[~by_context], getattr(other, part)[~by_context])


def test_choose_takes_a_weight_of_the_batch() -> None:
    batch = batch_of(3)
    mixed = strategy_of("mixup")(batch)._replace(lam=torch.tensor(0.25))
    assert choose(torch.tensor([True, False, True]), mixed, unmixed(batch)).lam.tolist() == [0.25, 1, 0.25]


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("setting", ["probability", "until"])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_setting_out_of_its_range(name: str, setting: str, value: float) -> None:
    with pytest.raises(InstantiationException) as error:
        strategy_of(name, **{setting: value})
    assert str(error.value.__cause__) == f"mixing.{setting} is {value}: expected a number from 0 to 1"


@pytest.mark.parametrize(
    ("until", "epochs", "mixing"), [(0.75, 8, 6), (1.0, 3, 3), (0.0, 3, 0), (0.7, 40, 28), (0.5, 3, 2)]
)
def test_a_clean_finish(until: float, epochs: int, mixing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mixing`: number of epochs that mix."""
    batch, strategy = batch_of(8), strategy_of("mixup", until=until)
    module = Classifier.__new__(Classifier)
    module.__dict__["mixing"] = strategy
    monkeypatch.setattr(Classifier, "trainer", SimpleNamespace(max_epochs=epochs))
    mixed = []
    for epoch in range(epochs):
        monkeypatch.setattr(Classifier, "current_epoch", epoch)
        mixed.append(not torch.equal(module.mixed(batch).image, batch.image))
    assert mixed == [True] * mixing + [False] * (epochs - mixing)


def test_a_clean_finish_after_the_last_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Classifier.__new__(Classifier)
    module.__dict__.update(mixing=strategy_of("mixup", until=0.9), backbone=None)
    monkeypatch.setattr(Classifier, "trainer", SimpleNamespace(max_epochs=8))
    for name in ("check_sizes", "run_sizes"):
        monkeypatch.setattr(f"src.lightning_modules.classifier.{name}", lambda *_: None)
    with pytest.raises(ValueError, match=r"mixing.until=0.9 .* after the last of 8 epochs"):
        module.on_fit_start()
