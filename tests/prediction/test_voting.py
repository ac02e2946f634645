import numpy as np
import pytest

from src.prediction.voting import (
    RULES,
    adaptive,
    agreement,
    agreement_matrix,
    disagreement,
    diverse,
    elect,
    entropy,
    greedy,
    majority,
    pooled,
    soft,
    weighted_vote,
)


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
    # Three shares of both classes, in two orders: a third of each, added up, would differ in the last bit.
    shared = np.array([[[0.1, 0.2]], [[0.2, 0.5]], [[0.5, 0.1]]], np.float32)
    for one in (shared, shared[..., ::-1]):
        assert soft(one).labels.tolist() == pooled(one, np.ones(3)).argmax(1).tolist() == [0]


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


def test_greedy_by_hand() -> None:
    # Two classes, four images of the labels 0 0 1 1. Alone, members 0, 1, 2 have 2, 2 and 1 images right.
    first = [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]
    second = [[0.4, 0.6], [0.4, 0.6], [0.2, 0.8], [0.2, 0.8]]
    third = [[0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9]]
    probabilities, label = np.array([first, second, third]), np.array([0, 0, 1, 1])
    # Members 0 and 1 together have all right (1.3 > .7; .8 < 1.2); more choices help no more and are cut off.
    assert greedy(probabilities, label, rounds=5) == ([0, 1], [0.5, 1.0])
    assert greedy(probabilities, label, rounds=1).members == [0]
    with pytest.raises(ValueError, match="ensemble.rounds is 0"):
        greedy(probabilities, label, rounds=0)


def test_greedy_equals_a_slow_loop_and_never_loses_to_the_best_member() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        probabilities, label = rng.dirichlet(np.ones(4), (5, 30)), rng.integers(0, 4, 30)

        def right(places: list[int], probabilities: np.ndarray = probabilities, label: np.ndarray = label) -> int:
            total = sum(probabilities[i] for i in places)
            return sum(
                int(max(range(4), key=lambda k: (row[k], -k))) == own for row, own in zip(total, label, strict=True)
            )

        chosen: list[int] = []
        for _ in range(6):
            chosen.append(max(range(5), key=lambda i: (right([*chosen, i]), -i)))
        best = max(range(1, 7), key=lambda n: (right(chosen[:n]), -n))
        made = greedy(probabilities, label, rounds=6).members
        assert made == chosen[:best]
        assert right(made) >= max(right([i]) for i in range(5))


def test_a_vote_of_some_members() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), (3, 50))
    everyone = elect(probabilities, "soft", [0, 1, 2])
    assert np.array_equal(everyone.labels, soft(probabilities).labels) and everyone.weights.tolist() == [1, 1, 1]
    twice = elect(probabilities, "soft", [2, 0, 2])
    assert np.array_equal(twice.labels, (probabilities[0] + 2 * probabilities[2]).argmax(1))
    assert twice.weights.tolist() == [1, 0, 2]
    weighted = pooled(probabilities, twice.weights)
    assert np.allclose(weighted, (probabilities[0] + 2 * probabilities[2]) / 3)


def test_agreement_of_each_two_and_dispute_by_hand() -> None:
    votes = [[0, 1, 2, 0], [0, 1, 1, 1], [0, 0, 0, 2]]
    assert agreement_matrix(np.array(votes)).tolist() == [[1, 0.5, 0.25], [0.5, 1, 0.25], [0.25, 0.25, 1]]
    two_to_one = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert np.allclose(entropy(one_hot(votes, 3)), [0, two_to_one, np.log(3), np.log(3)])


def slow_log_likelihood(places: list[int], probabilities: np.ndarray, label: np.ndarray) -> float:
    rows = [sum(probabilities[i, n, own] for i in places) / len(places) for n, own in enumerate(label)]
    return float(sum(np.log(row) for row in rows)) / len(rows)


def test_diverse_by_hand() -> None:
    # Two images of class 0. The probability of it: member 0 has (.8, .5), 1 has (.8, .4), 2 has (.3, .9).
    own = np.array([[0.8, 0.5], [0.8, 0.4], [0.3, 0.9]])
    probabilities, label = np.stack([own, 1 - own], axis=2), np.array([0, 0])
    # Member 0 is the best alone (.4 > .32, .27). With 1 it has .8 * .45 = .36, with 2 .55 * .7 = .385: nobody helps.
    assert diverse(probabilities, label, 20).members == [0]
    own[2, 0] = 0.4  # with 2 it has .6 * .7 = .42 now, and with 1 as well 2 / 3 * .6 = .4
    choice = diverse(np.stack([own, 1 - own], axis=2), label, 20)
    assert choice.members == [0, 2]
    assert np.allclose(choice.figures, [np.log(0.4) / 2, np.log(0.42) / 2])
    with pytest.raises(ValueError, match="ensemble.select=diverse has one candidate"):
        diverse(probabilities[:1], label, 20)
    with pytest.raises(ValueError, match="ensemble.rounds is 0"):
        diverse(probabilities, label, 0)


def test_diverse_equals_a_slow_loop_and_never_loses_to_the_best_member() -> None:
    rng = np.random.default_rng(0)
    sizes = set()
    for _ in range(20):
        probabilities, label = rng.dirichlet(np.ones(4), (6, 25)), rng.integers(0, 4, 25)
        chosen: list[int] = []
        while len(chosen) < 6:
            left = [i for i in range(6) if i not in chosen]
            best = max(left, key=lambda i: (slow_log_likelihood([*chosen, i], probabilities, label), -i))
            now = slow_log_likelihood([*chosen, best], probabilities, label)
            if chosen and now <= slow_log_likelihood(chosen, probabilities, label):
                break
            chosen.append(best)
        choice = diverse(probabilities, label, 20)
        assert choice.members == chosen and choice.figures == sorted(choice.figures)
        assert np.allclose(choice.figures[-1], slow_log_likelihood(chosen, probabilities, label))
        assert choice.figures[0] >= max(slow_log_likelihood([i], probabilities, label) for i in range(6)) - 1e-12
        assert diverse(probabilities, label, 2).members == chosen[:2]
        sizes.add(len(chosen))
    assert len(sizes) > 1  # both rules of stopping were met


def test_a_copy_of_the_best_adds_nothing_and_an_independent_one_does() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 400)

    def noisy() -> np.ndarray:
        scores = rng.normal(0, 1.5, (400, 3))
        scores[np.arange(400), label] += 2
        return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)

    first, second = noisy(), noisy()
    assert len(diverse(np.stack([first, first]), label, 20).members) == 1
    assert diverse(np.stack([first, first, second]), label, 20).members[:2] in ([0, 2], [2, 0])


def test_the_disagreement_of_two_members_by_hand() -> None:
    votes = np.array([[0, 1, 2, 0], [0, 1, 1, 1], [0, 0, 0, 2]])  # pairs: 2, 3 and 3 of 4 images
    assert disagreement(votes) == pytest.approx((2 + 3 + 3) / 4 / 3)
    assert disagreement(votes[[0, 0]]) == 0
