"""What a person sees of a run at its end: its last and its best epoch, where its files are, the next command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from src.callbacks.metrics_file import read_metrics
from src.cli import command_words
from src.data.splits import HELD_OUT
from src.runs.records import read_config

CONF = Path(__file__).resolve().parents[2] / "conf"
CHOSEN_BY = "val/in_domain/accuracy"
FILES = ("weights.safetensors", "metrics.csv", "masks.png", "pictures")
"""What a person looks for in a run, where it is there."""


def summary(folder: Path) -> str:
    """The lines for a finished run: its files, a small table, and the commands that continue from it."""
    rows = [
        {name: float(value) for name, value in row.items() if value} for row in read_metrics(folder / "metrics.csv")
    ]
    there = [name + "/" * (folder / name).is_dir() for name in FILES if (folder / name).exists()]
    lines = [f"finished {folder}: {', '.join(there)}", *(table(rows) if rows else [])]
    return "\n".join([*lines, *(f"next  {command}" for command in next_commands(folder))])


def table(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """The last epoch and, if there was validation, the best one: the first among equals, as in best.ckpt.

    Args:
        rows: of metrics.csv, at least one.
    """
    epochs = {"last": rows[-1]}
    validated = [row for row in rows if CHOSEN_BY in row]
    if validated:
        epochs["best"] = max(validated, key=lambda row: row[CHOSEN_BY])
    cells = [["", "epoch", "loss", *(name.replace("_", "-") for name in HELD_OUT), "worst context"]]
    for title, row in epochs.items():
        accuracies = [row.get(f"val/{name}/accuracy") for name in HELD_OUT]
        loss = f"{row['train/loss']:.4g}" if "train/loss" in row else "-"
        cells.append([title, f"{row['epoch'] + 1:.0f}", loss, *map(percent, accuracies), worst_context(row)])
    shown = [i for i in range(len(cells[0])) if i == 0 or any(row[i] != "-" for row in cells[1:])]
    widths = {i: max(len(row[i]) for row in cells) for i in shown}
    return ["  ".join(f"{row[i]:{'<' if i in (0, 5) else '>'}{widths[i]}}" for i in shown).rstrip() for row in cells]


def worst_context(row: Mapping[str, float]) -> str:
    """The context of the lowest accuracy in an epoch, of all parts that are held out: "rock 60.2%"; "-" without any."""
    prefixes = [f"val/{name}/accuracy/" for name in HELD_OUT]
    found = [(value, key.removeprefix(p)) for p in prefixes for key, value in row.items() if key.startswith(p)]
    if not found:
        return "-"
    accuracy, context = min(found)
    return f"{context} {percent(accuracy)}"


def percent(share: float | None) -> str:
    """A share as a percentage, "-" where it is not known."""
    return "-" if share is None else f"{share:.1%}"


def next_commands(folder: Path) -> list[str]:
    """The commands of the stages that build on a run and, for a classifier, that of a vote."""
    stage, found = folder.parent.name, []
    for words, settings in followers():
        weights, masks = ((settings.get(key) or {}).get("stage") for key in ("before", "before_masks"))
        if stage in (weights, masks):
            same = ("model", "seed") if stage == weights else ()
            found.append(command("train.py", words, "split", "tag", *same))
    if not found and (folder / "masks.json").exists():  # masks that no file asks for: a recipe that has some takes them
        words = next(words for words, of in followers() if "recipe" in of and of["before_masks"]["stage"])
        found.append(command("train.py", [*words, f"before_masks.stage={stage}"], "split", "tag"))
    config = read_config(folder)
    if "num_classes" in config["module"]:
        split = config.get("split_name", "holdout")  # runs of another split vote when they are asked to
        words = [ensemble_of(stage), *([] if split == "holdout" else [f"ensemble.split={split}"])]
        found.append(command("predict.py", words) + " report=true")
    return found


def followers() -> Iterator[tuple[list[str], dict[str, Any]]]:
    """The words for each stage, and for each recipe's last stage, with the settings of its file."""
    for path in sorted((CONF / "stage").glob("*.yaml")):
        yield [f"stage={path.stem}"], yaml.safe_load(path.read_text()) or {}
    for path in sorted((CONF / "recipe").glob("*.yaml")):
        settings = yaml.safe_load(path.read_text()) or {}
        if stages := (settings.get("recipe") or {}).get("stages"):
            yield [f"stage={stages[-1]}", f"recipe={path.stem}"], settings


def command(script: str, words: Sequence[str], *same: str) -> str:
    """A command on this command's data: its words for them and for the places, `words`, and its settings `same`."""
    _, *own = command_words()
    data = [one for one in own if re.match(r"(data|data_root|track(\.\w+)?)=", one)]
    shared = re.compile(rf"({'|'.join(('scale', 'manifest_dir', 'logs_dir', *same))})(\.\w+)*=")
    return shlex.join(["python", script, *data, *words, *filter(shared.match, own)])


def ensemble_of(stage: str) -> str:
    """The word by which a stage's runs vote: an ensemble of all runs of its stages, or the stage itself."""
    for path in sorted((CONF / "ensemble").glob("*.yaml")):
        settings = yaml.safe_load(path.read_text())
        if stage in settings.get("stages", ()) and settings.get("select", "all") == "all":
            return f"ensemble={path.stem}"
    return f"ensemble.stages=[{stage}]"
