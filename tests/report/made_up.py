"""Made-up predictions: finished runs that nobody trained, and what they are said to have predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept import write_run
from src import cli
from src.data.manifest import Row
from src.prediction import voting
from src.prediction.image_sets import ImageSet, Truth
from src.prediction.members import Member, read_member
from src.prediction.run import OpenImages
from src.prediction.settings import read_settings
from src.report.evaluation import Beside, EvaluatedSet, Evaluation, evaluate_all
from src.runs.directory import resolved
from tests.conftest import TINY


def made_up_run(
    logs: Path, places: Sequence[str], stage: str, name: str, classes: Sequence[str], contexts: Sequence[str],
    epochs: int, seed: int,
) -> Member:  # fmt: skip
    """A finished run of a classifier with drawn weights and curves."""
    folder, rng = logs / "track1" / stage / name, np.random.default_rng(seed)
    folder.mkdir(parents=True)
    curve = np.sort(rng.random(epochs))
    rows = [f"{i},{i},1.5,{a:.6f},{2 - a:.6f}" for i, a in enumerate(curve)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,step,seconds,val/in_domain/accuracy,train/loss", *rows]))
    words = [*TINY, *places, "track=1", "stage=baseline", f"seed={seed}", f"logs_dir={logs}"]
    figures = {"val/in_domain/accuracy": float(curve[-1])}
    write_run(folder, cli.composed("train", *words), classes, {"in_domain": ["x"]}, contexts, figures, epochs)
    read = read_member(folder)
    assert isinstance(read, Member), read
    return read


def made_up(
    tmp_path: Path, data: Path, *, classes: Sequence[str], members: int, images: int, contexts: Sequence[str] = (),
    training_contexts: Sequence[str] = (), truth: bool = True, held_out: int = 0, epochs: int = 3, part: str = "",
    note: str = "", words: Sequence[str] = (),
) -> tuple[Evaluation, Beside, OpenImages]:  # fmt: skip
    """An evaluation of drawn probabilities, about seven of ten labels right, no other network, what opens its images.

    Args:
        tmp_path: where runs and results go.
        data: of the fixture of that name: every image is one of its few.
        classes, members, images: K names, M and N.
        contexts, training_contexts: of the test images and of the held-out ones; none: not labelled.
        truth: whether the test images' labels are known.
        held_out: number of held-out images.
        epochs: of each run.
        part, note: of the test images, where held-out ones stand in for them.
        words: more words of predict.py.
    """
    logs, rng = tmp_path / "logs", np.random.default_rng(0)
    places = [f"data_root={data / 'data'}", f"manifest_dir={tmp_path / 'dataset_json'}"]
    cfg = cli.composed(
        "predict", "track=1", "scale=demo", *places, f"logs_dir={logs}", f"results_dir={tmp_path / 'results'}",
        "report=true", *words,
    )  # fmt: skip
    settings = read_settings(resolved(cfg))
    found = [
        made_up_run(logs, places, "fdg" if i % 11 == 0 else "adapt", f"resnet10t-decoupled-r{i / 100}-holdout-seed{i}",
                    classes, training_contexts, epochs, i)
        for i in range(members)
    ]  # fmt: skip
    files = sorted((data / "data/public_dg_0416/public_test_flat").iterdir())
    shown = [f"public_dg_0416/public_test_flat/{path.name}" for path in files]

    def evaluated(name: str, count: int, where: Sequence[str], known: bool) -> EvaluatedSet:
        rows = [Row(shown[i % len(shown)], image_name=f"{name}_{i:05d}.jpg") for i in range(count)]
        label = rng.integers(0, len(classes), count)
        own = [where[i % len(where)] if where else "" for i in range(count)]
        images_of = ImageSet(name, data / "data", rows, Truth(label, own) if known else None)
        probabilities = rng.random((members, count, len(classes)), np.float32)
        hard = rng.random(count) < 0.3
        right = rng.random((members, count)) < np.where(hard, 0.1, 0.95)
        for member, sure in zip(probabilities, right, strict=True):
            member[np.flatnonzero(sure), label[sure]] += rng.random(int(sure.sum())).astype(np.float32) * len(classes)
        probabilities /= probabilities.sum(2, keepdims=True)
        return EvaluatedSet(images_of, probabilities, voting.elect(probabilities, "adaptive", list(range(members))))

    test = evaluated("test", images, contexts, truth)
    test = replace(test, images=test.images._replace(part=part, note=note))
    sets = [test, *([evaluated("in_domain", held_out, training_contexts, True)] if held_out else [])]
    choice: Any = voting.Choice(list(range(members)), [])
    open_images: Callable[..., Any] = partial(cli.instantiate, cfg.datamodule)
    evaluation = evaluate_all(settings, found, [], choice, sets, "" if held_out else "nothing is held out")
    return evaluation, Beside([], {}), open_images
