import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from src.prediction import voting
from src.prediction.members import Member, read_member
from src.prediction.voting_network import VotingNetwork, compare
from tests.conftest import sign
from tests.prediction.test_export import pixels
from tests.prediction.test_selection import copied

Predict = Callable[..., Path]


class Fixed(nn.Module):
    """A network whose logits (N, K) are given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits


@pytest.mark.parametrize("rule", voting.RULES)
def test_the_network_votes_by_the_rule(rule: str) -> None:
    logits = torch.randn(5, 400, 4, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(2).numpy()
    chosen = [0, 2, 3, 3]
    ballot = voting.elect(probabilities, rule, chosen)
    weights = ballot.weights * (400 if rule == "adaptive" else 1)
    network = VotingNetwork([Fixed(one) for one in logits], weights.round().tolist(), rule != "soft")  # type: ignore[misc]
    label, pooled = network(torch.zeros(400, 3, 2, 2))
    assert label.tolist() == ballot.labels.tolist()  # ties too, which votes of few members have often
    assert np.allclose(pooled, voting.pooled(probabilities, ballot.weights), atol=1e-6)


def labels_by_onnx(folder: Path, image: torch.Tensor) -> tuple[list[int], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "ensemble.onnx", providers=["CPUExecutionProvider"])
    labels, probabilities = session.run(["label", "probabilities"], {"image": image.numpy()})
    facts = session.get_modelmeta().custom_metadata_map
    config = json.loads((folder / "config.json").read_text())
    assert json.loads(facts["input"]) == config["input"] and json.loads(facts["classes"]) == config["classes"]
    return labels.tolist(), probabilities


@pytest.mark.parametrize("vote", ["adaptive", "soft"])
def test_one_file_says_what_was_predicted(two_members: list[Path], predict: Predict, data: Path, vote: str) -> None:
    third = copied(two_members[0], "third", 0.0)
    state = yaml.safe_load((third / "config.yaml").read_text())
    state["module"]["mean"] = [0.5, 0.5, 0.5]  # its own normalisation, inside of the file
    (third / "config.yaml").write_text(yaml.safe_dump(state))
    nudged = copied(third, "r-third", 0.1)
    shutil.rmtree(third)
    results = predict(f"vote={vote}")
    prediction = json.loads((results / "prediction.json").read_text())
    predict(f"vote={vote}", "export=onnx_ensemble")
    folder = results / f"export/onnx_ensemble/baselines-vote-{vote}"
    member = read_member(two_members[0])
    assert isinstance(member, Member)
    labels, probabilities = labels_by_onnx(folder, pixels(data, member, len(prediction)))
    assert dict(zip(sorted(prediction), labels, strict=True)) == prediction
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    config = json.loads((folder / "config.json").read_text())
    shown = config["input"]
    assert (shown["size"], shown["resize_shorter_side"], shown["layout"], shown["range"]) == (32, 34, "NCHW", [0, 1])
    assert shown["mean"] == [[0.5] * 3, *[[0.485, 0.456, 0.406]] * 2] and shown["crop"] == "centre"
    assert [one["run"] for one in config["members"]] == [str(nudged), *map(str, two_members)]


def test_weights_come_from_a_vote_that_was_made(two_members: list[Path], predict: Predict) -> None:
    with pytest.raises(SystemExit, match="error: the members' weights come .*votes/baselines keeps no vote: predict"):
        predict("export=onnx_ensemble")
    results = predict("ensemble.runs=[*seed0]", "vote_name=baselines")
    with pytest.raises(SystemExit, match="votes/baselines has other members or another rule: predict"):
        predict("export=onnx_ensemble")
    (results / "votes/baselines/ensemble.json").write_text("{}")
    with pytest.raises(SystemExit, match="error: .*votes/baselines/ensemble.json is damaged: predict with"):
        predict("export=onnx_ensemble")
    assert not (results / "export").exists()


def test_members_of_another_size_do_not_share_a_file(two_members: list[Path], predict: Predict) -> None:
    config = yaml.safe_load((two_members[1] / "config.yaml").read_text())
    config["datamodule"]["size"] = 48
    (two_members[1] / "config.yaml").write_text(yaml.safe_dump(config))
    sign(two_members[1])
    with pytest.raises(
        SystemExit, match="seed0 and .*seed1 differ in the size of images, and an ONNX file has one input"
    ):
        predict("export=onnx_ensemble", "vote=soft")


def test_a_file_that_computes_something_else_is_not_written(two_members: list[Path], predict: Predict) -> None:
    predict("export=onnx_ensemble", "vote=soft", "ensemble.runs=[*seed0]")
    (path,) = two_members[0].parents[3].glob("results/track1/export/onnx_ensemble/*/ensemble.onnx")
    from src.prediction.members import rebuild

    networks = [rebuild(member) for run in two_members if isinstance(member := read_member(run), Member)]
    compare(path.read_bytes(), VotingNetwork(networks[:1], [1.0], False).eval(), 32)
    with pytest.raises(ValueError, match="probabilities differ from the members' by up to .*: nothing is written"):
        compare(path.read_bytes(), VotingNetwork(networks[1:], [1.0], False).eval(), 32)
