"""Compare masks with true ones."""

from __future__ import annotations

from src.data.images import Mask


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0
