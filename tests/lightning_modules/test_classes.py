import pytest
from hydra.errors import InstantiationException

from src import cli


def test_one_class_is_no_classification() -> None:
    cfg = cli.composed("train", "track=1", "stage=baseline", "model=tiny", "trainer.max_epochs=1")
    for key, value in {"num_classes": 1, "images": 8, "contexts": []}.items():
        cfg.dataset[key] = value
    with pytest.raises(InstantiationException) as error:
        cli.instantiate(cfg.module)
    assert "the data set has 1 class: a classifier needs at least two (data= may name" in str(error.value.__cause__)
    cfg.dataset.num_classes = 2
    cli.instantiate(cfg.module)
