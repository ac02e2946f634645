"""Soups: members that share a start, as one network with their mean weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src.data.splits import HELD_OUT
from src.files import digest_of, write_json, write_text
from src.prediction.members import Member, read_member
from src.runs.records import read_split
from src.runs.weights import read_weights, uniform_soup, write_weights


def make_soups(members: Sequence[Member], folder: Path) -> list[Member]:
    """Replace members that share network, input and start by one member with their mean weights (weights.uniform_soup).

    A start is what a run began with, backbone and head; a member that others started from belongs to them. A soup is a
    run directory below `folder`, so it can be rebuilt, exported and started from like any other. A member that shares
    its start with no other stays as it is.

    Raises:
        ValueError: there are several members and no two share a start, or two that do hold out different images.
    """
    starts = [read_split(member.folder).get("started_from") for member in members]
    groups: dict[str, list[Member]] = {}
    for member, start in zip(members, starts, strict=True):
        own_head = member.config.get("init") in (None, "none")  # from weights of others it has a backbone at most
        whole = not own_head and {"backbone", "head"} <= set(member.config.get("init_parts") or ())
        shared = member.digest if member.digest in starts else start if whole else None
        key = str([member.config["module"]["backbone"], member.view, shared]) if shared else member.digest
        groups.setdefault(key, []).append(member)
    if len(groups) == len(members) > 1:
        raise ValueError(
            f"no two of the {len(members)} members share network, size and start (init=, init_parts=[backbone,head]): "
            "the mean of their weights would be meaningless; let them vote (ensemble=all), or choose other stages "
            "(ensemble.stages=[...])"
        )
    return [group[0] if len(group) == 1 else make_soup(group, folder) for group in groups.values()]


def make_soup(members: Sequence[Member], folder: Path) -> Member:
    """Write the run directory of a soup of `members`, and read it as a member."""
    splits = [read_split(member.folder) for member in members]
    held = {part: splits[0][part] for part in HELD_OUT}
    if any(split[part] != held[part] for split in splits for part in HELD_OUT):
        raise ValueError(
            f"a soup of {members[0].folder} and {len(members) - 1} more, which hold out different images (split=), "
            "could not be measured on any: train them with one split"
        )
    train = {path for split in splits for path in split["train"]}
    before = {path for split in splits for path in split["trained_on_before"]} - train
    weights = uniform_soup([read_weights(member.folder / "weights.safetensors") for member in members])
    first = members[0]
    run = folder / f"{first.config['module']['backbone']['model_name']}-of-{len(members)}-{first.digest[:8]}"
    write_weights(run / "weights.safetensors", weights)
    write_text(run / "config.yaml", (first.folder / "config.yaml").read_text())
    write_json(run / "classes.json", first.classes)
    split = {"train": sorted(train), **held, "trained_on_before": sorted(before), "started_from": None}
    write_json(run / "split.json", split)
    made_of = [str(member.folder) for member in members]
    digest = digest_of(run / "weights.safetensors")
    write_json(run / "finished.json", {"weights_sha256": digest, "metrics": {}, "soup_of": made_of})
    soup = read_member(run)
    assert isinstance(soup, Member)
    return soup._replace(stage="soup")
