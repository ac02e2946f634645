import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageEnhance, ImageOps

from src.transforms import Crop, Evaluate, Train, TwoViews, resize
from src.transforms.augmix import (
    GEOMETRIC,
    OPERATIONS,
    PHOTOMETRIC,
    AugMix,
    augmix,
    autocontrast,
    brightness,
    colour,
    contrast,
    equalize,
    posterize,
    sharpness,
    shear_x,
    shear_y,
    solarize,
    translate_x,
    translate_y,
)
from tests.conftest import ROOT

CROP: dict[str, Any] = yaml.safe_load((ROOT / "conf/transform/crop.yaml").read_text())
AUGMIX: dict[str, Any] = CROP["augmix"] | {"chains": 3}
MORE = {key: CROP[key] for key in ("jitter", "grey", "randaugment", "trivialaugment", "random_erasing")}
"""What the recipe leaves out."""


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (75, 100, 3), np.uint8)


def train(size: int = 32, scale: tuple[float, float] = (0.8, 1.0), chains: int = 0) -> Train:
    augmix = AUGMIX | {"chains": chains}
    return Train(size, scale=scale, horizontal_flip=0.5, vertical_flip=0.5, augmix=augmix, **MORE)


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


ENHANCE = {colour: ImageEnhance.Color, contrast: ImageEnhance.Contrast, brightness: ImageEnhance.Brightness,
           sharpness: ImageEnhance.Sharpness}  # fmt: skip


def slow(operation: Callable[..., Any], level: float, picture: Image.Image) -> Image.Image:
    """The operations of AugMix's paper on PIL images, which it was written for, with the published strengths."""
    if operation is autocontrast:
        return ImageOps.autocontrast(picture)
    if operation is equalize:
        return ImageOps.equalize(picture)
    if operation is posterize:
        return ImageOps.posterize(picture, 4 - int(level * 4 / 10))
    if operation is solarize:
        return ImageOps.solarize(picture, 256 - int(level * 256 / 10))
    return ENHANCE[operation](picture).enhance(level * 1.8 / 10 + 0.1)


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 255, (40, 60, 3), np.uint8), (0, 0), 3)
    flat, two = np.full((9, 7, 3), 77, np.uint8), np.zeros((9, 7, 3), np.uint8)
    two[0, :, 1], two[:, 0, 2] = 200, 3  # a channel of one value, one of two, one of few
    noise = rng.integers(0, 256, (33, 20, 3), np.uint8)
    return [smooth, noise, flat, two, smooth // 16 * 5 + 60, noise[:2], noise[:1, :1]]


def alone(picture: np.ndarray, operation: Callable[..., Any], level: float) -> np.ndarray:
    return augmix(picture, [[(operation, level)]], [1.0], 1.0)


EXACT = (autocontrast, equalize, posterize, solarize, brightness)


@pytest.mark.parametrize("operation", PHOTOMETRIC)
@pytest.mark.parametrize("level", [0.1, 0.55, 1.0, 3.7, 7.0, 9.9])
def test_an_operation_equals_that_on_pil_images(operation: Callable[..., Any], level: float) -> None:
    off = []
    for picture in pictures():
        expected = np.asarray(slow(operation, level, Image.fromarray(picture))).astype(int)
        off.append(alone(picture, operation, level).astype(int) - expected)
        assert np.abs(off[-1]).max() <= (0 if operation in EXACT else 1)
    # Rounding alone: neither brighter nor darker.
    assert abs(np.concatenate([part.ravel() for part in off]).mean()) < 0.12


def test_the_published_factors() -> None:
    """.12 to .28 at severity 1: what is left of a value beside grey, the mean, black and the smoothed image."""
    picture = np.full((8, 8, 3), 200, np.uint8)
    assert alone(picture, brightness, 0.1)[0, 0, 0] == int(200 * 0.118)
    assert alone(picture, brightness, 1.0)[0, 0, 0] == int(200 * 0.28)
    assert AUGMIX["severity"] == 1
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 250  # grey of 75
    assert np.abs(alone(red, colour, 1.0)[0, 0].astype(int) - [75 + 0.28 * 175, 54, 54]).max() <= 1
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:4] = 200  # a mean of 100
    made = alone(halves, contrast, 1.0)
    assert (made[0] == 128).all() and (made[7] == 72).all()
    point = np.zeros((7, 7, 3), np.uint8)
    point[3, 3] = 130
    made = alone(point, sharpness, 1.0).astype(int)
    assert abs(made[3, 3, 0] - (0.28 * 130 + 0.72 * 50)) <= 1 and abs(made[2, 2, 0] - int(0.72 * 10)) <= 1


def test_augmix_equals_one_operation_after_the_other() -> None:
    rng = np.random.default_rng(0)
    for picture in pictures():
        for exact in (True, False):
            for _ in range(30):
                drawn = EXACT if exact else PHOTOMETRIC
                chains = [
                    [(drawn[rng.integers(len(drawn))], rng.uniform(0.1, 9)) for _ in range(rng.integers(1, 4))]
                    for _ in range(3)
                ]
                weights, share = rng.dirichlet([1.0] * 3), rng.beta(1, 1)
                expected = (1 - share) * picture.astype(np.float64)
                for chain, weight in zip(chains, weights, strict=True):
                    altered = Image.fromarray(picture)
                    for operation, level in chain:
                        ours = alone(np.asarray(altered), operation, level)  # one value off from PIL's may become more
                        altered = slow(operation, level, altered) if exact else Image.fromarray(ours)
                    expected += share * weight * np.asarray(altered)
                made = augmix(picture, chains, weights, share)
                assert np.array_equal(made, np.rint(expected).astype(np.uint8)) or (
                    not exact and np.abs(made - expected).max() < 0.5001
                )


def test_augmix_in_its_analytic_cases(image: np.ndarray) -> None:
    chains = [[(equalize, 1.0), (shear_x, 5.0), (colour, 1.0)], [(solarize, 1.0)]]
    assert np.array_equal(augmix(image, chains, [0.5, 0.5], 0.0), image)
    still = [[(translate_x, 0.1), (translate_y, -0.1)]] * 2  # levels below the first step
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
    # A table before a movement is applied before it, and one after it sees what came in from the border.
    dark = moved((solarize, 10.0), (translate_x, 3.0), (solarize, 10.0))
    expected = np.full_like(image, 255)
    expected[:, 10:] = image[:, :-10]
    assert np.array_equal(dark, expected)


def test_augmix_draws_photometric_operations_alone_where_there_is_a_mask() -> None:
    transform, image, mask = AugMix(**AUGMIX), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    still = transform.get_params_dependent_on_data({}, {"image": image, "mask": mask})["operations"]
    assert set(still) == set(PHOTOMETRIC) and len(still) == 8
    both = transform.get_params_dependent_on_data({}, {"image": image})["operations"]
    assert set(both) == set(PHOTOMETRIC) | set(GEOMETRIC)


def test_the_recipes_operations_are_the_published_twelve() -> None:
    assert AUGMIX["operations"] == [
        "autocontrast", "equalize", "posterize", "solarize", "colour", "contrast", "brightness", "sharpness",
        "shear_x", "shear_y", "translate_x", "translate_y",
    ]  # fmt: skip
    assert set(AUGMIX["operations"]) == set(OPERATIONS)


def test_operations_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="augmix.operations names rotate, blur: expected some of autocontrast, "):
        AugMix(**AUGMIX | {"operations": ["equalize", "rotate", "blur"]})
    with pytest.raises(ValueError, match="augmix.operations is empty"):
        AugMix(**AUGMIX | {"operations": []})
    moving = Train(
        8, scale=(0.8, 1.0), horizontal_flip=0, vertical_flip=0, augmix=AUGMIX | {"operations": ["shear_x"]}, **MORE
    )
    picture = np.zeros((9, 9, 3), np.uint8)
    assert moving(picture, None, 0)[0].shape == (8, 8, 3)
    with pytest.raises(ValueError, match="which would separate images and masks"):
        moving(picture, picture[..., 0] > 0, 0)


def weights(side: int, size: int) -> np.ndarray:
    """Of each source pixel in each result's, on one axis: shares of an area, or of the two nearest pixels."""
    i, j = np.arange(size)[:, None], np.arange(side)
    if side > size:
        low, high = i * side / size, (i + 1) * side / size
        return np.maximum(0, np.minimum(high, j + 1) - np.maximum(low, j)) / (high - low)
    place = ((i + 0.5) * side / size - 0.5).clip(0, side - 1)
    return np.maximum(0, 1 - np.abs(place - j))


@pytest.mark.parametrize(
    ("height", "width"), [(300, 200), (100, 90), (64, 64), (20, 40), (30, 130), (130, 30), (64, 90)]
)
def test_crops_shrink_by_area_and_grow_linearly(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)

    expected = np.einsum("ih,jw,hwc->ijc", weights(height, 64), weights(width, 64), image.astype(float), optimize=True)
    assert np.abs(resize(image, 64) - expected).max() <= 1.2  # the result between the two passes is rounded as well


@pytest.mark.parametrize("sides", [(325, 492), (375, 448), (448, 448), (324, 324), (493, 493), (224, 400)])
def test_large_crops_are_halved_nearly_as_by_area(sides: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8)
    for image, mean, most in ((noise, 4, 50), (cv2.GaussianBlur(noise, (0, 0), 2), 0.7, 2)):
        rows, columns = weights(sides[0], 224), weights(sides[1], 224)
        off = np.abs(
            resize(image, 224) - np.einsum("ih,jw,hwc->ijc", rows, columns, image.astype(float), optimize=True)
        )
        exact = sides == (448, 448) or not all(1.45 * 224 <= side <= 2.2 * 224 for side in sides)
        assert off.max() <= (1.2 if exact else most) and off.mean() <= mean


@pytest.mark.parametrize("side", [325, 340, 375, 430, 448, 470, 492])
def test_a_halved_pixels_weights_are_the_areas_to_a_tenth(side: int) -> None:
    place = ((np.arange(448)[:, None] + 0.5) * side / 448 - 0.5).clip(0, side - 1)
    area, halved = weights(side, 224), weights(448, 224) @ np.maximum(0, 1 - np.abs(place - np.arange(side)))
    assert np.abs(area - halved).max() <= 0.1 * area.max()
    assert np.allclose(halved.sum(1), 1)


def test_every_crop_of_training_resizes_so(monkeypatch: pytest.MonkeyPatch) -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[::2] = 200  # which interpolation between two pixels would leave as a pattern
    views = TwoViews(
        96, scale=(0.9, 1.0), jitter=(0, 0, 0, 0), jitter_probability=0, grey=0, blur_sigma=(0.1, 2.0),
        blur_probability=0, horizontal_flip=0.5,
    )  # fmt: skip
    for made in (train(96, scale=(0.9, 1.0))(stripes, None, 3)[0], *views(stripes, None, 3)[0]):
        assert np.abs(made.astype(int) - 100).max() <= 20
    # The mask is cut out at the same place, by its nearest pixel.
    image = np.zeros((300, 400, 3), np.uint8)
    image[100:220, 150:290] = 255
    crop = Crop(100, (0.5, 1.0))
    crop.set_random_seed(0)
    for _ in range(20):
        made = crop(image=image, mask=image[..., 0] // 255)
        assert set(np.unique(made["mask"])) <= {0, 1}
        assert ((made["image"][..., 0] > 127) != (made["mask"] == 1)).mean() < 0.02


def test_augmix_draws_what_its_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("src.transforms.augmix.augmix", lambda image, *drawn: seen.append(drawn) or image)
    picture, transform = np.zeros((4, 4, 3), np.uint8), train(4, chains=3)
    for seed in range(300):
        transform(picture, None, seed)
    depths = [len(chain) for chains, _, _ in seen for chain in chains]
    assert [depths.count(d) > 200 for d in (0, 1, 2, 3, 4)] == [False, True, True, True, False]
    levels = [abs(level) for chains, _, _ in seen for chain in chains for _, level in chain]
    assert 0.1 <= min(levels) < 0.15 and 0.95 < max(levels) <= 1
    operations = [operation for chains, _, _ in seen for chain in chains for operation, _ in chain]
    for operation in PHOTOMETRIC + GEOMETRIC:
        assert operations.count(operation) > 0.7 * len(operations) / 12
        signs = [level < 0 for chains, _, _ in seen for chain in chains for o, level in chain if o is operation]
        assert (0.35 < np.mean(signs) < 0.65) if operation in GEOMETRIC else not any(signs)
    assert all(np.isclose(sum(weights), 1) for _, weights, _ in seen)
    assert 0.4 < np.mean([share for _, _, share in seen]) < 0.6


def resize_then_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Evaluation as it is defined, without a short cut."""
    import albumentations as A

    steps = [
        A.SmallestMaxSize(round(size / 0.95), interpolation=cv2.INTER_LINEAR, area_for_downscale="image"),
        A.CenterCrop(size, size),
    ]
    return A.Compose(steps)(image=image)["image"]


@pytest.mark.parametrize("shape", [(40, 40), (96, 160), (10, 160), (331, 37), (8, 128)])
def test_evaluation_of_ordinary_images_is_the_definition_to_the_bit(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert np.array_equal(Evaluate(32, crop_pct=0.95)(image, None, 0)[0], resize_then_crop(image, 32))


@pytest.mark.parametrize("shape", [(10, 901), (1000, 11), (100, 1701), (1, 50), (64, 2000)])
@pytest.mark.parametrize("size", [32, 48])
def test_evaluation_of_a_strip_is_its_middle(shape: tuple[int, int], size: int) -> None:
    smooth = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8), (0, 0), 5)
    made, expected = Evaluate(size, crop_pct=0.95)(smooth, None, 0)[0], resize_then_crop(smooth, size)
    assert made.shape == (size, size, 3)
    assert np.abs(made.astype(int) - expected).mean() < 2  # less than a pixel's shift
    mask = smooth[..., 0] > 127
    assert Evaluate(size, crop_pct=0.95)(smooth, mask, 0)[1].shape == (size, size)


def test_a_strip_costs_no_gigabytes() -> None:
    code = """
import resource, numpy as np
from src.transforms import Evaluate, Train, TwoViews
augmix = {"chains": 3, "operations": ["equalize", "shear_x"], "depth": (1, 3), "severity": 3, "alpha": 1.0}
more = {"jitter": (0.3, 0.3, 0.3, 0.3), "grey": 0.5,
        "randaugment": {"num_ops": 0, "magnitude": 0}, "trivialaugment": False, "random_erasing": 0.5}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for shape in [(4, 20000), (20000, 4), (1, 1000000), (1000000, 1), (1, 1)]:
    image, mask = np.zeros((*shape, 3), np.uint8), np.ones(shape, bool)
    assert Evaluate(448, crop_pct=0.95)(image, mask, 0)[0].shape == (448, 448, 3)
    train = Train(448, scale=(0.25, 1), horizontal_flip=0.5, vertical_flip=0.5, augmix=augmix, **more)
    views = TwoViews(224, scale=(0.2, 1), jitter=(0.4, 0.4, 0.4, 0.1), jitter_probability=0.8, grey=0.2,
                     blur_sigma=(0.1, 2.0), blur_probability=0.5, horizontal_flip=0.5)
    for seed in range(4):
        assert train(image, mask, seed)[1].shape == (448, 448)
        assert views(image, None, seed)[0].shape == (2, 224, 224, 3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 300  # MB


def augmented(**settings: Any) -> Train:
    return Train(
        32, scale=(1.0, 1.0), horizontal_flip=0, vertical_flip=0, augmix=AUGMIX | {"chains": 0}, **MORE | settings
    )


RAND = {"num_ops": 2, "magnitude": 9}
JITTER = (0.3, 0.3, 0.3, 0.3)


@pytest.mark.parametrize(
    "settings", [{"randaugment": RAND}, {"trivialaugment": True}, {"random_erasing": 1.0}, {"jitter": JITTER}]
)
def test_what_is_drawn_beyond_the_recipe_comes_from_the_seed_alone(image: np.ndarray, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    transform, plain = augmented(**settings), augmented()(image, None, 0)[0]
    made = [transform(image, None, seed)[0] for seed in range(30)]
    assert torch.equal(torch.get_rng_state(), state)  # a training without workers draws from it
    torch.manual_seed(1)
    assert all(np.array_equal(one, transform(image, None, seed)[0]) for seed, one in enumerate(made))
    assert all(one.shape == (32, 32, 3) and one.dtype == np.uint8 for one in made)
    assert len({one.tobytes() for one in made}) > 10
    assert sum(not np.array_equal(one, plain) for one in made) > 15


@pytest.mark.parametrize("settings", [{"randaugment": RAND | {"num_ops": 1}}, {"trivialaugment": True}])
def test_policies_move_no_pixel_of_an_image_with_a_mask(settings: dict[str, Any]) -> None:
    transform, mask = augmented(**settings), np.zeros((32, 32), bool)
    mask[8:24, 4:12] = True
    image = np.where(mask[..., None], np.uint8(200), np.uint8(90)).repeat(3, axis=2)
    edges, moved = [], 0
    for seed in range(200):
        made, made_mask = transform(image, mask, seed)
        assert made_mask is not None and np.array_equal(made_mask, mask)
        edges.append(len(np.unique(made[1:7, 1:-1].reshape(-1, 3), axis=0)))  # above the object: one colour
        moved += bool(np.ptp(transform(image, None, seed)[0][mask].astype(int), axis=0).max() > 60)
    assert set(edges) == {1}
    assert moved > 20  # without the mask the same draws move pixels


def test_random_erasing_leaves_the_mask_and_part_of_the_image(image: np.ndarray) -> None:
    mask = np.random.default_rng(1).random(image.shape[:2]) > 0.5
    shares = []
    for seed in range(40):
        made, made_mask = augmented(random_erasing=1.0)(image, mask, seed)
        whole = augmented()(image, mask, seed)
        assert np.array_equal(made_mask, whole[1])  # type: ignore[arg-type]
        shares.append((made != whole[0]).any(2).mean())
    assert min(shares) > 0.02 * 0.9 and max(shares) < 0.34 and max(shares) > 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"randaugment": RAND, "trivialaugment": True},
            "randaugment.num_ops=2 and .*trivialaugment=True are two policies",
        ),
        ({"randaugment": RAND | {"magnitude": 31}}, "a magnitude from 0 to 30"),
        ({"randaugment": RAND | {"num_ops": -1}}, "num_ops is -1: expected a whole number of at least 0"),
        ({"random_erasing": 1.5}, "random_erasing is 1.5: expected a number from 0 to 1"),
        ({"grey": -0.1}, "grey is -0.1: expected a number from 0 to 1"),
        ({"jitter": (0.3, 0.3, 0.3, 0.6)}, r"jitter is \(0.3, 0.3, 0.3, 0.6\): expected four strengths"),
        ({"jitter": (0.3, -0.3, 0.3, 0.3)}, "expected four strengths of at least 0"),
        ({"jitter": (0.3, 0.3)}, "expected four strengths"),
    ],
)
def test_settings_of_augmentation_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augmented(**settings)


def test_jitter_multiplies_brightness_within_its_strength_and_leaves_the_mask() -> None:
    # A plain grey has no contrast, saturation or hue: its new value is the factor of its brightness.
    flat, mask = np.full((8, 8, 3), 100, np.uint8), np.eye(8, dtype=bool)
    made = [augmented(jitter=JITTER)(flat, mask, seed) for seed in range(400)]
    assert all(np.ptp(one) == 0 for one, _ in made)
    masks = [augmented()(flat, mask, seed)[1] for seed in range(400)]
    assert all(np.array_equal(own, other) for (_, own), other in zip(made, masks, strict=True))  # type: ignore[arg-type]
    factors = np.sort([one[0, 0, 0] / 100 for one, _ in made])
    uniform = np.linspace(0.7, 1.3, len(factors))
    assert np.abs(factors - uniform).max() < 1.95 / 20 * 0.6 + 0.01  # Kolmogorov and Smirnov's at one in a thousand
    for i, strength in enumerate(JITTER):
        alone = augmented(jitter=[strength if j == i else 0.0 for j in range(4)])
        values = [int(alone(flat, None, seed)[0][0, 0, 0]) for seed in range(10)]
        assert all(abs(value - 100) <= 1 for value in values) == (i > 0), (i, values)  # 1: rounding


def test_grey_has_its_probability_and_comes_after_the_jitter(image: np.ndarray) -> None:
    def colourless(transform: Train, seed: int) -> bool:
        return bool(np.ptp(transform(image, None, seed)[0].astype(int), axis=2).max() == 0)

    transform = augmented(jitter=JITTER, grey=0.3)
    assert sum(colourless(transform, seed) for seed in range(400)) / 400 == pytest.approx(0.3, abs=0.08)
    assert all(colourless(augmented(jitter=JITTER, grey=1.0), seed) for seed in range(10))
    assert not any(colourless(augmented(), seed) for seed in range(10))


def test_augmentation_that_is_off_draws_nothing() -> None:
    """Runs of the published recipe see the images that they saw before there were jitter and grey."""
    assert [type(step).__name__ for step in train().steps] == ["Crop", "HorizontalFlip", "VerticalFlip"]
    names = [type(step).__name__ for step in augmented(jitter=JITTER, grey=0.1, randaugment=RAND).steps]
    assert names == ["Crop", "ColorJitter", "ToGray", "AutoAugment"]
