"""Batches and workers that fit the data and the machine."""

import pytest

from src.data import loading
from src.data.loading import batch_of


@pytest.mark.parametrize(
    ("batch_size", "images", "world_size", "made"), [(32, 32, 1, 32), (32, 33, 4, 32), (32, 31, 1, 31), (32, 31, 4, 28)]
)
def test_a_batch_is_lowered_to_what_there_is(batch_size: int, images: int, world_size: int, made: int) -> None:
    if made < batch_size:
        with pytest.warns(UserWarning, match=f"batch_size={batch_size} is lowered to {made}, as .* {images} training"):
            assert batch_of(batch_size, images, world_size, train=True) == made
    else:
        assert batch_of(batch_size, images, world_size, train=True) == made
    assert batch_of(batch_size, images, world_size, train=False) == batch_size  # evaluation takes what is left over


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((30, 100, 4, True), "is global and not a multiple of the 4 processes"),
        ((4, 100, 4, True), "leaves each of 4 process.es. one image"),
        ((32, 7, 4, True), "7 training image.s. are too few for 4"),
        ((32, 1, 1, True), "1 training image.s. are too few"),
        ((32, 3, 4, False), "3 images are too few to evaluate on 4 processes"),
    ],
)
def test_what_cannot_be_dealt_out(words: tuple[int, int, int, bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch_of(*words)


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert loading.cores() == 3
    monkeypatch.delattr(loading.os, "sched_getaffinity")
    monkeypatch.setattr(loading.os, "cpu_count", lambda: None)
    assert loading.cores() == 1
