"""FMix's laws, and those of one strategy drawn out of several."""

import cmath
import math
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException

from src.mixing import Strategy
from src.mixing.fmix import fmix, highest, low_frequency
from src.mixing.one_of import OneOf
from tests.mixing.test_contract import strategy_of as composed_strategy
from tests.mixing.test_mixing import FAR, batch_of, distance, strategy_of, uniform


@pytest.mark.parametrize(("height", "width", "decay"), [(4, 5, 3.0), (5, 4, 1.5), (1, 6, 3.0), (3, 3, 0.0)])
def test_the_noise_equals_a_slow_sum_over_frequencies(height: int, width: int, decay: float) -> None:
    noise = torch.randn(1, height, width, dtype=torch.float64)
    pixels = [(row, column) for row in range(height) for column in range(width)]

    def wave(r: int, c: int, k: int, m: int) -> complex:
        return cmath.exp(2j * math.pi * (k * r / height + m * c / width))

    expected = torch.zeros(height, width, dtype=torch.float64)
    for k, m in pixels:
        cycles = (min(k, height - k) / height, min(m, width - m) / width)
        weight = max(math.hypot(*cycles), 1 / max(height, width)) ** -decay
        amplitude = sum(noise[0, r, c].item() * wave(r, c, k, m).conjugate() for r, c in pixels) * weight
        for r, c in pixels:
            expected[r, c] += (amplitude * wave(r, c, k, m)).real / (height * width)
    torch.testing.assert_close(low_frequency(noise, decay)[0], expected, check_dtype=False, rtol=1e-4, atol=1e-4)


def test_the_power_falls_with_the_frequency() -> None:
    torch.manual_seed(0)
    power = torch.fft.fft2(low_frequency(torch.randn(400, 16, 16), 3.0)).abs().square().mean(0)
    for one, other in ((1, 2), (2, 4), (4, 8)):  # cycles in 16 pixels: an octave divides the power by 2^6
        assert (power[0, one] / power[0, other]).log2().item() == pytest.approx(6, abs=0.5)
    assert (power[0, 0] / power[0, 1]).log2().item() == pytest.approx(0, abs=0.5)  # frequency 0 as the lowest other


def test_the_highest_pixels_by_sorting() -> None:
    x, shares = torch.randn(5, 3, 7), torch.tensor([0.0, 0.1, 0.5, 0.93, 1.0])
    own = highest(x, shares)
    for values, mask, share in zip(x, own, shares.tolist(), strict=True):
        count = round(share * 21)
        assert sorted(values[mask].tolist()) == sorted(values.flatten().tolist())[21 - count :]


def test_fmix_equals_a_slow_loop() -> None:
    x, partner = batch_of(3, 4, 5).image, torch.tensor([1, 2, 0])
    for masks in (1, 3):
        own = torch.rand(masks, 4, 5) > 0.4
        mixed, lam = fmix(x, partner, own)
        for i in range(3):
            mask = own[i % masks]
            for r in range(4):
                for c in range(5):
                    assert torch.equal(mixed[i, :, r, c], x[i if mask[r, c] else partner[i], :, r, c])
            assert float(lam[i]) == pytest.approx(sum(map(bool, mask.flatten())) / 20)


def test_lam_is_the_share_of_own_pixels_and_has_betas_distribution() -> None:
    torch.manual_seed(0)
    batch = batch_of(2000, 16, 16)
    batch = batch._replace(image=torch.arange(2000.0).view(-1, 1, 1, 1).expand(2000, 3, 16, 16))
    mixed = strategy_of("fmix", per_image=True)(batch)
    own = (mixed.image[:, 0] == torch.arange(2000.0).view(-1, 1, 1)).float().mean((1, 2))
    others = mixed.partner != torch.arange(2000)
    torch.testing.assert_close(mixed.lam[others], own[others])
    assert distance(mixed.lam.double(), uniform) < FAR  # Beta(1, 1)
    narrow = strategy_of("fmix", per_image=True, alpha=10.0)(batch).lam
    assert narrow.var().item() == pytest.approx(1 / (4 * 21), rel=0.1)  # of Beta(10, 10)


def test_a_batch_shares_one_mask_unless_each_image_has_its_own() -> None:
    batch = batch_of(4, 16, 16)
    for per_image, masks in ((False, 1), (True, 4)):
        torch.manual_seed(1)
        mixed = strategy_of("fmix", per_image=per_image)(batch)
        own = (mixed.image == batch.image).all(1)
        assert len({tuple(mask.flatten().tolist()) for mask in own[mixed.partner != torch.arange(4)]}) == min(
            masks, int((mixed.partner != torch.arange(4)).sum())
        )


def test_a_decay_out_of_its_range() -> None:
    with pytest.raises(InstantiationException) as error:
        strategy_of("fmix", decay=-1.0)
    assert str(error.value.__cause__) == "mixing.decay is -1.0: expected a number of at least 0"


# ------------------------------------------------------------------------------------------------- one of several


def one_of(per_image: bool, **weights: float) -> OneOf:
    """Named after its strategies, each of which leaves a trace in lam: 1, or constant by its alpha."""
    strategies: dict[str, Strategy] = {"none": strategy_of("none"), "mixup": strategy_of("mixup", alpha=1e6)}
    strategies["cutmix"] = strategy_of("cutmix", alpha=1e-6)
    settings: dict[str, Any] = {"probability": 1.0, "per_image": per_image, "until": 1.0}
    return OneOf(strategies={name: strategies[name] for name in weights}, weights=weights, **settings)


@pytest.mark.parametrize("per_image", [False, True])
def test_shares_over_many_draws(per_image: bool) -> None:
    strategy, batch = one_of(per_image, none=1, mixup=3), batch_of(8, 4, 4)
    torch.manual_seed(0)
    half = torch.stack([(strategy(batch).lam.expand(8) - 0.5).abs() < 0.01 for _ in range(800)])
    assert half.float().mean().item() == pytest.approx(0.75, abs=0.04)
    # A batch draws once: all of its images or none. Images draw alone: their number is binomial.
    variance = half.sum(1).float().var().item()
    assert variance == pytest.approx((8 if per_image else 64) * 0.75 * 0.25, rel=0.2)


def test_each_image_is_that_of_the_strategy_that_was_drawn() -> None:
    strategy, batch = one_of(True, mixup=1, none=1, cutmix=1), batch_of(300, 4, 4)
    torch.manual_seed(0)
    mixed = strategy(batch)
    torch.manual_seed(0)
    drawn = torch.multinomial(torch.ones(3), 300, replacement=True)
    parts = [one(batch) for one in strategy.strategies]
    for i, index in enumerate(drawn.tolist()):
        assert torch.equal(mixed.image[i], parts[index].image[i]) and mixed.partner[i] == parts[index].partner[i]
        assert mixed.lam[i] == parts[index].lam.expand(300)[i]
    assert drawn.bincount().min() > 70


def test_a_weight_of_0_leaves_one_out_and_labels_are_kept_if_all_keep_them() -> None:
    strategy, batch = one_of(True, none=1, mixup=0), batch_of(50)
    assert torch.equal(strategy(batch).image, batch.image) and not strategy.keeps_label
    assert one_of(False, none=2).keeps_label


def test_simpledg_mixes_labels_in_four_of_five_images() -> None:
    batch, strategy = batch_of(20, 8, 8), composed_strategy("simpledg")()
    torch.manual_seed(0)
    changed = torch.stack([strategy(batch).lam < 1 for _ in range(100)])
    assert changed.float().mean().item() == pytest.approx(0.8, abs=0.04)  # four standard deviations


@pytest.mark.parametrize("weights", [{"none": 1, "mixup": -1}, {"none": 0, "mixup": 0}])
def test_weights_that_cannot_be_drawn_by(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"mixing.weights is .*: expected .* at least 0 for each of none, mixup"):
        one_of(False, **weights)
    with pytest.raises(ValueError, match=r"mixing.weights is \{'x': 1\}"):
        OneOf(strategies={"none": strategy_of("none")}, weights={"x": 1}, probability=1.0, per_image=True, until=1.0)
