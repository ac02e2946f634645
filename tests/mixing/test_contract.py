"""What src/mixing/__init__.py asks of a strategy, and no more: of every conf/mixing/*.yaml, and of others made here.

Right ones of other kinds than the shipped must pass, and wrong ones fail for what is wrong about them.
"""

import functools
import math
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src import cli
from src.data.batch import Batch
from src.mixing import Mixed, draw_beta, draw_partner
from tests.mixing.test_mixing import batch_of

CONF = Path(__file__).resolve().parents[2] / "conf" / "mixing"
STRATEGIES = sorted(path.stem for path in CONF.glob("*.yaml"))
DRAWS = 5  # calls that are compared: one alone may agree by chance


def check_contract(make: Callable[[], Callable[[Batch], Mixed]], n: int) -> None:
    """Assert what `Strategy` states, of batches of n images."""
    strategy, batch = make(), batch_of(n)
    drawn = draws(strategy, batch)
    for mixed in drawn:
        check_mixed(mixed, batch)
    # Once more with the same object, and as a resumed run would have it.
    for other in (strategy, make()):
        assert all(map(same, draws(other, batch), drawn)), "the seed gives another mix"
    later = torch.rand(4)
    draws(strategy, batch, seed=1)
    assert not torch.equal(torch.rand(4), later), "the draws after it are always the same"
    check_scale(strategy, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may say that it goes on without
        try:
            strategy(batch._replace(mask=None, domain=torch.full_like(batch.domain, -1)))
        except ValueError:
            pass  # refused
        except Exception as error:
            raise AssertionError(f"without masks and contexts: {error}") from error


def draws(strategy: Callable[[Batch], Mixed], batch: Batch, seed: int = 0) -> list[Mixed]:
    """What DRAWS calls from one seed return; nothing that was there before a call may have changed at the end."""
    torch.manual_seed(seed)
    known: list[tuple[Any, Any, str]] = [(batch, copied(batch), "the batch was written to")]
    for _ in range(DRAWS):
        mixed = strategy(batch)
        assert isinstance(mixed, Mixed), "no Mixed"
        known.append((mixed, copied(mixed), "what an earlier call returned was written to"))
    for now, before, message in known:
        assert same(now, before), message
    return [mixed for mixed, *_ in known[1:]]


def copied(values: Any) -> Any:
    """A Batch or Mixed in memory of its own."""
    return type(values)(*(None if value is None else value.clone() for value in values))


def same(a: Any, b: Any) -> bool:
    """Whether two Samples or two Mixed hold the same numbers; one that is no number is as good as another."""
    return all(
        x is y or (x.shape == y.shape and torch.allclose(x, y, rtol=0, atol=0, equal_nan=True))
        for x, y in zip(a, b, strict=True)
    )


def check_mixed(mixed: Mixed, batch: Batch) -> None:
    """Assert what `Mixed` and `Strategy` say of one result."""
    n = len(batch.image)
    assert mixed.image.shape == batch.image.shape, "the images' shape"
    assert mixed.image.dtype == batch.image.dtype, "the images' dtype"
    assert torch.isfinite(mixed.image).all(), "pixels that are no numbers"
    assert mixed.partner.dtype == torch.int64 and mixed.partner.shape == (n,), "the partners' dtype and shape"
    assert int(mixed.partner.min()) >= 0 and int(mixed.partner.max()) < n, "partners outside of the batch"
    assert mixed.lam.is_floating_point() and mixed.lam.shape in ((), (n,)), "the weights' dtype and shape"
    assert bool(((mixed.lam >= 0) & (mixed.lam <= 1)).all()), "weights outside of [0, 1]"


def check_scale(strategy: Callable[[Batch], Mixed], n: int) -> None:
    """Assert that the typical pixel of images of one colour, their masks alike, keeps that colour.

    Typical is the median over many draws, which noise, jitter and erased boxes leave alone. No other check notices
    pixels on another scale.
    """
    batch = batch_of(n)
    assert batch.mask is not None
    colour = torch.tensor([0.2, 0.6, 0.9]).view(1, 3, 1, 1)
    flat = batch._replace(image=colour.expand_as(batch.image).contiguous(), mask=torch.ones_like(batch.mask))
    torch.manual_seed(0)
    drawn = torch.cat([strategy(flat).image for _ in range(100)])
    typical = drawn.transpose(0, 1).flatten(1).median(dim=1).values
    assert torch.allclose(typical, colour.flatten(), rtol=0, atol=0.15), f"the pixels' scale: {typical.tolist()}"


@functools.cache
def strategy_of(name: str) -> Callable[[], Callable[[Batch], Mixed]]:
    """Makes a strategy by its yaml, in a run's settings."""
    facts = ("dataset.num_classes=3", "dataset.contexts=[a,b]", "dataset.images=9")
    cfg = cli.composed("train", "track=1", "stage=baseline", f"mixing={name}", *facts)
    return functools.partial(cli.instantiate, cfg.mixing)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_contract_of_every_strategy(name: str, n: int) -> None:
    """A new conf/mixing/x.yaml is tested here without a new test."""
    check_contract(strategy_of(name), n)


class ResizeMix:
    """A smaller copy of the partner pasted into the image (Qin et al., 2020); labels weigh by the area."""

    def __call__(self, batch: Batch) -> Mixed:
        height, width = batch.image.shape[2:]
        partner, (scale, row, column) = draw_partner(batch), torch.rand(3).tolist()
        scale = 0.1 + 0.7 * scale
        inside = max(1, int(scale * height)), max(1, int(scale * width))
        top, left = int(row * (height - inside[0] + 1)), int(column * (width - inside[1] + 1))
        image = batch.image.clone()
        small = F.interpolate(batch.image[partner], size=inside, mode="bilinear", align_corners=False)
        image[:, :, top : top + inside[0], left : left + inside[1]] = small
        return Mixed(image, partner, torch.tensor(1 - inside[0] * inside[1] / (height * width)))


class FMix:
    """Two images cut along a contour of low-frequency noise, each image's its own (Harris et al., 2020)."""

    def __call__(self, batch: Batch) -> Mixed:
        n, _, height, width = batch.image.shape
        partner, lam = draw_partner(batch), draw_beta(1.0, 1)
        frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))
        decay = frequency.clamp(min=1 / max(height, width)) ** 3
        noise = torch.fft.irfft2(torch.fft.rfft2(torch.randn(n, height, width)) / decay, s=(height, width))
        rank = noise.flatten(1).argsort(1).argsort(1).view_as(noise)
        own = rank < round(lam.item() * height * width)  # the share lam of the pixels, exactly
        return Mixed(batch.image.where(own[:, None], batch.image[partner]), partner, own.float().mean((1, 2)))


class Constant:
    """Mixup whose lambda is always the same: half of the strategies here are this one with a fault."""

    def __call__(self, batch: Batch) -> Mixed:
        partner, lam = draw_partner(batch), torch.tensor(0.3)
        return Mixed(torch.lerp(batch.image[partner], batch.image, lam), partner, lam)


class Chosen:
    """One partner for all images: no permutation."""

    def __call__(self, batch: Batch) -> Mixed:
        partner = torch.randint(len(batch.image), ()).expand(len(batch.image))
        return Mixed(torch.lerp(batch.image[partner], batch.image, 0.5), partner, torch.full(partner.shape, 0.5))


class MaskedAlone:
    """The partner's foreground pasted: a strategy that refuses what it cannot do."""

    def __call__(self, batch: Batch) -> Mixed:
        if batch.mask is None:
            raise ValueError("this strategy needs masks")
        partner = draw_partner(batch)
        pasted = batch.mask[partner]
        image = batch.image[partner].where(pasted[:, None], batch.image)
        return Mixed(image, partner, 1 - pasted.float().mean((1, 2)))


class Noisy(Constant):
    """Mixup with noise on top (Lim et al., 2022)."""

    def __call__(self, batch: Batch) -> Mixed:
        mixed = super().__call__(batch)
        return mixed._replace(image=mixed.image + 0.4 * torch.randn(mixed.image.shape))


class Jittered(Constant):
    """Mixup of images in another light each."""

    def __call__(self, batch: Batch) -> Mixed:
        light = torch.empty(len(batch.image), 1, 1, 1).uniform_(0.6, 1.4)
        return super().__call__(batch._replace(image=batch.image * light))


class Erased:
    """A black box in an image that is its own partner (DeVries and Taylor, 2017)."""

    def __call__(self, batch: Batch) -> Mixed:
        height, width = batch.image.shape[2:]
        top, left = (torch.rand(2) * torch.tensor([height // 2, width // 2])).int().tolist()
        image = batch.image.clone()
        image[:, :, top : top + height // 2, left : left + width // 2] = 0
        return Mixed(image, torch.arange(len(image)), torch.ones(()))


@pytest.mark.parametrize("right", [ResizeMix, FMix, Constant, Chosen, MaskedAlone, Noisy, Jittered, Erased])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_right_strategies_of_other_kinds_pass(right: Callable[[], Callable[[Batch], Mixed]], n: int) -> None:
    check_contract(right, n)


class InPlace(Constant):
    def __call__(self, batch: Batch) -> Mixed:
        mixed = super().__call__(batch)
        return mixed._replace(image=batch.image.copy_(mixed.image))


class Labels(Constant):
    def __call__(self, batch: Batch) -> Mixed:
        batch.label.zero_()
        return super().__call__(batch)


class Buffer(Constant):
    """Returns the same memory at every call."""

    def __init__(self) -> None:
        self.made: dict[torch.Size, torch.Tensor] = {}

    def __call__(self, batch: Batch) -> Mixed:
        mixed = super().__call__(batch)
        kept = self.made.setdefault(batch.image.shape, torch.empty_like(batch.image))
        return mixed._replace(image=kept.copy_(mixed.image))


class OwnGenerator(Constant):
    """Seeded once, so that a resumed run draws from the start again."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, batch: Batch) -> Mixed:
        return super().__call__(batch)._replace(lam=torch.rand((), generator=self.generator))


class Seeding(Constant):
    """Reproducible at the cost of everybody else's draws."""

    def __call__(self, batch: Batch) -> Mixed:
        torch.manual_seed(7)
        return super().__call__(batch)


class Counting(Constant):
    """Lambda by the number of the call."""

    calls = 0

    def __call__(self, batch: Batch) -> Mixed:
        self.calls += 1
        return super().__call__(batch)._replace(lam=torch.tensor(1 / self.calls))


class NeedsMasks(Constant):
    """Does not look whether there are masks."""

    def __call__(self, batch: Batch) -> Mixed:
        return super().__call__(batch)._replace(lam=batch.mask.float().mean((1, 2)))  # type: ignore[union-attr]


def altered(**changes: Callable[[Mixed], torch.Tensor]) -> Callable[[], Callable[[Batch], Mixed]]:
    """Makes a Constant with parts of its result replaced."""

    def strategy(batch: Batch) -> Mixed:
        mixed = Constant()(batch)
        return mixed._replace(**{part: change(mixed) for part, change in changes.items()})

    return lambda: strategy


MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
LAM, PARTNER = "weights", "partners"
WRONG: dict[str, tuple[Callable[[], Callable[[Batch], Mixed]], str]] = {
    "weights of both labels, in all 1.4": (altered(lam=lambda m: torch.full((*m.partner.shape, 2), 0.7)), LAM),
    "a weight above 1": (altered(lam=lambda m: torch.tensor(1.2)), LAM),
    "a weight below 0": (altered(lam=lambda m: torch.full(m.partner.shape, -0.1)), LAM),
    "no number": (altered(lam=lambda m: torch.tensor(math.nan)), LAM),
    "a weight too many": (altered(lam=lambda m: torch.full((len(m.partner) + 1,), 0.5)), LAM),
    "whole numbers": (altered(lam=lambda m: torch.tensor(1)), LAM),
    "a partner behind the last": (altered(partner=lambda m: m.partner + 1), PARTNER),
    "a partner before the first": (altered(partner=lambda m: m.partner - 1), PARTNER),
    "a partner too few": (altered(partner=lambda m: m.partner[1:]), PARTNER),
    "partners of 32 bits": (altered(partner=lambda m: m.partner.int()), PARTNER),
    "images written to": (InPlace, "the batch was written to"),
    "labels written to": (Labels, "the batch was written to"),
    "one buffer for all": (Buffer, "an earlier call"),
    "float64": (altered(image=lambda m: m.image.double()), "dtype"),
    "bfloat16": (altered(image=lambda m: m.image.bfloat16()), "dtype"),
    "0 to 255": (altered(image=lambda m: m.image * 255), "scale"),
    "-1 to 1": (altered(image=lambda m: m.image * 2 - 1), "scale"),
    "normalised": (altered(image=lambda m: (m.image - MEAN) / STD), "scale"),
    "without the mean": (altered(image=lambda m: m.image - MEAN), "scale"),
    "inverted": (altered(image=lambda m: 1 - m.image), "scale"),
    "weights of the images, in all 0.8": (altered(image=lambda m: 0.8 * m.image), "scale"),
    "weights of the images, in all 1.2": (altered(image=lambda m: 1.2 * m.image), "scale"),
    "a hole": (altered(image=lambda m: m.image / 0), "no numbers"),
    "cut": (altered(image=lambda m: m.image[..., 1:]), "the images' shape"),
    "grey": (altered(image=lambda m: m.image.mean(1, keepdim=True)), "the images' shape"),
    "no Mixed": (lambda: lambda batch: cast(Mixed, tuple(Constant()(batch))), "no Mixed"),
    "numpy's draws": (altered(lam=lambda m: torch.tensor(np.random.default_rng().random())), "the seed"),
    "numpy's global draws": (altered(lam=lambda m: torch.tensor(np.random.rand())), "the seed"),
    "Python's draws": (altered(image=lambda m: m.image * random.random()), "the seed"),
    "a generator of its own": (OwnGenerator, "the seed"),
    "a seed of its own": (Seeding, "always the same"),
    "what came before": (Counting, "the seed"),
    "masks that are not there": (NeedsMasks, "without masks"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("n", [2, 7])
def test_a_wrong_strategy_fails_for_what_is_wrong(name: str, n: int) -> None:
    wrong, message = WRONG[name]
    with pytest.raises(AssertionError, match=message):
        check_contract(wrong, n)
