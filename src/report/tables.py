"""Tables of text, for a terminal, a document and a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from src.prediction.voting import agreement
from src.report.evaluation import Evaluation, accuracies
from src.text import in_columns

Table = list[list[str]]
"""Rows of text, the first one being the head."""
TITLES = {"test": "test", "in_domain": "in-domain (held out)", "out_of_domain": "unseen contexts (left out)"}
"""How a reader knows the image sets."""
TESTS = {
    "unseen contexts": "unseen contexts",
    "unseen pairs": "unseen pairs of class and context",
    "left-out contexts": "contexts left out of training",
    "held-out images": "held-out images of the training contexts",
    "test": "the test images",
}
"""What the test images may be, as far as it is known: in a word or two, and as it stands in a sentence."""


def kind_of_test(evaluation: Evaluation) -> str:
    """What the test images are, a key of TESTS: the challenge's by its rules, others by their contexts if known."""
    images, track = evaluation.test.images, evaluation.settings.data_name
    if images.part:
        return "left-out contexts" if images.part == "out_of_domain" else "held-out images"
    if track in CHALLENGE:
        return CHALLENGE[track]
    seen = {str(name) for m in evaluation.members for name in (m.config.get("dataset") or {}).get("contexts") or []}
    contexts = set(images.truth.contexts if images.truth else []) - {""}
    return "unseen contexts" if contexts and seen and not contexts & seen else "test"


CHALLENGE = {"track1": "unseen contexts", "track2": "unseen pairs"}
"""What the NICO challenge tests on (docs/method.md, section 1)."""


def titles_of(evaluation: Evaluation) -> dict[str, str]:
    """How the page calls the image sets, by their names."""
    return {"test": kind_of_test(evaluation), "in_domain": "in-domain", "out_of_domain": "left-out contexts"}


def members_table(evaluation: Evaluation) -> Table:
    """One row per member: accuracy on in-domain held-out images (its run's last figure if members hold out different
    ones), agreement with the vote, weight, test accuracies if truth is known; the vote comes last."""
    members, evaluated, in_domain = evaluation.members, evaluation.test, evaluation.in_domain
    known = evaluated.images.truth is not None
    of_vote = accuracies(evaluated.ballot.labels, evaluated.images) if known else {}
    votes, held_votes = evaluated.votes, in_domain.votes if in_domain else None
    rates = agreement(votes, evaluated.ballot.labels)
    table = [["member", "in-domain", "agreement", "weight", *map(column, of_vote)]]
    for i, member in enumerate(members):
        own = accuracies(votes[i], evaluated.images) if known else {}
        held = None
        if in_domain and held_votes is not None:
            held = accuracies(held_votes[i], in_domain.images)["accuracy"]
        at_end = member.figures.get("val/in_domain/accuracy")
        words = [percent(at_end if held is None else held), percent(rates[i]), f"{evaluated.ballot.weights[i]:.3f}"]
        table.append([member.title, *words, *(percent(own[key]) for key in of_vote)])
    held = accuracies(in_domain.ballot.labels, in_domain.images)["accuracy"] if in_domain else None
    return [*table, ["vote", percent(held), "", "", *(percent(value) for value in of_vote.values())]]


def column(key: str) -> str:
    """A figure's name as a column heading."""
    return "test" if key == "accuracy" else key.removeprefix("accuracy/").replace("worst_context", "worst context")


def headline_table(sets: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """Figures (rows) of image sets (columns), each given as a title and `evaluate`'s result.

    The temperature's own rows are there where it is known: its figures in-domain are those of the fit.
    """
    rows: list[tuple[str, Any]] = [
        ("images", lambda f: f"{f['images']:,}"),
        ("accuracy (95 % interval)", lambda f: interval(f, "accuracy")),
        ("macro accuracy (mean over classes)", lambda f: interval(f, "macro_accuracy")),
        ("top-5 accuracy", lambda f: percent(f["accuracy_top5"])),
        ("worst context", lambda f: percent(f.get("worst_context"))),
        ("worst group (class x context)", lambda f: group_words(f.get("worst_group"))),
        ("negative log-likelihood", lambda f: f"{f['nll']:.3f}"),
        ("expected calibration error", lambda f: percent(f["ece"])),
    ]
    if any("ece_tempered" in figures for _, figures in sets):
        rows += [
            ("negative log-likelihood with the temperature", lambda f: f"{f['nll_tempered']:.3f}"),
            ("calibration error with the temperature", lambda f: percent(f["ece_tempered"])),
        ]
    head = ["", *(title for title, _ in sets)]
    return [head, *([name, *(words(figures) for _, figures in sets)] for name, words in rows)]


def interval(figures: dict[str, Any], key: str) -> str:
    """A share with its interval: "77.3 (74.1 to 80.5)"."""
    low, high = figures[f"{key}_interval"]
    return f"{percent(figures[key])} ({100 * low:.1f} to {100 * high:.1f})"


def group_words(group: dict[str, Any] | None) -> str:
    """A group of evaluate: "12.50 (car, water)"."""
    return "-" if group is None else f"{percent(group['accuracy'])} ({group['class']}, {group['context']})"


def percent(share: float | None) -> str:
    """A share as a percentage with two decimals, "-" if it is not known."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f}"


def as_text(table: Table) -> str:
    """For a terminal: columns aligned."""
    return in_columns(table)


def as_markdown(table: Table) -> str:
    """For a document."""
    lines = ["| " + " | ".join(word.replace("|", "\\|") for word in row) + " |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]]) + "\n"


def as_latex(table: Table) -> str:
    """For a paper: a tabular of booktabs, words to the left and numbers to the right."""
    special = str.maketrans({c: "\\" + c for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
                             "^": r"\textasciicircum{}", "±": r"$\pm$"})  # fmt: skip
    head, *body = [[word.translate(special) for word in row] for row in table]
    numeric = [all(row[k][:1].isdigit() or row[k] in ("", "-") for row in body) for k in range(len(head))]
    lines = [" & ".join(row) + r" \\" for row in body]
    columns = "".join("r" if number else "l" for number in numeric)
    begin = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
    return "\n".join([*begin, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_csv(table: Iterable[Sequence[Any]]) -> str:
    """For a program or a spreadsheet: text that would be a formula there gets an apostrophe in front."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([harmless(cell) for cell in row] for row in table)
    return text.getvalue()


def harmless(cell: Any) -> Any:
    """A cell that no spreadsheet evaluates: names come from folders and files of unknown origin."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
