"""Any runs of a data set side by side, finished or not: figures, the settings that differ, curves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from src.callbacks.metrics_file import read_metrics
from src.report.comparison import COMPARED, Comparison, mean_error, spoken, strategy_of
from src.report.comparison.settings import differing, flat
from src.report.tables import Table
from src.runs.records import model_name_of, read_config, read_finished
from src.text import method_of

NO_CURVE = ("epoch", "step", "seconds", "train/first_batch")
"""Columns of metrics.csv that say where an epoch lies, and how long it took."""
FIGURES = (*COMPARED, "train/loss")
LONGEST = 32  # characters of a value in a table


class Run(NamedTuple):
    """A run as it stands.

    Attributes:
        name: stage/name.
        settings: flat, with what the name is made of.
        epochs, planned: how many have ended, of how many.
        finished: whether it reached its end.
        seconds: of all epochs.
        curves: metric -> value of each epoch, NaN where it has none.
    """

    name: str
    settings: dict[str, Any]
    epochs: int
    planned: int
    finished: bool
    seconds: float
    curves: dict[str, list[float]]

    def last(self, metric: str) -> float | None:
        """A metric's last value, None without one."""
        known = [value for value in self.curves.get(metric, []) if value == value]
        return known[-1] if known else None


def read(logs: Path, wanted: Sequence[str]) -> tuple[list[Run], list[str]]:
    """The runs below a data set's logs, by stage and name, and a sentence for each that cannot be read.

    Args:
        logs: <logs_dir>/<data set>.
        wanted: globs over `stage/name` or `name`.

    Raises:
        FileNotFoundError: no run has such a name.
        ValueError: none of those that have can be read.
    """
    runs, notes = [], []
    for folder in sorted(path.parent for path in logs.glob("*/*/config.yaml")):
        names = (f"{folder.parent.name}/{folder.name}", folder.name)
        if not any(fnmatchcase(name, glob) for name in names for glob in wanted):
            continue
        try:
            runs.append(read_run(folder))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            notes.append(f"{names[0]} cannot be read and is left out: {error}")
    if not runs and notes:
        raise ValueError("; ".join(notes))
    if not runs:
        raise FileNotFoundError(f"no run in {logs} is named {' or '.join(wanted)}: runs=<glob>,... over stage/name")
    return runs, notes


def read_run(folder: Path) -> Run:
    """A run's files.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: they are damaged.
    """
    config, rows = read_config(folder), read_metrics(folder / "metrics.csv")
    names = {"stage": folder.parent.name, "model": model_name_of(config), "mixing": strategy_of(config),
             "split": config["split_name"], "seed": config["seed"], "tag": config["tag"]}  # fmt: skip
    finished = False
    with suppress(FileNotFoundError):
        finished = bool(read_finished(folder))
    return Run(
        f"{folder.parent.name}/{folder.name}", names | flat(config), len(rows), int(config["trainer"]["max_epochs"]),
        finished, sum(float(row["seconds"] or 0) for row in rows),
        {key: [float(row[key] or "nan") for row in rows] for key in (rows[0] if rows else ()) if key not in NO_CURVE},
    )  # fmt: skip


def compare(runs: Sequence[Run], title: str, notes: Sequence[str]) -> Comparison:
    """Figures of each run's last epoch, means over seeds where there are several, and the settings that differ.

    Args:
        runs: of read.
        title, notes: see Comparison.
    """
    keys = [key for key in FIGURES if any(run.last(key) is not None for run in runs)]
    head = ["", "run", "epochs", "minutes", *map(spoken, keys)]
    rows = [[str(i), run.name, epochs_of(run), f"{run.seconds / 60:.1f}",
             *(words(key, [run.last(key)]) for key in keys)] for i, run in enumerate(runs, 1)]  # fmt: skip
    tables = {"last epoch, accuracies in percent": [head, *rows]}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(method_of(run.name), []).append(run)
    if any(len(group) > 1 for group in groups.values()):
        tables["mean ± standard error over seeds"] = [
            ["run", "seeds", *map(spoken, keys)],
            *([method, " ".join(str(run.settings["seed"]) for run in group),
               *(words(key, [run.last(key) for run in group]) for key in keys)] for method, group in groups.items()),
        ]  # fmt: skip
    different = settings_table(runs)
    if len(different) > 1:
        tables["settings that differ"] = different
    names = [row[0] for row in different[1:]]
    program = [["run", "finished", "epochs", "seconds", *keys, *names]]
    for i, run in enumerate(runs):
        values = ["" if (value := run.last(key)) is None else f"{value:.6f}" for key in keys]
        about = [run.name, str(run.finished).lower(), str(run.epochs), f"{run.seconds:.1f}"]
        program.append([*about, *values, *(row[i + 1] for row in different[1:])])
    metrics = list(dict.fromkeys(key for run in runs for key in run.curves))
    curves = {key: {run.name: run.curves[key] for run in runs if run.last(key) is not None} for key in metrics}
    return Comparison(title, tables, list(notes), program, {key: of for key, of in curves.items() if of})


def epochs_of(run: Run) -> str:
    """ "40" of a finished run, "12 of 40" of another."""
    return str(run.epochs) if run.finished else f"{run.epochs} of {run.planned}"


def words(metric: str, values: Sequence[float | None]) -> str:
    """A mean over seeds with its standard error: accuracies in percent, a loss as it is; "-" without a value."""
    factor, digits = (1, 3) if metric.endswith("loss") else (100, 1)
    mean, error = mean_error([factor * value for value in values if value is not None])
    return "-" if mean is None else f"{mean:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def settings_table(runs: Sequence[Run]) -> Table:
    """A row for each setting in which two runs that have it differ, a column for each run, by its number.

    What runs of one strategy or stage have and others do not goes without saying. Settings of the same last word and
    the same values, such as module.lr and module.optimizer.lr, share a row. "-": null, or not there.
    """
    table = [["setting", *(str(i) for i in range(1, len(runs) + 1))]]
    seen = set()
    for key in differing([run.settings for run in runs]):
        original = key.removeprefix("module.")  # the module has copies of other groups, such as mixing
        if len({repr(run.settings[key]) for run in runs if key in run.settings}) < 2:
            continue
        if original != key and any(original in run.settings for run in runs):
            continue
        values = [cell(key, run.settings.get(key)) for run in runs]
        if (same := (key.rpartition(".")[2], *values)) not in seen:
            seen.add(same)
            table.append([key, *values])
    return table


def cell(key: str, value: Any) -> str:
    """A setting's value, cut where it is long; of a class its name alone."""
    text = "-" if value is None else str(value)
    text = text.rpartition(".")[2] if key.endswith("_target_") else text
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
