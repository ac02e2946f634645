from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from src.transforms import (
    GEOMETRIC,
    PHOTOMETRIC,
    AugMix,
    Evaluate,
    Train,
    augmix,
    autocontrast,
    equalize,
    histogram,
    look_up,
    posterize,
    rotate,
    shear_x,
    shear_y,
    solarize,
    translate_x,
    translate_y,
)

AUGMIX: dict[str, Any] = {"chains": 3, "depth": [1, 3], "severity": 1, "alpha": 1.0}


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (75, 100, 3), np.uint8)


def train(size: int = 32, scale: tuple[float, float] = (0.8, 1.0), chains: int = 0) -> Train:
    return Train(size, scale=scale, horizontal_flip=0.5, vertical_flip=0.5, augmix=AUGMIX | {"chains": chains})


@pytest.mark.parametrize("chains", [0, 3])
def test_a_seed_decides_everything(image: np.ndarray, chains: int) -> None:
    transform = train(chains=chains)
    first, _ = transform(image, None, 7)
    others = [transform(image, None, seed)[0] for seed in range(8, 20)]
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, transform(image, None, 7)[0])
    assert all(not np.array_equal(first, other) for other in others)


def test_the_draws_of_the_steps_are_independent(image: np.ndarray) -> None:
    # One seed for each step's own generator would flip an image in both ways or in neither.
    transform = train(64, scale=(1.0, 1.0))
    quadrants = np.zeros((64, 64, 3), np.uint8)
    quadrants[:32, :32] = 250
    seen = set()
    for seed in range(64):
        made, _ = transform(quadrants, None, seed)
        bright = made.mean(2) > 125
        seen.add((bool(bright[:16].any()), bool(bright[:, :16].any())))
    assert len(seen) == 4


@pytest.mark.parametrize("chains", [0, 3])
def test_the_mask_follows_its_image(chains: int) -> None:
    rng = np.random.default_rng(1)
    mask = np.kron(rng.random((4, 5)) > 0.5, np.ones((25, 25))).astype(bool)
    image = np.repeat((mask * 255).astype(np.uint8)[..., None], 3, axis=2)
    for seed in range(20):
        made, made_mask = train(64, chains=chains)(image, mask, seed)
        assert made_mask is not None and made_mask.dtype == bool and made_mask.shape == (64, 64)
        assert set(np.unique(made_mask.view(np.uint8))) <= {0, 1}
        # Solarising may turn black and white around: what counts is where they meet.
        bright = made.mean(2) > (made.min() / 2 + made.max() / 2)
        apart = (bright != made_mask).mean()
        assert min(apart, 1 - apart) < 0.05  # they differ on interpolated edges alone


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


def slow(operation: Callable[..., Any], level: float, picture: Image.Image) -> Image.Image:
    """The operations of AugMix's paper on PIL images, which it was written for."""
    if operation is autocontrast:
        return ImageOps.autocontrast(picture)
    if operation is equalize:
        return ImageOps.equalize(picture)
    if operation is posterize:
        return ImageOps.posterize(picture, 4 - int(level * 4 / 10))
    assert operation is solarize
    return ImageOps.solarize(picture, 256 - int(level * 256 / 10))


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 255, (40, 60, 3), np.uint8), (0, 0), 3)
    flat, two = np.full((9, 7, 3), 77, np.uint8), np.zeros((9, 7, 3), np.uint8)
    two[0, :, 1], two[:, 0, 2] = 200, 3  # a channel of one value, one of two, one of few
    return [smooth, rng.integers(0, 256, (33, 20, 3), np.uint8), flat, two, smooth // 16 * 5 + 60]


@pytest.mark.parametrize("operation", PHOTOMETRIC)
@pytest.mark.parametrize("level", [0.1, 1.0, 3.7, 7.0])
def test_a_table_equals_the_operation_on_pil_images(operation: Callable[..., Any], level: float) -> None:
    for picture in pictures():
        made = look_up(picture, operation(histogram(picture), level))
        assert np.array_equal(made, np.asarray(slow(operation, level, Image.fromarray(picture))))


def test_augmix_of_tables_equals_one_operation_after_the_other() -> None:
    rng = np.random.default_rng(0)
    for picture in pictures():
        for _ in range(30):
            chains = [
                [(PHOTOMETRIC[rng.integers(4)], rng.uniform(0.1, 9)) for _ in range(rng.integers(1, 4))]
                for _ in range(3)
            ]
            weights, share = rng.dirichlet([1.0] * 3), rng.beta(1, 1)
            expected = (1 - share) * picture.astype(np.float64)
            for chain, weight in zip(chains, weights, strict=True):
                altered = Image.fromarray(picture)
                for operation, level in chain:
                    altered = slow(operation, level, altered)
                expected += share * weight * np.asarray(altered)
            assert np.array_equal(augmix(picture, chains, weights, share), np.rint(expected).astype(np.uint8))


def test_augmix_in_its_analytic_cases(image: np.ndarray) -> None:
    chains = [[(equalize, 1.0), (rotate, 5.0)], [(solarize, 1.0)]]
    assert np.array_equal(augmix(image, chains, [0.5, 0.5], 0.0), image)
    still = [[(rotate, 0.1), (translate_x, 0.1), (translate_y, -0.1)]] * 2  # levels below the first step
    assert np.array_equal(augmix(image, still, [0.3, 0.7], 0.8), image)
    inverted = augmix(image, [[(solarize, 10.0)]], [1.0], 0.5)
    assert np.array_equal(inverted, np.full_like(image, 128))  # (v + 255 - v) / 2, rounded to even


def test_geometric_operations(image: np.ndarray) -> None:
    def moved(*chain: tuple[Callable[..., Any], float]) -> np.ndarray:
        return augmix(image, [list(chain)], [1.0], 1.0)

    empty = np.zeros_like(image)
    right, up, shear = empty.copy(), empty.copy(), empty.copy()
    right[:, 10:], up[:-5] = image[:, :-10], image[5:]
    assert np.array_equal(moved((translate_x, 3.0)), right)  # 3 * 100 / 30
    assert np.array_equal(moved((translate_y, -2.0)), up)
    for row in range(75):  # .3 pixels a row: whole ones in every tenth row
        shift = 3 * row // 10
        shear[row, shift:] = image[row, : 100 - shift]
    assert np.array_equal(moved((shear_x, 10.0))[::10], shear[::10])
    turned = augmix(image.transpose(1, 0, 2), [[(shear_y, 10.0)]], [1.0], 1.0).transpose(1, 0, 2)
    assert np.array_equal(turned[::10], shear[::10])
    matrix = rotate(10.0, 75, 100)
    assert np.allclose(matrix @ [49.5, 37, 1], [49.5, 37]) and np.allclose(np.hypot(*matrix[0, :2]), 1)
    assert np.allclose(np.degrees(np.arcsin(matrix[0, 1])), 30)
    # A table before a movement is applied before it, and one after it sees what came in from the border.
    dark = moved((solarize, 10.0), (translate_x, 3.0), (solarize, 10.0))
    expected = np.full_like(image, 255)
    expected[:, 10:] = image[:, :-10]
    assert np.array_equal(dark, expected)


def test_augmix_draws_photometric_operations_alone_where_there_is_a_mask() -> None:
    transform, image, mask = AugMix(**AUGMIX), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    assert transform.get_params_dependent_on_data({}, {"image": image, "mask": mask})["operations"] == PHOTOMETRIC
    both = transform.get_params_dependent_on_data({}, {"image": image})["operations"]
    assert set(both) == set(PHOTOMETRIC) | set(GEOMETRIC)


def test_augmix_draws_what_its_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("src.transforms.augmix", lambda image, *drawn: seen.append(drawn) or image)
    picture, transform = np.zeros((4, 4, 3), np.uint8), train(4, chains=3)
    for seed in range(300):
        transform(picture, None, seed)
    depths = [len(chain) for chains, _, _ in seen for chain in chains]
    assert [depths.count(d) > 200 for d in (0, 1, 2, 3, 4)] == [False, True, True, True, False]
    levels = [abs(level) for chains, _, _ in seen for chain in chains for _, level in chain]
    assert 0.1 <= min(levels) < 0.15 and 0.95 < max(levels) <= 1
    operations = [operation for chains, _, _ in seen for chain in chains for operation, _ in chain]
    for operation in PHOTOMETRIC + GEOMETRIC:
        assert operations.count(operation) > 0.7 * len(operations) / 9
        signs = [level < 0 for chains, _, _ in seen for chain in chains for o, level in chain if o is operation]
        assert (0.35 < np.mean(signs) < 0.65) if operation in GEOMETRIC else not any(signs)
    assert all(np.isclose(sum(weights), 1) for _, weights, _ in seen)
    assert 0.4 < np.mean([share for _, _, share in seen]) < 0.6
