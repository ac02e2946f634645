"""How much members disagree and what their vote gains, by seed, recipe, backbone and ratio of mixing; whom to choose.

    python -m benchmarks.ensembles [--beds "track 1" "track 2"] [--seeds 0 1 2] [--groups ratios backbones]

Trains what is missing of the rows in benchmarks/ensembles.yaml as `benchmarks.ablation` does, lets the members vote
(vote=soft), and prints a table for each test bed, of the test images: members, disagreement of two members (mean over
the pairs), accuracy of the best member (chosen by its in-domain accuracy) and of the vote, and their paired difference
with its 95 % interval over images. Then `ensemble=diverse` chooses among all these runs, and stands beside as many
members of adapt.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.ablation import SETTINGS, Bed, settings_of
from src.data.manifest import read_manifest
from src.files import read_json
from src.prediction import voting
from src.report.stages import Contender, gain_of

GROUPS = settings_of(__file__)["groups"]


class Kept(NamedTuple):
    """Probabilities (M, N, K) that members gave to the images of a set, and the images' labels (N,)."""

    probabilities: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]

    def hits(self) -> npt.NDArray[np.float64]:
        """Whether each member is right, (M, N) of 0 and 1."""
        return (self.probabilities.argmax(2) == self.label) * 1.0


class Vote(NamedTuple):
    """What a soft vote of some members shows on the test images.

    Attributes:
        members: their number.
        disagreement: of two of them, mean over the pairs.
        best, vote: hits (N,) of the member that is best in-domain, and of the vote.
    """

    members: int
    disagreement: float
    best: npt.NDArray[np.float64]
    vote: npt.NDArray[np.float64]


class Predictions:
    """Kept predictions of a bed's runs."""

    def __init__(self, bed: Bed) -> None:
        self.results = bed.root / f"ablation/results/track{bed.track}"
        train = read_manifest(bed.root / f"dataset_json/track{bed.track}_train_label.json")
        test = read_manifest(bed.root / f"truth/track{bed.track}_test_truth.json")
        self.label = {  # by the names in kept predictions: two contexts may have files of one name
            "in_domain": {row.image_path: row.label for row in train},
            "test": {row.name: row.label for row in test},
        }

    def read(self, runs: Sequence[str], images: str) -> Kept:
        """What runs, as <stage>/<name>, predicted for the images "test" or "in_domain"."""
        files = [np.load(self.results / f"members/{run}.{images}.npz") for run in runs]
        names = files[0]["names"].tolist()
        assert all(file["names"].tolist() == names for file in files)
        label = np.array([self.label[images][name] for name in names])
        return Kept(np.stack([file["probabilities"] for file in files]), label)

    def vote(self, runs: Sequence[str]) -> Vote:
        """The soft vote of some runs."""
        held_out, test = self.read(runs, "in_domain"), self.read(runs, "test")
        best = int(held_out.hits().mean(1).argmax())
        hits = voting.soft(test.probabilities).labels == test.label
        apart = voting.disagreement(test.probabilities.argmax(2)) if len(runs) > 1 else 0.0
        return Vote(len(runs), apart, test.hits()[best], hits * 1.0)


def line(title: str, votes: Sequence[Vote], seeds: Sequence[int]) -> str:
    """A row of the table: means over the seeds, the interval over images."""
    vote, best = (
        Contender(title, tuple(seeds), {"test": np.stack([getattr(v, what) for v in votes])})
        for what in ("vote", "best")
    )
    gain = gain_of(vote, best, "test", 0)
    figures = [vote.hits["test"].mean(), best.hits["test"].mean(), np.mean([v.disagreement for v in votes])]
    voted, single, apart = (f"{100 * figure:.1f}" for figure in figures)
    interval = f"{100 * gain.mean:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    return f"| {title} | {len(votes)} | {votes[0].members} | {apart} | {single} | {voted} | {interval} |"


def chosen(bed: Bed, pool: Sequence[str]) -> list[str]:
    """The members that ensemble=diverse takes of some runs, all as <stage>/<name>."""
    bed.predict("ensemble=diverse", f"ensemble.runs=[{','.join(pool)}]")
    members = read_json(bed.root / f"ablation/results/track{bed.track}/ensemble.json")["members"]  # of the last vote
    return ["/".join(Path(member["run"]).parts[-2:]) for member in members if member["chosen"]]


def main() -> None:
    """Train, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beds", nargs="+", choices=SETTINGS["beds"], default=["track 1", "track 2"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    options = parser.parse_args()
    for name in options.beds:
        print(f"{name}, seeds {options.seeds}\n")
        print(
            "| | votes | members | disagreement | best member | vote | vote minus best |\n|---|---|---|---|---|---|---|"
        )
        rows = {row for group in options.groups for row in GROUPS[group]["rows"]}
        before = {"decoupled + moco, begun"} if "ratios" in options.groups else set()
        bed = Bed(**SETTINGS["beds"][name], only=sorted(rows | before))
        bed.prepare()
        for seed in options.seeds:
            bed.train_rows(seed)
        kept, of = Predictions(bed), {row: SETTINGS["rows"][row]["run"] for row in rows}
        pool = [of[row].format(seed=seed) for row in sorted(rows) for seed in options.seeds]
        diverse = chosen(bed, pool)  # predicts what is missing
        for title in options.groups:
            group = GROUPS[title]
            voters = [[of[row].format(seed=seed) for row in group["rows"]] for seed in options.seeds]
            if group.get("across"):
                voters = [[run for runs in voters for run in runs]]
            print(line(title, [kept.vote(runs) for runs in voters], range(len(voters))))
        print(line("diverse", [kept.vote(diverse)], [0]))
        ratios = [of[row].format(seed=options.seeds[0]) for row in GROUPS["ratios"]["rows"]] if before else []
        if len(ratios) >= len(diverse):
            few = kept.vote(ratios[: len(diverse)])
            print(line("as many members of adapt", [few], [0]))
            better = kept.vote(diverse)._replace(best=few.vote)
            print(line("diverse minus as many of adapt", [better], [0]))
        print("\nchosen:", ", ".join(diverse), "\n", flush=True)


if __name__ == "__main__":
    main()
