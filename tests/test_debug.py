"""Debug runs: apart from the others, without a checkpoint, of no use to any other run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.callbacks.learning_rate import LearningRate
from src.cli import composed
from src.prediction.selection import Wanted, find_members
from src.runs import lineage
from src.runs.directory import debug_settings, resolved
from tests.conftest import ROOT

Train = Callable[..., Path]
OPTIONS = sorted(path.stem for path in (ROOT / "conf/debug").glob("*.yaml"))


@pytest.mark.parametrize("stage", ["baseline", "moco", "wsss", "adapt"])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_a_debug_run_in_a_folder_of_its_own(option: str, stage: str) -> None:
    words = ["track=1", f"stage={stage}", "dataset.num_classes=3", "dataset.contexts=[a]", "dataset.images=9"]
    settings = resolved(composed("train", *words, f"debug={option}"))
    usual = resolved(composed("train", *words))
    assert settings["run_dir"].startswith(f"logs/debug/track1/{stage}/") and usual["run_dir"].startswith("logs/track1/")
    assert debug_settings(settings["trainer"]) and not debug_settings(usual["trainer"])
    assert settings["logs_dir"] == usual["logs_dir"]  # what a run is made from is looked for where it always is


@pytest.mark.parametrize("option", ["fast", "limit"])
def test_a_debug_run_starts_over_and_is_found_by_nobody(
    train_run: Train, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # without resume=true: there is nothing to lose
        run = train_run("track=1", "stage=baseline", f"debug={option}", "trainer.max_epochs=1")
    assert run.parent == tmp_path / "logs/debug/track1/baseline"
    assert not list(run.rglob("*.ckpt")) and not (run / "weights.safetensors").exists()
    assert capsys.readouterr().out.count("is a debug run") == 2
    with pytest.raises(FileNotFoundError, match="no finished run of baseline"):
        find_members(tmp_path / "logs", "track1", Wanted(["baseline"]))
    cfg = composed("train", "track=1", "stage=wsss", "scale=demo", f"logs_dir={tmp_path / 'logs'}")
    with pytest.raises(FileNotFoundError, match="there is no finished run of baseline"):
        lineage.predecessors(cfg)
    with pytest.raises(FileNotFoundError, match="is not a finished run"):
        lineage.checked("init", run)


def test_overfitting_sees_the_same_unmixed_images_in_every_epoch(
    train_run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    usual = LearningRate.on_train_batch_start

    def look(self: LearningRate, trainer, module, batch, index) -> None:  # type: ignore[no-untyped-def]
        seen.append(batch.position.tolist())
        assert torch.equal(module.training_images(batch).image, batch.image)
        usual(self, trainer, module, batch, index)

    monkeypatch.setattr(LearningRate, "on_train_batch_start", look)
    train_run("track=1", "stage=baseline", "debug=overfit", "trainer.max_epochs=3")
    assert len(seen) == 6 and seen[:2] == seen[2:4] == seen[4:] and not set(seen[0]) & set(seen[1])


def test_a_profile_is_a_file_of_the_run(train_run: Train) -> None:
    run = train_run("track=1", "stage=baseline", "debug=profile")
    assert "run_training_batch" in (run / "fit-profile.txt").read_text()


def test_null_is_lightnings_default(tmp_path: Path) -> None:
    import train

    facts = ["dataset.num_classes=3", "dataset.contexts=[a]", "dataset.images=9"]
    words = ["track=1", "stage=baseline", "scale=demo", f"logs_dir={tmp_path}", *facts]
    trainer = train.make_trainer(composed("train", *words))
    assert (trainer.fast_dev_run, trainer.overfit_batches, trainer.max_steps) == (False, 0.0, -1)
    assert (trainer.limit_train_batches, trainer.val_check_interval) == (1.0, 1.0)
    more = ["overfit_batches=2", "max_steps=7", "val_check_interval=0.5", "detect_anomaly=true", "max_time=00:00:01:00"]
    limited = train.make_trainer(composed("train", *words, *(f"trainer.{word}" for word in more)))
    assert (limited.overfit_batches, limited.max_steps, limited.val_check_interval) == (2, 7, 0.5)
