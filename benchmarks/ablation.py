"""What each part of the method gives on the demo's data, beside plain training of the same length.

    python -m benchmarks.ablation [--beds "track 1" "track 2" "track 2, confounded"] [--seeds 0 1 2]
                                  [--rows none "recipe background"]

Makes what is missing of the data, of the stages before and of the rows in benchmarks/ablation.yaml, one run per process
(interrupted, it goes on where it was), predicts the test images, and prints a table for each test bed, top-1 in
percent, mean and standard error over the seeds: the held-out fifth of the training images (in-domain), the test images
(unseen contexts), the worst of their contexts, and the unseen accuracy's difference to the row `beside`, paired by
seed. Nothing is selected: the last epoch counts.
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
from src.data.manifest import read_manifest
from src.datamodules.synthetic.dataset import generate
from src.files import read_json, write_json
from src.prediction import voting


def settings_of(module: str) -> dict[str, Any]:
    """What stands in the yaml beside a module, of which this is the file."""
    settings: Any = OmegaConf.to_container(OmegaConf.load(Path(module).with_suffix(".yaml")), resolve=True)
    return settings


SETTINGS = settings_of(__file__)


class Figures(NamedTuple):
    """Top-1 of one run or ensemble."""

    in_domain: float
    unseen: float
    worst: float


class Bed:
    """Data of one track, and the rows that are trained on it."""

    def __init__(
        self,
        track: int,
        root: str,
        rows: list[str] | None = None,
        strays: int | None = None,
        only: list[str] | None = None,
    ) -> None:
        self.track, self.root, self.strays = track, Path(root), strays
        asked = [set(names) for names in (rows, only) if names is not None]
        self.rows = {name: row for name, row in SETTINGS["rows"].items() if all(name in names for names in asked)}

    def prepare(self) -> None:
        """The images, the masks of stage wsss, and a manifest that names the true ones."""
        generate(self.root, strays=self.strays)
        for words in SETTINGS["before"]:
            self.train(words, seed=0)
        entries = read_json(self.root / f"dataset_json/track{self.track}_train_label.json")
        named = [{**entry, "image_seg_path": str(Path(entry["image_path"]).with_suffix(".png"))} for entry in entries]
        write_json(self.root / f"truth/track{self.track}_train_with_mask_label.json", named)

    def train(self, words: str, seed: int) -> None:
        """Train a run, or nothing where it is finished."""
        filled = words.format(track=self.track, root=self.root, seed=seed)
        command = [sys.executable, "train.py", f"track={self.track}", f"seed={seed}", *shlex.split(filled)]
        subprocess.run(command, check=True)

    def train_rows(self, seed: int) -> None:
        """Train every row's run."""
        for row in self.rows.values():
            if "before" in row:
                self.train(row["before"], seed)
            if "train" in row:
                self.train(f"{SETTINGS['all']} {row['train']}", seed)

    def predict(self, *words: str) -> None:
        """What the runs that `words` ask predict.py for say of the test images, below <root>/ablation/results."""
        places = [f"data_root={self.root}/data", f"manifest_dir={self.root}/dataset_json"]
        places += [f"logs_dir={self.root}/ablation", f"results_dir={self.root}/ablation/results"]
        command = [sys.executable, "predict.py", f"track={self.track}", "scale=demo", *words, *places]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def measure(self, seed: int) -> dict[str, Figures]:
        """The figures of every row that is shown."""
        truth = read_manifest(self.root / f"truth/track{self.track}_test_truth.json")
        label, context = np.array([row.label for row in truth]), np.array([str(row.domain) for row in truth])
        votes, figures, folder = {}, {}, self.root / "ablation"
        # Runs with the same weights vote as one: where backgrounds stay, the recipe is the same whatever the masks are.
        voters = read_json(folder / f"results/track{self.track}/ensemble.json")["members"]
        voter = {one["weights_sha256"]: "/".join(Path(one["run"]).parts[-2:]) for one in voters}
        for name, row in self.rows.items():
            in_domain = float("nan")
            if "members" in row:
                ballots = np.stack([votes[member] for member in row["members"]])
                votes[name] = voting.adaptive(np.eye(label.max() + 1)[ballots]).labels
            else:
                run = row["run"].format(seed=seed)
                done = read_json(folder / f"track{self.track}/{run}/finished.json")
                labels = read_json(folder / f"results/track{self.track}/members/{voter[done['weights_sha256']]}.json")
                votes[name] = np.array([labels[image.name] for image in truth])
                in_domain = done["metrics"]["val/in_domain/accuracy"]
            hits = votes[name] == label
            worst = min(float(hits[context == one].mean()) for one in np.unique(context))
            if not row.get("hidden"):
                figures[name] = Figures(in_domain, float(hits.mean()), worst)
        return figures

    def table(self, figures: list[dict[str, Figures]]) -> str:
        """The figures of each seed as a table in markdown."""
        lines = [
            "| | passes | in-domain | unseen | worst context | unseen, to the row beside |",
            "|---|---|---|---|---|---|",
        ]
        for name in figures[0]:
            beside = self.rows[name].get("beside")
            beside = beside if beside in figures[0] else None
            columns = zip(*(seed[name] for seed in figures), strict=True)
            cells = [cell(list(values)) if np.isfinite(values).all() else "" for values in columns]
            differences = [seed[name].unseen - seed[beside].unseen for seed in figures] if beside else []
            cells.append(f"{cell(differences)} ({beside})" if beside else "")
            lines.append(f"| {name} | {self.rows[name]['passes']} | {' | '.join(cells)} |")
        return "\n".join(lines)


def main() -> None:
    """Make, train, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beds", nargs="+", choices=SETTINGS["beds"], default=list(SETTINGS["beds"]))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=SETTINGS["rows"], help="these alone")
    options = parser.parse_args()
    for name in options.beds:
        bed = Bed(**SETTINGS["beds"][name], only=options.rows)
        bed.prepare()
        for seed in options.seeds:
            bed.train_rows(seed)
        bed.predict("ensemble.stages=[finetune,fdg,adapt]")
        print(
            f"{name}, seeds {options.seeds}\n{bed.table([bed.measure(seed) for seed in options.seeds])}\n", flush=True
        )


if __name__ == "__main__":
    main()
