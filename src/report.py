"""Tables of figures for a person to read: members and their vote, and runs beside each other."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from src.files import write_json, write_text
from src.image_sets import ImageSet
from src.members import Member
from src.metrics import (
    accuracy_by_class,
    accuracy_by_context,
    accuracy_by_group,
    bootstrap,
    calibration,
    confusion,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    temper,
    top_hits,
)
from src.runs import environment, model_name_of, read_config, read_finished
from src.voting import RULES, Ballot, agreement, agreement_matrix, pooled

BINS = 15  # of the calibration error, as Guo et al. 2017
DRAWS = 1000  # of the bootstrap

Table = list[list[str]]
"""Rows of words, the first one being the head."""


class Outcome(NamedTuple):
    """What members said of some images: probabilities (M, N, K), and whom they elected."""

    images: ImageSet
    probabilities: npt.NDArray[np.float32]
    ballot: Ballot

    @property
    def votes(self) -> npt.NDArray[np.int64]:
        """Each member's labels (M, N)."""
        return np.asarray(self.probabilities.argmax(2), np.int64)

    @property
    def pooled(self) -> npt.NDArray[np.floating]:
        """The probability (N, K) that goes with the vote: the mean of the members', by their weights in it."""
        return pooled(self.probabilities, self.ballot.weights)


class Findings(NamedTuple):
    """A prediction of the test images, and all that is known of it.

    Attributes:
        track: its number.
        members, left_out: who was found; runs that do not vote, with the reason.
        chosen: places of the members that vote, twice where they have two votes.
        test, held_out: what they said of the test images, and of each part that all of them hold out.
        evaluations: `evaluate` of each image set whose truth is known, by its name.
        temperature: of the vote's probability; None without held-out images.
        settings: of the call.
        notes: what a reader must know.
        unreadable: names of the test images whose label is a guess, as their files could not be read.
    """

    track: int
    members: list[Member]
    left_out: list[tuple[Path, str]]
    chosen: list[int]
    test: Outcome
    held_out: list[Outcome]
    evaluations: dict[str, dict[str, Any]]
    temperature: float | None
    settings: dict[str, Any]
    notes: list[str]
    unreadable: list[str]

    @property
    def in_domain(self) -> Outcome | None:
        """What members said of the held-out images of their training contexts."""
        return next((outcome for outcome in self.held_out if outcome.images.name == "in_domain"), None)

    @property
    def selection(self) -> str:
        """How the vote came about, in a sentence."""
        vote, select = self.settings["vote"], self.settings["ensemble"]["select"]
        stages = " and ".join(self.settings["ensemble"]["stages"])
        if select == "greedy":
            voting = len(set(self.chosen))
            who = f"{voting} of {len(self.members)} finished runs of {stages}, chosen by accuracy on held-out images"
        elif select == "soup":
            who = f"{len(self.members)} soups (mean weights) of the finished runs of {stages}"
        else:
            who = f"every finished run of {stages} ({len(self.members)}), none selected"
        return f"{vote} vote of {who}; weights of each run's last epoch"


# ------------------------------------------------------------------------------------- what is written


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for settings of conf/predict.yaml that no call can fulfil, before anything is computed."""
    choices = {"vote": tuple(RULES), "ensemble.select": ("all", "greedy", "soup")}
    for name, value in (("vote", settings["vote"]), ("ensemble.select", settings["ensemble"]["select"])):
        if value not in choices[name]:
            raise ValueError(f"{name}={value} is no rule: choose one of {', '.join(choices[name])}")
    if Path(settings["output"]).suffix not in (".csv", ".json"):
        raise ValueError(f"output={settings['output']}: expected a name that ends in .csv or .json")
    if settings["top"] < 1 or settings["members_at_once"] < 1:
        raise ValueError("top and members_at_once must be at least 1")
    if settings["images"] and (settings["report"] or settings["truth"]):
        raise ValueError("images= only predicts: report= and truth= are about the test images, leave them out")
    missing = [package for package in ("jinja2", "matplotlib") if importlib.util.find_spec(package) is None]
    if (settings["report"] or settings["logger"]) and missing:
        raise ValueError(f"report=true and logger= need {' and '.join(missing)}: pip install {' '.join(missing)}")


def findings(
    members: Sequence[Member], left_out: Sequence[tuple[Path, str]], chosen: Sequence[int],
    outcomes: Sequence[Outcome], settings: dict[str, Any], why_no_held_out: str, unreadable: Sequence[list[str]],
) -> Findings:  # fmt: skip
    """Evaluate what members said of the test images (the first outcome) and of held-out parts (the others).

    `unreadable` has the names of the images of each that could not be read: the test images have a guess, the others
    are left out.
    """
    test, *held_out = outcomes
    in_domain = next((outcome for outcome in held_out if outcome.images.name == "in_domain"), None)
    temperature = temperature_of(in_domain)
    evaluations = {
        outcome.images.name: evaluate(outcome, members[0].classes, temperature, settings["seed"])
        for outcome in outcomes
        if outcome.images.truth is not None
    }
    notes = [f"{folder} is left out: {reason}." for folder, reason in left_out]
    if why_no_held_out:
        notes.append(f"No figures on held-out images, and no temperature: {why_no_held_out}.")
    if settings["ensemble"]["select"] == "greedy":
        notes.append("In-domain figures of the vote are of the images that its members were chosen on: too good.")
    if unreadable[0]:
        notes.append(f"{len(unreadable[0])} test images could not be read (first: {unreadable[0][0]}): their label is "
                     "a guess, each member's mean probability over the others, and counts as one.")  # fmt: skip
    for part, names in zip(held_out, unreadable[1:], strict=True):
        if names:
            notes.append(f"{len(names)} images of {part.images.name} could not be read (first: {names[0]}): skipped.")
    track = settings["track"]["id"]
    return Findings(track, list(members), list(left_out), list(chosen), test, held_out, evaluations, temperature,
                    settings, notes, list(unreadable[0]))  # fmt: skip


def write_findings(found: Findings, folder: Path) -> None:
    """Write prediction.json, one for each member, ensemble.json, figures.json, runs.csv and runs.md; print a table."""
    names = found.test.images.names
    write_labels(folder / "prediction.json", names, found.test.ballot.labels)
    for member, votes in zip(found.members, found.test.votes, strict=True):
        write_labels(folder / "members" / member.stage / f"{member.name}.json", names, votes)
    write_json(folder / "ensemble.json", ensemble(found))
    if found.unreadable:
        write_json(folder / "bad_images.json", found.unreadable)
    else:
        (folder / "bad_images.json").unlink(missing_ok=True)
    write_json(folder / "figures.json", found.evaluations)  # {} without truth: no older figures beside a new vote
    if found.settings["report"]:
        runs = read_runs(Path(found.settings["logs_dir"]) / f"track{found.track}")
        write_text(folder / "runs.csv", as_csv(runs_table(runs, exact=True)))
        write_text(folder / "runs.md", as_markdown(runs_table(runs)))
    print(as_text(members_table(found)))
    for note in found.notes[len(found.left_out) :]:
        print(note)
    vote = found.settings["vote"]
    print(f"wrote {folder / 'prediction.json'}: {len(names)} images, {len(found.members)} members, vote={vote}")


def unreadable_words(found: Findings, folder: Path) -> str:
    """The sentence that ends a prediction of which some images could not be read."""
    names = ", ".join(found.unreadable[:3]) + (", ..." if len(found.unreadable) > 3 else "")
    return (
        f"{len(found.unreadable)} of {len(found.test.images.rows)} test images cannot be read ({names}): "
        f"{folder / 'prediction.json'} is written, with a guess for each of them; {folder / 'bad_images.json'} lists "
        "them: replace the files and predict again"
    )


def write_labels(path: Path, names: Sequence[str], labels: npt.NDArray[np.int64]) -> None:
    """A prediction in the format of prediction.json: {image name: label id}."""
    write_json(path, dict(zip(names, labels.tolist(), strict=True)))


def ensemble(found: Findings) -> dict[str, Any]:
    """What stands in ensemble.json: enough to know what voted, by which rule, on which images."""
    where = environment()
    members = [
        {"run": str(member.folder), "weights_sha256": member.digest, "weight": weight, "chosen": found.chosen.count(i)}
        for i, (member, weight) in enumerate(zip(found.members, found.test.ballot.weights.tolist(), strict=True))
    ]
    return {
        "command": where["command"],
        "revision": where["revision"],
        **found.settings["ensemble"],
        "vote": found.settings["vote"],
        "tta": found.settings["tta"],
        "precision": found.settings["trainer"]["precision"],
        "images": {"count": len(found.test.images.rows), "digest": found.test.images.digest},
        "unreadable": found.unreadable,
        "temperature": found.temperature,
        "members": members,
        "left_out": [{"run": str(folder), "reason": reason} for folder, reason in found.left_out],
    }


def write_images(outcome: Outcome, classes: Sequence[str], top: int, path: Path, unreadable: Sequence[str]) -> None:
    """One row a file: the vote, and the classes of the highest mean probability, as csv or json by the path's end.

    Raises:
        ValueError: files could not be decoded; the others are written.
    """
    top, probabilities = min(top, len(classes)), outcome.pooled
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    rows = [
        {
            "file": name,
            "label": int(label),
            "class": classes[label],
            "top": [{"class": classes[k], "probability": round(float(probabilities[i, k]), 6)} for k in order[i]],
        }
        for i, (name, label) in enumerate(zip(outcome.images.names, outcome.ballot.labels, strict=True))
    ]
    if path.suffix == ".json":
        write_json(path, rows)
    else:
        ranked = [f"{word}_{k}" for k in range(1, top + 1) for word in ("class", "probability")]
        lines = [[r["file"], r["label"], r["class"], *(v for t in r["top"] for v in t.values())] for r in rows]
        write_text(path, as_csv([["file", "label", "class", *ranked], *lines]))
    print(f"wrote {path}: {len(rows)} images")
    if unreadable:
        raise ValueError(
            f"{len(unreadable)} of {len(rows) + len(unreadable)} images cannot be decoded and are left out of {path}: "
            f"{', '.join(unreadable[:50])}{', ...' if len(unreadable) > 50 else ''}"
        )


# ---------------------------------------------------------------------------------------------- figures


def accuracies(labels: npt.NDArray[np.int64], images: ImageSet) -> dict[str, float]:
    """accuracy_by_context of labels (N,) for images whose truth is known."""
    assert images.truth is not None
    label, contexts = images.truth
    hits, known, names = labels == label, np.array(contexts), sorted(set(contexts) - {""})
    places = [known == name for name in [*names, ""]]
    return accuracy_by_context([int(hits[p].sum()) for p in places], [int(p.sum()) for p in places], names)


def temperature_of(held_out: Outcome | None) -> float | None:
    """The temperature of the vote's probability, fitted on held-out images; None without them."""
    if held_out is None or held_out.images.truth is None:
        return None
    return fit_temperature(held_out.pooled, held_out.images.truth.label)


def evaluate(outcome: Outcome, classes: Sequence[str], temperature: float | None, seed: int) -> dict[str, Any]:
    """Figures of a vote on images whose truth is known, as JSON takes them.

    Intervals are of 95 %, by the percentile bootstrap over images. Likelihood, calibration and top-5 are of
    `Outcome.pooled`, with its probability of the elected label as confidence.

    Args:
        outcome: the vote.
        classes: names by id.
        temperature: for a second likelihood and calibration error; None leaves them out.
        seed: of the bootstrap.
    """
    images, labels, probabilities = outcome.images, outcome.ballot.labels, outcome.pooled
    assert images.truth is not None
    label, contexts = images.truth
    hits, everyone = labels == label, np.arange(len(label))
    by_class = accuracy_by_class(hits, label, len(classes))
    groups = accuracy_by_group(hits, label, contexts)
    rng = np.random.default_rng(seed)

    def macro(places: npt.NDArray[np.int64]) -> float:
        return float(np.nanmean(accuracy_by_class(hits[places], label[places], len(classes))))

    figures: dict[str, Any] = {
        "images": len(label),
        **accuracies(labels, images),
        "accuracy_interval": bootstrap(lambda places: float(hits[places].mean()), len(label), rng, DRAWS),
        "macro_accuracy": macro(everyone),
        "macro_accuracy_interval": bootstrap(macro, len(label), rng, DRAWS),
        "accuracy_top5": float(top_hits(torch.from_numpy(probabilities), torch.from_numpy(label), 5).float().mean()),
        "by_class": {name: value for name, value in zip(classes, by_class.tolist(), strict=True) if value == value},
        "groups": [
            {"class": classes[group.label], "context": group.context, "images": group.images,
             "accuracy": group.accuracy} for group in groups
        ],
        "confusion": confusion(label, labels, len(classes)).tolist(),
    }  # fmt: skip
    for name in sorted(set(contexts) - {""}):
        own = np.flatnonzero(np.array(contexts) == name)
        figures[f"accuracy/{name}_interval"] = bootstrap(
            lambda places, own=own: float(hits[own[places]].mean()),  # type: ignore[misc]
            len(own), rng, DRAWS,
        )  # fmt: skip
    if groups:
        figures["worst_group"] = figures["groups"][0]
    figures |= calibrated(probabilities, labels, label, "")
    if temperature is not None:
        figures |= calibrated(temper(probabilities, temperature), labels, label, "_tempered")
    return figures


def calibrated(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], label: npt.NDArray[np.int64], suffix: str
) -> dict[str, float]:
    """Negative log-likelihood and expected calibration error of labels with probabilities (N, K)."""
    confidence = probabilities[np.arange(len(labels)), labels]
    return {
        f"nll{suffix}": negative_log_likelihood(probabilities, label),
        f"ece{suffix}": expected_calibration_error(calibration(confidence, labels == label, BINS)),
    }


def diversity(outcome: Outcome) -> dict[str, float]:
    """How different the members are, as shares of the images.

    Returns:
        disagreement: of two members, over all pairs; unanimous: all members of one label; and where truth is
        known, mean_member: a member's mean accuracy; any_member: one of them is right.
    """
    votes, members = outcome.votes, len(outcome.votes)
    figures = {"unanimous": float((votes == votes[0]).all(0).mean())}
    if members > 1:
        apart = 1 - agreement_matrix(votes)
        figures["disagreement"] = float(apart.sum() / (members * (members - 1)))
    if outcome.images.truth is not None:
        hits = votes == outcome.images.truth.label
        figures |= {"mean_member": float(hits.mean()), "any_member": float(hits.any(0).mean())}
    return figures


# ----------------------------------------------------------------------------------------------- tables


def members_table(found: Findings) -> Table:
    """One row a member: accuracy on in-domain held-out images (its run's last figure where members hold out different
    ones), agreement with the vote, weight, test accuracies where truth is known; the vote comes last."""
    members, outcome, in_domain = found.members, found.test, found.in_domain
    known = outcome.images.truth is not None
    of_vote = accuracies(outcome.ballot.labels, outcome.images) if known else {}
    rates = agreement(outcome.votes, outcome.ballot.labels)
    table = [["member", "in-domain", "agreement", "weight", *map(column, of_vote)]]
    for i, member in enumerate(members):
        own = accuracies(outcome.votes[i], outcome.images) if known else {}
        held = accuracies(in_domain.votes[i], in_domain.images)["accuracy"] if in_domain else None
        at_end = member.figures.get("val/in_domain/accuracy")
        words = [percent(at_end if held is None else held), percent(rates[i]), f"{outcome.ballot.weights[i]:.3f}"]
        table.append([member.title, *words, *(percent(own[key]) for key in of_vote)])
    held = accuracies(in_domain.ballot.labels, in_domain.images)["accuracy"] if in_domain else None
    return [*table, ["vote", percent(held), "", "", *(percent(value) for value in of_vote.values())]]


def column(key: str) -> str:
    """A figure's name as a column's head."""
    return "test" if key == "accuracy" else key.removeprefix("accuracy/").replace("worst_context", "worst context")


def best_members(found: Findings) -> dict[str, tuple[str, float]]:
    """The best single members and their accuracies on the test images, by the rule that chose them.

    Of equals the first one. "held-out" is chosen by in-domain accuracy, "oracle" by the test images themselves.
    """
    members, outcome, in_domain = found.members, found.test, found.in_domain
    assert outcome.images.truth is not None
    own = (outcome.votes == outcome.images.truth.label).mean(1)
    rules = {"oracle": own}
    if in_domain is not None and in_domain.images.truth is not None:
        rules = {"held-out": (in_domain.votes == in_domain.images.truth.label).mean(1), **rules}
    return {rule: (members[int(by.argmax())].title, float(own[by.argmax()])) for rule, by in rules.items()}


def headline_table(sets: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """Figures (rows) of image sets (columns): title and `evaluate`'s result of each."""
    rows: list[tuple[str, Any]] = [
        ("images", lambda f: str(f["images"])),
        ("accuracy (95 % interval)", lambda f: interval(f, "accuracy")),
        ("macro accuracy (mean over classes)", lambda f: interval(f, "macro_accuracy")),
        ("top-5 accuracy", lambda f: percent(f["accuracy_top5"])),
        ("worst context", lambda f: percent(f.get("worst_context"))),
        ("worst group (class x context)", lambda f: group_words(f.get("worst_group"))),
        ("negative log-likelihood", lambda f: arrow(f, "nll", "{:.3f}".format)),
        ("expected calibration error", lambda f: arrow(f, "ece", percent)),
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


def arrow(figures: dict[str, Any], key: str, words: Any) -> str:
    """A figure, and behind an arrow what the temperature makes of it."""
    after = figures.get(f"{key}_tempered")
    return f"{words(figures[key])}" + ("" if after is None else f" → {words(after)}")


def percent(share: float | None) -> str:
    """A share as a percentage with two decimals, "-" where it is not known."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f}"


def as_text(table: Table) -> str:
    """For a terminal: columns aligned."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(word.rjust(w) for word, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    )


def as_markdown(table: Table) -> str:
    """For a document."""
    lines = ["| " + " | ".join(word.replace("|", "\\|") for word in row) + " |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]]) + "\n"


def as_csv(table: Iterable[Sequence[Any]]) -> str:
    """For a program, and for a spreadsheet: a text that would be a formula there gets an apostrophe before it."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([harmless(cell) for cell in row] for row in table)
    return text.getvalue()


def harmless(cell: Any) -> Any:
    """A cell that no spreadsheet computes: names come from folders and files of anybody's."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


# ------------------------------------------------------------------------------- runs beside each other

COMPARED = ("val/in_domain/accuracy", "val/in_domain/worst_context", "val/out_of_domain/accuracy",
            "val/out_of_domain/worst_context")  # fmt: skip
"""Figures of finished.json that the comparison shows, where a run has them."""


class RunRow(NamedTuple):
    """A finished run: what it was, and its last epoch's figures."""

    stage: str
    model: str
    mixing: str
    ratio: str
    split: str
    tag: str
    seed: int
    figures: dict[str, float]


def read_runs(track_dir: Path) -> list[RunRow]:
    """The finished runs of a track, by stage and name."""
    rows = []
    for path in sorted(track_dir.glob("*/*/finished.json")):
        try:
            config, figures = read_config(path.parent), read_finished(path.parent)["metrics"]
            mixing = config["module"].get("mixing") or {}
            # The yaml's name: two files of one class are two strategies. Runs of older versions have the class alone.
            kind = config.get("mixing_name") if mixing else ""
            kind = str(mixing.get("_target_", "")).split(".")[-2:][0] if kind is None else str(kind)
            ratio = str(mixing.get("ratio", ""))
            words = (path.parent.parent.name, model_name_of(config), kind, ratio, str(config["split_name"]))
            rows.append(RunRow(*words, str(config["tag"] or ""), int(config["seed"]), figures))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a damaged run: it is left out by name where it would vote
    return rows


def runs_table(rows: Sequence[RunRow], exact: bool = False) -> Table:
    """Runs that differ in their seeds alone share a row: mean and standard error over the seeds.

    Figures are of each run's last epoch: nothing was selected. One seed has no standard error.

    Args:
        rows: of read_runs.
        exact: numbers in columns of their own, shares in [0, 1], for a program; else percent, for a reader.
    """
    keys = [key for key in COMPARED if any(key in row.figures for row in rows)]
    heads = [head for key in keys for head in ([key, f"{key} standard error"] if exact else [spoken(key)])]
    table = [["stage", "model", "mixing", "ratio", "split", "tag", "seeds", *heads]]
    same: dict[tuple[Any, ...], list[RunRow]] = {}
    for row in rows:
        same.setdefault(row[:6], []).append(row)
    for words, group in same.items():
        line = [*words, " ".join(str(row.seed) for row in group)]
        for key in keys:
            mean, error = mean_error([row.figures[key] for row in group if key in row.figures])
            if exact:
                line += ["" if value is None else f"{value:.6f}" for value in (mean, error)]
            else:
                line.append("-" if mean is None else f"{100 * mean:.1f}" + (f" ± {100 * error:.1f}" if error else ""))
        table.append(line)
    return table


def spoken(key: str) -> str:
    """A metric's name for a reader: "in domain accuracy"."""
    return key.removeprefix("val/").replace("/", " ").replace("_", " ")


def mean_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard error (sample standard deviation over the root of their number), None where unknown."""
    if not values:
        return None, None
    return float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
