import pytest
import torch

from src.prediction.tta import Flip, MixingInference, Plain

BANK = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NAMES = ["a.jpg", "b.jpg", "c.jpg"]
IMAGE = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_plain_and_flip() -> None:
    assert [torch.equal(view, IMAGE) for view in Plain().views(IMAGE, NAMES, BANK)] == [True]
    same, mirror = Flip().views(IMAGE, NAMES, BANK)
    assert torch.equal(same, IMAGE)
    assert torch.equal(mirror[..., 0], IMAGE[..., 3]) and torch.equal(mirror[..., 1], IMAGE[..., 2])


def test_mixing_is_the_formula_with_a_partner_of_the_bank() -> None:
    views = MixingInference(runs=5, lam=0.25, bank=6, seed=0).views(IMAGE, NAMES, BANK)
    assert len(views) == 5
    for view in views:
        partner = (view - 0.75 * IMAGE) / 0.25 * 255
        for one in partner:
            assert any(torch.allclose(one, candidate.float(), atol=1e-2) for candidate in BANK)
    assert len({tuple(view.flatten().tolist()) for view in views}) > 1  # runs differ in their partners
    assert torch.equal(MixingInference(runs=1, lam=0.0, bank=6, seed=0).views(IMAGE, NAMES, BANK)[0], IMAGE)


def test_a_view_depends_on_the_name_and_not_on_the_batch() -> None:
    tta = MixingInference(runs=3, lam=0.5, bank=6, seed=0)
    whole = tta.views(IMAGE, NAMES, BANK)
    reverse = tta.views(IMAGE.flip(0), NAMES[::-1], BANK)
    for i, name in enumerate(NAMES):
        alone = tta.views(IMAGE[i : i + 1], [name], BANK)
        assert all(torch.equal(a[i], b[0]) for a, b in zip(whole, alone, strict=True))
        assert all(torch.equal(a[i], b[2 - i]) for a, b in zip(whole, reverse, strict=True))
    other = MixingInference(runs=3, lam=0.5, bank=6, seed=1).views(IMAGE, NAMES, BANK)
    assert not all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"bank": 0}, {"lam": 1.5}])
def test_settings_that_cannot_work(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected at least 1, 1, and 0 to 1"):
        MixingInference(**{"runs": 5, "lam": 0.01, "bank": 8, "seed": 0, **wrong})  # type: ignore[arg-type]
