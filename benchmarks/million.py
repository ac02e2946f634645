"""What a million images cost besides their training: seconds and memory of every step between a folder and a report.

    python -m benchmarks.million [--images 1000000] [--folder FOLDER] [--only "scan" "read the manifest"]

As many test images as training images, of 60 classes in 6 contexts: hard links to small JPEGs, in a folder of its own,
which is removed (one that --folder names stays, and is used again). Every step is a process of its own. Its memory is
the peak above what the process had with the step's inputs in memory; its seconds are those after its imports.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import predict
from benchmarks.kept import TEST, TRAIN, drawn, keep, make_runs, members_in, words_of, write_truth
from benchmarks.votes import links
from src import cli
from src.data.checks import check_against_tree, check_labels, check_links, with_contexts
from src.data.finding import find_sources
from src.data.layouts import Layout
from src.data.manifest import Row, labels_of, read_manifest, write_manifest
from src.data.sampler import KeyedSampler
from src.data.scan import scan_test, scan_train
from src.data.splits import context_information, holdout
from src.prediction.image_sets import ImageSet, match_truth, read_truth, with_digest
from src.prediction.kept import stored, task_of
from src.prediction.run import stacked
from src.prediction.settings import PredictionSettings, read_settings
from src.prediction.voting import RULES, elect
from src.report import evidence, logged, page, results  # all that predict.py imports when it needs it
from src.report.evaluation import EvaluatedSet, evaluate
from src.runs.directory import resolved

CLASSES, CONTEXTS, MEMBERS = 60, 6, 3
NAMES = [f"class{k:02}" for k in range(CLASSES)]
Work = Callable[[], Any]


IMPORTED = (evidence, logged, page)


class Bench:
    """A folder with the tree, and what its steps share.

    Args:
        folder: where everything lies.
        images: of each part.
    """

    def __init__(self, folder: Path, images: int) -> None:
        self.folder, self.images, self.data = folder, images, folder / "data"

    def make_images(self) -> None:
        """The tree, unless it is there."""
        truth = self.folder / "truth.json"  # written last
        if truth.exists():
            return
        cv2.imwrite(str(self.folder / "one.jpg"), np.full((40, 40, 3), 90, np.uint8))
        for where, names in self.training.items():
            links(self.folder / "one.jpg", self.data / where, names)
        rows = self.test_rows
        links(self.folder / "one.jpg", self.data / TEST, [row.name for row in rows])
        write_truth(truth, rows, self.label, [f"context{i % CONTEXTS}" for i in range(self.images)])
        time.sleep(2.5)  # the digest of what is younger is not remembered (src/digests.py)

    def make_runs(self) -> None:
        """Runs and their kept predictions, unless they are there."""
        if (self.folder / "logs").exists():
            return
        every = [f"{where}/{name}" for where, names in self.training.items() for name in names]
        make_runs(self.folder, MEMBERS, NAMES, {"train": every})
        time.sleep(2.5)
        keep(self.folder, ImageSet("test", self.data, self.test_rows), self.label, CLASSES)

    @property
    def training(self) -> dict[str, list[str]]:
        """Names of the training images by their folders."""
        paths: dict[str, list[str]] = {}
        for i in range(self.images):
            where = f"{TRAIN}/context{i % CONTEXTS}/{NAMES[i // CONTEXTS % CLASSES]}"
            paths.setdefault(where, []).append(f"{i:08}.jpg")
        return paths

    @property
    def test_rows(self) -> list[Row]:
        """The test images."""
        return [Row(f"{TEST}/{i:032x}.jpg") for i in range(self.images)]

    @property
    def label(self) -> Any:
        """Of the test images."""
        return np.random.default_rng(0).integers(0, CLASSES, self.images)

    def settings(self) -> PredictionSettings:
        """Of a prediction."""
        return read_settings(resolved(cli.composed("predict", *words_of(self.folder))))

    @property
    def layout(self) -> Layout:
        """Track 1's."""
        return Layout(**self.settings().composed["track"])

    @property
    def manifest(self) -> Path:
        """Of the training images, for the steps that read it."""
        path = self.folder / "train.json"
        if not path.exists():
            write_manifest(path, self.scanned()[0])
        return path

    def scanned(self) -> tuple[list[Row], dict[str, int]]:
        """The training images by their tree."""
        return scan_train(self.data, find_sources(self.data, self.layout), "track1")

    def tests(self) -> ImageSet:
        """The test images, with truth."""
        images = ImageSet("test", self.data, self.test_rows)
        return images._replace(truth=match_truth(read_truth(self.folder / "truth.json"), images.names, self.folder))

    def predicts(self, *words: str) -> Work:
        """The command predict.py."""
        every = [*words_of(self.folder), "ensemble=baselines", "ensemble.split='*'", "compare=[]", *words]
        return lambda: predict.predict(cli.composed("predict", *every))


def scan_tests(bench: Bench) -> Work:
    """The flat folder of test images."""
    sources = find_sources(bench.data, bench.layout)
    return lambda: scan_test(bench.data, sources, "track1", lambda: {})


def write(bench: Bench) -> Work:
    """A training manifest."""
    rows = bench.scanned()[0]
    return lambda: write_manifest(bench.folder / "written.json", rows)


def read(bench: Bench) -> Work:
    """A training manifest, with the checks of every entry."""
    path = bench.manifest
    return lambda: read_manifest(path)


def check(bench: Bench) -> Work:
    """A manifest against its tree; links, labels, contexts."""
    rows, scanned = read_manifest(bench.manifest), bench.scanned()[0]
    labels = labels_of(rows, bench.manifest)

    def work() -> None:
        check_against_tree(bench.manifest, rows, scanned)
        check_links(bench.data, [row.image_path for row in rows])
        check_labels(rows, labels, bench.manifest, "it", "")
        with_contexts(rows, bench.manifest)

    return work


def split(bench: Bench) -> Work:
    """A fifth held out; how much the contexts tell of the class."""
    rows = read_manifest(bench.manifest)
    return lambda: (holdout(rows, [], fraction=0.2, seed=0), context_information(rows))


def order(bench: Bench) -> Work:
    """The sampler, to the end of an epoch."""

    def work() -> None:
        sampler = KeyedSampler(bench.images, seed=0, batch_size=128, shuffle=True, drop_last=True)
        for _ in sampler:
            pass

    return work


def data_module(bench: Bench) -> Work:
    """What train.py does with the data before it trains."""
    cfg = cli.composed("train", *words_of(bench.folder), "stage=baseline")

    def work() -> None:
        module = cli.instantiate(cfg.datamodule)
        module.prepare_data()
        module.setup()
        assert sum(map(len, module.split_paths.values())) == bench.images

    return work


def digests(bench: Bench) -> Work:
    """Of the test images."""
    images = bench.tests()
    return lambda: with_digest(images, bench.settings().digests())


def verified(bench: Bench) -> Work:
    """Of the test images, read again."""
    images, settings = bench.tests(), bench.settings()._replace(verify=True)
    return lambda: with_digest(images, settings.digests())


def kept(bench: Bench) -> Work:
    """Kept predictions, read and put together."""
    settings = bench.settings()
    images, found = with_digest(bench.tests(), settings.digests()), members_in(bench.folder)
    tasks = [task_of(member, "test", images.digest, [], "", settings) for member in found]

    def work() -> None:
        rows = [rows for task in tasks if (rows := stored(task)) is not None]
        assert stacked(rows).shape == (MEMBERS, bench.images, CLASSES)

    return work


def votes(bench: Bench) -> Work:
    """The rules."""
    label = bench.label
    stack = np.stack([drawn(label, CLASSES, seed) for seed in range(MEMBERS)])
    return lambda: [elect(stack, rule, range(MEMBERS)) for rule in RULES]


def figures(bench: Bench) -> Work:
    """Of a vote on one image set."""
    images, label = bench.tests(), bench.label
    stack = np.stack([drawn(label, CLASSES, seed) for seed in range(MEMBERS)])
    ballot = elect(stack, "adaptive", range(MEMBERS))
    return lambda: evaluate(EvaluatedSet(images, stack, ballot), NAMES, 0.9, 0)


def labels(bench: Bench) -> Work:
    """The file of labels."""
    names, label = bench.tests().names, bench.label
    return lambda: results.write_labels(bench.folder / "prediction.json", names, label)


STEPS: dict[str, Callable[[Bench], Work]] = {
    "scan training images": lambda bench: bench.scanned,
    "scan test images": scan_tests,
    "write a manifest": write,
    "read a manifest": read,
    "checks": check,
    "split": split,
    "order of an epoch": order,
    "train.py until it trains: first time": data_module,
    "train.py until it trains: again": data_module,
    f"{MEMBERS} runs as members": lambda bench: lambda: members_in(bench.folder),
    "test images and truth": lambda bench: bench.tests,
    "digest of the images, read": verified,
    "digest of the images, remembered": digests,
    f"kept predictions of {MEMBERS} members": kept,
    "votes by three rules": votes,
    "figures": figures,
    "prediction.json": labels,
    "predict.py: first time": lambda bench: bench.predicts(),
    "predict.py: again": lambda bench: bench.predicts(),
    "predict.py with truth": lambda bench: bench.predicts(f"truth={bench.folder}/truth.json"),
    "predict.py with truth and report": lambda bench: bench.predicts(f"truth={bench.folder}/truth.json", "report=true"),
}
"""The steps by their titles: each prepares its inputs and returns what is measured."""


def memory(key: str) -> float:
    """This process's memory by the system, MiB: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {key}: this benchmark needs Linux")


def measure(title: str, bench: Bench) -> dict[str, float]:
    """Seconds and memory of a step, in this process."""
    work, said = STEPS[title](bench), StringIO()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, cpu, wall = memory("VmRSS"), time.process_time(), time.monotonic()
    with redirect_stdout(said):
        made = work()
    figures = {"cpu": time.process_time() - cpu, "wall": time.monotonic() - wall, "MiB": memory("VmHWM") - before}
    assert "predicting again" not in said.getvalue()
    del made
    return figures


def alone(work: Callable[..., Any], *given: Any) -> Any:
    """What a function returns that runs in a process of its own, which has this one's imports."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(work, given)


def main() -> None:
    """Make the tree, run every step in a process of its own, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000, help="of each part, training and test")
    parser.add_argument("--folder", type=Path, help="use and keep this folder")
    parser.add_argument("--only", nargs="+", default=list(STEPS), metavar="STEP", help="rows of the table")
    asked = parser.parse_args()
    if unknown := [title for title in asked.only if title not in STEPS]:
        parser.error(f"--only {unknown[0]!r} is no step: choose from {', '.join(STEPS)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as own:
        bench = Bench(asked.folder or Path(own), asked.images)
        bench.folder.mkdir(parents=True, exist_ok=True)
        print(f"making twice {asked.images:,} images in {bench.folder}", file=sys.stderr, flush=True)
        alone(bench.make_images)
        alone(bench.make_runs)
        print("| step | CPU, s | by the clock, s | memory, MiB | bytes an image |\n|---|---|---|---|---|", flush=True)
        for title in asked.only:
            made = alone(measure, title, bench)
            each = made["MiB"] * 2**20 / asked.images
            print(f"| {title} | {made['cpu']:.1f} | {made['wall']:.1f} | {made['MiB']:.0f} | {each:.0f} |", flush=True)


if __name__ == "__main__":
    main()
