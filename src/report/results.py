"""Write what was predicted: prediction.json, ensemble.json, figures.json, images.csv."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from src.files import read_json, write_json, write_text
from src.prediction.settings import PredictionSettings
from src.report.comparison import read_runs, runs_table
from src.report.evaluation import EvaluatedSet, Evaluation
from src.report.tables import as_csv, as_markdown, as_text, members_table
from src.runs.directory import environment

REPORT = ("report.html", "runs.csv", "runs.md")
"""What report=true writes."""


def write_evaluation(evaluation: Evaluation) -> None:
    """Write the vote to the folder that keeps it and to that of the last vote, and each member's labels; print a table.

    An older vote's report is in neither of them afterwards; with report=true the track's runs.csv and runs.md are.
    """
    settings, names = evaluation.settings, evaluation.test.images.names
    folders = settings.vote_folder, settings.folder
    before = settings.folder / "votes" / name_of(settings.folder / "ensemble.json")
    for folder in folders:
        write_vote(evaluation, folder)
    for member, votes in zip(evaluation.members, evaluation.test.votes, strict=True):
        write_labels(settings.folder / "members" / member.stage / f"{member.name}.json", names, votes)
    said = set_report_aside(settings, before)
    if settings.report:
        runs = read_runs(settings.logs_dir / settings.data_name)
        for folder in folders:
            write_text(folder / "runs.csv", as_csv(runs_table(runs, exact=True)))
            write_text(folder / "runs.md", as_markdown(runs_table(runs)))
    print(as_text(members_table(evaluation)))
    for note in [*evaluation.notes[len(evaluation.left_out) :], *said]:
        print(note)
    count = len(evaluation.members)
    print(f"wrote {settings.folder / 'prediction.json'}: {len(names)} images, {count} members, vote={settings.vote}")
    print(f"this vote is kept in {settings.vote_folder}")


def write_vote(evaluation: Evaluation, folder: Path) -> None:
    """Write prediction.json, ensemble.json, figures.json, and bad_images.json if there are any."""
    images = evaluation.test.images
    write_labels(folder / "prediction.json", images.names, evaluation.test.ballot.labels)
    write_json(folder / "ensemble.json", ensemble(evaluation))
    if images.unreadable:
        write_json(folder / "bad_images.json", list(images.unreadable))
    else:
        (folder / "bad_images.json").unlink(missing_ok=True)
    write_json(folder / "figures.json", evaluation.figures)  # {} without truth: no older figures beside a new vote


def set_report_aside(settings: PredictionSettings, before: Path) -> list[str]:
    """Take an older report from where the new vote is, and say so; that of the vote before stays in its folder.

    Returns:
        Sentences for the user; none where a new report takes its place.
    """
    last, said = settings.folder, []
    old = [name for name in REPORT if (last / name).exists()]
    if old and before != settings.vote_folder:
        for name in old:
            if (before / name).exists():  # as it is, unless a version before 0.3 wrote it
                (last / name).unlink()
            else:
                before.mkdir(parents=True, exist_ok=True)
                os.replace(last / name, before / name)
        said.append(f"{' and '.join(old)} of the previous vote {'is' if len(old) == 1 else 'are'} now in {before}")
    for folder in (last, settings.vote_folder):
        old = [name for name in REPORT if (folder / name).exists()]
        for name in old:
            (folder / name).unlink()
        if old:
            said.append(f"removed {' and '.join(old)} of an older vote from {folder}: report=true makes them again")
    return [] if settings.report else said


def name_of(path: Path) -> str:
    """The vote_name in an ensemble.json; "before" where it has none."""
    with suppress(OSError, ValueError):
        facts = read_json(path)
        name = facts.get("name") if isinstance(facts, dict) else None
        if isinstance(name, str) and name and Path(name).name == name:
            return name
    return "before"


def keep_report(settings: PredictionSettings) -> None:
    """Copy report.html to the folder that keeps its vote."""
    write_text(settings.vote_folder / "report.html", (settings.folder / "report.html").read_text())


def unreadable_words(evaluation: Evaluation) -> str:
    """The sentence that ends a prediction of which some images could not be read."""
    unreadable, folder = evaluation.test.images.unreadable, evaluation.settings.folder
    names = ", ".join(unreadable[:3]) + (", ..." if len(unreadable) > 3 else "")
    return (
        f"{len(unreadable)} of {len(evaluation.test.images.rows)} test images cannot be read ({names}): "
        f"{folder / 'prediction.json'} is written, with a guess for each of them; {folder / 'bad_images.json'} lists "
        "them: replace the files and predict again"
    )


def write_labels(path: Path, names: Sequence[str], labels: npt.NDArray[np.int64]) -> None:
    """A prediction in the format of prediction.json: {image name: label id}."""
    # What write_json writes; but json indents in Python, which takes ten times as long.
    quoted = json.JSONEncoder(ensure_ascii=False).encode
    lines = [f"{quoted(name)}: {label}" for name, label in zip(names, labels.tolist(), strict=True)]
    write_text(path, "{\n " + ",\n ".join(lines) + "\n}\n")


def ensemble(evaluation: Evaluation) -> dict[str, Any]:
    """What stands in ensemble.json: enough to know what voted, by which rule, on which images."""
    where, settings, images = environment(), evaluation.settings, evaluation.test.images
    weights = evaluation.test.ballot.weights.tolist()
    members = [
        {
            "run": str(member.folder),
            "weights_sha256": member.digest,
            "weight": weight,
            "chosen": evaluation.chosen.count(i),
        }
        for i, (member, weight) in enumerate(zip(evaluation.members, weights, strict=True))
    ]
    rounds = {"rounds": settings.rounds} if settings.chooses else {}
    return {
        "command": where["command"],
        "revision": where["revision"],
        "name": settings.vote_name,
        **settings.wanted._asdict(),
        "select": settings.select,
        **rounds,
        "vote": settings.vote,
        "tta": settings.tta,
        "precision": settings.precision,
        "images": {"count": len(images.rows), "digest": images.digest},
        "unreadable": list(images.unreadable),
        "temperature": evaluation.temperature,
        "members": members,
        "left_out": [{"run": str(folder), "reason": reason} for folder, reason in evaluation.left_out],
    }


def write_images(evaluated: EvaluatedSet, classes: Sequence[str], top: int, path: Path) -> None:
    """One row per file: the vote, and the classes of the highest mean probability, as csv or json by the path's end.

    Raises:
        ValueError: files could not be decoded; the others are written.
    """
    top, probabilities = min(top, len(classes)), evaluated.pooled
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    rows = [
        {
            "file": name,
            "label": int(label),
            "class": classes[label],
            "top": [{"class": classes[k], "probability": round(float(probabilities[i, k]), 6)} for k in order[i]],
        }
        for i, (name, label) in enumerate(zip(evaluated.images.names, evaluated.ballot.labels, strict=True))
    ]
    if path.suffix == ".json":
        write_json(path, rows)
    else:
        ranked = [f"{word}_{k}" for k in range(1, top + 1) for word in ("class", "probability")]
        lines = [[r["file"], r["label"], r["class"], *(v for t in r["top"] for v in t.values())] for r in rows]
        write_text(path, as_csv([["file", "label", "class", *ranked], *lines]))
    print(f"wrote {path}: {len(rows)} images")
    if unreadable := evaluated.images.unreadable:
        raise ValueError(
            f"{len(unreadable)} of {len(rows) + len(unreadable)} images cannot be decoded and are left out of {path}: "
            f"{', '.join(unreadable[:50])}{', ...' if len(unreadable) > 50 else ''}"
        )
