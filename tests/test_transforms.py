import numpy as np
import pytest

from src.transforms import Evaluate, Train


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (75, 100, 3), np.uint8)


def train(size: int = 32, scale: tuple[float, float] = (0.8, 1.0), flips: tuple[float, float] = (0.5, 0.5)) -> Train:
    return Train(size, scale=scale, horizontal_flip=flips[0], vertical_flip=flips[1])


def test_a_seed_decides_everything(image: np.ndarray) -> None:
    transform = train()
    first, _ = transform(image, None, 7)
    others = [transform(image, None, seed)[0] for seed in range(8, 20)]
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, transform(image, None, 7)[0])
    assert all(not np.array_equal(first, other) for other in others)


def test_the_draws_of_the_steps_are_independent(image: np.ndarray) -> None:
    # One seed for each step's own generator would flip an image in both ways or in neither.
    transform = Train(64, scale=(1.0, 1.0), horizontal_flip=0.5, vertical_flip=0.5)
    quadrants = np.zeros((64, 64, 3), np.uint8)
    quadrants[:32, :32] = 250
    seen = set()
    for seed in range(64):
        made, _ = transform(quadrants, None, seed)
        bright = made.mean(2) > 125
        seen.add((bool(bright[:16].any()), bool(bright[:, :16].any())))
    assert len(seen) == 4


def test_the_mask_follows_its_image() -> None:
    rng = np.random.default_rng(1)
    mask = np.kron(rng.random((4, 5)) > 0.5, np.ones((25, 25))).astype(bool)
    image = np.repeat((mask * 255).astype(np.uint8)[..., None], 3, axis=2)
    for seed in range(20):
        made, made_mask = train(64)(image, mask, seed)
        assert made_mask is not None and made_mask.dtype == bool
        assert ((made.mean(2) > 127) != made_mask).mean() < 0.05  # they differ on interpolated edges alone


def test_evaluation_is_the_centre_whatever_the_seed(image: np.ndarray) -> None:
    evaluate = Evaluate(48, crop_pct=0.95)
    made, _ = evaluate(image, None, 0)
    assert made.shape == (48, 48, 3) and np.array_equal(made, evaluate(image, None, 5)[0])
    flat = np.zeros((100, 300, 3), np.uint8)
    flat[:, 130:170] = 200
    assert evaluate(flat, None, 0)[0][:, 24].mean() > 150 > 50 > evaluate(flat, None, 0)[0][:, 2].mean()


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (20, 20)])
def test_any_size_of_image_works(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 9, np.uint8)
    assert train()(image, None, 0)[0].shape == (32, 32, 3)
    assert Evaluate(32, crop_pct=0.95)(image, None, 0)[0].shape == (32, 32, 3)


def test_min_side_never_makes_a_crop_be_enlarged() -> None:
    transform = train(224)
    assert transform.min_side == 290  # 224 / sqrt(.8 * .75)
    assert Evaluate(224, crop_pct=0.95).min_side == 236
