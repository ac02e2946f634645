"""What each part of the method gives on the demo's data, beside plain training of the same length.

    make demo && python -m benchmarks.pretraining && python -m benchmarks.ablation [--tracks 1 2] [--seeds 0 1 2]

Trains what is missing of the rows in benchmarks/ablation.yaml, a process a run (interrupted, it goes on where it was),
predicts the test images, and prints a table for each track, top-1 in percent, mean and standard error over the seeds:
the held-out fifth of the training images (in-domain), the test images (unseen contexts) and the worst of their
contexts, and the unseen accuracy's difference to the row `beside`, paired by seed. Nothing is selected: the last epoch
counts.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from benchmarks.pretraining import cell
from src import voting
from src.files import read_json, write_json
from src.manifest import read_manifest

LOGS = Path("demo/ablation")
ROWS: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_suffix(".yaml")), resolve=True)  # type: ignore[assignment]


class Figures(NamedTuple):
    """Top-1 of one run or ensemble."""

    in_domain: float
    unseen: float
    worst: float


def train(row: dict[str, Any], track: int, seed: int) -> None:
    """Train a row's run, or nothing where it is finished."""
    words = f"{ROWS['all']} {row['train']}".format(track=track, seed=seed)
    subprocess.run([sys.executable, "train.py", f"track={track}", f"seed={seed}", *shlex.split(words)], check=True)


def write_true_masks(track: int) -> None:
    """A training manifest that names the demo's true masks."""
    entries = read_json(Path(f"demo/dataset_json/track{track}_train_label.json"))
    named = [{**entry, "image_seg_path": str(Path(entry["image_path"]).with_suffix(".png"))} for entry in entries]
    write_json(Path(f"demo/truth/track{track}_train_with_mask_label.json"), named)


def predict(track: int) -> None:
    """Every finished run's labels of the test images, below demo/ablation/results."""
    words = ["scale=demo", "ensemble.stages=[finetune,fdg,adapt]", f"logs_dir={LOGS}", f"results_dir={LOGS}/results"]
    subprocess.run([sys.executable, "predict.py", f"track={track}", *words], check=True, stdout=subprocess.DEVNULL)


def measure(track: int, seeds: list[int]) -> dict[str, list[Figures]]:
    """The figures of every row that is shown, a seed each."""
    truth = read_manifest(Path(f"demo/truth/track{track}_test_truth.json"))
    label, context = np.array([row.label for row in truth]), np.array([str(row.domain) for row in truth])

    def unseen(votes: np.ndarray) -> tuple[float, float]:
        hits = votes == label
        return float(hits.mean()), min(float(hits[context == name].mean()) for name in np.unique(context))

    figures: dict[str, list[Figures]] = {}
    for seed in seeds:
        votes = {}
        for name, row in ROWS["rows"].items():
            run = row["run"].format(seed=seed)
            labels = read_json(LOGS / f"results/track{track}/members/{run}.json")
            votes[name] = np.array([labels[image.name] for image in truth])
            metrics = read_json(LOGS / f"track{track}/{run}/finished.json")["metrics"]
            if not row.get("hidden"):
                figures.setdefault(name, []).append(Figures(metrics["val/in_domain/accuracy"], *unseen(votes[name])))
        members = np.eye(label.max() + 1)[np.stack([votes[name] for name in ROWS["ensemble"]["members"]])]
        ballot = voting.adaptive(members)
        figures.setdefault("ensemble of adapt", []).append(Figures(float("nan"), *unseen(ballot.labels)))
    return figures


def table(figures: dict[str, list[Figures]]) -> str:
    """The table of a track, in markdown."""
    settings = {**ROWS["rows"], "ensemble of adapt": ROWS["ensemble"]}
    lines = [
        "| | passes | in-domain | unseen | worst context | unseen, to the row beside |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in figures.items():
        beside = settings[name].get("beside")
        columns = zip(*runs, strict=True)
        cells = [cell(list(values)) if np.isfinite(values).all() else "" for values in columns]
        differences = [a.unseen - b.unseen for a, b in zip(runs, figures[beside], strict=True)] if beside else []
        cells.append(f"{cell(differences)} ({beside})" if beside else "")
        lines.append(f"| {name} | {settings[name]['passes']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    for track in options.tracks:
        write_true_masks(track)
        for seed in options.seeds:
            for row in ROWS["rows"].values():
                train(row, track, seed)
        predict(track)
        print(f"track {track}, seeds {options.seeds}\n{table(measure(track, options.seeds))}\n")


if __name__ == "__main__":
    main()
