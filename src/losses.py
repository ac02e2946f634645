"""Losses as pure functions of tensors, in float32 even under autocast."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from src.precision import in_float32


@in_float32
def mixed_cross_entropy(
    logits: torch.Tensor,
    label: torch.Tensor,
    partner_label: torch.Tensor,
    lam: torch.Tensor,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """lam CE(logits, y) + (1 - lam) CE(logits, y_partner), averaged over the batch (docs/method.md, sections 2 and 5).

    Args:
        logits: (N, K) float.
        label, partner_label: (N,) int64.
        lam: weight of the image's own label in [0, 1], a scalar or (N,).
        smoothing: part of each label's weight shared equally by all K classes (Szegedy et al., CVPR 2016, section 7).

    Returns:
        A scalar.
    """
    own = F.cross_entropy(logits, label, reduction="none", label_smoothing=smoothing)
    other = F.cross_entropy(logits, partner_label, reduction="none", label_smoothing=smoothing)
    return torch.lerp(other, own, lam.to(own.dtype)).mean()


SIMILARITY_RANGE = (0.0005, 0.9995)
"""Cosine similarities are clamped to this before their logarithm (docs/method.md, section 3)."""


@in_float32
def cosine_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Clamped cosine similarity of all rows of two matrices.

    Args:
        a: (N, C) float.
        b: (M, C) float.

    Returns:
        (N, M) float in SIMILARITY_RANGE.
    """
    return (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).clamp(*SIMILARITY_RANGE)


@in_float32
def rank_weights(similarity: torch.Tensor, alpha: float) -> torch.Tensor:
    """w_ij = exp(-alpha (r_ij - 1)), r_ij the rank of s_ij in its row, the row's own entry having rank 0 (C2AM, eq. 5).

    Args:
        similarity: (N, N) float, row i's own entry at (i, i).
        alpha: decay with the rank, >= 0.

    Returns:
        (N, N) float without gradient; the best other entry weighs 1.
    """
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    order = similarity.detach().masked_fill(own, torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)  # the inverse permutation
    return torch.exp(-alpha * (rank.to(similarity.dtype) - 1))


@in_float32
def pull_loss(features: torch.Tensor, alpha: float) -> torch.Tensor:
    """Pull representations of one kind together, most of all those that are already close (C2AM, eq. 6).

    Args:
        features: (N, C) float, the foreground or the background representation of each image.
        alpha: decay of a pair's weight with its rank.

    Returns:
        mean_ij w_ij (-log s_ij), a scalar.
    """
    similarity = cosine_similarity(features, features)
    return -(rank_weights(similarity, alpha) * similarity.log()).mean()


@in_float32
def push_loss(foreground: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Push foreground and background representations, (N, C) each, apart: mean_ij -log(1 - s_ij) (C2AM, eq. 3)."""
    return -torch.log1p(-cosine_similarity(background, foreground)).mean()


@in_float32
def info_nce(
    query: torch.Tensor, key: torch.Tensor, negatives: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """-log exp(q.k / t) / (exp(q.k / t) + sum_j exp(q.n_j / t)), averaged over the batch (MoCo, eq. 1).

    Args:
        query, key: (N, C) float, rows of unit length; row i of the two is a positive pair.
        negatives: (K, C) float, rows of unit length.
        temperature: t > 0.

    Returns:
        The loss, a scalar, and the logits (N, K + 1), the positive last: where all are equal,
        as after a collapse, it comes after every negative.
    """
    positive = (query * key).sum(dim=1, keepdim=True)
    logits = torch.cat([query @ negatives.T, positive], dim=1) / temperature
    return F.cross_entropy(logits, logits.new_full((len(logits),), len(negatives), dtype=torch.long)), logits


@in_float32
def consistency(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(p_t || p_s) of softened predictions, averaged over the batch, without T^2 (docs/method.md, section 6).

    Args:
        student: (N, K) logits.
        teacher: (N, K) logits; no gradient flows into them.
        temperature: T > 0, which divides both.

    Returns:
        A scalar.
    """
    own = F.log_softmax(student / temperature, dim=1)
    aim = F.log_softmax(teacher.detach() / temperature, dim=1)
    return F.kl_div(own, aim, reduction="batchmean", log_target=True)


@in_float32
def distillation(student: torch.Tensor, teachers: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(p || p_s), p the mean of the teachers' softened predictions, averaged over the batch (Hinton et al. 2015).

    The factor keeps the gradient's size as T grows: gradients of softened predictions shrink as 1 / T^2 (section 2).

    Args:
        student: (N, K) logits.
        teachers: (M, N, K) logits of M teachers; no gradient flows into them.
        temperature: T > 0, which divides all of them; with 1 the mean is that of the teachers' probabilities.

    Returns:
        A scalar.
    """
    own = F.log_softmax(student / temperature, dim=1)
    aim = F.softmax(teachers.detach() / temperature, dim=2).mean(dim=0)
    return temperature**2 * F.kl_div(own, aim, reduction="batchmean")


def ramp_up(t: float, length: float) -> float:
    """exp(-5 (1 - t / length)^2), and 1 from `length` on (docs/method.md, section 6).

    Args:
        t: time since the start, >= 0, in the unit of `length`.
        length: of the ramp; 0 for none.
    """
    return 1.0 if t >= length else math.exp(-5 * (1 - t / length) ** 2)
