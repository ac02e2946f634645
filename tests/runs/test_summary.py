from pathlib import Path

import pytest
import yaml

from src.runs.summary import next_commands, summary, table

HEAD = "epoch,step,seconds,train/loss,val/in_domain/accuracy,val/in_domain/accuracy/dim,val/in_domain/accuracy/sun"
ROWS = ["0,5,1.0,2.0,0.5,0.4,0.6", "1,10,1.0,1.0,0.75,0.9,0.625", "2,15,1.0,0.5,0.75,0.55,0.95"]


def run_of(root: Path, stage: str, module: dict[str, object] | None = None, rows: list[str] = ROWS) -> Path:
    folder = root / "logs/track1" / stage / "run"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"module": module or {}}))
    (folder / "metrics.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    return folder


def test_epochs_count_from_1_and_of_equals_the_first_is_the_best(tmp_path: Path) -> None:
    lines = summary(run_of(tmp_path, "baseline")).splitlines()
    assert lines[0] == f"finished {tmp_path}/logs/track1/baseline/run: metrics.csv"
    assert [line.split() for line in lines[1:4]] == [
        ["epoch", "loss", "in-domain", "worst", "context"],
        ["last", "3", "0.5", "75.0%", "dim", "55.0%"],
        ["best", "2", "1", "75.0%", "sun", "62.5%"],
    ]
    assert all(len(line) <= 80 for line in lines[1:4])


def test_the_worst_context_is_that_of_all_held_out_parts() -> None:
    row = {"epoch": 0.0, "train/loss": 1.0, "val/in_domain/accuracy": 0.9, "val/out_of_domain/accuracy": 0.3,
           "val/in_domain/accuracy/dim": 0.8, "val/out_of_domain/accuracy/rock": 0.3}  # fmt: skip
    head, last, _ = table([row])
    assert head.split("  ")[-1] == "worst context" and last.endswith("rock 30.0%") and "out-of-domain" in head


def test_a_stage_without_validation_has_no_best_epoch() -> None:
    lines = table([{"epoch": 0.0, "train/loss": 1.0}, {"epoch": 1.0, "train/loss": 0.25}])
    assert [line.split() for line in lines] == [["epoch", "loss"], ["last", "2", "0.25"]]


@pytest.mark.parametrize(
    ("stage", "module", "expected"),
    [
        ("moco", {}, ["train.py track=1 stage=finetune scale=demo model=tiny seed=2 tag=mine"]),
        ("wsss", {}, ["train.py track=1 stage=finetune scale=demo tag=mine"]),
        ("fdg", {"num_classes": 3}, ["train.py track=1 stage=adapt scale=demo model=tiny seed=2 tag=mine",
                                     "predict.py track=1 ensemble=all scale=demo report=true"]),
        ("finetune", {"num_classes": 3}, ["train.py track=1 stage=fdg scale=demo model=tiny seed=2 tag=mine",
                                          "predict.py track=1 'ensemble.stages=[finetune]' scale=demo report=true"]),
        ("grabcut", {}, ["train.py track=1 stage=finetune recipe=background scale=demo tag=mine"]),
        ("average_maps", {}, ["train.py track=1 stage=finetune recipe=background before_masks.stage=average_maps "
                              "scale=demo tag=mine"]),
        ("adapt", {"num_classes": 3}, ["predict.py track=1 ensemble=all scale=demo report=true"]),
    ],
)  # fmt: skip
def test_the_next_command_goes_on_from_this_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, module: dict[str, object], expected: list[str]
) -> None:
    words = ["scale=demo", "model=tiny", "seed=2", "tag=mine", "resume=true", "module.optimizer.lr=1"]
    monkeypatch.setattr("sys.argv", ["train.py", "track='1'", f"stage={stage}", *words, "datamodule.size=32"])
    run = run_of(tmp_path, stage, module)
    if stage in ("wsss", "grabcut", "average_maps"):
        (run / "masks.json").write_text("{}")
    assert next_commands(run) == [f"python {one}" for one in expected]


def test_a_vote_of_runs_that_left_a_context_out_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "track=1", "stage=adapt"])
    run = run_of(tmp_path, "adapt")
    config = {"module": {"num_classes": 3}, "split_name": "leave_context_out-p"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (found,) = next_commands(run)
    assert found == "python predict.py track=1 ensemble=all ensemble.split=leave_context_out-p report=true"


def test_the_next_command_is_of_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "stage=moco", "track=found", "data_root='my photos'", "track.name=x"])
    (found,) = next_commands(run_of(tmp_path, "moco"))
    assert found == "python train.py 'data=my photos' track.name=x stage=finetune"
