"""What the features before the head tell: of the class, which they should, and of the context, which they need not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from src.metrics import knn_scores

COMPONENTS = 50  # of the PCA before t-SNE, as van der Maaten and Hinton 2008 have 30
PERPLEXITY = 30.0  # scikit-learn's default
FOLDS = 5
NEIGHBOURS, TEMPERATURE = 20, 0.07  # of the nearest-neighbour votes, as Wu et al. 2018 weigh them

Features = npt.NDArray[np.float32]


class Probe(NamedTuple):
    """Accuracies, as shares, of two readings of the features, and of always naming the most frequent."""

    neighbours: float
    linear: float
    majority: float


def plane(features: Features, seed: int) -> npt.NDArray[np.float64]:
    """Features (N, C) in the plane, (N, 2): the first COMPONENTS principal components, then t-SNE (N >= 4)."""
    kept = min(COMPONENTS, len(features) - 1, features.shape[1])
    reduced = PCA(kept, random_state=seed).fit_transform(features)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    return np.asarray(TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(reduced), np.float64)


def probe(features: Features, names: Sequence[str], seed: int) -> Probe | None:
    """How well features (N, C) tell names (N): each image is read by what the other folds of FOLDS teach.

    Nearest neighbours vote by their cosine; the linear probe is a logistic regression on standardised features.

    Args:
        features: (N, C).
        names: of each image's class or context; those that fewer than FOLDS images have are left out.
        seed: of the folds.

    Returns:
        None where fewer than two names are left.
    """
    _, place, counts = np.unique(np.array(names), return_inverse=True, return_counts=True)
    kept = counts[place] >= FOLDS
    if len(np.unique(place[kept])) < 2:
        return None
    x = features[kept]
    label = np.unique(place[kept], return_inverse=True)[1]
    unit, classes = F.normalize(torch.from_numpy(x), dim=1), int(label.max()) + 1
    near, linear = np.empty(len(x), bool), np.empty(len(x), bool)
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, label):
        own = torch.from_numpy(label[train])
        votes = knn_scores(unit[test], unit[train], own, classes, NEIGHBOURS, TEMPERATURE).argmax(1).numpy()
        near[test] = votes == label[test]
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        linear[test] = model.fit(x[train], label[train]).predict(x[test]) == label[test]
    return Probe(float(near.mean()), float(linear.mean()), float(np.bincount(label).max() / len(label)))
