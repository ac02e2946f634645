import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import DictConfig

from src import cli, members
from src.manifest import Row
from tests.conftest import command


@pytest.fixture
def two_members(train_run: Callable[..., Path]) -> list[Path]:
    return [train_run("track=1", "stage=baseline", f"seed={seed}", "trainer.max_epochs=1") for seed in (0, 1)]


@pytest.fixture
def predict(configure: Callable[..., DictConfig], places: list[str], tmp_path: Path) -> Callable[..., Path]:
    """Run predict.py in this process and return the folder of the results."""
    import predict as script

    def predicted(*overrides: str) -> Path:
        words = ["track=1", "ensemble=baselines", "scale=demo", *places, f"results_dir={tmp_path / 'results'}"]
        cfg = configure("predict", *words, "datamodule.num_workers=0", *overrides)
        with cli.clear_errors():
            script.predict(cfg)
        return tmp_path / "results/track1"

    return predicted


def test_from_runs_to_prediction_json(
    two_members: list[Path], predict: Callable[..., Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = data / "truth/track1_test_truth.json"
    results = predict(f"truth={truth}")
    prediction = json.loads((results / "prediction.json").read_text())
    names = sorted(path.name for path in (data / "data/public_dg_0416/public_test_flat").iterdir())
    assert sorted(prediction) == names
    table = capsys.readouterr().out
    labels = {row["image_name"]: row["label"] for row in json.loads(truth.read_text())}
    accuracy = np.mean([labels[name] == label for name, label in prediction.items()])
    vote = next(line for line in table.splitlines() if line.startswith("vote"))
    assert f"{100 * accuracy:.2f}" in vote.split()
    for context in ("outdoor", "water", "worst context", "agreement", "weight"):
        assert context in table
    for run in two_members:
        own = json.loads((results / f"members/baseline/{run.name}.json").read_text())
        assert list(own) == list(prediction)
    # Once more: nothing is run again, and the result is the same.
    predict()
    assert capsys.readouterr().out.count("(predictions kept)") == 2
    assert json.loads((results / "prediction.json").read_text()) == prediction
    # A member that was trained anew is predicted anew.
    done = json.loads((two_members[0] / "finished.json").read_text())
    shutil.copy(two_members[1] / "weights.safetensors", two_members[0])
    other = json.loads((two_members[1] / "finished.json").read_text())["weights_sha256"]
    (two_members[0] / "finished.json").write_text(json.dumps({**done, "weights_sha256": other}))
    predict()
    assert capsys.readouterr().out.count("(predictions kept)") == 1


@pytest.mark.parametrize("vote", ["majority", "soft"])
def test_every_rule(
    two_members: list[Path], predict: Callable[..., Path], vote: str, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(f"vote={vote}")
    assert f"vote={vote}" in capsys.readouterr().out


def test_predictions_do_not_depend_on_the_batch_size(two_members: list[Path], predict: Callable[..., Path]) -> None:
    made = []
    for size in (1, 7, 64):
        results = predict(f"datamodule.batch_size={size}")
        made.append((results / "prediction.json").read_text())
        shutil.rmtree(results)
    assert made[0] == made[1] == made[2]


def test_who_is_left_out_and_why(
    two_members: list[Path], predict: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (two_members[0] / "finished.json").unlink()
    predict()
    printed = capsys.readouterr().out
    assert f"left out {two_members[0]}: it has not reached its end" in printed and "1 members" in printed
    with open(two_members[1] / "weights.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(
        SystemExit, match="error: no finished run of baseline in .*python train.py track=1 stage=baseline"
    ):
        predict()


def test_members_of_other_classes(two_members: list[Path], predict: Callable[..., Path]) -> None:
    (two_members[0] / "classes.json").write_text('["bus"]')
    with pytest.raises(SystemExit, match="different label maps"):
        predict()


def test_a_forged_config_chooses_no_code(two_members: list[Path], predict: Callable[..., Path]) -> None:
    path = two_members[0] / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    for change in (
        {"_target_": "os.system", "command": "true"},
        {"_target_": "timm.create_model", "model_name": "hf-hub:someone/model"},
        {"_target_": "timm.create_model", "model_name": "resnet10t", "checkpoint_path": "x.pth"},
        {"_target_": "timm.create_model", "model_name": "resnet10t", "pretrained": True},
        {"_target_": "src.lightning_modules.classifier.nn.Linear"},
        {"_target_": "timm.create_model", "model_name": "${oc.env:HOME}"},
    ):
        settings["module"]["backbone"] = change
        path.write_text(yaml.safe_dump(settings))
        with pytest.raises(SystemExit, match="error: the settings of .* ask for"):
            predict()


def test_a_full_disk_leaves_the_old_result(
    two_members: list[Path], predict: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    results = predict()
    before = (results / "prediction.json").read_text()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit, match=r"error: .*could not write .*prediction.json \(No space left on device\)"):
        predict("vote=majority")
    assert (results / "prediction.json").read_text() == before
    assert not list(results.glob(".*tmp"))


def test_no_member_and_an_unknown_rule(predict: Callable[..., Path]) -> None:
    with pytest.raises(SystemExit, match="error: vote=x is no rule: choose one of majority, adaptive, soft"):
        predict("vote=x")
    with pytest.raises(SystemExit, match="error: no finished run of fdg or adapt"):
        predict("ensemble=all")


def test_kept_predictions_that_are_damaged_are_made_anew(
    two_members: list[Path], predict: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    results = predict()
    kept = results / f"members/baseline/{two_members[0].name}.npz"
    kept.write_bytes(kept.read_bytes()[:100])
    kept.with_name(f"{two_members[1].name}.json").unlink()
    capsys.readouterr()
    predict()
    assert "(predictions kept)" not in capsys.readouterr().out
    assert kept.with_name(f"{two_members[1].name}.json").exists()


@pytest.mark.parametrize("label", ["1.7", '"car"', "-1", "true"])
def test_truth_that_is_no_label(tmp_path: Path, label: str) -> None:
    (tmp_path / "t.json").write_text(f'{{"a.jpg": {label}}}')
    with pytest.raises(ValueError, match="t.json gives a.jpg the label .*: expected an id"):
        members.read_truth(tmp_path / "t.json")


def test_truth_from_an_object_and_with_a_gap(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"a.jpg": 1, "b.jpg": 0}')
    rows = members.read_truth(tmp_path / "t.json")
    matched = members.match_truth(rows, ["b.jpg", "a.jpg"], tmp_path)
    assert matched is not None and matched[0].tolist() == [0, 1] and matched[1] == ["", ""]
    with pytest.raises(ValueError, match=r"has no label for 1 of 2 test images \(first: c.jpg\)"):
        members.match_truth(rows, ["a.jpg", "c.jpg"], tmp_path)
    assert members.match_truth([Row("a.jpg")], ["a.jpg"], tmp_path) is None


def test_as_a_user_runs_it(two_members: list[Path], places: list[str], tmp_path: Path) -> None:
    done = command(
        "predict.py", "track=1", "ensemble=baselines", "scale=demo", *places, f"results_dir={tmp_path / 'r'}"
    )
    assert done.returncode == 0, done.stderr
    assert "wrote" in done.stdout and (tmp_path / "r/track1/prediction.json").exists()
    failed = command(
        "predict.py", "track=2", "ensemble=baselines", "scale=demo", *places, f"results_dir={tmp_path / 'r'}"
    )
    assert failed.returncode == 1 and failed.stderr.startswith("error: no finished run of baseline")
    assert isinstance(failed, subprocess.CompletedProcess) and "Traceback" not in failed.stderr
