"""split=each_context: a sweep over the contexts of one data set."""

import shutil
from pathlib import Path

import pytest

from src.overrides import as_typed, with_data_set
from src.runs.protocol import each_context


@pytest.fixture
def words(data: Path, tmp_path: Path) -> list[str]:
    return ["track='1'", f"data_root={data / 'data'}", f"manifest_dir={tmp_path / 'm'}"]


def test_every_context_has_its_turn(words: list[str]) -> None:
    made = each_context(["-m", *words, "split=each_context", "seed=0,1"])
    assert made == ["-m", *words, "seed=0,1", "split=leave_context_out",
                    "split.contexts=['autumn'],['dim'],['grass'],['rock']"]  # fmt: skip
    assert each_context(["-m", "split=holdout"]) == ["-m", "split=holdout"]


def test_what_cannot_be_done_is_said(words: list[str], data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one run for each context, which is a sweep: python .* -m"):
        each_context([*words, "split=each_context"])
    with pytest.raises(ValueError, match="sweeps over split rules"):
        each_context(["-m", *words, "split=each_context,holdout"])
    with pytest.raises(ValueError, match="omit split.contexts="):
        each_context(["-m", *words, "split=each_context", "split.contexts=[rock]"])
    with pytest.raises(ValueError, match="takes one data set, and track='1','2' names several"):
        each_context(["-m", "track='1','2'", *words[1:], "split=each_context"])
    with pytest.raises(ValueError, match="needs images with contexts, which track2 does not have"):
        each_context(["-m", "track='2'", *words[1:], "split=each_context"])
    shutil.copytree(data / "data/public_dg_0416/train/rock", tmp_path / "one/rock")
    shutil.copytree(data / "data/public_dg_0416/train/rock", tmp_path / "one/sea")
    shutil.rmtree(tmp_path / "one/sea")
    alone = ["track=found", f"data_root={tmp_path / 'one'}", "track.train_dir=.", "track.layout='<context>/<class>'"]
    with pytest.raises(ValueError, match="at least two contexts: one has only rock"):
        each_context(["-m", *alone, words[2], "split=each_context"])


def test_a_data_set_is_shown_as_it_was_typed() -> None:
    for typed in (["data=/my photos", "seed=1"], ["-m", "stage=moco", "data=/x/birds.csv"], ["track=1", "data_root=x"]):
        assert as_typed(with_data_set(typed)) == typed
