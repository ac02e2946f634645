"""Seconds to vote again over kept predictions: 33 members x 14,000 images x 60 classes.

    python -m benchmarks.votes

What predict.py does when every prediction is kept, from reading the .npz files to prediction.json; and the choice
of members and the figures that need the same number of held-out images. Files are in the system's cache; checking the
members' weights against their digests, which predict.py does first, depends on their size and is not in it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.data.manifest import Row
from src.files import write_json
from src.prediction.image_sets import ImageSet, Truth
from src.prediction.kept import Task, store, stored
from src.prediction.members import Member
from src.prediction.voting import RULES, diverse, elect, greedy
from src.report.evaluation import EvaluatedSet, evaluate

MEMBERS, IMAGES, CLASSES = 33, 14_000, 60


def timed(title: str, work: Callable[[], Any]) -> Any:
    """Run, print the seconds, return what came out."""
    begin = time.perf_counter()
    made = work()
    print(f"{title:34s} {time.perf_counter() - begin:6.2f} s", flush=True)
    return made


def main() -> None:
    """Measure and print."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, IMAGES)
    names = [f"{i:032x}.jpg" for i in range(IMAGES)]
    images = ImageSet(
        "test", Path("."), [Row(name) for name in names], Truth(label, [str(i % 4) for i in range(IMAGES)])
    )
    with tempfile.TemporaryDirectory() as folder:
        tasks = []
        for i in range(MEMBERS):
            scores = rng.normal(0, 1, (IMAGES, CLASSES)).astype(np.float32)
            scores[np.arange(IMAGES), label] += 3
            powers = np.exp(scores)
            member = Member(Path(folder), "adapt", str(i), {}, [], {}, "")
            tasks.append(Task(member, [], Path(folder, f"{i}.test.npz"), "key"))
            store(tasks[-1], names, powers / powers.sum(1, keepdims=True))
        stack = timed(f"reading {MEMBERS} members", lambda: np.stack([stored(task) for task in tasks]))
        for rule in RULES:
            ballot = timed(f"vote={rule}", lambda rule=rule: elect(stack, rule, range(MEMBERS)))
        timed("writing prediction.json", lambda: write_json(
            Path(folder, "prediction.json"), dict(zip(names, ballot.labels.tolist(), strict=True))))  # fmt: skip
        timed("figures of one image set", lambda: evaluate(
            EvaluatedSet(images, stack, ballot), [str(k) for k in range(CLASSES)], 0.9, 0))  # fmt: skip
        timed("ensemble=greedy, 20 rounds", lambda: greedy(stack, label, 20))
        timed("ensemble=diverse", lambda: diverse(stack, label, 20))


if __name__ == "__main__":
    main()
