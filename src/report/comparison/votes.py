"""A data set's kept votes side by side: what each cost in training, and what it gives in-domain and on test images."""

from __future__ import annotations

from pathlib import Path

from src.files import read_json
from src.report.chain import weights_from
from src.report.comparison import Comparison
from src.report.tables import Table, interval, percent
from src.runs.records import read_config, read_finished


def compare(results: Path, logs_dir: Path) -> Comparison:
    """The table of votes_table."""
    table = votes_table(results, logs_dir)
    program = [["" if cell == "-" else cell for cell in row] for row in table]
    return Comparison(f"votes on the test images of {results.name}, percent", {"": table}, [], program, {})


def votes_table(results: Path, logs_dir: Path) -> Table:
    """One row per vote in <results>/votes, in alphabetical order; a single run is a vote of one.

    *Passes* are images, in epochs, that went through the trained networks and back: of the members and of the runs that
    their weights come from, each run once. Runs that made masks are not among them.

    Args:
        results: a data set's folder of results.
        logs_dir: with the runs, in case they were moved.

    Raises:
        FileNotFoundError: there is no vote whose images' truth is known.
        ValueError: a vote's files are damaged.
    """
    table = [["vote", "members", "passes", "in-domain", "test (95 % interval)", "worst context"]]
    for folder in sorted(path.parent for path in (results / "votes").glob("*/figures.json")):
        try:
            figures, facts = read_json(folder / "figures.json"), read_json(folder / "ensemble.json")
            if "test" not in figures:
                continue
            test, held = figures["test"], figures.get("in_domain", {})
            members = [Path(member["run"]) for member in facts["members"]]
            passes = passes_of(members, logs_dir)
            words = [folder.name, str(len(members)), "-" if passes is None else f"{passes:g}"]
            table.append([
                *words, percent(held.get("accuracy")), interval(test, "accuracy"), percent(test.get("worst_context"))
            ])  # fmt: skip
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder} is damaged ({error!r}): remove it and run its predict.py again") from error
    if len(table) == 1:
        raise FileNotFoundError(
            f"{results}/votes holds no vote on images whose labels are known: python predict.py ... truth= makes one"
        )
    return table


def passes_of(runs: list[Path], logs_dir: Path) -> float | None:
    """Passes of runs and of those whose weights they started from, each once; None where one does not tell."""
    left, seen, total = list(runs), set(), 0.0
    while left:
        folder = left.pop()
        if folder in seen:
            continue
        seen.add(folder)
        try:
            config, done = read_config(folder), read_finished(folder)
            total += float(done["passes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        left += weights_from(config, done, logs_dir)
    return total
