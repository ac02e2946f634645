import math

import numpy as np
import pytest
import torch

from src.metrics import (
    ContextAccuracy,
    Group,
    accuracy_by_class,
    accuracy_by_context,
    accuracy_by_group,
    auroc,
    bootstrap,
    bootstrap_mean,
    calibration,
    confusion,
    count_hits,
    expected_calibration_error,
    fit_temperature,
    knn_scores,
    negative_log_likelihood,
    risk_coverage,
    temper,
    top_hits,
)
from src.report.evaluation import intervals


def test_top_hits_equals_a_sort_in_which_the_lower_id_comes_first() -> None:
    torch.manual_seed(0)
    scores, label = torch.randint(0, 3, (50, 6)).float(), torch.randint(6, (50,))
    for k in (1, 2, 5, 9):
        expected = []
        for row, own in zip(scores.tolist(), label.tolist(), strict=True):
            order = sorted(range(6), key=lambda i: (-row[i], i))
            expected.append(own in order[:k])
        assert top_hits(scores, label, k).tolist() == expected
    assert torch.equal(top_hits(scores, label, 1), scores.argmax(1) == label)


def test_a_network_that_says_nan_is_never_right() -> None:
    assert not top_hits(torch.full((4, 6), torch.nan), torch.arange(4), 5).any()


def test_counts_and_accuracies_by_hand() -> None:
    hits = torch.tensor([True, False, True, True, False])
    counted = count_hits(hits, torch.tensor([0, 0, 2, -1, 2]), 3)
    assert [c.tolist() for c in counted] == [[1, 0, 1, 1], [2, 0, 2, 1]]
    assert accuracy_by_context([1, 0, 1, 1], [2, 0, 2, 1], ["dim", "grass", "water"]) == {
        "accuracy": 3 / 5, "accuracy/dim": 1 / 2, "accuracy/water": 1 / 2, "worst_context": 1 / 2
    }  # fmt: skip
    assert accuracy_by_context([0, 0], [0, 0], ["dim"]) == {}
    assert accuracy_by_context([1], [2], []) == {"accuracy": 0.5}


def test_the_metric_adds_batches_up() -> None:
    torch.manual_seed(0)
    scores, label, domain = torch.randn(40, 8), torch.randint(8, (40,)), torch.randint(2, (40,))
    metric = ContextAccuracy(["dim", "water"])
    for part in (slice(0, 7), slice(7, 8), slice(8, 40)):
        metric.update(scores[part], label[part], domain[part])
    figures = metric.compute()
    right = scores.argmax(1) == label
    assert figures["accuracy"] == pytest.approx(right.float().mean().item())
    assert figures["accuracy/water"] == pytest.approx(right[domain == 1].float().mean().item())
    assert figures["worst_context"] == min(figures["accuracy/dim"], figures["accuracy/water"])
    assert figures["accuracy_top5"] == pytest.approx(top_hits(scores, label, 5).float().mean().item())


def test_nearest_neighbours_equal_a_slow_loop() -> None:
    torch.manual_seed(0)
    queries, bank = (torch.nn.functional.normalize(torch.randn(n, 5), dim=1) for n in (6, 30))
    label = torch.randint(3, (30,))
    for k in (1, 7, 200):
        scores = knn_scores(queries, bank, label, 4, k, 0.07)
        for query, row in zip(queries.tolist(), scores.tolist(), strict=True):
            cosine = [sum(a * b for a, b in zip(query, other, strict=True)) for other in bank.tolist()]
            votes = [0.0] * 4
            for i in sorted(range(30), key=lambda i: -cosine[i])[:k]:
                votes[int(label[i])] += math.exp(cosine[i] / 0.07)
            assert row == pytest.approx([vote / sum(votes) for vote in votes], abs=1e-5)


def test_nearest_neighbours_of_many_queries_are_those_of_each() -> None:
    torch.manual_seed(0)
    queries, bank, label = torch.randn(1100, 4), torch.randn(9, 4), torch.randint(3, (9,))
    scores = knn_scores(queries, bank, label, 3, 4, 1.0)
    assert scores.shape == (1100, 3)
    torch.testing.assert_close(scores[1050:1051], knn_scores(queries[1050:1051], bank, label, 3, 4, 1.0))


LABEL = np.array([0, 0, 1, 1, 1, 3])
HITS = np.array([True, False, True, True, False, True])


def test_classes_groups_and_confusion_by_hand() -> None:
    by_class = accuracy_by_class(HITS, LABEL, 4)
    assert by_class[[0, 1, 3]].tolist() == [1 / 2, 2 / 3, 1] and np.isnan(by_class[2])
    groups = accuracy_by_group(HITS, LABEL, ["dim", "dim", "dim", "water", "water", ""])
    assert groups == [Group(0, "dim", 2, 0.5), Group(1, "water", 2, 0.5), Group(1, "dim", 1, 1.0)]
    assert confusion(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 1]), 3).tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]


def test_likelihood_and_calibration_by_hand() -> None:
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    nll = -(np.log(0.5) + np.log(0.25) + np.log(1.0)) / 3
    assert negative_log_likelihood(probabilities, np.array([0, 0, 0])) == pytest.approx(nll)
    assert np.isfinite(negative_log_likelihood(probabilities, np.array([0, 0, 1])))
    # Bins (0, .25], (.25, .5], (.5, .75], (.75, 1]: an edge belongs to the bin below it.
    bins = calibration(np.array([0.0, 0.25, 0.6, 0.7, 1.0]), np.array([False, True, True, False, True]), 4)
    assert bins.images.tolist() == [2, 0, 2, 1]
    assert bins.confidence[[0, 2, 3]].tolist() == pytest.approx([0.125, 0.65, 1.0]) and np.isnan(bins.accuracy[1])
    assert bins.accuracy[[0, 2, 3]].tolist() == [0.5, 0.5, 1.0]
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.375 + 2 * 0.15 + 0) / 5)


def test_temper_is_a_softmax_of_scaled_logits() -> None:
    logits = torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for temperature in (0.5, 1.0, 3.0):
        assert np.allclose(temper(logits.softmax(1).numpy(), temperature), (logits / temperature).softmax(1))


def test_the_temperature_is_found_and_is_the_best_of_a_grid() -> None:
    rng = np.random.default_rng(0)
    honest = rng.dirichlet(np.full(6, 0.7), 20000)
    label = np.array([rng.choice(6, p=row) for row in honest])  # drawn by its own probabilities: calibrated
    assert fit_temperature(honest, label) == pytest.approx(1, abs=0.03)
    for true in (0.4, 2.5):
        distorted = temper(honest, 1 / true)
        found = fit_temperature(distorted, label)
        assert found == pytest.approx(true, rel=0.03)
        best = min(np.linspace(0.3, 3, 28), key=lambda t: negative_log_likelihood(temper(distorted, float(t)), label))
        assert abs(found - best) <= 0.1
    assert fit_temperature(honest, honest.argmax(1)) == pytest.approx(0.05, rel=1e-3)  # always right: at the bound


def test_bootstrap_of_a_mean_has_the_binomials_width() -> None:
    hits = np.random.default_rng(0).random(2000) < 0.7
    low, high = bootstrap_mean(hits, np.random.default_rng(1), 1000)
    error = np.sqrt(hits.mean() * (1 - hits.mean()) / len(hits))
    assert low == pytest.approx(hits.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(hits.mean() + 1.96 * error, abs=0.2 * error)
    assert bootstrap(lambda counts: 0.5, np.array([3, 4]), np.random.default_rng(0), 10) == (0.5, 0.5)


def test_numbers_of_each_kind_are_drawn_as_images_with_replacement_would_be() -> None:
    values, rng = np.array([-1.0] * 5 + [0.0] * 20 + [0.5] * 3 + [1.0] * 12), np.random.default_rng(0)
    slow = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(20_000)]
    made = bootstrap_mean(values, np.random.default_rng(1), 20_000)
    assert made == pytest.approx(np.percentile(slow, [2.5, 97.5]), abs=0.013)  # a step of the mean is 0.0125
    seen: list[np.ndarray] = []
    counts = np.array([2, 0, 5, 1])
    bootstrap(lambda drawn: float(bool(seen.append(drawn))), counts, np.random.default_rng(2), 4000)
    assert {int(drawn.sum()) for drawn in seen} == {8} and not any(drawn[1] for drawn in seen)
    assert np.mean(seen, 0) == pytest.approx(counts, abs=0.08)
    assert np.cov(np.stack(seen)[:, 0], np.stack(seen)[:, 2])[0, 1] == pytest.approx(-2 * 5 / 8, abs=0.15)


def test_macro_accuracy_s_interval_draws_classes_and_hits_together() -> None:
    label, hits = np.array([0] * 30 + [1] * 10), np.array([True] * 24 + [False] * 6 + [True] * 3 + [False] * 7)
    made = intervals(hits, label, ["a"] * 20 + [""] * 5 + ["b"] * 15, 3, np.random.default_rng(0))
    assert made["macro_accuracy"] == pytest.approx((24 / 30 + 3 / 10) / 2)
    rng, slow = np.random.default_rng(1), []
    for _ in range(4000):
        own = rng.integers(0, 40, 40)
        slow.append(np.nanmean(accuracy_by_class(hits[own], label[own], 3)))
    assert made["macro_accuracy_interval"] == pytest.approx(np.percentile(slow, [2.5, 97.5]), abs=0.02)
    assert {name for name in made if "/" in name} == {"accuracy/a_interval", "accuracy/b_interval"}
    assert made["accuracy/a_interval"] == (1, 1)


def test_auroc_equals_a_count_of_pairs() -> None:
    rng = np.random.default_rng(0)
    confidence, hits = rng.integers(0, 6, 40) / 5, rng.random(40) < 0.6  # with ties
    pairs = [(a > b) + 0.5 * (a == b) for a in confidence[hits] for b in confidence[~hits]]
    assert auroc(confidence, hits) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert auroc(np.array([0.9, 0.2]), np.array([True, False])) == 1
    assert math.isnan(auroc(confidence, np.ones(40, bool))) and math.isnan(auroc(confidence, np.zeros(40, bool)))


def test_risk_coverage_by_hand() -> None:
    # By confidence: right, then wrong and right in no order, then wrong.
    risk = risk_coverage(np.array([0.5, 0.9, 0.1, 0.5]), np.array([False, True, False, True]))
    assert risk.tolist() == pytest.approx([0, 0.5 / 2, 1 / 3, 2 / 4])
    assert risk_coverage(np.array([0.3, 0.3]), np.array([True, False])).tolist() == [0.5, 0.5]
