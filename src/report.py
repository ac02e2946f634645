"""Tables of figures for a person to read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from src.members import Member
from src.metrics import accuracy_by_context, count_hits
from src.voting import Ballot, agreement


def accuracies(
    votes: npt.NDArray[np.int64], label: npt.NDArray[np.int64], contexts: Sequence[str]
) -> list[dict[str, float]]:
    """accuracy_by_context of each member.

    Args:
        votes: (M, N) label ids.
        label: (N,) true label ids.
        contexts: (N) names, "" where unknown.
    """
    names = sorted(set(contexts) - {""})
    domain = torch.tensor([names.index(name) if name else -1 for name in contexts])
    figures = []
    for hit in torch.from_numpy(votes == label):
        hits, images = count_hits(hit, domain, len(names))
        figures.append(accuracy_by_context(hits.tolist(), images.tolist(), names))
    return figures


def members_table(
    members: Sequence[Member],
    ballot: Ballot,
    votes: npt.NDArray[np.int64],
    figures: Sequence[dict[str, float]],
) -> str:
    """One line a member: in-domain accuracy (of its split's held-out part), agreement with the vote, weight, test
    accuracies; the vote comes last.

    Args:
        members: M members.
        ballot: what they elected.
        votes: (M, N) label ids.
        figures: test accuracies of the members and, last, of the vote; empty where truth is unknown.
    """
    keys = list(figures[-1]) if figures else []
    names = ["test" if key == "accuracy" else key.removeprefix("accuracy/") for key in keys]
    head = ["member", "in-domain", "agreement", "weight", *names]
    lines = [head]
    for i, (member, rate) in enumerate(zip(members, agreement(votes, ballot.labels), strict=True)):
        own = [percent(figures[i].get(key)) for key in keys]
        in_domain = percent(member.figures.get("val/in_domain/accuracy"))
        lines.append([f"{member.stage}/{member.name}", in_domain, percent(rate), f"{ballot.weights[i]:.3f}", *own])
    lines.append(["vote", "", "", "", *(percent(figures[-1][key]) for key in keys)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(word.rjust(w) for word, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def percent(share: float | None) -> str:
    """A share as a percentage with two decimals, "-" where it is not known."""
    return "-" if share is None else f"{100 * share:.2f}"
