import cmath
import math

import pytest
import torch

from src import fourier
from src.fourier import analyse, images_at_once, low_pass, mix_amplitude, reach, synthesise

SHAPES = [(6, 8), (7, 5), (8, 5), (5, 6)]


def images(n: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(n, 2, height, width, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


def signed(k: int, side: int) -> int:
    """The frequency at place k of a transform of `side` values."""
    return k if k <= side / 2 else k - side


def transform(image: torch.Tensor) -> dict[tuple[int, int], complex]:
    """The 2-D transform of (H, W), from its definition."""
    height, width = image.shape
    values = image.tolist()
    return {
        (k, m): sum(
            values[r][c] * cmath.exp(-2j * math.pi * (k * r / height + m * c / width))
            for r in range(height)
            for c in range(width)
        )
        for k in range(height)
        for m in range(width)
    }


def inverse(spectrum: dict[tuple[int, int], complex], height: int, width: int) -> torch.Tensor:
    """Back from `transform`; a result that is not real fails."""
    image = torch.zeros(height, width, dtype=torch.float64)
    for r in range(height):
        for c in range(width):
            waves = (
                value * cmath.exp(2j * math.pi * (k * r / height + m * c / width)) for (k, m), value in spectrum.items()
            )
            value = sum(waves) / (height * width)
            assert abs(value.imag) < 1e-9
            image[r, c] = value.real
    return image


def inside(k: int, m: int, height: int, width: int, ratio: float) -> bool:
    return abs(signed(k, height)) <= ratio * height / 2 and abs(signed(m, width)) <= ratio * width / 2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
def test_low_pass_equals_a_slow_loop(shape: tuple[int, int], ratio: float) -> None:
    x = images(2, *shape)
    passed = low_pass(x, ratio)
    for i in range(2):
        for c in range(2):
            kept = {key: v for key, v in transform(x[i, c]).items() if inside(*key, *shape, ratio)}
            torch.testing.assert_close(passed[i, c], inverse(kept, *shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_low_pass_in_its_analytic_cases(shape: tuple[int, int]) -> None:
    x = images(3, *shape)
    torch.testing.assert_close(low_pass(x, 1.0), x)
    torch.testing.assert_close(low_pass(x, 0.01), x.mean((2, 3), keepdim=True).expand_as(x))
    once = low_pass(x, 0.6)
    torch.testing.assert_close(low_pass(once, 0.6), once)  # a projection
    turned = x.flip(2, 3)
    torch.testing.assert_close(low_pass(turned, 0.6), once.flip(2, 3))  # symmetric


def test_one_wave_passes_or_does_not() -> None:
    row = torch.arange(12, dtype=torch.float64)
    for k in range(7):
        wave = torch.cos(2 * math.pi * k * row / 12 + 0.3).expand(1, 1, 9, 12)
        for x in (wave, wave.mT):
            expected = x if k <= 3 else torch.zeros_like(x)  # floor(.5 * 12 / 2)
            torch.testing.assert_close(low_pass(x, 0.5), expected)


@pytest.mark.parametrize(
    ("ratio", "side", "expected"), [(1, 8, 4), (1, 7, 3), (0.5, 7, 1), (0.58, 100, 29), (0.1, 8, 0)]
)
def test_reach(ratio: float, side: int, expected: int) -> None:
    assert reach(ratio, side) == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ratio", [0.3, 0.7, 1.0])
def test_mix_amplitude_equals_a_slow_loop(shape: tuple[int, int], ratio: float) -> None:
    x, partner, lam = images(3, *shape), torch.tensor([2, 0, 1]), torch.tensor([0.3, 1.0, 0.6], dtype=torch.float64)
    mixed = mix_amplitude(x, partner, lam, ratio)
    for i in range(3):
        for c in range(2):
            own, other = transform(x[i, c]), transform(x[int(partner[i]), c])
            for key in own:
                if inside(*key, *shape, ratio):
                    weight = lam[i].item()
                    amplitude = (1 - weight) * abs(own[key]) + weight * abs(other[key])
                    own[key] = cmath.rect(amplitude, cmath.phase(own[key]))
            torch.testing.assert_close(mixed[i, c], inverse(own, *shape))


@pytest.mark.parametrize("shape", [(12, 17), (16, 10)])
def test_mix_amplitude_in_its_analytic_cases(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    n = 6
    x, partner = images(n, *shape), torch.arange(n).roll(1)
    monkeypatch.setattr(fourier, "CHUNK", 4 * x[0].numel() * 8)  # steps of 4 images and of 2
    none, half = torch.tensor(0.0), torch.full((n,), 0.5)
    assert torch.equal(mix_amplitude(x, partner, none, 0.5), x)
    torch.testing.assert_close(mix_amplitude(x, torch.arange(n), half, 0.5), x)
    mixed = torch.fft.fft2(mix_amplitude(x, partner, half, 0.6))
    before = torch.fft.fft2(x)
    torch.testing.assert_close(mixed.angle().cos(), before.angle().cos(), atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed.angle().sin(), before.angle().sin(), atol=1e-6, rtol=0)
    swapped = torch.fft.fft2(mix_amplitude(x, partner, 1 - none, 1.0))
    torch.testing.assert_close(swapped.abs(), before.abs()[partner])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_full_box_passes_everything_through_the_transforms_too(shape: tuple[int, int]) -> None:
    x = images(2, *shape)
    torch.testing.assert_close(synthesise(analyse(x, 1.0), shape[1]), x)
    assert torch.equal(low_pass(x, 1.0), x)


def test_a_step_fills_the_cache_and_a_large_image_is_one() -> None:
    assert images_at_once(torch.empty(128, 3, 224, 224)) == 2
    assert images_at_once(torch.empty(0, 3, 224, 224)) >= 1
    assert images_at_once(torch.empty(48, 3, 1024, 1024)) == 1
    for images, side, expected in ((128, 224, 111), (96, 512, 21), (8, 8192, 1)):  # 64 MiB of float32
        assert images_at_once(torch.empty(images, 3, side, side, device="meta")) == expected
    assert images_at_once(torch.empty(96, 3, 512, 512, dtype=torch.bfloat16, device="meta")) == 42


def test_a_pair_is_mixed_both_ways_by_one_call() -> None:
    x, lam = images(2, 8, 8), torch.tensor(0.7)
    both = mix_amplitude(x, torch.tensor([1, 0]), lam, 0.5)
    torch.testing.assert_close(both.flip(0), mix_amplitude(x.flip(0), torch.tensor([1, 0]), lam, 0.5))


def test_an_image_without_a_phase_keeps_its_zeros() -> None:
    x = torch.stack([torch.zeros(3, 8, 8), torch.rand(3, 8, 8)])
    assert torch.equal(mix_amplitude(x, torch.tensor([1, 0]), torch.tensor(0.5), 1.0)[0], x[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype: torch.dtype) -> None:
    x, partner, lam = images(3, 9, 10).float(), torch.tensor([1, 2, 0]), torch.tensor(0.4)
    for half in (x.to(dtype), x.to(dtype).to(memory_format=torch.channels_last)):
        assert torch.equal(low_pass(half, 0.5), low_pass(half.float(), 0.5).to(dtype))
        mixed = mix_amplitude(half, partner, lam, 0.5)
        assert mixed.dtype == dtype
        torch.testing.assert_close(mixed.float(), mix_amplitude(half.float(), partner, lam, 0.5), atol=0.01, rtol=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        low, mixed = low_pass(x, 0.5), mix_amplitude(x, partner, lam, 0.5)
    assert torch.equal(low, low_pass(x, 0.5)) and torch.equal(mixed, mix_amplitude(x, partner, lam, 0.5))


def test_nothing_is_written_in_place_and_the_order_of_memory_stays() -> None:
    x = images(3, 9, 10).to(memory_format=torch.channels_last)
    before = x.clone()
    mixed = mix_amplitude(x, torch.tensor([1, 2, 0]), torch.tensor(0.4), 0.5)
    low_pass(x, 0.5)
    assert torch.equal(x, before) and mixed.is_contiguous(memory_format=torch.channels_last)
