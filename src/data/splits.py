"""Which training images are held out: pure functions of rows, context names and a seed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from src.data.manifest import NO_DOMAIN, Row
from src.numbers import is_number


class Split(NamedTuple):
    """Indices of the training rows, sorted: the part to train on and the held-out parts."""

    train: list[int]
    in_domain: list[int]
    out_of_domain: list[int]


HELD_OUT = ("in_domain", "out_of_domain")
"""Names of the held-out parts, in the order of the validation data loaders."""
SplitRule = Callable[[Sequence[Row], Sequence[str]], Split]


def groups_of(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of the rows of each (label, domain), sorted by label, domain, then path."""
    groups: dict[tuple[int, str], list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: rows[i].image_path):
        label, domain = rows[i].label, rows[i].domain
        groups.setdefault((NO_DOMAIN if label is None else label, str(domain)), []).append(i)
    return [groups[key] for key in sorted(groups)]


def context_information(rows: Sequence[Row]) -> float | None:
    """How much of the class the context tells: I(class; context) / H(class), in [0, 1].

    0 where every context shows the classes in the same shares, 1 where it gives the class away; None where an image's
    context is unknown, or where there is one class alone.
    """
    labels = [row.label for row in rows]
    contexts = [row.domain for row in rows]
    if not rows or None in labels or any(domain in (None, NO_DOMAIN) for domain in contexts):
        return None
    counts = np.zeros((len(set(labels)), len(set(contexts))))
    np.add.at(counts, tuple(np.unique(np.array(x, str), return_inverse=True)[1] for x in (labels, contexts)), 1)
    joint = counts / counts.sum()
    classes, places = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    entropy = -float((classes * np.log(classes)).sum())
    shown = joint > 0
    information = float((joint[shown] * np.log((joint / (classes * places))[shown])).sum())
    return max(0.0, information) / entropy if entropy else None


def stratified(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Hold out `fraction` of the rows, the same share of every (label, domain) group as far as counts allow.

    A group keeps at least one training row. The result depends on the paths and the seed alone, not on the
    rows' order; what rounding takes from one group it gives to the next, so that the total is exact.

    Returns:
        (train, held out): sorted indices of `rows`.

    Raises:
        ValueError: the share is less than an image.
    """
    rng = np.random.default_rng(seed)
    held: list[int] = []
    seen = 0
    for group in groups_of(rows):
        seen += len(group)
        count = min(len(group) - 1, max(0, round(fraction * seen) - len(held)))
        held += [group[i] for i in rng.permutation(len(group))[:count]]
    if fraction * len(rows) < 0.5:
        raise ValueError(
            f"split.fraction is {fraction}, which holds out none of {len(rows)} images: raise it, or set split=none"
        )
    held_set = set(held)
    return [i for i in range(len(rows)) if i not in held_set], sorted(held)


def check_draw(fraction: Any, seed: Any) -> None:
    """Raise ValueError for settings of a split that draw nothing, or another part at each start."""
    if not is_number(fraction, 0, 1, above=True, below=True):
        raise ValueError(f"split.fraction is {fraction}: expected a share in (0, 1); split=none holds nothing out")
    if not is_number(seed, 0, whole=True):
        raise ValueError(f"split.seed is {seed}: expected a whole number of at least 0")


def holdout(rows: Sequence[Row], contexts: Sequence[str], *, fraction: float, seed: int) -> Split:
    """Hold out the images that the data set holds out itself (row.split), else a share of the training images.

    The share is stratified by class and context: in-domain. Of images that are held out anyway, those of a context
    without training images are out-of-domain.

    Raises:
        ValueError: the settings are none of a split, or it would hold out nothing.
    """
    check_draw(fraction, seed)
    held = [i for i, row in enumerate(rows) if row.split == "val"]
    if not held:
        train, held = stratified(rows, fraction, seed)
        return Split(train, held, [])
    train = [i for i, row in enumerate(rows) if row.split != "val"]
    seen = {rows[i].domain for i in train}
    return Split(train, [i for i in held if rows[i].domain in seen], [i for i in held if rows[i].domain not in seen])


def leave_context_out(
    rows: Sequence[Row],
    names: Sequence[str],
    *,
    contexts: Sequence[Any] | str | float | None,
    fraction: float,
    seed: int,
) -> Split:
    """Hold out whole contexts (out-of-domain) and a stratified share of the others (in-domain).

    Where the data set holds images out itself (row.split), those of the other contexts are the in-domain part.

    Args:
        rows: training rows; `domain` is an index into `names`.
        names: the contexts' names, in the order of their ids.
        contexts: names of the contexts to leave out; a single one need not stand in a list, and a number or boolean
            (as yaml reads a name like 2016 or true) is the context of that name.

    Raises:
        ValueError: no context given, an unknown one, one twice, all of them, or a track without contexts; or as
            `holdout`.
    """
    check_draw(fraction, seed)
    if not names:
        raise ValueError(
            "split=leave_context_out needs images with contexts, which this track does not have: use split=holdout"
        )
    wanted = [contexts] if isinstance(contexts, str | int | float) else list(contexts or [])
    found = [context_meant(word, names) for word in wanted]
    if None in found or not found or len(set(found)) >= len(names):
        raise ValueError(f"split.contexts is {wanted}: name one or more, not all, of the contexts {', '.join(names)}")
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        raise ValueError(f"split.contexts is {wanted}, which names {twice[0]} twice: name it once")
    left_out = {names.index(name) for name in found if name is not None}
    out = [i for i, row in enumerate(rows) if row.domain in left_out]
    rest = [i for i, row in enumerate(rows) if row.domain not in left_out]
    train, held = holdout([rows[i] for i in rest], names, fraction=fraction, seed=seed)[:2]
    return Split([rest[i] for i in train], [rest[i] for i in held], out)


def context_meant(word: Any, names: Sequence[str]) -> str | None:
    """The context that a setting's value means: its name, or the one name that reads as its number; None without."""
    if str(word) in names:
        return str(word)
    if isinstance(word, str):
        same = [name for name in names if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", word)]
    elif isinstance(word, bool):
        same = [name for name in names if name.casefold() == str(word).casefold()]
    else:
        same = [name for name in names if re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", name, re.I) and number(name) == word]
    return same[0] if len(same) == 1 else None


def number(word: str) -> float | None:
    """A word's value as a number, None where it has none."""
    try:
        return float(word)
    except ValueError:
        return None


def no_split(rows: Sequence[Row], contexts: Sequence[str]) -> Split:
    """Train on everything: for a final run, whose accuracy cannot be known from these images."""
    return Split(list(range(len(rows))), [], [])
