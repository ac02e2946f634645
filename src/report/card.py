"""README.md of an exported network: a model card as the Hugging Face Hub shows it, filled from the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from src.data.splits import HELD_OUT
from src.files import write_text
from src.prediction import voting
from src.prediction.export import preprocessing
from src.prediction.image_sets import ImageSet
from src.prediction.kept import Probabilities
from src.prediction.members import Member
from src.prediction.settings import PredictionSettings
from src.prediction.unreadable import settle
from src.report.chain import chain
from src.report.evaluation import EvaluatedSet, evaluate, temperature_of
from src.report.tables import TITLES, Table, as_markdown, headline_table, percent
from src.runs.lineage import command_of
from src.runs.records import read_split


def write_cards(
    members: Sequence[Member],
    folders: Sequence[Path],
    sets: Sequence[ImageSet],
    stacks: Sequence[Probabilities],
    why_not: str,
    settings: PredictionSettings,
) -> None:
    """Write each member's README.md.

    Args:
        members: M members.
        folders: where each was exported to.
        sets: images whose truth is known.
        stacks: the members' probabilities (M, N, K) of each set.
        why_not: why there is no held-out set.
        settings: of the call.
    """
    settled = [settle(images, stack, settings.max_pixels, False) for images, stack in zip(sets, stacks, strict=True)]
    for i, (member, folder) in enumerate(zip(members, folders, strict=True)):
        own = [
            EvaluatedSet(images, stack[i : i + 1], voting.elect(stack[i : i + 1], "soft", [0]))
            for images, stack in settled
        ]
        temperature = temperature_of(next((one for one in own if one.images.name == "in_domain"), None))
        figures = {one.images.name: evaluate(one, member.classes, temperature, settings.seed) for one in own}
        write_text(folder / "README.md", model_card(member, figures, temperature, why_not, settings))
        print(f"wrote {folder / 'README.md'}", flush=True)


def model_card(
    member: Member,
    figures: Mapping[str, dict[str, Any]],
    temperature: float | None,
    why_not: str,
    settings: PredictionSettings,
) -> str:
    """The card in Markdown: how to use the network, its data, method, accuracy by context, calibration, commands.

    Args:
        member: the network's run.
        figures: of evaluation.evaluate, by the name of the image set.
        temperature: fitted on held-out in-domain images.
        why_not: why there are no figures on held-out images.
        settings: of the call.
    """
    facts = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "domain-generalization"],
        "license": settings.license,
    }
    name = member.config["module"]["backbone"]["model_name"]
    commands = [command_of(run) for run in chain([member], settings.logs_dir)]
    seen = preprocessing(member)
    return f"""---
{yaml.safe_dump(facts, sort_keys=False).strip()}
---
# {name} of the run {member.title}

An image classifier of {len(member.classes)} classes, trained on {settings.data_name} for contexts it has not seen
(a rebuild of Decoupled-Mixup, [arXiv:2210.14783](https://arxiv.org/abs/2210.14783)).
Weights of the last epoch; sha256 of the run's: {member.digest}.

## Use

```python
import timm
from PIL import Image

network = timm.create_model("local-dir:<this folder>", pretrained=True).eval()  # without pretrained: no weights
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=network), is_training=False)
logits = network(transform(Image.open("photo.jpg").convert("RGB"))[None])
print(network.pretrained_cfg["label_names"][int(logits.argmax())])
```

The figures below are of {seen["order"]} images with the shorter side resized to {seen["resize_shorter_side"]} pixels
({seen["resize_filter"]}), cropped at the {seen["crop"]} to {seen["size"]} x {seen["size"]},
and normalised, as pixels in [0, 1], by the mean {seen["mean"]} and the standard deviation {seen["std"]}.
timm's transform resizes with another filter: probabilities differ slightly.

Classes, by id: {", ".join(member.classes)}.

## Data

{as_markdown(data_table(member, settings))}
## Method

{as_markdown(method_table(member))}
## Accuracy and calibration

{measured(member, figures, temperature, why_not)}
## Commands

```sh
{chr(10).join(command for command in commands if command) or "# not known"}
```
"""


def data_table(member: Member, settings: PredictionSettings) -> Table:
    """What it was trained on and what was held out."""
    split, contexts = read_split(member.folder), member.config.get("dataset", {}).get("contexts") or []
    return [
        ["", ""],
        ["data set", settings.data_name],
        ["training images", str(len(split["train"]))],
        ["training contexts", ", ".join(map(str, contexts)) or "not labelled"],
        ["more images that the runs before it were trained on", str(len(split["trained_on_before"]))],
        ["split", member.split],
        *([TITLES[part], f"{len(split[part])} images"] for part in HELD_OUT),
    ]


def method_table(member: Member) -> Table:
    """How it was trained, as far as its settings say in a word; config.yaml of the run has all of them."""
    config = member.config
    module, mixing = config["module"], config["module"].get("mixing")
    words: dict[str, Any] = {"stage": member.stage, "network": module["backbone"]["model_name"]}
    if isinstance(mixing, Mapping):
        numbers = ", ".join(f"{key} {value}" for key, value in mixing.items() if key != "_target_")
        words["mixing"] = f"{config.get('mixing_name')}" + (f" ({numbers})" if numbers else "")
    if recipe := (config.get("recipe") or {}).get("name"):
        words["recipe"] = recipe
    words["starts from"] = config.get("init") or "none"
    words["masks"] = config.get("masks") or "none"
    words["epochs"] = config.get("trainer", {}).get("max_epochs")
    words["batch size"] = config["datamodule"].get("batch_size")
    words["image size"] = member.size
    words["seed"] = config.get("seed")
    return [["", ""], *([key, str(value)] for key, value in words.items())]


def measured(member: Member, figures: Mapping[str, dict[str, Any]], temperature: float | None, why_not: str) -> str:
    """Accuracies, by context too, and calibration; where nothing was measured, the run's own last figures."""
    if not figures:
        last = [[key.removeprefix("val/"), percent(value)] for key, value in member.figures.items() if "val/" in key]
        reason = f"Calibration was not measured: {why_not or 'there are no held-out images'}."
        if not last:
            return f"{reason} The run has validated nothing.\n"
        return f"{reason} Accuracies in percent when the run ended:\n\n{as_markdown([['figure', '%'], *last])}"
    sets = [(TITLES[name], own) for name, own in figures.items()]
    keys = {key: None for _, own in sets for key in own if key.startswith("accuracy/") and "_interval" not in key}
    rows = [[key.removeprefix("accuracy/"), *(percent(own.get(key)) for _, own in sets)] for key in keys]
    text = "In percent, except for counts and the likelihood (nats); intervals are 95 %, by a bootstrap over images.\n"
    if temperature is not None:
        text += (
            f"The temperature {temperature:.3f} divides the logits; it is fitted on the held-out in-domain images, "
            "whose own figures with it are in-sample.\n"
        )
    text += f"\n{as_markdown(headline_table(sets))}"
    return text + (f"\nAccuracy by context:\n\n{as_markdown([['', *(t for t, _ in sets)], *rows])}" if rows else "")
