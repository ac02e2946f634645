from typing import Any

import numpy as np
import pytest
import yaml

from src.masks.crf import refine
from tests.conftest import ROOT

SETTINGS = yaml.safe_load((ROOT / "conf/crf/dense.yaml").read_text())


def square(size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A bright square on a dark ground, and where it is."""
    truth = np.zeros((size, size), bool)
    truth[size // 4 : size // 2, size // 4 : 3 * size // 4] = True
    noise = np.random.default_rng(0).integers(0, 8, (size, size, 3))
    return (noise + 200 * truth[..., None]).astype(np.uint8), truth


def test_a_rough_map_is_drawn_to_the_edges() -> None:
    image, truth = square()
    rough = np.zeros_like(truth)
    rough[10:28, 10:40] = True
    before, after = (rough != truth).mean(), (refine(image, rough, **SETTINGS) != truth).mean()
    assert after < 0.01 < 0.05 < before


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 5)])
@pytest.mark.parametrize("fill", [0, 1])
def test_small_constant_and_one_sided_inputs(shape: tuple[int, int], fill: int) -> None:
    image = np.full((*shape, 3), 80, np.uint8)
    assert np.array_equal(refine(image, np.full(shape, bool(fill)), **SETTINGS), np.full(shape, bool(fill)))


def test_inputs_that_the_c_code_would_stumble_over() -> None:
    image, truth = square()
    expected = refine(image, truth, **SETTINGS)
    frozen = image.copy()
    frozen.flags.writeable = False
    assert np.array_equal(refine(frozen, truth, **SETTINGS), expected)
    assert np.array_equal(refine(image.astype(np.float64), truth, **SETTINGS), expected)
    assert np.array_equal(refine(np.asfortranarray(image), np.asfortranarray(truth), **SETTINGS), expected)
    holes = truth.astype(np.float32)
    holes[0, 0] = np.nan
    assert np.array_equal(refine(image, holes, **SETTINGS), expected)
    colours = image.astype(np.float32)
    colours[0, 0] = np.nan
    assert refine(colours, truth, **SETTINGS).shape == truth.shape
    assert image.flags.writeable and np.array_equal(image, square()[0])


def test_the_settings_are_the_recipes() -> None:
    assert SETTINGS == {
        "gt_prob": 0.7, "gaussian_sxy": 3, "gaussian_compat": 3, "bilateral_sxy": 50, "bilateral_srgb": 5,
        "bilateral_compat": 10, "iterations": 4,
    }  # fmt: skip  # docs/method.md, section 3


def test_every_setting_arrives_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    import src.masks.crf

    calls: dict[str, Any] = {}

    class Recorder:
        def __init__(self, *shape: int) -> None:
            calls["shape"] = shape

        def setUnaryEnergy(self, unary: np.ndarray) -> None:
            calls["unary"] = unary

        def addPairwiseGaussian(self, **settings: Any) -> None:
            calls["gaussian"] = settings

        def addPairwiseBilateral(self, rgbim: np.ndarray, **settings: Any) -> None:
            calls["bilateral"] = settings

        def inference(self, iterations: int) -> list[np.ndarray]:
            calls["iterations"] = iterations
            return [np.array([0.0] * 6), np.array([1.0] * 6)]

    monkeypatch.setattr(src.masks.crf, "DenseCRF2D", Recorder)
    rough = np.array([[1, 0, 0], [0, 1, 0]], bool)
    settings = {"gt_prob": 0.8, "gaussian_sxy": 11, "gaussian_compat": 12, "bilateral_sxy": 13, "bilateral_srgb": 14,
                "bilateral_compat": 15, "iterations": 16}  # fmt: skip
    refine(np.zeros((2, 3, 3), np.uint8), rough, **settings)
    assert calls["shape"] == (3, 2, 2) and calls["iterations"] == 16  # width, height, labels
    assert calls["gaussian"] == {"sxy": 11, "compat": 12}
    assert calls["bilateral"] == {"sxy": 13, "srgb": 14, "compat": 15}
    trusted = np.where(rough.ravel(), 0.8, 0.2)  # the probability of foreground, in row 1; energies are -log
    np.testing.assert_allclose(np.exp(-calls["unary"]), [1 - trusted, trusted], rtol=1e-5)


def specks_left(**changes: float) -> int:
    """How many of a flat image's specks, squares of 1 to 6 pixels, are foreground still."""
    rough = np.zeros((40, 60), bool)
    for i in range(6):
        rough[8 : 9 + i, 3 + 9 * i : 4 + 10 * i] = True
    flat = np.full((*rough.shape, 3), 90, np.uint8)
    flat[..., 0] += (np.arange(60) % 2 * 9).astype(np.uint8)  # so that the appearance kernel does not join everything
    return int(refine(flat, rough, **{**SETTINGS, "bilateral_compat": 0, **changes})[rough].sum())


def test_the_map_is_trusted_as_far_as_gt_prob_says_and_smoothed_by_the_gaussians_weight() -> None:
    by_trust = [specks_left(gt_prob=trust) for trust in (0.7, 0.9, 0.99)]
    by_weight = [specks_left(gaussian_compat=weight) for weight in (1, 2, 3)]
    assert by_trust[0] < by_trust[1] < by_trust[2] and by_weight[0] > by_weight[1] > by_weight[2]


def test_sizes_that_differ() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 5, 3\), its map \(5, 4\)"):
        refine(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), bool), **SETTINGS)
