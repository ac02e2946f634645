"""Seconds to vote again over kept predictions: 33 members x 14,000 images x 60 classes.

    python -m benchmarks.votes [--profile]

What predict.py does when every prediction is kept, in seconds of CPU after its imports: the whole command for test
images without truth, with it, and with 14,000 held-out ones of 70,000 training images besides; then its parts, the
choice of members among them. Files are in the system's cache. The runs' weights are small (resnet10t), but a digest
that is remembered takes no longer for large ones.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

import predict
from benchmarks.kept import TEST, TRAIN, drawn, keep, make_runs, words_of, write_truth
from benchmarks.loader import write_images
from src import cli
from src.data.manifest import Row
from src.files import write_json
from src.prediction.image_sets import ImageSet, Truth
from src.prediction.kept import Task, store, stored
from src.prediction.members import Member
from src.prediction.voting import RULES, diverse, elect, greedy
from src.report import results
from src.report.evaluation import EvaluatedSet, evaluate

MEMBERS, IMAGES, CLASSES, TRAINING = 33, 14_000, 60, 70_000
CONTEXTS = [f"context{i}" for i in range(6)]


def timed(title: str, work: Callable[[], Any]) -> Any:
    """Run, print the seconds of CPU, return what came out."""
    begin = time.process_time()
    made = work()
    print(f"{title:50s} {time.process_time() - begin:6.2f} s", flush=True)
    return made


def links(source: Path, folder: Path, names: Sequence[str]) -> None:
    """Many images that take no room: hard links, a thousand to a copy, as a file system counts the links of a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        if i % 1000 == 0:
            (folder / name).write_bytes(source.read_bytes())
            first = folder / name
        else:
            os.link(first, folder / name)


def whole(folder: Path, profile: bool) -> None:
    """The command, with everything kept."""
    rng = np.random.default_rng(0)
    label, classes = rng.integers(0, CLASSES, IMAGES), [f"class{k:02}" for k in range(CLASSES)]
    source = folder / write_images(folder, 1)[0].image_path
    rows = [Row(f"{TEST}/{i:032x}.jpg") for i in range(IMAGES)]
    links(source, folder / "data" / TEST, [row.name for row in rows])
    each = TRAINING // (len(CONTEXTS) * CLASSES)
    paths = {}
    for context in CONTEXTS:
        for k, name in enumerate(classes):
            own = [f"{context}_{name}_{i:06}.jpg" for i in range(each)]
            links(source, folder / "data" / TRAIN / context / name, own)
            paths |= {f"{TRAIN}/{context}/{name}/{one}": k for one in own}
    held = sorted(rng.permutation(sorted(paths))[:IMAGES].tolist())
    write_truth(folder / "truth.json", rows, label, [str(i % 4) for i in range(IMAGES)])
    time.sleep(2.5)  # what is younger is not remembered (src/digests.py)
    test = ImageSet("test", folder / "data", rows)
    part = ImageSet("in_domain", folder / "data", [Row(path, image_name=path) for path in held])
    for title, own, words in (
        ("predict.py", [], []),
        ("predict.py truth=", [], [f"truth={folder}/truth.json"]),
        ("predict.py truth=, with held-out images", held, [f"truth={folder}/truth.json"]),
    ):
        if own or title == "predict.py":
            train = sorted(paths.keys() - set(own))
            make_runs(folder, MEMBERS, classes, {"train": train, "in_domain": own})
            time.sleep(2.5)
            keep(folder, test, label, CLASSES)
        if own:
            keep(folder, part, np.array([paths[path] for path in held]), CLASSES)
        for again in (False, True):  # the first time manifests are made, and digests
            cfg = cli.composed("predict", *words_of(folder), "ensemble=baselines", *words)
            said, seen = StringIO(), cProfile.Profile()
            begin = time.process_time()
            with redirect_stdout(said):
                if profile and again:
                    seen.runcall(predict.predict, cfg)
                else:
                    predict.predict(cfg)
            seconds = time.process_time() - begin
            assert "predicting again" not in said.getvalue()
            print(f"{title + (', again' if again else ', first time'):50s} {seconds:6.2f} s", flush=True)
            if profile and again:
                pstats.Stats(seen).sort_stats("cumulative").print_stats(60)


def parts(folder: Path) -> None:
    """Its parts, and the choice of members."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, IMAGES)
    names = [f"{i:032x}.jpg" for i in range(IMAGES)]
    truth = Truth(label, [str(i % 4) for i in range(IMAGES)])
    images = ImageSet("test", Path("."), [Row(name) for name in names], truth)
    tasks = []
    for i in range(MEMBERS):
        member = Member(Path(folder), "adapt", str(i), {}, [], {}, "")
        tasks.append(Task(member, [], Path(folder, f"{i}.test.npz"), "key"))
        store(tasks[-1], names, drawn(label, CLASSES, i))
    stack = timed(f"reading {MEMBERS} members", lambda: np.stack([stored(task) for task in tasks]))
    for rule in RULES:
        ballot = timed(f"vote={rule}", lambda rule=rule: elect(stack, rule, range(MEMBERS)))
    timed("writing prediction.json", lambda: write_json(
        Path(folder, "prediction.json"), dict(zip(names, ballot.labels.tolist(), strict=True))))  # fmt: skip
    timed("figures of one image set", lambda: evaluate(
        EvaluatedSet(images, stack, ballot), [str(k) for k in range(CLASSES)], 0.9, 0))  # fmt: skip
    timed("ensemble=greedy, 20 rounds", lambda: greedy(stack, label, 20))
    timed("ensemble=diverse", lambda: diverse(stack, label, 20))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true", help="the whole command's functions, by their time")
    asked = parser.parse_args()
    assert results  # imported before anything is timed, as are the others above
    with tempfile.TemporaryDirectory() as folder:
        whole(Path(folder), asked.profile)
        parts(Path(folder))


if __name__ == "__main__":
    main()
