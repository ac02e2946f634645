"""The benchmark of ensembles: figures of a case worked out by hand, and rows that exist."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ablation import SETTINGS, Bed
from benchmarks.ensembles import GROUPS, Predictions, line


def test_groups_are_rows_of_the_ablation() -> None:
    for group in GROUPS.values():
        assert all("run" in SETTINGS["rows"][row] for row in group["rows"])


@pytest.fixture
def predictions(tmp_path: Path) -> Predictions:
    """Four test images of classes 0, 0, 1, 1 and two held-out ones; three members with probabilities of their own."""
    for file, count in (("dataset_json/track1_train_label.json", 2), ("truth/track1_test_truth.json", 4)):
        rows = [{"image_path": f"x/{i}.jpg", "label": i * 2 // count, "domain": "x"} for i in range(count)]
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(json.dumps(rows))
    folder = tmp_path / "ablation/results/track1/members/finetune"
    folder.mkdir(parents=True)
    of_class_0 = {  # the probability of class 0
        "a": {"test": [0.9, 0.4, 0.1, 0.1], "in_domain": [0.9, 0.9]},  # right, wrong, right, right; held out 1 of 2
        "b": {"test": [0.4, 0.8, 0.4, 0.6], "in_domain": [0.9, 0.1]},  # wrong, right, right, wrong; 2 of 2
        "c": {"test": [0.6, 0.6, 0.6, 0.2], "in_domain": [0.1, 0.9]},  # right, right, wrong, right; 0 of 2
    }
    for member, sets in of_class_0.items():
        for images, p in sets.items():
            both = np.array([p, [1 - one for one in p]], np.float32).T
            names = [f"{'x/' * (images == 'in_domain')}{i}.jpg" for i in range(len(p))]
            np.savez(folder / f"{member}.{images}.npz", names=names, probabilities=both)
    return Predictions(Bed(1, str(tmp_path)))


def test_the_vote_its_best_member_and_their_disagreement(predictions: Predictions) -> None:
    vote = predictions.vote(["finetune/a", "finetune/b", "finetune/c"])
    assert vote.members == 3
    assert vote.best.tolist() == [0, 1, 1, 0]  # b: the best in-domain, not on the test images
    assert vote.vote.tolist() == [1, 1, 1, 1]  # means of class 0: .63, .6, .37, .3
    # Of labels by hand:
    labels = np.array([[0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]])
    pairs = [(labels[i] != labels[j]).mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert vote.disagreement == pytest.approx(np.mean(pairs))


def test_a_row_gives_the_means_over_seeds_and_a_paired_gain(predictions: Predictions) -> None:
    one, other = predictions.vote(["finetune/a", "finetune/b", "finetune/c"]), predictions.vote(["finetune/a"])
    assert other.disagreement == 0
    cells = [cell.strip() for cell in line("x", [one, other], [0, 1]).split("|")[1:-1]]
    # vote: 4 and 3 of 4 right; best: 2 and 3
    assert cells[:2] == ["x", "2"] and cells[4:6] == ["62.5", "87.5"] and cells[6].startswith("+25.0 (")
