from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.manifest import Sample
from src.mixing import Mixed
from src.mixing.cutmix import box_of, cutmix
from src.mixing.mixup import mixup

CONF = Path(__file__).resolve().parents[2] / "conf" / "mixing"
STRATEGIES = sorted(path.stem for path in CONF.glob("*.yaml"))


def batch_of(n: int, height: int = 12, width: int = 17) -> Sample:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(n, height, width, generator=generator) > 0.5
    image = torch.rand(n, 3, height, width, generator=generator)
    return Sample(image, torch.arange(n) % 3, torch.arange(n) % 2, torch.arange(n), mask)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_contract_of_every_strategy(name: str, n: int) -> None:
    """A new conf/mixing/x.yaml is tested here without a new test."""
    strategy, batch = instantiate(OmegaConf.load(CONF / f"{name}.yaml")), batch_of(n)
    before = batch.image.clone()
    torch.manual_seed(0)
    mixed = strategy(batch)
    assert isinstance(mixed, Mixed)
    assert mixed.image.shape == batch.image.shape and mixed.image.dtype == batch.image.dtype
    assert sorted(mixed.partner.tolist()) == list(range(n))
    assert mixed.lam.shape in ((), (n,)) and bool(((mixed.lam >= 0) & (mixed.lam <= 1)).all())
    assert torch.isfinite(mixed.image).all()
    assert torch.equal(batch.image, before), "the input was written to"
    torch.manual_seed(0)
    assert torch.equal(strategy(batch).image, mixed.image)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "none"])
def test_strategies_draw_anew_for_each_batch(name: str) -> None:
    strategy, batch = instantiate(OmegaConf.load(CONF / f"{name}.yaml")), batch_of(8)
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
    x, partner, (top, bottom, left, right) = batch_of(3).image, torch.tensor([1, 2, 0]), (2, 9, 0, 5)
    mixed, lam = cutmix(x, partner, (top, bottom, left, right))
    own = 0
    for i in range(3):
        for r in range(12):
            for c in range(17):
                inside = top <= r < bottom and left <= c < right
                own += not inside
                assert torch.equal(mixed[i, :, r, c], x[partner[i] if inside else i, :, r, c])
    assert float(lam) == pytest.approx(own / (3 * 12 * 17))


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
    assert box_of(lam, 8, 8, centre) == box
