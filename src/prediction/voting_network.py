"""An ensemble as one network: its members and their vote in one ONNX file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.files import read_json, write_json, write_whole
from src.lightning_modules.classifier import Network
from src.prediction.export import preprocessing, traced
from src.prediction.members import Member, rebuild
from src.prediction.settings import PredictionSettings

LIMIT = 2**31  # bytes of a protocol buffer, which an ONNX file is
TOLERANCE = 1e-4  # between probabilities by ONNX Runtime and by PyTorch


class VotingNetwork(nn.Module):
    """Members whose votes, or probabilities, are added up by their weights (docs/method.md, section 8).

    Args:
        networks: M networks, from images (N, 3, H, W) in [0, 1] to logits (N, K).
        weights: M, at least one above 0.
        by_votes: a member gives its weight to its most probable class alone; else to all by their probability.
    """

    weights: torch.Tensor

    def __init__(self, networks: Sequence[Network], weights: Sequence[float], by_votes: bool) -> None:
        super().__init__()
        self.networks, self.by_votes = nn.ModuleList(networks), by_votes
        self.register_buffer("weights", torch.tensor(weights).view(-1, 1, 1))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, 3, H, W) in [0, 1] to label ids (N,) int64 and weighted mean probabilities (N, K) float32."""
        probabilities = torch.stack([network(image).softmax(1) for network in self.networks])
        pooled = (self.weights * probabilities).sum(0) / self.weights.sum()
        if not self.by_votes:
            return pooled.argmax(1), pooled
        classes = torch.arange(probabilities.shape[2], device=image.device)
        votes = (probabilities.argmax(2, keepdim=True) == classes).to(pooled.dtype)
        return (self.weights * votes).sum(0).argmax(1), pooled


def export_ensemble(members: Sequence[Member], settings: PredictionSettings) -> Path:
    """Write ensemble.onnx, from `image` to `label` and `probabilities`, with its preprocessing in a config.json.

    The same facts are in the file's own metadata. It is compared with the members by ONNX Runtime before it is written.

    Raises:
        FileNotFoundError, ValueError: the weights are not known (`weights_of`), or the members see images of different
            sizes or have different classes, or are larger than an ONNX file can be, or it computes something else.
    """
    weights = weights_of(members, settings)
    voters = [(member, weight) for member, weight in zip(members, weights, strict=True) if weight]
    first = voters[0][0]
    for member, _ in voters:
        for what, own, other in (
            ("classes", first.classes, member.classes),
            ("the size of images", first.view, member.view),
        ):
            if own != other:
                raise ValueError(
                    f"{first.folder} and {member.folder} differ in {what}, and an ONNX file has one input and one list "
                    "of classes: choose members with ensemble.runs= or ensemble.stages="
                )
    network = VotingNetwork(
        [rebuild(member) for member, _ in voters], [weight for _, weight in voters], settings.vote != "soft"
    ).eval()
    size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    if size >= LIMIT:
        raise ValueError(
            f"the {len(voters)} members take {size / 2**30:.1f} GiB, and an ONNX file holds less than 2: choose fewer "
            "(ensemble.runs=), or average them (ensemble=soup)"
        )
    facts = description(voters, settings)
    model = traced(network, first.size, ["label", "probabilities"])
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    made = model.SerializeToString()
    compare(made, network, first.size)
    path = settings.folder / "export/onnx_ensemble" / settings.vote_name / "ensemble.onnx"
    with write_whole(path) as file:
        file.write(made)
    write_json(path.with_name("config.json"), facts)
    print(f"wrote {path}: {len(voters)} members, vote={settings.vote}", flush=True)
    return path


def weights_of(members: Sequence[Member], settings: PredictionSettings) -> list[float]:
    """The members' weights in a vote: 1, or, where they depend on images, those of the vote that is kept.

    Raises:
        FileNotFoundError, ValueError: no such vote is kept, or it is one of other members.
    """
    if not settings.chooses and settings.vote != "adaptive":
        return [1.0] * len(members)
    path = settings.vote_folder / "ensemble.json"
    again = "predict with this command without export= first"
    if not path.is_file():
        raise FileNotFoundError(
            f"the members' weights come from the images that they vote on, and {settings.vote_folder} keeps no vote: "
            f"{again}{'' if settings.chooses else '; vote=soft and vote=majority weigh all members alike'}"
        )
    facts = read_json(path)
    try:
        known = {str(member["weights_sha256"]): float(member["weight"]) for member in facts["members"]}
        left_out = {str(run["run"]) for run in facts["left_out"]}
        count, vote = int(facts["images"]["count"]), facts["vote"]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {again}") from error
    strangers = known.keys() - {member.digest for member in members}
    missing = [m.folder for m in members if m.digest not in known and str(m.folder) not in left_out]
    if strangers or missing or vote != settings.vote:
        raise ValueError(f"the vote kept in {settings.vote_folder} has other members or another rule: {again}")
    weights = [known.get(member.digest, 0.0) for member in members]
    # The adaptive vote counts with the integers behind the rates: their sums are exact, so that a tie is one.
    return [float(round(weight * count)) for weight in weights] if vote == "adaptive" else weights


def description(voters: Sequence[tuple[Member, float]], settings: PredictionSettings) -> dict[str, Any]:
    """What the user of the file must know; mean and std per member if they differ, all applied inside the network."""
    shown = [preprocessing(member) for member, _ in voters]
    same: Mapping[str, Any] = shown[0]
    if any(one != same for one in shown):
        same = {**same, "mean": [one["mean"] for one in shown], "std": [one["std"] for one in shown]}
    return {
        "input": {"name": "image", **same, "mean_and_std_are_applied": "inside the network"},
        "outputs": {"label": "(N,) int64, an index of classes", "probabilities": "(N, K) float32, weighted mean"},
        "classes": voters[0][0].classes,
        "vote": settings.vote,
        "members": [
            {"run": str(member.folder), "weights_sha256": member.digest, "weight": weight} for member, weight in voters
        ],
    }


def compare(model: bytes, network: VotingNetwork, size: int) -> None:
    """Raise ValueError where ONNX Runtime computes other probabilities of an ONNX model than PyTorch of its network."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    image = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    for batch in (image, image[:1]):
        (probabilities,) = session.run(["probabilities"], {"image": batch.numpy()})
        with torch.no_grad():
            apart = float((torch.from_numpy(probabilities) - network(batch)[1]).abs().max())
        if not apart < TOLERANCE:
            raise ValueError(
                f"the ONNX network's probabilities differ from the members' by up to {apart:.1g}: nothing is written; "
                "export=safetensors does not use ONNX"
            )
