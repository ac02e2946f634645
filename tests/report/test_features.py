import numpy as np
import pytest

from src.report.features import plane, probe


def blobs(names: list[str], apart: float, seed: int = 0) -> np.ndarray:
    """Features of 16 dimensions: a direction of its own for each name, and noise."""
    rng = np.random.default_rng(seed)
    every = sorted(set(names))
    centres = apart * np.eye(16)[: len(every)]
    return (centres[[every.index(name) for name in names]] + rng.normal(size=(len(names), 16))).astype(np.float32)


def test_what_the_features_hold_is_read_and_what_they_do_not_is_not() -> None:
    classes = [f"class{i % 4}" for i in range(240)]
    contexts = [f"context{i // 4 % 3}" for i in range(240)]
    features = blobs(classes, apart=12)
    of_class, of_context = probe(features, classes, 0), probe(features, contexts, 0)
    assert of_class is not None and of_context is not None
    assert of_class.neighbours == of_class.linear == 1 and of_class.majority == pytest.approx(0.25)
    for share in (of_context.neighbours, of_context.linear):  # of three contexts, by chance a third
        assert abs(share - 1 / 3) < 0.12
    assert of_context.majority == pytest.approx(1 / 3)


def test_no_image_is_read_by_itself() -> None:
    features = blobs(["x"] * 100, apart=0)  # noise alone: an image's nearest neighbour would be itself
    names = [str(i % 2) for i in range(100)]
    read = probe(features, names, 0)
    assert read is not None and read.neighbours < 0.75 and read.linear < 0.75


def test_names_of_too_few_images_are_left_out() -> None:
    names = ["a"] * 20 + ["b"] * 10 + ["rare"] * 4
    read = probe(blobs(names, apart=12), names, 0)
    assert read is not None and read.majority == pytest.approx(20 / 30)
    assert probe(blobs(names, apart=12)[:20], names[:20], 0) is None


def test_neighbours_stay_neighbours_in_the_plane() -> None:
    names = [f"class{i % 3}" for i in range(90)]
    xy = plane(blobs(names, apart=15), 0)
    assert xy.shape == (90, 2)
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2) + 1e9 * np.eye(90)
    assert np.mean([names[j] == names[i] for i, j in enumerate(distance.argmin(1))]) == 1
    assert np.array_equal(plane(blobs(names, apart=15), 0), xy)
    assert plane(blobs(names[:4], apart=15), 0).shape == (4, 2)
