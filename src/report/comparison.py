"""Finished runs in one table: mean and standard error over their seeds.

`python -m src.report.comparison data=/PACS` prints the runs of `split=each_context` as the field's table, and with
`of=votes` what predict.py's votes give.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.data.words import read_data_set
from src.files import write_text
from src.report.tables import Table, as_csv, as_latex, as_markdown, as_text
from src.runs.records import model_name_of, read_config, read_finished

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
            ratio = str((config["module"].get("mixing") or {}).get("ratio", ""))
            words = (
                path.parent.parent.name, model_name_of(config), strategy_of(config), ratio, str(config["split_name"])
            )  # fmt: skip
            rows.append(RunRow(*words, str(config["tag"] or ""), int(config["seed"]), figures))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a damaged run: where it would vote, it is skipped and listed
    return rows


def strategy_of(config: Mapping[str, Any]) -> str:
    """The name of a run's mixing strategy, that of its yaml; "" without one.

    Behind it in brackets is the recipe, if it is not the published one.
    """
    mixing = config["module"].get("mixing") or {}
    # Two files of one class are two strategies. Runs of older versions have the class alone.
    kind = config.get("mixing_name") if mixing else ""
    words = str(mixing.get("_target_", "")).split(".")[-2:][0] if kind is None else str(kind)
    recipe = (config.get("recipe") or {}).get("name")
    return f"{words} ({recipe})" if recipe else words


def runs_table(rows: Sequence[RunRow], exact: bool = False) -> Table:
    """Runs that differ in their seeds alone share a row: mean and standard error over the seeds.

    Figures are of each run's last epoch: nothing was selected. One seed has no standard error.

    Args:
        rows: of read_runs.
        exact: mean and standard error in columns of their own, as shares in [0, 1], for a program; else percent.
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


USAGE = """python -m src.report.comparison data=<folder or CSV>: a data set's methods side by side

  data=/PACS            or track=1 data=/nico: whose runs
  of=contexts           the runs that left one context out; votes: predict.py's votes on test images
  logs_dir=logs         where the runs are
  results_dir=results   where the votes are
  format=text           text, markdown, csv or latex
  output=<file>         instead of printing
"""
FORMATS = {"text": as_text, "markdown": as_markdown, "csv": as_csv, "latex": as_latex}


def compared(words: Sequence[str]) -> str:
    """What the command prints, or has written.

    Raises:
        OSError, ValueError: a word that is not a setting, or no run that left one context out.
    """
    from src.report.votes import votes_table

    try:
        data = read_data_set(words)
    except ValueError as error:
        raise ValueError(f"{error}\n\n{USAGE}") from error
    known = {"of": "contexts", "logs_dir": "logs", "results_dir": "results", "format": "text", "output": ""}
    settings = known | data.others
    wrong = [repr(key) for key in settings if key not in known]
    wrong += [f"format={settings['format']}"] if settings["format"] not in FORMATS else []
    wrong += [f"of={settings['of']}"] if settings["of"] not in ("contexts", "votes") else []
    if wrong:
        raise ValueError(f"{wrong[0]} is not a setting of the comparison\n\n{USAGE}")
    if settings["of"] == "votes":
        made = votes_table(Path(settings["results_dir"]) / data.layout.name, Path(settings["logs_dir"]))
        if settings["format"] == "csv":
            made = [["" if cell == "-" else cell for cell in row] for row in made]
        text = FORMATS[settings["format"]](made).rstrip()
    else:
        text = left_out(words, data.layout.name, settings)
    if not settings["output"]:
        return text
    write_text(Path(settings["output"]), text + "\n")
    return f"wrote {settings['output']}"


def left_out(words: Sequence[str], name: str, settings: Mapping[str, str]) -> str:
    """The runs of a data set that left one context out, a table for each rule of selection.

    Raises:
        ValueError: there is none.
    """
    from src.report.left_out import compare, exact, read_left_out

    logs = Path(settings["logs_dir"]) / name
    runs = read_left_out(logs)
    about = [word for word in words if word.startswith(("data", "track"))]
    if not runs:
        raise ValueError(
            f"no finished run in {logs} left one context out: python train.py -m {shlex.join(about)} stage=baseline "
            "split=each_context seed=0,1,2"
        )
    made = compare(runs)
    if settings["format"] == "csv":
        return as_csv(exact(made)).rstrip()
    write = FORMATS[settings["format"]]
    parts = [f"{title(rule, settings['format'])}\n{write(table).rstrip()}" for rule, table in made.tables.items()]
    notes = [f"% {note}" if write is as_latex else note for note in made.notes]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def title(rule: str, form: str) -> str:
    """The line above a table: the rule by which an epoch of each run was chosen."""
    words = f"accuracy on the context left out, percent; epoch chosen by: {rule}"
    return {"markdown": f"**{words}**\n", "latex": f"% {words}"}.get(form, words)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.exit(USAGE)
    try:
        print(compared(sys.argv[1:]))
    except (OSError, ValueError) as problem:
        sys.exit(f"error: {problem}")
