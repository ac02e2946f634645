"""Write what was predicted: prediction.json, ensemble.json, figures.json, images.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from src.files import write_json, write_text
from src.report.comparison import read_runs, runs_table
from src.report.evaluation import EvaluatedSet, Evaluation
from src.report.tables import as_csv, as_markdown, as_text, members_table
from src.runs.directory import environment


def write_evaluation(evaluation: Evaluation) -> None:
    """Write prediction.json, one for each member, ensemble.json, figures.json, runs.csv and runs.md; print a table."""
    settings, images, folder = evaluation.settings, evaluation.test.images, evaluation.settings.folder
    names = images.names
    write_labels(folder / "prediction.json", names, evaluation.test.ballot.labels)
    for member, votes in zip(evaluation.members, evaluation.test.votes, strict=True):
        write_labels(folder / "members" / member.stage / f"{member.name}.json", names, votes)
    write_json(folder / "ensemble.json", ensemble(evaluation))
    if images.unreadable:
        write_json(folder / "bad_images.json", list(images.unreadable))
    else:
        (folder / "bad_images.json").unlink(missing_ok=True)
    write_json(folder / "figures.json", evaluation.figures)  # {} without truth: no older figures beside a new vote
    if settings.report:
        runs = read_runs(settings.logs_dir / settings.data_name)
        write_text(folder / "runs.csv", as_csv(runs_table(runs, exact=True)))
        write_text(folder / "runs.md", as_markdown(runs_table(runs)))
    print(as_text(members_table(evaluation)))
    for note in evaluation.notes[len(evaluation.left_out) :]:
        print(note)
    count = len(evaluation.members)
    print(f"wrote {folder / 'prediction.json'}: {len(names)} images, {count} members, vote={settings.vote}")


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
    write_json(path, dict(zip(names, labels.tolist(), strict=True)))


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
    rounds = {"rounds": settings.rounds} if settings.select == "greedy" else {}
    return {
        "command": where["command"],
        "revision": where["revision"],
        "stages": settings.stages,
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
