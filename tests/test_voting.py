import numpy as np
import pytest

from src.voting import RULES, adaptive, agreement, majority, soft, weighted_vote


def one_hot(votes: list[list[int]], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[np.array(votes)]


def test_adaptive_by_hand() -> None:
    # Five images, three members. Majority: 0 1 2 0 0 (the last two are ties of three: lowest id).
    votes = [[0, 1, 2, 0, 2], [0, 1, 1, 1, 1], [1, 0, 2, 2, 0]]
    ballot = majority(one_hot(votes, 3))
    assert ballot.labels.tolist() == [0, 1, 2, 0, 0]
    # Agreement with it: member 0 on images 0-3, member 1 on 0 and 1, member 2 on 2 and 4.
    ballot = adaptive(one_hot(votes, 3))
    assert ballot.weights.tolist() == [4 / 5, 2 / 5, 2 / 5]
    # Image 4: 2 weighs .8, 1 and 0 weigh .4 each: the reweighted vote differs from the plain one.
    assert ballot.labels.tolist() == [0, 1, 2, 0, 2]


def test_ties_go_to_the_lowest_id() -> None:
    assert majority(one_hot([[2], [1]], 3)).labels.tolist() == [1]
    assert adaptive(one_hot([[2], [0], [1]], 3)).labels.tolist() == [0]
    assert soft(np.array([[[0.2, 0.4, 0.4]]])).labels.tolist() == [1]


def test_ties_are_exact_whatever_the_weights() -> None:
    # Agreements .1, .2 and .3 in floating point: .1 + .2 > .3, as counts 1 + 2 = 3.
    votes = [[0] + [1] * 9, [0] + [2] * 9, [3] + [4] * 9]
    rates = np.array([0.1, 0.2, 0.3])
    assert rates[0] + rates[1] != rates[2]
    assert weighted_vote(np.array(votes)[:, :1], np.rint(rates * 10), 5).tolist() == [0]
    rng = np.random.default_rng(0)
    for _ in range(300):
        votes = rng.integers(0, 4, (5, 10))
        plain = [min(range(4), key=lambda k: (-(votes[:, n] == k).sum(), k)) for n in range(10)]
        counts = [int(sum(v == p for v, p in zip(row, plain, strict=True))) for row in votes]
        expected = [
            min(range(4), key=lambda k: (-sum(c for v, c in zip(votes[:, n], counts, strict=True) if v == k), k))
            for n in range(10)
        ]
        assert adaptive(one_hot(votes.tolist(), 4)).labels.tolist() == expected


def test_soft_takes_confidence_into_account() -> None:
    probabilities = np.array([[[0.9, 0.1]], [[0.4, 0.6]], [[0.4, 0.6]]], np.float32)
    assert majority(probabilities).labels.tolist() == [1]
    assert soft(probabilities).labels.tolist() == [0]


def test_weighted_vote_equals_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    votes, weights = rng.integers(0, 5, (7, 200)), rng.random(7)
    expected = []
    for n in range(200):
        score = [sum(w for v, w in zip(votes[:, n], weights, strict=True) if v == k) for k in range(5)]
        expected.append(max(range(5), key=lambda k: (score[k], -k)))
    assert weighted_vote(votes, weights, 5).tolist() == expected


@pytest.mark.parametrize("rule", RULES)
def test_a_single_member_is_its_own_ensemble(rule: str) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(6), (1, 30))
    ballot = RULES[rule](probabilities)
    assert np.array_equal(ballot.labels, probabilities[0].argmax(1))
    assert ballot.weights.tolist() == [1.0]


def test_agreement() -> None:
    assert agreement(np.array([[0, 1], [1, 1]]), np.array([1, 1])).tolist() == [0.5, 1.0]
