from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger

from src.cli import composed
from src.runs.directory import resolved
from src.runs.hyperparameters import COMPARED_BY, METRICS, hyperparameters, log_hyperparameters

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


def hparams_page(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, float]]]:
    """TensorBoard's HPARAMS page of a folder: settings and metrics of each run, as its own server gives them."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

    events = EventMultiplexer()
    events.AddRunsFromDirectory(str(folder))
    events.Reload()
    place = {
        "logdir": str(folder),
        "multiplexer": events,
        "data_provider": MultiplexerDataProvider(events, str(folder)),
    }
    server, asked = backend_context.Context(base_plugin.TBContext(**place)), RequestContext()
    known = get_experiment.Handler(asked, server, "", api_pb2.GetExperimentRequest(include_metrics=True)).run()
    columns = [api_pb2.ColParams(hparam=one.name, include_in_result=True) for one in known.hparam_infos]
    columns += [api_pb2.ColParams(metric=one.name, include_in_result=True) for one in known.metric_infos]
    wanted = api_pb2.ListSessionGroupsRequest(slice_size=99, col_params=columns, allowed_statuses=[0, 1, 2, 3])
    found = {}
    for group in list_session_groups.Handler(asked, server, "", wanted).run().session_groups:
        settings = {key: getattr(value, value.WhichOneof("kind")) for key, value in group.hparams.items()}
        found[group.name] = settings, {one.name.tag: one.value for one in group.metric_values}
    return found


def test_tensorboards_page_has_settings_and_the_last_metrics_and_no_curve_a_point_more(tmp_path: Path) -> None:
    for name, accuracies in {"a": [0.25, 0.5], "b": []}.items():
        logger = TensorBoardLogger(tmp_path, name="", version=name, default_hp_metric=False)
        log_hyperparameters(logger, {"stage": "adapt", "lr": 0.1, "size": [[0, 48]], "more": {"on": True}}, METRICS)
        for step, accuracy in enumerate(accuracies, 1):
            logger.log_metrics({METRICS[0]: accuracy}, step)
        logger.finalize("success")
    settings = {"stage": "adapt", "lr": 0.1, "size": "[[0, 48]]", "more.on": True}
    assert hparams_page(tmp_path) == {"a": (settings, {METRICS[0]: 0.5}), "b": (settings, {})}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "a"))
    events.Reload()
    assert [(point.step, point.value) for point in events.Scalars(METRICS[0])] == [(1, 0.25), (2, 0.5)]
