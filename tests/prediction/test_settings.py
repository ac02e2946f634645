"""Settings of a prediction that are not of their kind."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from src.prediction.image_sets import read_truth
from src.prediction.settings import read_settings
from src.runs.directory import resolved


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("top=x", "top is x: expected a whole number of at least 1"), ("top=0", "top is 0"), ("top=1.5", "top is 1.5"),
        ("top=true", "top is True"), ("members_at_once=null", "members_at_once is None"),
        ("members_at_once=.nan", "members_at_once is"), ("seed=-1", "seed is -1"), ("seed=null", "seed is None"),
        ("seed=4294967296", "seed is 4294967296"), ("ensemble.rounds=x", "ensemble.rounds is x"),
        ("ensemble.rounds=-1", "ensemble.rounds is -1"), ("ensemble.split=3", "ensemble.split is 3: expected a glob"),
        ("ensemble.split=[a]", "ensemble.split is"), ("export=3", "export is 3"), ("report=x", "report is x"),
        ("verify=null", "verify is None"),
        ("trainer.precision=bf16-true", "trainer.precision is bf16-true: expected one of"),
        ("object_masks=3", "object_masks is 3"), ("datamodule.max_bad_share=x", "datamodule.max_bad_share is x"),
        ("datamodule.max_bad_share=.nan", "datamodule.max_bad_share is"),
    ],
)  # fmt: skip
def test_a_setting_of_another_kind_is_named(configure: Callable[..., DictConfig], word: str, said: str) -> None:
    words = ["track=1", "ensemble=greedy", "vote_name=v"]
    read_settings(resolved(configure("predict", *words)))
    with pytest.raises(ValueError, match=said):
        read_settings(resolved(configure("predict", *words, word)))


def test_a_truth_that_is_not_there_is_named_by_its_role(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="truth=.*x is not a file: name a manifest"):
        read_truth(tmp_path / "x")
