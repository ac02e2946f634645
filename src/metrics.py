"""Accuracy over all images, by context, and of the worst context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchmetrics import Metric


def top_hits(scores: torch.Tensor, label: torch.Tensor, k: int) -> torch.Tensor:
    """Whether each image's label is among its k highest scores; ties go to the lower id.

    Args:
        scores: (N, K) float, logits or probabilities.
        label: (N,) int64 in [0, K).
        k: at least 1; where it exceeds K, every image is a hit.

    Returns:
        (N,) bool.
    """
    own = scores.gather(1, label[:, None])
    ahead = ~(scores <= own)  # and not >: a NaN is ahead of everything, so that a diverged network never hits
    ahead |= (scores == own) & (torch.arange(scores.shape[1], device=scores.device) < label[:, None])
    return ahead.sum(1) < k


def count_hits(hits: torch.Tensor, domain: torch.Tensor, num_domains: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Number of hits and of images of each context.

    Args:
        hits: (N,) bool.
        domain: (N,) int64 in [-1, num_domains); -1, an unknown context, counts in the last place.

    Returns:
        Two int64 tensors of num_domains + 1.
    """
    place = torch.where(domain < 0, num_domains, domain)
    return place[hits].bincount(minlength=num_domains + 1), place.bincount(minlength=num_domains + 1)


def accuracy_by_context(hits: Sequence[int], images: Sequence[int], names: Sequence[str]) -> dict[str, float]:
    """Accuracy, each context's, and the worst of them, from counts.

    Args:
        hits, images: counts of each context, a last entry for images of unknown context allowed.
        names: the contexts' names.

    Returns:
        {"accuracy": ..., "accuracy/<context>": ..., "worst_context": ...}; contexts without an image are
        left out, and worst_context where there is no context. Empty without any image.
    """
    if not sum(images):
        return {}
    by_context = {
        f"accuracy/{name}": hit / count for name, hit, count in zip(names, hits, images, strict=False) if count
    }
    worst = {"worst_context": min(by_context.values())} if by_context else {}
    return {"accuracy": sum(hits) / sum(images), **by_context, **worst}


def knn_scores(
    queries: torch.Tensor, bank: torch.Tensor, label: torch.Tensor, num_classes: int, k: int, temperature: float
) -> torch.Tensor:
    """Weighted k-nearest-neighbour votes: a neighbour counts exp(cosine / temperature) (Wu et al., CVPR 2018).

    Args:
        queries: (N, C) float, rows of unit length.
        bank: (M, C) float, rows of unit length.
        label: (M,) int64 in [0, num_classes), of the bank.
        num_classes: K.
        k: neighbours; all of the bank where it has fewer.
        temperature: > 0.

    Returns:
        (N, num_classes) float32, rows summing to 1.
    """
    # A thousand rows of the similarities at a time: all of them, at full scale, would be 18,000 x 71,000.
    scores = []
    for part in torch.split(queries, 1024):
        similarity, nearest = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(part), num_classes, device=part.device)
        scores.append(votes.scatter_add_(1, label[nearest], (similarity / temperature).softmax(dim=1)))
    return torch.cat(scores)


class ContextAccuracy(Metric):
    """Top-1 and top-5 accuracy and top-1 by context, exact over all ranks.

    Args:
        contexts: the contexts' names, in the order of their ids; may be empty.
    """

    full_state_update = False
    hits: torch.Tensor
    hits_top5: torch.Tensor
    images: torch.Tensor

    def __init__(self, contexts: Sequence[str]) -> None:
        super().__init__()
        self.contexts = list(contexts)
        for name in ("hits", "hits_top5", "images"):
            self.add_state(name, torch.zeros(len(contexts) + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: torch.Tensor, label: torch.Tensor, domain: torch.Tensor) -> None:
        """Count a batch: scores (N, K) float, label and domain (N,) int64."""
        hits, images = count_hits(top_hits(scores, label, 1), domain, len(self.contexts))
        self.hits += hits
        self.images += images
        self.hits_top5 += count_hits(top_hits(scores, label, 5), domain, len(self.contexts))[0]

    def compute(self) -> dict[str, float]:
        """accuracy_by_context's figures and accuracy_top5; empty where no image was counted."""
        hits, top5, images = self.hits.tolist(), self.hits_top5.tolist(), self.images.tolist()
        figures = accuracy_by_context(hits, images, self.contexts)
        return {**figures, "accuracy_top5": sum(top5) / sum(images)} if figures else {}
