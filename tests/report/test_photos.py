import numpy as np

from src.report.photos import votes_in_words


def test_the_commonest_votes_are_named_and_the_rest_counted() -> None:
    classes = ["car", "bird", "fish", "chair", "cactus", "umbrella"]
    assert votes_in_words(np.array([1, 1, 0]), classes) == "2 bird, 1 car"
    assert votes_in_words(np.array([3]), classes) == "1 chair"
    many = np.array([0] * 5 + [4] * 4 + [2] * 3 + [1] * 2 + [3, 5])
    assert votes_in_words(many, classes) == "5 car, 4 cactus, 3 fish, 2 bird, 2 others"
