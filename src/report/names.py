"""Names and paths as a page shows them: short, and without the machine that they come from."""

from __future__ import annotations

import re
from collections.abc import Sequence

SCRIPT = re.compile(r"(?<=python )\S*/(?=\w+\.py\b)")
PATH = re.compile(
    r"""(?<![\w:/.~<>…*)-])/(?:[^\s/'",:;=()\[\]{}<>]+/)+(?=[^\s/'",:;=()\[\]{}<>]+/[^\s/'",:;=()\[\]{}<>])"""
)
SHORT_PATH = re.compile(r"""(?<![\w:/.~<>…*)-])/(?=[^\s/'",:;=()\[\]{}<>]+(?:/|\b))""")


def without_machine(text: str) -> str:
    """A text in which absolute paths keep their last two parts, "…/finetune/seed0", and scripts their name."""
    return SHORT_PATH.sub("…/", PATH.sub("…/", SCRIPT.sub("", text)))


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the words that all of them have: "adapt decoupled r0.2" of adapt/resnet34-decoupled-r0.2-seed0.

    Words end at "/" and "-". Where that leaves two names alike, or nothing of one, they stay whole.
    """
    split = [re.split("[/-]", name) for name in names]
    common = set(split[0]).intersection(*split[1:]) if len(split) > 1 else set()
    short = [" ".join(word for word in words if word not in common) for words in split]
    whole = len(names) == 1 or not all(short) or len(set(short)) < len(names)
    return list(names) if whole else short
