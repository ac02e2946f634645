import math

import torch
import torch.nn.functional as F

from src.losses import mixed_cross_entropy


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
