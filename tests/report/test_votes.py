"""Kept votes side by side: whose training counts as passes, and how often."""

import json
from pathlib import Path

import pytest
import yaml

from src.report.comparison.__main__ import compared


def run(logs: Path, name: str, passes: float | None, init: str | None = None, **more: object) -> str:
    """A finished run's files; its path."""
    folder = logs / "track1" / name
    folder.mkdir(parents=True)
    settings = {"init": str(logs / "track1" / init) if init else "none", "logs_dir": str(logs), "masks": "none"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    done = {"weights_sha256": "0", "files": {}, "metrics": {}, **more} | ({} if passes is None else {"passes": passes})
    (folder / "finished.json").write_text(json.dumps(done))
    return str(folder)


def vote(results: Path, name: str, runs: list[str], accuracy: float) -> None:
    folder = results / "track1/votes" / name
    folder.mkdir(parents=True)
    test = {"accuracy": accuracy, "accuracy_interval": [accuracy - 0.1, accuracy + 0.05], "worst_context": 0.25}
    (folder / "figures.json").write_text(json.dumps({"test": test, "in_domain": {"accuracy": 0.875}}))
    (folder / "ensemble.json").write_text(json.dumps({"members": [{"run": path} for path in runs]}))


def words(tmp_path: Path, *more: str) -> list[str]:
    return ["of=votes", "track=1", f"results_dir={tmp_path}/results", f"logs_dir={tmp_path}/logs", *more]


def test_votes_and_the_passes_behind_them_each_run_once(tmp_path: Path) -> None:
    logs, results = tmp_path / "logs", tmp_path / "results"
    run(logs, "moco/a", 40)
    teacher = run(logs, "fdg/b", 32, "moco/a")
    members = [teacher, run(logs, "adapt/c", 1, "fdg/b"), run(logs, "adapt/d", 1.5, "fdg/b")]
    vote(results, "chain", members, 0.5)
    vote(results, "plain", [run(logs, "baseline/e", 40)], 0.75)
    soup = run(logs, "soup/f", 0, soup_of=members[1:])
    vote(results, "soup", [soup], 0.5)
    vote(results, "unknown", [run(logs, "baseline/old", None)], 0.5)
    lines = [line.split(",") for line in compared(words(tmp_path, "format=csv")).splitlines()]
    assert lines[0] == ["vote", "members", "passes", "in-domain", "test (95 % interval)", "worst context"]
    assert [line[:3] for line in lines[1:]] == [
        ["chain", "3", "74.5"], ["plain", "1", "40"], ["soup", "1", "74.5"], ["unknown", "1", ""],
    ]  # fmt: skip
    assert lines[2][3:] == ["87.50", "75.00 (65.0 to 80.0)", "25.00"]


def test_runs_that_were_moved_are_found(tmp_path: Path) -> None:
    run(tmp_path / "logs", "moco/a", 40)
    chain = run(tmp_path / "logs", "finetune/b", 2, "moco/a")
    vote(tmp_path / "results", "x", [chain], 0.5)
    (tmp_path / "logs").rename(tmp_path / "elsewhere")
    moved = chain.replace("/logs/", "/elsewhere/")
    (tmp_path / "results/track1/votes/x/ensemble.json").write_text(json.dumps({"members": [{"run": moved}]}))
    assert "  42  " in compared([*words(tmp_path)[:3], f"logs_dir={tmp_path}/elsewhere"])


def test_votes_that_are_not_there_or_are_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results/track1/votes holds no vote .* truth="):
        compared(words(tmp_path))
    vote(tmp_path / "results", "x", [], 0.5)
    (tmp_path / "results/track1/votes/x/ensemble.json").write_text("{}")
    with pytest.raises(ValueError, match="votes/x is damaged .*: remove it and run its predict.py again"):
        compared(words(tmp_path))
    with pytest.raises(ValueError, match="of=everything is not a setting"):
        compared(words(tmp_path, "of=everything"))
