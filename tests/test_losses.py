import math

import pytest
import torch
import torch.nn.functional as F

from src.losses import consistency, distillation, info_nce, mixed_cross_entropy, pull_loss, push_loss, ramp_up
from src.metrics import top_hits


def test_equals_a_slow_loop_for_a_lam_per_image() -> None:
    torch.manual_seed(0)
    logits, label, other, lam = torch.randn(6, 4), torch.randint(4, (6,)), torch.randint(4, (6,)), torch.rand(6)
    expected = 0.0
    for i in range(6):
        total = math.log(sum(math.exp(v) for v in logits[i].tolist()))
        own, partner = total - logits[i, label[i]].item(), total - logits[i, other[i]].item()
        expected += (lam[i].item() * own + (1 - lam[i].item()) * partner) / 6
    torch.testing.assert_close(mixed_cross_entropy(logits, label, other, lam), torch.tensor(expected))


def test_lam_one_is_the_plain_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(5, 3), torch.randint(3, (5,))
    loss = mixed_cross_entropy(logits, label, label.roll(1), torch.tensor(1.0))
    torch.testing.assert_close(loss, F.cross_entropy(logits, label))
    assert mixed_cross_entropy(logits, label.roll(1), label, torch.tensor(0.0)).item() == loss.item()


def slow_similarity(a: torch.Tensor, b: torch.Tensor) -> list[list[float]]:
    def cosine(x: list[float], y: list[float]) -> float:
        dot = sum(p * q for p, q in zip(x, y, strict=True))
        return min(max(dot / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y)), 0.0005), 0.9995)

    return [[cosine(x, y) for y in b.tolist()] for x in a.tolist()]


def test_pull_and_push_equal_slow_loops() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        a, b, alpha = torch.rand(7, 4, dtype=torch.float64), torch.rand(7, 4, dtype=torch.float64), 0.25
        similar, total = slow_similarity(a, a), 0.0
        for i in range(7):
            others = sorted((j for j in range(7) if j != i), key=lambda j: -similar[i][j])
            rank = {i: 0, **{j: r for r, j in enumerate(others, 1)}}
            total += sum(-math.exp(-alpha * (rank[j] - 1)) * math.log(similar[i][j]) for j in range(7)) / 49
        assert math.isclose(pull_loss(a, alpha).item(), total, rel_tol=1e-9)
        across = slow_similarity(b, a)
        assert math.isclose(
            push_loss(a, b).item(), -sum(math.log(1 - s) for row in across for s in row) / 49, rel_tol=1e-9
        )


def test_similarity_losses_in_their_analytic_cases() -> None:
    equal = torch.ones(4, 3, dtype=torch.float64)
    weight = (math.exp(0.25) + sum(math.exp(-0.25 * k) for k in range(3))) / 4
    assert math.isclose(pull_loss(equal, 0.25).item(), -weight * math.log(0.9995), rel_tol=1e-9)
    assert math.isclose(pull_loss(equal, 0.0).item(), -math.log(0.9995), rel_tol=1e-9)  # no ranks: every pair weighs 1
    assert math.isclose(push_loss(equal, equal).item(), -math.log(0.0005), rel_tol=1e-6)  # foreground = background
    apart = torch.tensor([[1.0, 0.0, 0.0]] * 4, dtype=torch.float64)
    assert math.isclose(push_loss(apart, 1 - apart).item(), -math.log(0.9995), rel_tol=1e-9)


def test_the_loss_pulls_and_pushes() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(6, 5, requires_grad=True), torch.rand(6, 5, requires_grad=True)
    optimizer = torch.optim.SGD([a, b], lr=0.5)
    first = F.cosine_similarity(a, b).mean().item()
    for _ in range(200):
        optimizer.zero_grad()
        (pull_loss(a, 0.25) + pull_loss(b, 0.25) + push_loss(a, b)).backward()
        optimizer.step()
    assert F.cosine_similarity(a, b).mean().item() < 0.1 < first
    assert F.cosine_similarity(a[0], a[1], dim=0).item() > 0.9


def test_info_nce_equals_a_slow_loop() -> None:
    torch.manual_seed(0)
    query, key, negatives = (F.normalize(torch.randn(n, 6, dtype=torch.float64), dim=1) for n in (5, 5, 7))
    expected = 0.0
    for q, k in zip(query.tolist(), key.tolist(), strict=True):
        scores = [sum(a * b for a, b in zip(q, other, strict=True)) / 0.2 for other in (k, *negatives.tolist())]
        expected -= math.log(math.exp(scores[0]) / sum(map(math.exp, scores))) / 5
    loss, logits = info_nce(query, key, negatives, 0.2)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert logits.shape == (5, 8)
    torch.testing.assert_close(logits[:, -1], (query * key).sum(1) / 0.2)


def test_info_nce_of_uniform_similarity_is_the_log_of_the_number_of_keys() -> None:
    same = F.normalize(torch.ones(4, 6), dim=1)
    for count in (1, 7, 4096):
        loss, logits = info_nce(same, same, same[:1].expand(count, -1), 0.2)
        assert loss.item() == pytest.approx(math.log(count + 1), rel=1e-5)
        # a collapse is no success
        assert not top_hits(logits, torch.full((4,), count), 1).any()


def test_info_nce_is_computed_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    query, key, negatives = (F.normalize(torch.randn(n, 64), dim=1) for n in (5, 5, 70))
    plain, _ = info_nce(query, key, negatives, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(info_nce(query, key, negatives, 0.07)[0], plain)


def test_consistency_equals_a_slow_loop() -> None:
    torch.manual_seed(0)
    student, teacher, temperature = 5 * torch.randn(6, 4), 5 * torch.randn(6, 4), 10.0

    def softened(row: list[float]) -> list[float]:
        total = sum(math.exp(v / temperature) for v in row)
        return [math.exp(v / temperature) / total for v in row]

    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        expected += sum(q * math.log(q / p) for p, q in zip(softened(s), softened(t), strict=True)) / 6
    assert math.isclose(consistency(student, teacher, temperature).item(), expected, rel_tol=1e-5)


def test_consistency_moves_the_student_alone() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    consistency(student, teacher, 2.0).backward()
    assert teacher.grad is None and student.grad is not None
    # d KL / d z_s = (p_s - p_t) / T, over the batch's size; no factor T^2
    expected = (F.softmax(student / 2, 1) - F.softmax(teacher / 2, 1)) / 2 / 3
    torch.testing.assert_close(student.grad, expected.detach())
    assert consistency(teacher, teacher + 3, 10.0).abs().item() < 1e-7  # equal predictions


def test_consistency_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4).bfloat16(), torch.randn(3, 4).bfloat16()
    plain = consistency(student.float(), teacher.float(), 10.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(consistency(student, teacher, 10.0), plain)
    assert plain.dtype == torch.float32


def test_distillation_equals_a_slow_loop() -> None:
    torch.manual_seed(0)
    student, teachers, temperature = 3 * torch.randn(4, 5), 3 * torch.randn(3, 4, 5), 2.0
    expected = 0.0
    for n in range(4):
        own = torch.softmax(student[n] / temperature, 0).tolist()
        aims = [torch.softmax(teacher[n] / temperature, 0).tolist() for teacher in teachers]
        for k in range(5):
            aim = sum(one[k] for one in aims) / 3  # the mean of probabilities, not of logits
            expected += temperature**2 * aim * math.log(aim / own[k]) / 4
    assert math.isclose(distillation(student, teachers, temperature).item(), expected, rel_tol=1e-5)


def test_one_teacher_is_the_consistency_times_t_squared_and_none_gets_a_gradient() -> None:
    torch.manual_seed(0)
    student, teachers = torch.randn(3, 4, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True)
    for temperature in (1.0, 4.0):
        alone = distillation(student, teachers[:1], temperature)
        torch.testing.assert_close(alone, temperature**2 * consistency(student, teachers[0], temperature))
    distillation(student, teachers, 1.0).backward()
    assert teachers.grad is None and student.grad is not None
    mean = teachers.detach().softmax(2).mean(0)
    torch.testing.assert_close(student.grad, (student.detach().softmax(1) - mean) / 3)  # as of cross-entropy with it
    assert distillation(mean.log(), teachers, 1.0).abs().item() < 1e-6  # the least there is


def test_certain_teachers_are_hard_labels() -> None:
    torch.manual_seed(0)
    student, label = torch.randn(6, 4), torch.randint(4, (6,))
    teachers = 1e4 * F.one_hot(label, 4).float().expand(2, 6, 4)
    torch.testing.assert_close(distillation(student, teachers, 1.0), F.cross_entropy(student, label))


def test_ramp_up() -> None:
    assert math.isclose(ramp_up(0, 5), math.exp(-5)) and math.isclose(ramp_up(2.5, 5), math.exp(-1.25))
    assert ramp_up(5, 5) == ramp_up(80, 5) == ramp_up(0, 0) == 1.0
    assert all(ramp_up(t, 5) < ramp_up(t + 0.5, 5) for t in [0, 1, 2, 3, 4])


def test_smoothed_labels_of_a_mixture_equal_a_slow_loop() -> None:
    torch.manual_seed(0)
    logits, label, other, lam = torch.randn(4, 5), torch.tensor([0, 3, 3, 1]), torch.tensor([2, 3, 0, 4]), torch.rand(4)
    expected = 0.0
    for i in range(4):
        for k in range(5):
            target = 0.1 / 5 + 0.9 * (float(lam[i]) * (k == label[i]) + (1 - float(lam[i])) * (k == other[i]))
            expected -= float(target * torch.log_softmax(logits[i], 0)[k]) / 4
    torch.testing.assert_close(mixed_cross_entropy(logits, label, other, lam, 0.1), torch.tensor(expected))
