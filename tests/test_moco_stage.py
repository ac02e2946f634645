"""Stage moco as a whole: it resumes bit for bit, tells how it does, and hands its backbone on."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY, command

Train = Callable[..., Path]
MOCO = ["stage=moco", "module.queue_size=32", "module.num_splits=2", "callbacks.neighbours.every_n_epochs=2"]


def state(run: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    return loaded


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_queue_of_one_never_stopped(
    train_run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.callbacks.preemption import Preemption

    more = ["track=1", *MOCO, "trainer.max_epochs=3"]
    whole = train_run(*more, "tag=whole")
    agreed = Preemption.agreed

    def stop_in_the_second_epoch(self: Preemption, trainer) -> int:  # type: ignore[no-untyped-def]
        return 15 * (trainer.current_epoch == 1 and trainer.global_step % trainer.num_training_batches == 2)

    monkeypatch.setattr(Preemption, "agreed", stop_in_the_second_epoch)
    with pytest.raises(SystemExit):
        train_run(*more)
    monkeypatch.setattr(Preemption, "agreed", agreed)
    resumed = train_run(*more, "resume=true")
    a, b = state(whole), state(resumed)
    assert a.keys() == b.keys() and {"queue", "pointer"} <= a.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)

    rows = list(csv.DictReader(open(resumed / "metrics.csv")))
    knn = [row["val/in_domain/knn/accuracy"] for row in rows]
    assert not knn[0] and knn[1] and knn[2]  # every second epoch, and the last
    assert rows[1]["val/in_domain/knn/untrained"] == rows[2]["val/in_domain/knn/untrained"] != ""
    assert {"train/contrastive_top1", "train/contrastive_top5", "train/feature_spread", "val/in_domain/knn/context",
            "val/in_domain/knn/worst_context"} <= rows[0].keys()  # fmt: skip
    assert (resumed / "pictures/epoch000.png").exists()

    left = load_file(resumed / "weights.safetensors")
    assert {name.split(".")[0] for name in left} == {"backbone"}  # the query encoder's, without its head
    assert torch.equal(left["backbone.conv1.0.weight"], b["query_encoder.backbone.conv1.0.weight"])
    started = train_run("track=1", "stage=baseline", f"init={resumed}", "module.optimizer.lr=0",
                        "module.optimizer.weight_decay=0", "trainer.max_epochs=1")  # fmt: skip
    taken = load_file(started / "weights.safetensors")
    assert torch.equal(taken["backbone.conv1.0.weight"], left["backbone.conv1.0.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["module.queue_size=40"], "module.queue_size=40 is not a multiple of datamodule.batch_size=16"),
        (["module.queue_size=160"], "module.queue_size=160 exceeds the .* images of an epoch"),
        (["module.num_splits=3"], "module.num_splits=3 does not divide datamodule.batch_size=16 over 1 process"),
        (["module.num_splits=16"], r"BatchNorm would see 1 image\(s\) at a time"),
    ],
)
def test_settings_that_do_not_fit_are_named_at_the_start(train_run: Train, changes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_run("track=1", *MOCO, *changes)


def test_no_label_trains_and_nothing_held_out_measures_nothing(train_run: Train) -> None:
    with pytest.warns(UserWarning, match="can be matched by them alone"):
        run = train_run("track=2", *MOCO, "split=none", "module.num_splits=1", "trainer.max_epochs=1")
    assert not any("knn" in name for name in json.loads((run / "finished.json").read_text())["metrics"])


def test_a_collapse_is_said_once(train_run: Train) -> None:
    with pytest.warns(UserWarning, match="the features have collapsed") as warned:
        train_run("track=2", *MOCO, "module.collapse_below=2")
    assert sum("collapsed" in str(warning.message) for warning in warned) == 1


@pytest.mark.slow
def test_two_processes_report_what_one_does(train_run: Train, places: list[str], tmp_path: Path) -> None:
    """Neighbours gathers features of 9 held-out images and a training part that two ranks cannot share evenly."""
    one = train_run("track=1", *MOCO, "trainer.max_epochs=1", "tag=one")
    words = ["track=1", *TINY, *MOCO, *places, "trainer.max_epochs=1", "trainer=ddp_cpu"]
    done = command("train.py", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    two = tmp_path / "logs/track1/moco/resnet10t-holdout-seed0"
    alone, together = (json.loads((run / "finished.json").read_text())["metrics"] for run in (one, two))
    assert alone.keys() == together.keys()
    for name in ("train/loss", "train/contrastive_top5", "val/in_domain/knn/untrained"):
        assert together[name] == pytest.approx(alone[name], abs=1e-4)


def test_progress_shows_the_nearest_neighbours(train_run: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train_run("track=1", *MOCO, "trainer.max_epochs=1")
    last = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 1/1")]
    assert "val/in_domain/knn/accuracy" in last[-1]
