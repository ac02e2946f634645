"""What MoCo's pre-training gives on the demo's data: nearest neighbours, and epochs that a baseline saves.

    make demo && python -m benchmarks.pretraining [--seeds 0 1 2]

Trains what is missing of stage=moco and of stage=baseline with and without it, and prints two tables in percent, mean
and standard error over the seeds, of the held-out fifth of the training images.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from src.report.comparison.left_out import cell

LOGS = Path("demo/logs")
INIT = "init=${logs_dir}/${track.name}/moco/${model.model_name}-${split_name}-seed${seed}"


def train(*words: str) -> None:
    """Run train.py on the demo's data, going on where it was."""
    subprocess.run([sys.executable, "train.py", "-m", "scale=demo", "resume=true", "track=1,2", *words], check=True)


def column(run: Path, name: str) -> list[float]:
    """A metric of every epoch that has it."""
    with open(run / "metrics.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    sweep = "seed=" + ",".join(map(str, seeds))
    train("stage=moco", sweep)
    train("stage=baseline", sweep)
    train("stage=baseline", sweep, INIT, "tag=moco")

    runs = {track: [LOGS / f"track{track}/moco/resnet10t-holdout-seed{seed}" for seed in seeds] for track in (1, 2)}
    print("| track | untrained | after MoCo | context, after MoCo |\n|---|---|---|---|")
    for track, folders in runs.items():
        names = ("untrained", "accuracy", "context") if track == 1 else ("untrained", "accuracy")
        figures = [cell([column(run, f"val/in_domain/knn/{name}")[-1] for run in folders]) for name in names]
        print(f"| {track} | {' | '.join(figures)} |")

    print("\n| track | from scratch | from MoCo | epochs to the accuracy of scratch's end | from MoCo |")
    print("|---|---|---|---|---|")
    for track in runs:
        ends: dict[str, list[float]] = {"": [], "-moco": []}
        epochs: dict[str, list[float]] = {"": [], "-moco": []}
        for seed in seeds:
            run = f"track{track}/baseline/resnet10t-mixup-holdout-seed{seed}"
            goal = column(LOGS / run, "val/in_domain/accuracy")[-1]
            for tag in ends:
                accuracy = column(LOGS / f"{run}{tag}", "val/in_domain/accuracy")
                ends[tag].append(accuracy[-1])
                epochs[tag].append(next((i for i, value in enumerate(accuracy, 1) if value >= goal), len(accuracy)))
        counts = [[value / 100 for value in values] for values in epochs.values()]  # `cell` shows percent
        figures = [cell(values) for values in (*ends.values(), *counts)]
        print(f"| {track} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
