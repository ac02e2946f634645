import math

import pytest
import torch

from src.metrics import ContextAccuracy, accuracy_by_context, count_hits, knn_scores, top_hits


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
