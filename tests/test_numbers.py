"""The numbers of the composed recipe: no change of the configuration's files changes one of them unnoticed.

`python -m tests.test_numbers` writes numbers.json again, after a change that is meant or a file that is new.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parent.parent
KNOWN = Path(__file__).with_name("numbers.json")
FACTS = ("dataset.num_classes=60", "dataset.contexts=[autumn,rock]", "dataset.images=5000")


def options(group: str) -> list[str]:
    """The choices of a group, as yaml files have them."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def combinations() -> list[str]:
    """Every stage x track of the full recipe and of the demo, and each choice of the other groups beside one stage."""
    stages, tracks = options("stage"), ["1", "2"]
    words = [f"track={t} stage={s} trainer=gpu" for s, t in itertools.product(stages, tracks)]
    words += [
        f"track=1 stage={s} model={m} trainer=gpu" for s, m in itertools.product(("finetune", "wsss"), options("model"))
    ]
    words += [f"track={t} stage={s} scale=demo" for s, t in itertools.product(stages, tracks)]
    words += [f"track=1 stage={s} scale=small" for s in stages]
    words += [f"track=1 stage=finetune mixing={mixing} trainer=gpu" for mixing in options("mixing")]
    recipes = [recipe for recipe in options("recipe") if recipe != "published"]  # which the stages' files are
    words += [
        f"track=1 stage={s} recipe={r} trainer=gpu" for s, r in itertools.product(("baseline", "finetune"), recipes)
    ]
    words += [f"track=1 stage=wsss crf={crf} trainer=gpu" for crf in options("crf")]
    words += [f"track=1 stage=baseline trainer={trainer}" for trainer in options("trainer") if trainer != "auto"]
    words += [
        f"track=1 stage=baseline split={split} trainer=gpu" for split in options("split") if split != "each_context"
    ]
    return words


def numbers(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, number) of all numbers and switches in a composed configuration."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, bool | int | float):
        yield key, value


def found(configure: Callable[..., DictConfig]) -> dict[str, dict[str, Any]]:
    """Each combination's numbers; those that stand in most of them once, under "usual". None: there is no such key."""
    made = {}
    for words in combinations():
        settings = OmegaConf.to_container(configure("train", *words.split(), *FACTS), resolve=True)
        made[words] = dict(numbers(settings))
    packed: dict[str, dict[str, Any]] = {"usual": {}}
    for key in sorted({key for own in made.values() for key in own}):
        values = [repr(own.get(key)) for own in made.values()]
        usual = max(values, key=values.count)
        packed["usual"][key] = next(own.get(key) for own in made.values() if repr(own.get(key)) == usual)
        for words, own in made.items():
            packed.setdefault(words, {}).update({key: own.get(key)} if repr(own.get(key)) != usual else {})
    return packed


def test_the_composed_numbers_are_the_known_ones(configure: Callable[..., DictConfig]) -> None:
    now, known = found(configure), json.loads(KNOWN.read_text())
    assert list(now) == list(known), "other choices than numbers.json has: python -m tests.test_numbers writes it again"
    for words in known:
        assert now[words] == known[words], words


if __name__ == "__main__":
    from src.cli import composed

    KNOWN.write_text(json.dumps(found(composed), indent=1) + "\n")
