import numpy as np
import pytest
import yaml

from src.crf import refine
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


def test_sizes_that_differ() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 5, 3\), its map \(5, 4\)"):
        refine(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), bool), **SETTINGS)
