"""Test images whose files cannot be read: named, and left out of figures or given a guess."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from src.prediction.image_sets import ImageSet, Truth
from src.prediction.kept import Probabilities

UNREADABLE = -1.0
"""The probabilities of an image whose file could not be read: no network looked at it."""
REASONS = 10  # of unreadable images that are printed


def settle(
    images: ImageSet, probabilities: Probabilities, max_pixels: int, guess: bool
) -> tuple[ImageSet, Probabilities]:
    """Images that members have looked at; those that could not be read are named, and left out or guessed.

    Args:
        images: N images.
        probabilities: (M, N, K) of M members.
        max_pixels: of an image; 0: any number.
        guess: keep the unreadable ones, each with a guess; else leave them out.

    Returns:
        The images and their probabilities.

    Raises:
        ValueError: not one image could be read.
    """
    names = unreadable(images, probabilities, max_pixels)
    if guess:
        return images._replace(unreadable=names), with_guesses(probabilities)
    kept, probabilities = without_unreadable(images, probabilities)
    return kept._replace(unreadable=names), probabilities


def check_unreadable(images: ImageSet, on_bad_image: str, max_bad_share: float) -> None:
    """Raise ValueError where the settings rule out a prediction with so many unreadable images; nothing is written.

    Args:
        images: a settled set, with all its images.
        on_bad_image: "stop" at any, or "skip".
        max_bad_share: share above which "skip" stops too.
    """
    count, of = len(images.unreadable), len(images.rows)
    if count and (on_bad_image == "stop" or count > max_bad_share * of):
        why = "datamodule.on_bad_image=stop" if on_bad_image == "stop" else f"datamodule.max_bad_share={max_bad_share}"
        raise ValueError(
            f"{count} of {of} images cannot be read (first: {images.unreadable[0]}), and nothing is written "
            f"({why}): replace the files, or predict with datamodule.on_bad_image=skip datamodule.max_bad_share=1"
        )


def unreadable(images: ImageSet, stack: Probabilities, max_pixels: int) -> list[str]:
    """Names of the images, of N with probabilities (M, N, K), that a member could not look at; the reasons are printed.

    Raises:
        ValueError: not one image could be read.
    """
    indices = np.flatnonzero(blank(stack)).tolist()
    reasons = [images.why_unreadable(i, max_pixels) for i in indices[:REASONS]]
    if indices and len(indices) == len(images.rows):
        first = images.names[indices[0]]
        raise ValueError(
            f"none of the {len(indices)} images below {images.root} can be read (first: {first})"
            f"{': ' if reasons[0] else ''}{reasons[0]}"
        )
    for i, reason in zip(indices[:REASONS], reasons, strict=True):
        print(reason or f"{images.root / images.rows[i].image_path} could not be read before, and can be now")
    return [images.names[i] for i in indices]


def without_unreadable(images: ImageSet, stack: Probabilities) -> tuple[ImageSet, Probabilities]:
    """An image set and its probabilities (M, N, K), both without the images that could not be read."""
    keep = np.flatnonzero(~blank(stack))
    if len(keep) == len(images.rows):
        return images, stack
    truth = images.truth and Truth(images.truth.label[keep], [images.truth.contexts[i] for i in keep])
    return images._replace(rows=[images.rows[i] for i in keep], truth=truth), stack[:, keep]


def blank(stack: Probabilities) -> npt.NDArray[np.bool_]:
    """Whether a member could not look at an image: (M, N, K) to (N,)."""
    return np.asarray(np.any([(own < 0).any(1) for own in stack], axis=0))


def with_guesses(stack: Probabilities) -> Probabilities:
    """Probabilities (M, N, K) in which an unreadable image has each member's mean over the readable ones.

    A challenge wants a label for every image: this is the best guess without seeing it.
    """
    guessed = blank(stack)
    if not guessed.any():
        return stack
    made = stack.copy()
    made[:, guessed] = stack[:, ~guessed].mean(1, keepdims=True)
    return made
