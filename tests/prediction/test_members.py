import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from src import digests
from src.digests import Digests
from src.prediction import members
from src.prediction.members import Member
from src.prediction.selection import Wanted, find_members
from tests.conftest import command, sign


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
    predict(f"truth={truth}")
    assert capsys.readouterr().out.count("(predictions kept)") == 4  # of the test images, of the held-out ones
    assert json.loads((results / "prediction.json").read_text()) == prediction
    # A member that was trained anew is predicted anew.
    change_weights(two_members[0])
    predict()
    assert capsys.readouterr().out.count("(predictions kept)") == 1


def test_a_remembered_digest_does_not_admit_other_weights(
    two_members: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "RACY", 0)

    def found() -> list[Path]:
        wanted, memo = Wanted(["baseline"]), Digests(tmp_path / "memo.json")
        return [member.folder for member in find_members(tmp_path / "logs", "track1", wanted, memo)[0]]

    assert found() == found() == two_members and len(json.loads((tmp_path / "memo.json").read_text())) == 8
    weights = two_members[0] / "weights.safetensors"
    whole, before = weights.read_bytes(), weights.stat()
    time.sleep(0.01)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found() == two_members[1:]
    weights.write_bytes(whole)
    assert found() == two_members


def change_weights(run: Path) -> None:
    """Give a run weights that no other has, as a training of its own would."""
    state = load_file(run / "weights.safetensors")
    state["head.bias"] += 0.1 * torch.arange(len(state["head.bias"]))
    save_file(state, run / "weights.safetensors")
    sign(run)


@pytest.mark.parametrize("vote", ["majority", "soft"])
def test_every_rule(
    two_members: list[Path], predict: Callable[..., Path], vote: str, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(f"vote={vote}")
    assert f"vote={vote}" in capsys.readouterr().out


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


def test_a_stage_without_a_classifier_is_no_member(
    two_members: list[Path], predict: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((two_members[0] / "config.yaml").read_text())
    del config["module"]["num_classes"]
    (two_members[0] / "config.yaml").write_text(yaml.safe_dump(config))
    sign(two_members[0])
    predict()
    assert f"left out {two_members[0]}: the stage baseline trains no classifier" in capsys.readouterr().out


def test_members_of_other_classes(
    two_members: list[Path], predict: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    names = json.loads((two_members[0] / "classes.json").read_text())
    (two_members[0] / "classes.json").write_text(json.dumps(["bus", *names[1:]]))
    sign(two_members[0])
    with pytest.raises(SystemExit, match="different label maps"):
        predict()
    third = two_members[0].with_name("third")
    shutil.copytree(two_members[1], third)
    with pytest.raises(SystemExit, match="different label maps"):  # a copy makes no majority
        predict()
    change_weights(third)
    predict()
    assert f"left out {two_members[0]}: its classes are not those of the 2 other runs" in capsys.readouterr().out


def test_a_forged_config_chooses_no_code(
    two_members: list[Path], predict: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = two_members[0] / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    for change in (
        {"_target_": "os.system", "command": "true"},
        {"_target_": "timm.create_model", "model_name": "hf-hub:someone/model"},
        {"_target_": "timm.create_model", "model_name": "resnet10t", "act_layer": {"_target_": "os.getcwd"}},
        {"_target_": "timm.create_model", "model_name": "resnet10t", "nonsense": 1},
        {"_target_": "src.lightning_modules.classifier.nn.Linear"},
        {"_target_": "timm.create_model", "model_name": "${oc.env:HOME}"},
    ):
        settings["module"]["backbone"] = change
        path.write_text(yaml.safe_dump(settings))
        sign(two_members[0])
        capsys.readouterr()
        predict()
        assert re.search(rf"left out {two_members[0]}: .*(the settings of|cannot be built)", capsys.readouterr().out)


CORRUPTIONS: dict[str, Callable[[Path], object]] = {
    "finished.json broken": lambda run: (run / "finished.json").write_text("{"),
    "finished.json a list": lambda run: (run / "finished.json").write_text("[]"),
    "finished.json without metrics": lambda run: sign(run, metrics=None),
    "finished.json with text for a figure": lambda run: sign(run, metrics={"val/in_domain/accuracy": "<script>"}),
    "finished.json binary": lambda run: (run / "finished.json").write_bytes(b"\xff\xfe\x00"),
    "config.yaml changed": lambda run: edit(run, "seed: 0", "seed: 7"),
    "config.yaml empty": lambda run: ((run / "config.yaml").write_text(""), sign(run)),
    "config.yaml missing": lambda run: (run / "config.yaml").unlink(),
    "config.yaml binary": lambda run: ((run / "config.yaml").write_bytes(b"\x00\xff"), sign(run)),
    "config.yaml of another size": lambda run: (edit(run, "  size: 32", "  size: big"), sign(run)),
    "config.yaml with two means": lambda run: (edit(run, "  mean:\n  - 0.485\n", "  mean:\n"), sign(run)),
    "config.yaml that grows": lambda run: (
        add(run, "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n"), sign(run)
    ),
    "config.yaml that holds itself": lambda run: (add(run, "deep: &d [*d]\n"), sign(run)),
    "config.yaml nested deeply": lambda run: (add(run, "deep: " + "[" * 3000 + "]" * 3000), sign(run)),
    "config.yaml with code": lambda run: (add(run, "code: !!python/object/apply:os.getcwd []\n"), sign(run)),
    "classes.json broken": lambda run: ((run / "classes.json").write_text("["), sign(run)),
    "classes.json too short": lambda run: ((run / "classes.json").write_text('["bus"]'), sign(run)),
    "split.json missing": lambda run: (run / "split.json").unlink(),
    "split.json without parts": lambda run: ((run / "split.json").write_text("{}"), sign(run)),
    "weights cut": lambda run: (os.truncate(run / "weights.safetensors", 5000), sign(run)),
    "weights not weights": lambda run: ((run / "weights.safetensors").write_text("<html>404</html>"), sign(run)),
    "weights gone": lambda run: (run / "weights.safetensors").unlink(),
}  # fmt: skip


def edit(run: Path, old: str, new: str, count: int = -1) -> None:
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new, count))


def add(run: Path, text: str) -> None:
    with open(run / "config.yaml", "a") as file:
        file.write(text)


def test_broken_runs_never_stop_the_vote(
    two_members: list[Path], predict: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {name: two_members[0].with_name(f"broken{i:02d}-seed0") for i, name in enumerate(CORRUPTIONS)}
    for name, run in broken.items():
        shutil.copytree(two_members[0], run)
        CORRUPTIONS[name](run)
    shutil.rmtree(two_members[0])
    results = predict("report=true")
    printed = capsys.readouterr().out
    assert "1 members" in printed
    assert [name for name, run in broken.items() if f"left out {run}: " not in printed] == []
    assert json.loads((results / "prediction.json").read_text()) and (results / "report.html").exists()


def test_a_member_needs_no_more_than_its_network(
    train_run: Callable[..., Path], predict: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    # What made it, an optimiser of timm's here, is not built again; weights that it started from are its own matter.
    optimizer = ["module.optimizer._target_=timm.optim.Lamb", "~module.optimizer.momentum"]
    train_run("track=1", "stage=baseline", "trainer.max_epochs=1", *optimizer, "model.pretrained=false")
    predict()
    assert "1 members" in capsys.readouterr().out


def test_what_could_not_predict_is_refused_before_it_is_trained(train_run: Callable[..., Path], tmp_path: Path) -> None:
    for words, what in (
        (["model._target_=torchvision.models.resnet18"], "a backbone that is not made by timm.create_model"),
        (["model.model_name=hf-hub:someone/model"], "a name of timm's, without a hub or a path"),
        (["datamodule.eval_transform._target_=torch.nn.Identity"], "an evaluation transform that is not one of src"),
    ):
        with pytest.raises(ValueError, match=what):
            train_run("track=1", "stage=baseline", *words)
    assert not (tmp_path / "logs").exists()


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
    with pytest.raises(SystemExit, match="error: vote=x is not a rule: choose one of majority, adaptive, soft"):
        predict("vote=x")
    with pytest.raises(SystemExit, match="error: no finished run of fdg or adapt"):
        predict("ensemble=all")


def test_kept_predictions_that_are_damaged_are_made_anew(
    two_members: list[Path], predict: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    results = predict()
    kept = [results / f"members/baseline/{run.name}.test.npz" for run in two_members]
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    kept[1].unlink()
    (results / f"members/baseline/{two_members[0].name}.json").unlink()
    capsys.readouterr()
    predict()
    assert "(predictions kept)" not in capsys.readouterr().out
    assert all(path.exists() for path in kept)
    assert (results / f"members/baseline/{two_members[0].name}.json").exists()


def test_a_mistake_as_a_user_sees_it(places: list[str], tmp_path: Path) -> None:
    failed = command(
        "predict.py", "track=2", "ensemble=baselines", "scale=demo", *places, f"results_dir={tmp_path / 'r'}"
    )
    assert failed.returncode == 1 and failed.stderr.startswith("error: no finished run of baseline")
    assert "Traceback" not in failed.stderr


def found(tmp_path: Path) -> list[Member]:
    return find_members(tmp_path / "logs", "track1", Wanted(["baseline"]))[0]


def test_what_all_members_hold_out(two_members: list[Path], tmp_path: Path) -> None:
    split = json.loads((two_members[0] / "split.json").read_text())
    assert members.held_out(found(tmp_path)) == {"in_domain": split["in_domain"]}
    fewer = {**split, "in_domain": split["in_domain"][1:]}
    (two_members[1] / "split.json").write_text(json.dumps(fewer))
    sign(two_members[1])
    with pytest.raises(ValueError, match=r"seed0 and .*seed1 hold out different images \(split=\)"):
        members.held_out(found(tmp_path))
    (two_members[1] / "split.json").write_text(json.dumps({**split, "in_domain": []}))
    sign(two_members[1])
    with pytest.raises(ValueError, match=r"seed1 holds out no image \(split=none\)"):
        members.held_out(found(tmp_path))


def test_greedy_chooses_on_held_out_images_alone(
    two_members: list[Path], predict: Callable[..., Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choose = ["ensemble=greedy", "ensemble.stages=[baseline]", "ensemble.rounds=4"]
    results = predict(*choose)
    facts = json.loads((results / "ensemble.json").read_text())
    assert (
        facts["select"] == "greedy" and facts["vote"] == "soft" and 1 <= sum(m["chosen"] for m in facts["members"]) <= 4
    )
    # The truth of the test images, and whether it is known, changes nothing.
    chosen = [m["chosen"] for m in facts["members"]]
    predict(*choose, f"truth={data / 'truth/track1_test_truth.json'}")
    again = json.loads((results / "ensemble.json").read_text())
    assert [m["chosen"] for m in again["members"]] == chosen
    assert "chosen on: too good" in capsys.readouterr().out
    split = json.loads((two_members[1] / "split.json").read_text())
    (two_members[1] / "split.json").write_text(json.dumps({**split, "in_domain": []}))
    sign(two_members[1])
    with pytest.raises(
        SystemExit, match="error: ensemble.select=greedy chooses on held-out images: .* holds out no image"
    ):
        predict(*choose)
    for run in two_members:  # as with a val/ folder that has other contexts than train/
        (run / "split.json").write_text(json.dumps({**split, "in_domain": [], "out_of_domain": split["in_domain"]}))
        sign(run)
    with pytest.raises(
        SystemExit, match="greedy chooses on held-out images: .* no image of the contexts .*: use another ensemble"
    ):
        predict(*choose)
    predict()  # nothing is chosen


def test_a_soup(two_members: list[Path], train_run: Callable[..., Path], predict: Callable[..., Path], tmp_path: Path,
                capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    soup = ["ensemble=soup", "ensemble.stages=[baseline]"]
    with pytest.raises(SystemExit, match="error: no two of the 2 members share network, size and start"):
        predict(*soup)
    shutil.rmtree(two_members[1])
    start = ["track=1", "stage=baseline", "trainer.max_epochs=1", f"init={two_members[0]}", "module.optimizer.lr=0.01"]
    own_heads = [train_run(*start, f"seed={seed}", "tag=backbone") for seed in (1, 2)]
    with pytest.raises(SystemExit, match="no two of the 3 members"):  # their heads began as random weights
        predict(*soup)
    for run in own_heads:
        shutil.rmtree(run)
    branches = [train_run(*start, "init_parts=[backbone,head]", f"seed={seed}", "tag=all") for seed in (1, 2)]
    results = predict(*soup, f"data_root={tmp_path}/nowhere", "export=safetensors")  # one soup, of the start too
    (made,) = (results / "soups").iterdir()
    done = json.loads((made / "finished.json").read_text())
    assert sorted(done["soup_of"]) == sorted(map(str, [two_members[0], *branches]))
    states = [load_file(run / "weights.safetensors") for run in (two_members[0], *branches)]
    mean = load_file(made / "weights.safetensors")
    key = "head.weight"
    assert np.allclose(mean[key], sum(state[key] for state in states) / 3, atol=1e-7)
    assert not np.allclose(mean[key], states[0][key], atol=1e-4)
    capsys.readouterr()
    predict(*soup)
    assert f"member 1 of 1: {made}" in capsys.readouterr().out
    # A member alone is its own soup: the same network, the same prediction.
    for run in branches:
        shutil.rmtree(run)
    alone = (predict(*soup) / "prediction.json").read_text()
    assert (predict() / "prediction.json").read_text() == alone


def test_a_run_from_before_the_rooms_still_predicts_and_is_not_resumed(
    two_members: list[Path], predict: Callable[..., Path], train_run: Callable[..., Path]
) -> None:
    """Settings that name modules where they were: src/manifest.py and the like are gone."""
    old = two_members[0]
    settings = yaml.safe_load((old / "config.yaml").read_text())
    for place in (settings["split"], settings["datamodule"]["split"]):
        place["_target_"] = "src.manifest.holdout"
    for place in (settings, settings["module"]):
        place["mixing"] = {"_target_": "src.mixing.foreground.Foreground", "alpha": 2.0}
    settings["callbacks"]["average"] = {"_target_": "src.callbacks.weight_average.MovingAverage", "max_momentum": 0.99}
    settings["wsss_run"] = "resnet50-holdout-seed0"
    (old / "config.yaml").write_text(yaml.safe_dump(settings))
    sign(old)
    assert len(json.loads((predict() / "ensemble.json").read_text())["members"]) == 2
    (old / "finished.json").unlink()
    with pytest.raises(ValueError, match="was started by an older version of this project: it can still predict"):
        train_run("track=1", "stage=baseline", "trainer.max_epochs=1", "resume=true")
