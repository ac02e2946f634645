import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException

from src import cli
from src.data.batch import Batch
from src.fourier import mix_amplitude
from src.mixing.background import fill, grow
from tests.mixing.test_contract import strategy_of as composed_strategy
from tests.mixing.test_mixing import FAR, batch_of, distance, strategy_of, uniform


def slow_fill(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Push-pull of one image (C, H, W), pixel by pixel."""
    height, width = known.shape
    if height == width == 1:
        return np.where(known, x, 0)
    rows, columns = -(-height // 2), -(-width // 2)
    small, small_known = np.zeros((len(x), rows, columns)), np.zeros((rows, columns), bool)
    for r in range(rows):
        for c in range(columns):
            four = [
                x[:, i, j]
                for i in range(2 * r, min(2 * r + 2, height))
                for j in range(2 * c, min(2 * c + 2, width))
                if known[i, j]
            ]
            if four:
                small[:, r, c], small_known[r, c] = np.mean(four, 0), True
    below, out = slow_fill(small, small_known), x.copy()
    for i in range(height):
        for j in range(width):
            if not known[i, j]:  # bilinear, pixels' centres at halves
                row = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
                column = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
                top, left = int(row), int(column)
                bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
                a, b = row - top, column - left
                upper = (1 - b) * below[:, top, left] + b * below[:, top, right]
                lower = (1 - b) * below[:, bottom, left] + b * below[:, bottom, right]
                out[:, i, j] = (1 - a) * upper + a * lower
    return out


@pytest.mark.parametrize("shape", [(8, 8), (5, 9), (1, 7), (6, 1), (1, 1)])
def test_fill_equals_a_slow_loop(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, *shape, generator=generator)
    hole = torch.rand(4, *shape, generator=generator) > 0.4
    hole[2], hole[3] = False, True  # all known; all unknown
    filled = fill(x, hole)
    for i in range(4):
        expected = slow_fill(x[i].double().numpy(), ~hole[i].numpy())
        np.testing.assert_allclose(filled[i].numpy(), expected, atol=1e-5)


def test_a_filled_hole_holds_nothing_of_the_object_and_the_rest_stays() -> None:
    batch = batch_of(6)
    assert batch.mask is not None
    hole = batch.mask
    filled = fill(batch.image, hole)
    other = torch.where(hole[:, None], float("inf"), batch.image)  # another object
    assert torch.equal(fill(other, hole), filled)
    assert torch.equal(filled[(~hole)[:, None].expand_as(filled)], batch.image[(~hole)[:, None].expand_as(filled)])
    for image, result, inside in zip(batch.image, filled, hole, strict=True):
        for channel, new in zip(image, result, strict=True):
            known = channel[~inside]
            assert known.min() - 1e-6 <= new.min() and new.max() <= known.max() + 1e-6
    flat = torch.full((2, 3, 9, 9), 0.3)
    torch.testing.assert_close(fill(flat, torch.rand(2, 9, 9) > 0.2), flat)


@pytest.mark.parametrize("share", [0.0, 0.04, 0.1, 0.3])
def test_grow_equals_a_slow_loop(share: float) -> None:
    mask = torch.zeros(3, 12, 25, dtype=torch.bool)
    mask[0, 5, 5], mask[1, 0, 24], mask[1, 11, 3] = True, True, True
    margin = round(share * 25)
    grown = grow(mask, share)
    for i in range(3):
        for row in range(12):
            for column in range(25):
                near = mask[i, max(0, row - margin) : row + margin + 1, max(0, column - margin) : column + margin + 1]
                assert bool(grown[i, row, column]) == bool(near.any())


def scenes(count: int = 6) -> Batch:
    """Backgrounds of one grey each, with an object of its own brightness, above 1, in the middle."""
    grey = torch.linspace(0.1, 0.9, count)
    image = grey.view(-1, 1, 1, 1).expand(count, 3, 40, 40).clone()
    mask = torch.zeros(count, 40, 40, dtype=torch.bool)
    mask[:, 10:26, 12:30] = True
    image[:, :, 10:26, 12:30] = 2 + grey.view(-1, 1, 1, 1)
    return Batch(image, torch.arange(count), torch.arange(count) % 2, torch.arange(count), mask)


def test_own_object_own_label_partners_background() -> None:
    batch = scenes()
    torch.manual_seed(0)
    mixed = strategy_of("background", probability=1.0)(batch)
    assert bool((mixed.lam == 1).all()) and sorted(mixed.partner.tolist()) == list(range(6))
    assert mixed.partner.tolist() != list(range(6))
    expected = batch.image[mixed.partner, :, :1, :1].expand_as(batch.image).clone()  # its grey, without its object
    expected[:, :, 10:26, 12:30] = batch.image[:, :, 10:26, 12:30]
    torch.testing.assert_close(mixed.image, expected)


@pytest.mark.parametrize("covered", [0.0, 0.005, 1.0])
def test_images_whose_mask_or_partners_mask_is_unusable_stay_themselves(covered: float) -> None:
    batch = scenes()
    assert batch.mask is not None
    batch.mask[4] = False
    batch.mask[4, : round(covered * 40)] = True
    if covered == 0.005:
        batch.mask[4, 0, :8] = True
    strategy, partners = strategy_of("background", probability=1.0), set()
    torch.manual_seed(0)
    for _ in range(30):
        mixed = strategy(batch)
        same = torch.tensor([torch.equal(a, b) for a, b in zip(mixed.image, batch.image, strict=True)])
        assert torch.equal(same, mixed.partner == torch.arange(6))  # exactly those name themselves
        assert bool(same[4]) and 4 not in mixed.partner[:4]
        partners |= set(mixed.partner.tolist())
    assert partners == set(range(6))


def test_a_mask_of_everything_is_the_identity() -> None:
    batch = batch_of(5)
    batch = batch._replace(mask=torch.ones(5, 12, 17, dtype=torch.bool))
    for largest in (0.9, 1.0):
        mixed = strategy_of("background", probability=1.0, largest=largest)(batch)
        assert torch.equal(mixed.image, batch.image) and bool((mixed.lam == 1).all())


def test_background_without_masks() -> None:
    with pytest.raises(ValueError, match=r"mixing=background needs masks .* stage=wsss .* masks=.* mixing=amplitude"):
        strategy_of("background")(batch_of(4)._replace(mask=None))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("background", {"grow": 0.5}, "mixing.grow is 0.5: "),
        ("background", {"grow": -0.1}, "mixing.grow is -0.1: "),
        ("background", {"smallest": 0.9, "largest": 0.9}, "mixing.smallest=0.9 and mixing.largest=0.9: "),
        ("background", {"largest": 1.1}, "mixing.smallest=0.01 and mixing.largest=1.1: "),
        ("amplitude", {"ratio": 0.0}, "mixing.ratio is 0.0: "),
        ("amplitude", {"weakest": 0.7, "strongest": 0.5}, "mixing.weakest=0.7 and mixing.strongest=0.5: "),
        ("amplitude", {"strongest": 1.5}, "mixing.weakest=0.0 and mixing.strongest=1.5: "),
    ],
)
def test_settings_out_of_range(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(InstantiationException) as error:
        strategy_of(name, **settings)
    assert str(error.value.__cause__).startswith(message)


@pytest.mark.parametrize("name", ["background", "amplitude"])
def test_partners_of_another_context_alone(name: str) -> None:
    strategy, batch = strategy_of(name, probability=1.0, other_context=True), scenes()
    for _ in range(20):
        assert bool((batch.domain[strategy(batch).partner] != batch.domain).all())


def test_amplitude_is_the_mix_of_fdg_under_the_own_label() -> None:
    batch = batch_of(6)
    torch.manual_seed(0)
    mixed = strategy_of("amplitude", probability=1.0, ratio=0.5)(batch)
    torch.manual_seed(0)
    partner, lam = torch.randperm(6), torch.rand(6)
    assert torch.equal(mixed.partner, partner) and bool((mixed.lam == 1).all())
    torch.testing.assert_close(mixed.image, mix_amplitude(batch.image, partner, lam, 0.5).clamp(0, 1))


@pytest.mark.parametrize(("weakest", "strongest"), [(0.0, 1.0), (0.25, 0.75), (1.0, 1.0)])
def test_the_distribution_of_the_amplitudes_weight(weakest: float, strongest: float) -> None:
    # Of images of one grey only frequency 0 is left: the weight is seen in the grey.
    grey = torch.tensor([0.25, 0.75]).repeat(1500)
    image = grey.view(-1, 1, 1, 1).expand(3000, 3, 4, 4).contiguous()
    batch = batch_of(3000, 4, 4)._replace(image=image, domain=torch.arange(2).repeat(1500))
    settings = {"weakest": weakest, "strongest": strongest, "other_context": True}
    torch.manual_seed(0)
    mixed = strategy_of("amplitude", probability=1.0, **settings)(batch).image[:, 0, 0, 0]
    lam = ((mixed - grey).abs() / 0.5).double()
    if weakest == strongest:
        torch.testing.assert_close(lam, torch.full_like(lam, weakest), atol=1e-5, rtol=0)
    else:
        assert distance((lam - weakest) / (strongest - weakest), uniform) < FAR


def test_in_turn_each_acts_on_what_the_one_before_made() -> None:
    batch = scenes()._replace(image=scenes().image / 3)
    torch.manual_seed(0)
    mixed = composed_strategy("background_amplitude")()(batch)
    torch.manual_seed(0)
    first = strategy_of("background")(batch)
    second = strategy_of("amplitude")(batch._replace(image=first.image))
    assert torch.equal(mixed.image, second.image) and bool((mixed.lam == 1).all())
    itself = torch.arange(6)
    changed = (first.partner != itself) | (second.partner != itself)
    assert torch.equal(mixed.partner != itself, changed) and changed.any() and not changed.all()


def test_in_turn_refuses_what_mixes_labels() -> None:
    from src.mixing.in_turn import InTurn

    with pytest.raises(ValueError, match=r"mixing.strategies.second mixes labels"):
        names = {"first": "background", "second": "mixup", "third": "fmix"}
        strategies = {place: strategy_of(name) for place, name in names.items()}
        InTurn(strategies=strategies, probability=1.0, per_image=True, until=1.0)


def test_in_turn_the_last_may_mix_labels() -> None:
    from src.mixing.in_turn import InTurn

    strategies = {"first": strategy_of("amplitude", probability=1.0), "second": strategy_of("mixup", probability=0.5)}
    both = InTurn(strategies=strategies, probability=1.0, per_image=True, until=1.0)
    assert not both.keeps_label
    batch, alone = batch_of(6), 0
    for seed in range(20):
        torch.manual_seed(seed)
        mixed = both(batch)
        torch.manual_seed(seed)
        last = strategies["second"](batch._replace(image=strategies["first"](batch).image))
        assert torch.equal(mixed.image, last.image) and torch.equal(mixed.lam, last.lam.expand(6))
        assert torch.equal(mixed.partner, last.partner)  # where that is the image itself too: the labels are its
        alone += int((last.partner == torch.arange(6)).sum())
    assert alone > 20


@pytest.mark.parametrize("word", ["background_amplitude", "mixup_cutmix_fmix"])
def test_a_clean_finish_of_a_part_is_refused(word: str) -> None:

    cfg = cli.composed("train", "track=1", f"mixing={word}").mixing
    name = next(iter(cfg.strategies))
    cfg.strategies[name].until = 0.5
    with pytest.raises(InstantiationException) as error:
        cli.instantiate(cfg)
    assert str(error.value.__cause__) == f"mixing.strategies.{name}.until is 0.5: set mixing.until, which is for all"


def test_a_part_that_is_refused_is_named_by_its_place() -> None:
    cfg = cli.composed("train", "track=1", "mixing=simpledg", "mixing.strategies.one_of.strategies.cutmix.alpha=-1")
    with pytest.raises(SystemExit) as end, cli.clear_errors():
        cli.instantiate({"mixing": cfg.mixing})  # as conf/module names it
    assert str(end.value.code).startswith("error: mixing.strategies.one_of.strategies.cutmix.alpha is -1: expected")
