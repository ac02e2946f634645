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


class Short(str):
    """A short form of `full`, which the page shows when a pointer rests on it."""

    full: str

    def __new__(cls, short: str, full: str) -> Short:
        """As str, and with the full form."""
        made = super().__new__(cls, short)
        made.full = full
        return made


def short_names(names: Sequence[str]) -> list[Short]:
    """Names without the words that all of them have: "adapt decoupled r0.2" of adapt/resnet34-decoupled-r0.2-seed0.

    Words end at "/" and "-". Where that leaves two names alike, or nothing of one, they stay whole.
    """
    split = [re.split("[/-]", name) for name in names]
    common = set(split[0]).intersection(*split[1:]) if len(split) > 1 else set()
    short = [" ".join(word for word in words if word not in common) for words in split]
    if len(names) == 1 or not all(short) or len(set(short)) < len(names):
        short = list(names)
    return [Short(words, name) for words, name in zip(short, names, strict=True)]
