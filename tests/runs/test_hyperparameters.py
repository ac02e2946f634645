from src.runs.directory import resolved
from src.runs.hyperparameters import COMPARED_BY, hyperparameters
from tests.conftest import composed

FACTS = ("dataset.num_classes=3", "dataset.contexts=[a]", "dataset.images=100")


def test_a_dashboard_gets_a_dozen_settings_and_those_that_were_typed() -> None:
    words = ["track=1", "stage=adapt", "mixing.ratio=0.3", "data_root=elsewhere", "module.optimizer.momentum=0.5"]
    found = hyperparameters("adapt", resolved(composed("train", *words, *FACTS)), words)
    assert found["stage"] == "adapt" and found["ratio"] == 0.3 and found["model"] == "resnet34"
    assert found["lr"] == 1e-4 and found["size"] == 512 and found["data"] == "track1" and "tag" not in found
    assert found["module.optimizer.momentum"] == 0.5 and "data_root" not in found
    assert set(found) <= {"stage", "module.optimizer.momentum", *COMPARED_BY} and 10 <= len(found) <= 16


def test_every_name_is_that_of_a_setting() -> None:
    settings = resolved(composed("train", "stage=adapt", "tag=x", "recipe.name=x", "init=none", *FACTS))
    assert set(COMPARED_BY) <= set(hyperparameters("adapt", settings, []))


def test_several_loggers_compose_and_none_is_possible() -> None:
    for words, names in (
        ([], []), (["logger=csv"], []), (["logger=none"], []), (["logger=[csv,wandb]"], ["wandb"]),
        (["logger=[wandb,tensorboard]"], ["wandb", "tensorboard"]),
    ):  # fmt: skip
        for entry in ("train", "predict"):
            settings = resolved(composed(entry, "track=1", *words, *(FACTS if entry == "train" else ())))
            assert list(settings["logger"]) == names
            if entry == "train":
                assert [one["_target_"] for one in settings["trainer"]["logger"]] == [
                    settings["logger"][name]["_target_"] for name in names
                ]
