import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.data.batch import Batch
from src.mixing import Strategy
from src.mixing.cutmix import boxes_of, cutmix
from src.mixing.foreground import mix_regions
from src.mixing.mixup import mixup
from src.mixing.spectrum import spectrum

CONF = Path(__file__).resolve().parents[2] / "conf" / "mixing"
SHIPPED = ["cutmix", "decoupled", "fmix", "foreground", "mixup", "none", "spectrum"]
"""Strategies of this project, and their own laws here; what any strategy must keep is in test_contract.py."""


def batch_of(n: int, height: int = 12, width: int = 17) -> Batch:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(n, height, width, generator=generator) > 0.5
    image = torch.rand(n, 3, height, width, generator=generator)
    return Batch(image, torch.arange(n) % 3, torch.arange(n) % 2, torch.arange(n), mask)


def strategy_of(name: str, **settings: object) -> Strategy:
    """A strategy by its yaml, with what that takes from the stage's."""
    cfg = OmegaConf.create({"pixels": {"mean": [0.485, 0.456, 0.406]}, "mixing": OmegaConf.load(CONF / f"{name}.yaml")})
    strategy: Strategy = instantiate(OmegaConf.merge(cfg, {"mixing": settings}).mixing)
    return strategy


@pytest.mark.parametrize("name", SHIPPED)
def test_partners_are_a_permutation_and_an_image_alone_stays(name: str) -> None:
    strategy = strategy_of(name)
    assert sorted(strategy(batch_of(7)).partner.tolist()) == list(range(7))
    alone = batch_of(1)
    torch.testing.assert_close(strategy(alone).image, alone.image)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "none"])
def test_strategies_draw_anew_for_each_batch(name: str) -> None:
    strategy, batch = strategy_of(name), batch_of(8)
    lams = {float(strategy(batch).lam.mean()) for _ in range(20)}
    assert len(lams) > 10


def test_mixup_equals_a_slow_loop() -> None:
    x, partner, lam = batch_of(5).image, torch.tensor([3, 0, 2, 4, 1]), 0.3
    mixed = mixup(x, partner, torch.tensor(lam))
    for i in range(5):
        torch.testing.assert_close(mixed[i], lam * x[i] + (1 - lam) * x[partner[i]])
    assert torch.equal(mixup(x, partner, torch.tensor(1.0)), x)
    assert torch.equal(mixup(x, partner, torch.tensor(0.0)), x[partner])


def test_cutmix_equals_a_slow_loop() -> None:
    x, partner = batch_of(3).image, torch.tensor([1, 2, 0])
    for boxes in ([(2, 9, 0, 5)], [(2, 9, 0, 5), (0, 0, 3, 3), (11, 12, 16, 17)]):
        mixed, lam = cutmix(x, partner, torch.tensor(boxes))
        for i in range(3):
            own, (top, bottom, left, right) = 0, boxes[i % len(boxes)]
            for r in range(12):
                for c in range(17):
                    inside = top <= r < bottom and left <= c < right
                    own += not inside
                    assert torch.equal(mixed[i, :, r, c], x[partner[i] if inside else i, :, r, c])
            assert float(lam[i]) == pytest.approx(own / (12 * 17))


@pytest.mark.parametrize(
    ("lam", "centre", "box"),
    [
        (1.0, (0.5, 0.5), (4, 4, 4, 4)),  # nothing is pasted
        (0.0, (0.5, 0.5), (0, 8, 0, 8)),  # everything is
        (0.75, (0.5, 0.5), (2, 6, 2, 6)),
        (0.75, (0.0, 0.99), (0, 2, 6, 8)),  # cut at the border
    ],
)
def test_box(lam: float, centre: tuple[float, float], box: tuple[int, int, int, int]) -> None:
    assert boxes_of(torch.tensor([lam]), 8, 8, torch.tensor([centre])).tolist() == [list(box)]


MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)


@pytest.mark.parametrize("count", [1, 7])
def test_foreground_equals_a_slow_loop(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    batch, partner = batch_of(7, 5, 4), torch.randperm(7)
    monkeypatch.setattr("src.fourier.CHUNK", 4 * batch.image[0].numel() * 4)  # steps of 4 images and of 3
    x, mask = batch.image, batch.mask
    assert mask is not None
    lam_f, lam_b = (torch.rand(count).expand(7) for _ in range(2))  # one for the batch, or one per image
    mixed = mix_regions(x, mask, partner, lam_f[:count], lam_b[:count], MEAN)
    for i, j in enumerate(partner.tolist()):
        for c in range(3):
            for row in range(5):
                for column in range(4):
                    own, other = x[i, c, row, column] - MEAN[c], x[j, c, row, column] - MEAN[c]
                    value = (lam_f[i] if mask[i, row, column] else lam_b[i]) * own
                    value = value + (1 - (lam_f[i] if mask[j, row, column] else lam_b[i])) * other + MEAN[c]
                    assert mixed[i, c, row, column].item() == pytest.approx(value.item(), abs=1e-6)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("name", ["decoupled", "foreground", "mixup", "spectrum"])
def test_the_pixels_have_the_weights_of_the_labels(name: str, per_image: bool) -> None:
    colour = torch.rand(6, 3, 1, 1)
    batch = batch_of(6)._replace(image=colour.expand(6, 3, 12, 17), mask=torch.ones(6, 12, 17, dtype=torch.bool))
    strategy, weights = strategy_of(name, per_image=per_image, probability=0.5), []
    for seed in range(20):
        torch.manual_seed(seed)
        mixed = strategy(batch)
        lam = mixed.lam.expand(6).view(6, 1, 1, 1)
        torch.testing.assert_close(mixed.image, mixup(batch.image, mixed.partner, lam.flatten()), atol=1e-5, rtol=0)
        weights.append(len(set(mixed.lam.expand(6).tolist()) - {1.0}))
    assert (max(weights) > 2) == per_image


def test_foreground_in_its_analytic_cases() -> None:
    batch, partner = batch_of(5), torch.tensor([3, 0, 2, 4, 1])
    x, some = batch.image, batch.mask
    assert some is not None
    one, lam_f, lam_b = torch.tensor(1.0), torch.tensor(0.3), torch.tensor(0.9)
    everything, nothing = torch.ones_like(some), torch.zeros_like(some)
    torch.testing.assert_close(mix_regions(x, some, partner, one, one, MEAN), x)
    torch.testing.assert_close(mix_regions(x, some, partner, 1 - one, 1 - one, MEAN), x[partner])
    torch.testing.assert_close(mix_regions(x, some, partner, lam_f, lam_f, MEAN), mixup(x, partner, lam_f))
    torch.testing.assert_close(mix_regions(x, everything, partner, lam_f, lam_b, MEAN), mixup(x, partner, lam_f))
    torch.testing.assert_close(mix_regions(x, nothing, partner, lam_f, lam_b, MEAN), mixup(x, partner, lam_b))
    # Images of the mean's colour stay, whatever the masks: the weights act on what differs from it.
    flat = MEAN.expand(5, 3, 12, 17)
    torch.testing.assert_close(mix_regions(flat, some, partner, lam_f, lam_b, MEAN), flat)


def slow_low_pass(x: torch.Tensor, ratio: float) -> torch.Tensor:
    """A sum over the box's frequencies of the transform's definition, one image and channel at a time."""
    height, width = x.shape[2:]
    out = torch.zeros(x.shape, dtype=torch.complex128)
    row, column = torch.arange(height).double()[:, None], torch.arange(width).double()
    for k in range(-(height // 2), (height - 1) // 2 + 1):
        for m in range(-(width // 2), (width - 1) // 2 + 1):
            if abs(k) <= ratio * height / 2 and abs(m) <= ratio * width / 2:
                wave = torch.exp(2j * math.pi * (k * row / height + m * column / width))
                for image, into in zip(x.double().flatten(0, 1), out.flatten(0, 1), strict=True):
                    into += (image * wave.conj()).sum() * wave / (height * width)
    return out.real


@pytest.mark.parametrize("shape", [(6, 8), (7, 5), (9, 6)])
def test_spectrum_equals_a_slow_loop(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    x, partner, lam_l, lam_h, ratio = batch_of(5, *shape).image, torch.randperm(5), 0.2, 0.7, 0.5
    monkeypatch.setattr("src.fourier.CHUNK", 2 * x[0].numel() * 4)  # steps of 2 images
    low = slow_low_pass(x, ratio)
    high = x - low
    mixed = spectrum(x, partner, torch.tensor(lam_l), torch.tensor(lam_h), ratio)
    for i, j in enumerate(partner.tolist()):
        expected = lam_l * low[i] + (1 - lam_l) * low[j] + lam_h * high[i] + (1 - lam_h) * high[j]
        torch.testing.assert_close(mixed[i], expected.float())


def test_spectrum_in_its_analytic_cases() -> None:
    x, partner, one = batch_of(5).image, torch.tensor([3, 0, 2, 4, 1]), torch.tensor(1.0)
    lam_l, lam_h = torch.tensor(0.3), torch.tensor(0.9)
    torch.testing.assert_close(spectrum(x, partner, lam_l, lam_h, 1.0), mixup(x, partner, lam_l))
    torch.testing.assert_close(spectrum(x, partner, one, one, 0.5), x)
    torch.testing.assert_close(spectrum(x, partner, lam_l, lam_l, 0.5), mixup(x, partner, lam_l))
    # Below a box of one frequency only the mean brightness is low.
    flat = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(spectrum(x, partner, 1 - one, one, 0.01), x - flat + flat[partner])


@pytest.mark.parametrize("name", ["foreground", "spectrum"])
def test_the_order_of_memory_stays_and_autocast_changes_nothing(name: str) -> None:
    strategy, batch = strategy_of(name), batch_of(3)
    batch = batch._replace(image=batch.image.to(memory_format=torch.channels_last))
    torch.manual_seed(0)
    mixed = strategy(batch).image
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(strategy(batch).image, mixed)


def test_the_origin_is_the_modules_mean() -> None:
    assert torch.equal(strategy_of("foreground").mean, MEAN)  # type: ignore[attr-defined]
    assert torch.equal(strategy_of("decoupled").foreground.mean, MEAN)  # type: ignore[attr-defined]


def test_a_batch_without_masks() -> None:
    batch = batch_of(4)._replace(mask=None)
    with pytest.raises(ValueError, match=r"mixing=foreground needs masks .* stage=wsss .* masks="):
        strategy_of("foreground")(batch)
    decoupled, by_frequency = strategy_of("decoupled", by_context=1.0), strategy_of("spectrum")
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="no masks: mixing=decoupled mixes by frequency alone"):
        mixed = decoupled(batch)
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        decoupled(batch)
    torch.manual_seed(0)
    assert torch.equal(mixed.image, by_frequency(batch).image)


@pytest.mark.parametrize(("by_context", "share"), [({}, 0.5), ({"by_context": 0.2}, 0.2), ({"by_context": 0.9}, 0.9)])
def test_decoupled_takes_one_of_the_two_for_a_batch(
    by_context: dict[str, float], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, taken = batch_of(4, 4, 4), []
    strategy = strategy_of("decoupled", **by_context)
    for name in ("foreground", "spectrum"):
        monkeypatch.setattr(getattr(strategy, name), "mix", lambda batch, name=name: taken.append(name))
    torch.manual_seed(0)
    for _ in range(400):
        strategy(batch)
    assert abs(taken.count("foreground") / 400 - share) < 0.08 and len(taken) == 400


def test_decoupled_at_its_ends() -> None:
    batch = batch_of(4, 4, 4)
    always, never = strategy_of("decoupled", by_context=1.0), strategy_of("decoupled", by_context=0.0)
    for strategy, other in ((always, "foreground"), (never, "spectrum")):
        for seed in range(10):
            torch.manual_seed(seed)
            mixed = strategy(batch)
            torch.manual_seed(seed)
            torch.rand(1)  # the choice
            assert torch.equal(mixed.image, strategy_of(other)(batch).image)


def test_the_labels_weight_is_that_of_the_foreground_and_of_the_low_frequencies() -> None:
    torch.manual_seed(0)
    batch = batch_of(6)
    assert batch.mask is not None
    objects_alone = batch._replace(mask=torch.ones_like(batch.mask))
    flat = batch._replace(image=batch.image.mean((2, 3), keepdim=True).expand_as(batch.image).contiguous())
    for _ in range(20):
        for name, shown in (("foreground", objects_alone), ("spectrum", flat)):
            mixed = strategy_of(name)(shown)
            torch.testing.assert_close(mixed.image, mixup(shown.image, mixed.partner, mixed.lam))
        mixed = strategy_of("mixup")(batch)
        torch.testing.assert_close(mixed.image, mixup(batch.image, mixed.partner, mixed.lam))


def weights_of(name: str, count: int = 3000) -> dict[str, torch.Tensor]:
    """Weights of an image's own parts over many draws, as they are seen in what comes out of a strategy."""
    strategy = strategy_of(name, **({} if name == "mixup" else {"other_context": True}))
    # A white image and a black one, each the other's partner; of spectrum a pattern of pixels and nothing.
    height, width = 2, 4
    image = torch.zeros(2, 3, height, width)
    mask = torch.zeros(2, height, width, dtype=torch.bool)
    mask[:, :, :2] = True
    image[0] = 1
    if name == "spectrum":
        image[0, :, :, ::2] = 3  # 2 of frequency 0, and 1 of the highest one
    batch = Batch(image, torch.arange(2), torch.arange(2), torch.arange(2), mask)
    torch.manual_seed(0)
    seen: dict[str, list[float]] = {"label": [], "own": [], "other": []}
    while len(seen["label"]) < count:
        mixed = strategy(batch)
        if mixed.partner[0] == 0:  # mixup's permutation may leave all in its place
            continue
        one = mixed.image[0, 0].double()
        seen["label"].append(float(mixed.lam[0]))
        seen["own"].append(float(one.mean() / 2 if name == "spectrum" else one[0, 0]))
        seen["other"].append(float((one[0, 0] - one[0, 1]) / 2 if name == "spectrum" else one[0, 3]))
    return {key: torch.tensor(values, dtype=torch.float64) for key, values in seen.items()}


def distance(draws: torch.Tensor, cumulated: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Kolmogorov and Smirnov's: the largest gap between the draws' distribution and another one."""
    expected, n = cumulated(draws.sort().values), len(draws)
    steps = torch.arange(n + 1) / n
    return float(torch.maximum(steps[1:] - expected, expected - steps[:-1]).max())


def uniform(x: torch.Tensor) -> torch.Tensor:
    return x


def beta_2_2(x: torch.Tensor) -> torch.Tensor:
    return 3 * x**2 - 2 * x**3


FAR = 1.95 / math.sqrt(3000)
"""The distance that one in a thousand samples of 3000 exceeds; the two distributions are .096 apart."""


@pytest.mark.parametrize("name", ["mixup", "foreground", "spectrum"])
def test_the_distributions_of_the_weights(name: str) -> None:
    drawn = weights_of(name)
    torch.testing.assert_close(drawn["own"], drawn["label"], rtol=0, atol=1e-5)
    assert distance(drawn["label"], beta_2_2) < FAR < 0.05 < distance(drawn["label"], uniform)
    assert drawn["label"].var().item() == pytest.approx(1 / 20, rel=0.08)  # of Beta(a, a): 1 / (4 (2a + 1))
    if name == "mixup":
        torch.testing.assert_close(drawn["other"], drawn["label"], rtol=0, atol=1e-5)
        return
    assert distance(drawn["other"], uniform) < FAR < 0.05 < distance(drawn["other"], beta_2_2)
    assert drawn["other"].var().item() == pytest.approx(1 / 12, rel=0.08)
    assert abs(torch.corrcoef(torch.stack([drawn["label"], drawn["other"]]))[0, 1].item()) < 0.06  # apart


def test_the_distribution_of_cutmixs_box(monkeypatch: pytest.MonkeyPatch) -> None:
    from src.mixing import cutmix as module

    seen: list[tuple[float, float, float]] = []

    def spy(lam: torch.Tensor, height: int, width: int, centre: torch.Tensor) -> torch.Tensor:
        seen.append((lam.item(), *centre[0].tolist()))
        return boxes_of(lam, height, width, centre)

    monkeypatch.setattr(module, "boxes_of", spy)
    torch.manual_seed(0)
    strategy, batch = strategy_of("cutmix"), batch_of(2, 4, 4)
    for _ in range(3000):
        strategy(batch)
    assert all(distance(draws, uniform) < FAR for draws in torch.tensor(seen, dtype=torch.float64).T)


@pytest.mark.parametrize("name", ["spectrum", "decoupled"])
@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01])
def test_a_ratio_outside_its_range(name: str, ratio: float) -> None:
    with pytest.raises(InstantiationException) as error:
        strategy_of(name, ratio=ratio)
    assert str(error.value.__cause__) == f"mixing.ratio is {ratio}: expected a number above 0 and at most 1"


@pytest.mark.parametrize("name", ["foreground", "spectrum", "decoupled"])
def test_partners_of_another_context(name: str) -> None:
    domain = torch.tensor([0, 0, 0, 0, 1, 2, 0])
    batch, strategy = batch_of(7)._replace(domain=domain), strategy_of(name, other_context=True)
    partners = [strategy(batch).partner for _ in range(300)]
    assert all(bool((domain[partner] != domain).all()) for partner in partners)
    # The first image's partners are 4 and 5, the fifth's all but itself, equally often.
    first, fifth = (torch.stack(partners)[:, i].bincount(minlength=7) for i in (0, 4))
    assert first.sum() == first[4] + first[5] and 110 < first[4] < 190
    assert fifth[4] == 0 and all(count > 25 for count in fifth[[0, 1, 2, 3, 5, 6]])
    alone = strategy(batch._replace(domain=torch.full((7,), 3))).partner  # of one context: any image
    assert alone.shape == (7,) and 0 <= int(alone.min()) <= int(alone.max()) < 7
    strategy = strategy_of(name, other_context=True)  # it looks at its first batch
    with pytest.raises(ValueError, match="other_context=true needs images whose context is known"):
        strategy(batch._replace(domain=torch.full((7,), -1)))
