"""The table of domain generalisation: every context left out in turn, methods in rows, for each rule of selection.

Of each run the table takes the accuracy of one epoch on the context that it left out. Which epoch is a rule of its own,
as an epoch that was chosen on the left-out context itself says nothing about unseen ones (Gulrajani and Lopez-Paz, "In
Search of Lost Domain Generalization", ICLR 2021, section 3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.callbacks.metrics_file import read_metrics
from src.data.splits import context_meant
from src.report.comparison import Comparison, mean_error, strategy_of
from src.report.tables import Table
from src.runs.records import is_finished, model_name_of, read_config

IN_DOMAIN, OUT_OF_DOMAIN = "val/in_domain/accuracy", "val/out_of_domain/accuracy"


class Epoch(NamedTuple):
    """Accuracies after an epoch: on held-out images of the training contexts, and on the context that is left out."""

    in_domain: float
    out_of_domain: float


class LeftOutRun(NamedTuple):
    """A finished run that left one context out.

    Attributes:
        method: stage, model, mixing, and what else its name says: the tag or the changes.
        context: the one that it left out.
        seed: its seed.
        epochs: in their order.
        known: names of its data set's contexts.
    """

    method: tuple[str, str, str, str]
    context: str
    seed: int
    epochs: list[Epoch]
    known: tuple[str, ...] = ()


def best(key: str) -> Callable[[Sequence[Epoch]], Epoch]:
    """The first epoch with the highest figure, as a checkpoint that is kept while nothing exceeds it."""
    return lambda epochs: max(epochs, key=lambda epoch: getattr(epoch, key))


RULES: dict[str, Callable[[Sequence[Epoch]], Epoch]] = {
    "training-domain validation": best("in_domain"),
    "last epoch": lambda epochs: epochs[-1],
    "oracle": best("out_of_domain"),
}
"""Which epoch of a run counts. The oracle chooses on the test context: a bound, not a result."""


def read_left_out(logs: Path) -> list[LeftOutRun]:
    """The finished runs below a data set's logs that left exactly one context out and measured it."""
    runs = []
    for path in sorted(logs.glob("*/*/finished.json")):
        folder = path.parent
        try:
            config = read_config(folder)
            contexts = config["split"].get("contexts")
            contexts = [contexts] if isinstance(contexts, str | int | float) else contexts
            if not is_finished(folder) or not isinstance(contexts, list) or len(contexts) != 1:
                continue
            epochs = [
                Epoch(float(row[IN_DOMAIN]), float(row[OUT_OF_DOMAIN]))
                for row in read_metrics(folder / "metrics.csv")
                if row.get(IN_DOMAIN) not in (None, "") and row.get(OUT_OF_DOMAIN) not in (None, "")
            ]
            named = str(config["tag"] or config.get("changes") or "")
            method = (folder.parent.name, model_name_of(config), strategy_of(config), named)
            if epochs:
                names = (config.get("dataset") or {}).get("contexts") or []
                context = context_meant(contexts[0], names) or str(contexts[0])  # 1e3 and true are names as well
                runs.append(LeftOutRun(method, context, int(config["seed"]), epochs, tuple(map(str, names))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a damaged run: it is listed where it would vote
    return runs


def compare(runs: Sequence[LeftOutRun]) -> Comparison:
    """One table for each of RULES: percent, mean and standard error over the seeds.

    Average and worst are over the contexts, of each seed that has a run for all of them.
    """
    contexts = sorted({run.context for run in runs})
    methods: dict[tuple[str, ...], list[LeftOutRun]] = {}
    for run in runs:
        methods.setdefault(run.method, []).append(run)
    with_tag = any(method[-1] for method in methods)
    words = ["stage", "model", "mixing", *(["tag"] if with_tag else []), "seeds"]
    head = [*words, *contexts, "average", "worst", "in-domain"]
    tables = {
        rule: [head, *(line_of(method, group, contexts, choose, with_tag) for method, group in methods.items())]
        for rule, choose in RULES.items()
    }
    notes = [note for method, group in methods.items() for note in missing(method, group, contexts)]
    if never := sorted({name for run in runs for name in run.known} - set(contexts)):
        notes.append(f"no finished run leaves out {', '.join(never)}: average and worst are without")
    title = "accuracy on the context left out, percent; epoch chosen by"
    return Comparison(title, tables, notes, exact(tables), {})


def line_of(
    method: tuple[str, ...],
    runs: Sequence[LeftOutRun],
    contexts: Sequence[str],
    choose: Callable[[Sequence[Epoch]], Epoch],
    with_tag: bool,
) -> list[str]:
    """A method's row."""
    chosen = {(run.seed, run.context): choose(run.epochs) for run in runs}
    seeds = sorted({run.seed for run in runs})
    whole = [[chosen[seed, context] for context in contexts] for seed in seeds
             if all((seed, context) in chosen for context in contexts)]  # fmt: skip
    cells = [
        [chosen[seed, context].out_of_domain for seed in seeds if (seed, context) in chosen] for context in contexts
    ]
    cells.append([float(np.mean([epoch.out_of_domain for epoch in epochs])) for epochs in whole])
    cells.append([min(epoch.out_of_domain for epoch in epochs) for epochs in whole])
    cells.append([float(np.mean([epoch.in_domain for epoch in epochs])) for epochs in whole])
    words = method if with_tag else method[:-1]
    return [*words, " ".join(map(str, seeds)), *map(cell, cells)]


def cell(values: Sequence[float]) -> str:
    """Shares in percent: "77.3 ± 1.2", without an error of one, "-" of none."""
    mean, error = mean_error(values)
    return "-" if mean is None else f"{100 * mean:.1f}" + ("" if error is None else f" ± {100 * error:.1f}")


def missing(method: tuple[str, ...], runs: Sequence[LeftOutRun], contexts: Sequence[str]) -> list[str]:
    """A sentence for each seed of a method that lacks contexts, or has one twice."""
    name = " ".join(word for word in method if word)
    notes = []
    for seed in sorted({run.seed for run in runs}):
        lacking = [context for context in contexts if context not in {run.context for run in runs if run.seed == seed}]
        twice = [c for c, n in Counter(run.context for run in runs if run.seed == seed).items() if n > 1]
        if twice:
            notes.append(
                f"{name}: seed {seed} has several runs without {', '.join(twice)}, and the last by name counts"
            )
        if lacking:
            notes.append(f"{name}: seed {seed} has no finished run without {', '.join(lacking)}, and no average")
    return notes


def exact(tables: Mapping[str, Table]) -> Table:
    """All tables as one, for a program: the rule in the first column, a standard error in a column of its own."""
    rules = list(tables)
    head = tables[rules[0]][0]
    first = head.index("seeds") + 1
    names = [name for column in head[first:] for name in (column, f"{column} standard error")]
    lines = [["selection", *head[:first], *names]]
    for rule in rules:
        for row in tables[rule][1:]:
            numbers = [word for one in row[first:] for word in (*one.split(" ± "), "")[:2]]
            lines.append([rule, *row[:first], *("" if word == "-" else word for word in numbers)])
    return lines
