"""The protocol of domain generalisation: every context is left out in turn, one run of a sweep for each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from src.cli import ROOT, command_words
from src.data.checks import with_contexts
from src.data.layouts import Layout
from src.data.store import ManifestStore
from src.overrides import quote

WORD = "split=each_context"
DATA = re.compile(r"(track|scale|data_root|manifest_dir|manifest\.\w+|track\.\w+)=")
"""Words of a command line that say which data set it is about."""


def each_context(words: Sequence[str]) -> list[str]:
    """A sweep's `split=each_context` as `split=leave_context_out` with each context of the data set in turn.

    Args:
        words: of the command line, as Hydra takes them; without -m too.

    Raises:
        ValueError: it is not a sweep, one of several data sets, or the contexts are not known.
    """
    asked = [word for word in words if word.startswith("split=") and "each_context" in word]
    if not asked:
        return list(words)
    if asked != [WORD]:
        raise ValueError(f"{asked[0]} sweeps over split rules: use {WORD} alone, and the others in another sweep")
    if not {"-m", "--multirun"} & set(words):
        line = shlex.join(["python", command_words()[0], "-m", *command_words()[1:]])
        raise ValueError(f"{WORD} makes one run for each context, which is a sweep: {line}")
    if any(word.startswith("split.contexts=") for word in words):
        raise ValueError(f"{WORD} leaves every context out in turn: omit split.contexts=, or use "
                         "split=leave_context_out")  # fmt: skip
    names = contexts_of([word for word in words if DATA.match(word)])
    contexts = ",".join(f"[{quote(name, True)}]" for name in names)
    return [*(word for word in words if word != WORD), "split=leave_context_out", f"split.contexts={contexts}"]


def contexts_of(words: Sequence[str]) -> list[str]:
    """The names of a data set's contexts, by its manifest or its tree.

    Args:
        words: those of the command line that say which data set it is.

    Raises:
        OSError, ValueError: it cannot be read, or has fewer than two contexts.
    """
    for word in words:
        if word.startswith(("track=", "data_root=", "scale=")) and re.search(r"(?<=['\w]),(?=['\w])", word):
            raise ValueError(f"{WORD} takes one data set, and {word} names several: start a sweep for each")
    try:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", list(words))
    finally:
        GlobalHydra.instance().clear()
    layout = Layout(**OmegaConf.to_container(cfg.track, resolve=True))  # type: ignore[arg-type] # a mapping of its fields
    store = ManifestStore(
        Path(cfg.data_root), Path(cfg.manifest_dir), layout, "train", OmegaConf.select(cfg, "manifest.rebuild")
    )
    rows = store.find(check=False).rows
    if not store.has_contexts:
        where = "conf/track" if layout.train_dir else store.sources.words
        raise ValueError(
            f"{WORD} needs images with contexts, which {layout.name} does not have ({where}): use split=holdout"
        )
    names = with_contexts(rows, store.manifest)[1]
    if len(names) < 2:
        raise ValueError(f"{WORD} needs at least two contexts: {layout.name} has only {', '.join(names)}")
    return names
