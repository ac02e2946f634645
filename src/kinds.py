"""A command's settings keep the kind of value that the yaml files give them: true or false, or a number."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.overrides import NAMES, TEXT

ALLOWED = {("trainer.deterministic", "warn")}
"""Texts that Lightning takes where it has true and false."""


def check_kinds() -> None:
    """Refuse words of this command that would be misread: `resume=no` is a text for Hydra, and no text is false.

    Only texts and numbers are looked at: null and lists are up to what takes the setting. Lightning takes words for
    many of its numbers, so those of trainer= may be texts.

    Raises:
        ValueError: a setting that is true or false in the yaml files has a text; a number has a text, true or false;
            or a setting is nan.
    """
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser

    own = HydraConfig.get()
    choices, doubtful = [], {}
    for one in OverridesParser.create().parse_overrides(list(own.overrides.task)):
        key = one.key_or_group
        if one.get_key_element().lstrip("+~") in own.runtime.choices:
            choices.append(str(one.input_line))
        elif not (one.is_delete() or one.is_sweep_override() or TEXT.fullmatch(key) or NAMES.fullmatch(key)):
            value = one.value()
            if isinstance(value, str | bool | float):
                doubtful[key] = str(value) if isinstance(value, str) else value  # Hydra's own class for quoted ones
    for key, value in doubtful.items():
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{key} is nan: expected a number")
    if not any(isinstance(value, str | bool) for value in doubtful.values()):
        return
    # As the files have it: the same groups, without this command's values.
    usual = compose(own.job.config_name, choices)
    for key, value in doubtful.items():
        expected = expected_kind(key, value, default_of(usual, key))
        if expected:
            raise ValueError(f"{key} is {value!r}: expected {expected}")


def default_of(cfg: Any, key: str) -> Any:
    """A setting's value, None where it has none yet."""
    try:
        return OmegaConf.select(cfg, key)
    except OmegaConfBaseException:  # it follows from what the data fill in
        return None


def expected_kind(key: str, value: object, default: object) -> str | None:
    """What a setting's value should be, in words; None if it may be this one."""
    if isinstance(default, bool):
        return "true or false" if isinstance(value, str) and (key, value) not in ALLOWED else None
    if isinstance(default, int | float) and isinstance(value, str | bool) and not key.startswith("trainer."):
        return f"a number, such as {default}"
    return None
