"""Accuracy over all images, by class, by context and for the worst context; calibration; intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc

from src.precision import in_float32

Hits = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


def top_hits(scores: torch.Tensor, label: torch.Tensor, k: int) -> torch.Tensor:
    """Whether each image's label is among its k highest scores; ties go to the lower id.

    Args:
        scores: (N, K) float, logits or probabilities.
        label: (N,) int64 in [0, K).
        k: at least 1; if it exceeds K, every image is a hit.

    Returns:
        (N,) bool.
    """
    own = scores.gather(1, label[:, None])
    ahead = ~(scores <= own)  # not >: a NaN outranks everything, so that a diverged network never hits
    ahead |= (scores == own) & (torch.arange(scores.shape[1], device=scores.device) < label[:, None])
    return ahead.sum(1) < k


def count_hits(hits: torch.Tensor, domain: torch.Tensor, num_domains: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of hits and images of each context.

    Args:
        hits: (N,) bool.
        domain: (N,) int64 in [-1, num_domains); -1, an unknown context, counts in the last entry.

    Returns:
        Two int64 tensors of num_domains + 1.
    """
    index = torch.where(domain < 0, num_domains, domain)
    none = index.new_zeros(num_domains + 1)  # not bincount, which makes the host wait for a GPU
    return none.scatter_add(0, index, hits.to(index.dtype)), none.scatter_add(0, index, torch.ones_like(index))


def accuracy_by_context(hits: Sequence[int], images: Sequence[int], names: Sequence[str]) -> dict[str, float]:
    """Accuracy overall, by context and in the worst context, from counts.

    Args:
        hits, images: counts by context; a last entry for images of unknown context is allowed.
        names: the contexts' names.

    Returns:
        {"accuracy": ..., "accuracy/<context>": ..., "worst_context": ...}; contexts without images are
        left out, and so is worst_context if there is no context. Empty without images.
    """
    if not sum(images):
        return {}
    by_context = {
        f"accuracy/{name}": hit / count for name, hit, count in zip(names, hits, images, strict=False) if count
    }
    worst = {"worst_context": min(by_context.values())} if by_context else {}
    return {"accuracy": sum(hits) / sum(images), **by_context, **worst}


@in_float32
def knn_scores(
    queries: torch.Tensor, bank: torch.Tensor, label: torch.Tensor, num_classes: int, k: int, temperature: float
) -> torch.Tensor:
    """Weighted k-nearest-neighbour votes: a neighbour counts exp(cosine / temperature) (Wu et al., CVPR 2018).

    Args:
        queries: (N, C) float, rows of unit length.
        bank: (M, C) float, rows of unit length.
        label: (M,) int64 in [0, num_classes), of the bank.
        num_classes: K.
        k: neighbours; the whole bank if it has fewer.
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
        """accuracy_by_context's figures and accuracy_top5; empty if no image was counted."""
        hits, top5, images = self.hits.tolist(), self.hits_top5.tolist(), self.images.tolist()
        figures = accuracy_by_context(hits, images, self.contexts)
        return {**figures, "accuracy_top5": sum(top5) / sum(images)} if figures else {}


def accuracy_by_class(hits: Hits, label: Ids, num_classes: int) -> npt.NDArray[np.float64]:
    """Accuracy by class: hits (N,) and label (N,) to (K,), NaN for a class without images."""
    right, images = (np.bincount(part, minlength=num_classes) for part in (label[hits], label))
    return np.where(images > 0, right / np.maximum(images, 1), np.nan)


class Group(NamedTuple):
    """The images of one class in one context: class id, context, their number and accuracy."""

    label: int
    context: str
    images: int
    accuracy: float


def accuracy_by_group(hits: Hits, label: Ids, contexts: Sequence[str]) -> list[Group]:
    """Every class x context that has an image, the worst first (among equals the larger first).

    Args:
        hits: (N,).
        label: (N,) ids.
        contexts: (N) names; images without one ("") belong to no group.
    """
    counted: dict[tuple[int, str], list[int]] = {}
    for hit, own, context in zip(hits.tolist(), label.tolist(), contexts, strict=True):
        if context:
            count = counted.setdefault((own, context), [0, 0])
            count[0] += hit
            count[1] += 1
    groups = [Group(own, context, images, right / images) for (own, context), (right, images) in counted.items()]
    return sorted(groups, key=lambda group: (group.accuracy, -group.images, group.label, group.context))


def confusion(label: Ids, predicted: Ids, num_classes: int) -> Ids:
    """Number of images of class i (rows) that were given label j (columns): (K, K)."""
    return np.bincount(label * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def log_likelihood(probability: Floats) -> float:
    """Mean of log p in nats, of each image's true class: (N,), where 0 counts as the smallest normal float32."""
    return float(np.log(np.maximum(probability, np.finfo(np.float32).tiny)).mean())


def negative_log_likelihood(probabilities: Floats, label: Ids) -> float:
    """Minus `log_likelihood` of the labels (N,), from probabilities (N, K)."""
    return -log_likelihood(probabilities[np.arange(len(label)), label])


class Bins(NamedTuple):
    """Images by confidence: each bin's number of images, mean confidence and accuracy (NaN if empty)."""

    images: Ids
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]


def calibration(confidence: Floats, hits: Hits, bins: int) -> Bins:
    """Sort images into `bins` equal parts of [0, 1] by confidence; confidence and hits (N,).

    A bin takes its upper edge, the first one 0 as well (Guo et al. 2017, eq. 2 and 3).
    """
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    images = np.bincount(bin_of, minlength=bins)
    sums = (np.bincount(bin_of, weights=values, minlength=bins) for values in (confidence, hits.astype(np.float64)))
    confident, right = (np.where(images > 0, total / np.maximum(images, 1), np.nan) for total in sums)
    return Bins(images, confident, right)


def expected_calibration_error(bins: Bins) -> float:
    """Mean of |accuracy - confidence| over images, by bin (Guo et al. 2017, eq. 5)."""
    filled = bins.images > 0
    gap = np.abs(bins.accuracy[filled] - bins.confidence[filled])
    return float((bins.images[filled] * gap).sum() / bins.images.sum())


def temper(probabilities: Floats, temperature: float) -> npt.NDArray[np.float64]:
    """Probabilities p^(1/T), normalised: softmax of logits divided by T (Guo et al. 2017, section 4.2); (N, K)."""
    made = np.maximum(probabilities, np.finfo(np.float32).tiny, dtype=np.float64)
    np.log(made, out=made)
    made /= temperature
    made -= made.max(1, keepdims=True)
    np.exp(made, out=made)
    made /= made.sum(1, keepdims=True)
    return made


def fit_temperature(probabilities: Floats, label: Ids) -> float:
    """The temperature in [0.05, 20] with the lowest negative log-likelihood of held-out images.

    The likelihood is concave in 1/T: its derivative, E[log p(label)] - E[sum_k p_k log p_k] with p tempered,
    falls, and bisection finds its zero.

    Args:
        probabilities: (N, K) of held-out images.
        label: (N,) their labels.
    """
    log = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    own = float(log[np.arange(len(label)), label].mean())
    parts = np.array_split(log, max(1, log.size // 2**17))  # of which one fits a core's cache

    def expected(inverse: float) -> float:
        """E[sum_k p_k log p_k], p to the power of `inverse`."""
        total = 0.0
        for part in parts:
            powers = np.exp(inverse * (part - part.max(1, keepdims=True)))
            total += float(((powers * part).sum(1) / powers.sum(1)).sum())
        return total / len(log)

    low, high = 1 / 20, 1 / 0.05
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        if own > expected(middle):
            low = middle
        else:
            high = middle
    return 1 / float(np.sqrt(low * high))


def auroc(confidence: Floats, hits: Hits) -> float:
    """Probability that a right prediction has higher confidence than a wrong one, ties counting half.

    Args:
        confidence: (N,) in [0, 1].
        hits: (N,), whether the prediction is right.

    Returns:
        In [0, 1]; NaN if all are right or all wrong.
    """
    if hits.all() or not hits.any():
        return float("nan")
    return float(binary_auroc(torch.from_numpy(np.asarray(confidence, np.float64)), torch.from_numpy(hits).long()))


def risk_coverage(confidence: Floats, hits: Hits) -> npt.NDArray[np.float64]:
    """Share of wrong predictions among the k most confident ones (El-Yaniv and Wiener 2010), for each k.

    Images of equal confidence have no order: each counts as their mean. The mean of the result is the
    area under the curve (AURC).

    Args:
        confidence: (N,).
        hits: (N,), whether the prediction is right.

    Returns:
        (N,) in [0, 1]: the risk at the coverages 1/N, 2/N, ..., 1.
    """
    _, tied = np.unique(-confidence, return_inverse=True)
    wrong = (np.bincount(tied, weights=~hits) / np.bincount(tied))[np.sort(tied)]
    return np.asarray(np.cumsum(wrong) / np.arange(1, len(hits) + 1), np.float64)


def bootstrap(figure: Callable[[Ids], float], counts: Ids, rng: np.random.Generator, draws: int) -> tuple[float, float]:
    """A figure's 95 % interval (percentile bootstrap): images are drawn with replacement.

    Images of one kind count alike, so only their numbers are drawn, from a multinomial distribution: the time does not
    depend on the number of images. The interval reflects the choice of images, not of seeds or contexts.

    Args:
        figure: from numbers of images of each kind (C,) to the figure.
        counts: the actual numbers (C,), at least one image.
        rng: for the draws.
        draws: number of draws of as many images each.
    """
    size = int(counts.sum())
    values = [figure(drawn) for drawn in rng.multinomial(size, counts / size, draws)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def bootstrap_mean(values: npt.NDArray[Any], rng: np.random.Generator, draws: int) -> tuple[float, float]:
    """`bootstrap` for the mean of values (N,), many of them equal: hits, or their means over a few seeds."""
    levels, counts = np.unique(values, return_counts=True)
    return bootstrap(lambda drawn: float(drawn @ levels) / len(values), counts, rng, draws)
