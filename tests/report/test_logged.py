"""What dashboards get of a vote: every figure, the mistakes with pictures, the map of class x context, settings."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch

from src.data.manifest import Row
from src.prediction.image_sets import ImageSet, Truth
from src.prediction.voting import elect
from src.report.evaluation import EvaluatedSet
from src.report.logged import groups_of, numbers, scalars, sortable
from src.report.mistakes import mistakes_of, sheet
from src.report.photos import Photo
from tests.runs.test_hyperparameters import hparams_page


def test_every_number_has_a_name() -> None:
    figures = {"images": 3, "accuracy": 0.5, "accuracy_interval": [0.25, 0.75], "by_class": {"a": 1.0, "b": 0.0},
               "confusion": [[1, 0], [0, 2]], "groups": [{"class": "a", "images": 1}], "note": "x"}  # fmt: skip
    assert numbers(figures, "test") == {
        "test/images": 3.0, "test/accuracy": 0.5, "test/accuracy_low": 0.25, "test/accuracy_high": 0.75,
        "test/by_class/a": 1.0, "test/by_class/b": 0.0,
    }  # fmt: skip


def evaluation() -> Any:
    """Two members' probabilities of four images; image 0 is right, 3 cannot be read."""
    first = [[0.9, 0.1, 0], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.5, 0.5, 0]]
    second = [[0.7, 0.3, 0], [0.2, 0.5, 0.3], [0, 0.1, 0.9], [0.5, 0.5, 0]]
    stack = np.array([first, second], np.float32)
    rows = [Row(f"{name}.jpg", None, None, None, name) for name in "abcd"]
    truth = Truth(np.array([0, 2, 1, 1]), ["x", "y", "y", "x"])
    images = ImageSet("test", Path(), rows, truth, unreadable=("d",))
    members = [SimpleNamespace(classes=["car", "bird", "fish"], view={"size": 8}, title=name) for name in ("m", "n")]
    figures = {"test": {"accuracy": 0.25, "worst_group": {"class": "car", "context": "x", "images": 2, "accuracy": 0.5},
                        "groups": [{"class": "car", "context": "x", "images": 2, "accuracy": 0.5}]}}  # fmt: skip
    test = EvaluatedSet(images, stack, elect(stack, "soft", [0, 1]))
    return SimpleNamespace(test=test, members=members, figures=figures)


def test_mistakes_come_by_confidence_with_their_pictures() -> None:
    asked = []

    def open_images(**view: Any) -> Any:
        assert view == {"size": 8}
        return SimpleNamespace(
            pixels=lambda rows, size: asked.append((rows, size)) or torch.full((2, 3, size, size), 7)
        )

    first, second = mistakes_of(evaluation(), open_images)
    assert (
        [([row.image_name for row in rows], size) for rows, size in asked] == [(["c", "b"], 176)]
        and (first.picture == 7).all()
        and first.picture.shape == (176, 176, 3)
    )
    # image c: fish with (.8 + .9) / 2, by both members; bird would have been right, with (.1 + .1) / 2
    assert first[1:5] == ("c", "bird", "y", "fish") and first[5:] == pytest.approx((0.85, 1, 0.1))
    # image b: (.4, .4, .2): the lower id of the two, which one of the members chose
    assert second[1:5] == ("b", "fish", "y", "car") and second[5:] == pytest.approx((0.4, 0.5, 0.2))


def test_scalars_and_the_cells_of_the_map() -> None:
    found = scalars(evaluation())
    assert found == {"test/accuracy": 0.25, "test/worst_group": 0.5, "members/m": 0.25, "members/n": 0.25}
    assert groups_of(evaluation()) == [("test", "car", "x", 2, 0.5)]


def test_columns_of_numbers_can_be_sorted() -> None:
    rows = [["a", "12.50", "-", "0.1 ± 0.2"], ["7", "-3", "-", "1"], ["", "-", "", "2"]]
    assert sortable(rows) == [["a", 12.5, "-", "0.1 ± 0.2"], ["7", -3.0, "-", "1"], ["", None, "", "2"]]


def test_a_sheet_has_a_caption_below_each_picture() -> None:
    photos = [Photo(np.full((4, 8, 3), i, np.uint8), f"{'word ' * 20}{i}") for i in range(4)]
    places = sheet(photos).axes
    assert [int(axes.get_images()[0].get_array()[0, 0, 0]) for axes in places] == [0, 1, 2, 3]
    for i, axes in enumerate(places):
        (caption,) = axes.texts
        assert caption.get_text().replace("\n", " ").endswith(f"word {i}") and "\n" in caption.get_text()
    assert len({axes.get_position().y0 for axes in places}) == 2  # three and one


@pytest.mark.slow
def test_every_logger_gets_the_page(two_members: list[Path], predict: Callable[..., Path], data: Path) -> None:
    truth = f"truth={data / 'truth/track1_test_truth.json'}"
    (logged,) = (two_members[1] / "wandb/offline-run-20260101_120000-ab12cd34",)
    logged.mkdir(parents=True)  # as if this member had been trained with logger=wandb
    results = predict(truth, "logger=[wandb,tensorboard]")
    vote = results / "votes/baselines"
    figures = json.loads((results / "figures.json").read_text())["test"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(vote / "tensorboard"))
    events.Reload()
    assert {"report/contexts", "report/confusion", "report/mistakes"} <= set(events.Tags()["images"])
    picture = np.frombuffer(events.Images("report/mistakes")[-1].encoded_image_string, np.uint8)
    assert cv2.imdecode(picture, cv2.IMREAD_COLOR).std() > 20
    for name in ("members", "mistakes", "class_context"):
        assert f"report/{name}/text_summary" in events.Tags()["tensors"]
    (text,) = events.Tensors("report/class_context/text_summary")[-1].tensor_proto.string_val
    lines = [line.split("|")[1:-1] for line in text.decode().splitlines()]
    assert len(lines) == 2 + sum(
        len(part["groups"]) for part in json.loads((results / "figures.json").read_text()).values()
    )
    scalars = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    for key, value in numbers({key: value for key, value in figures.items() if key != "worst_group"}, "test").items():
        assert scalars[key] == pytest.approx(value, abs=1e-6, nan_ok=True), key
    assert "in_domain/accuracy" in scalars
    settings, metrics = hparams_page(results)["votes/baselines/tensorboard"]
    assert settings["vote"] == "adaptive" and settings["members"] == 2 and len(settings) == 8
    assert metrics["test/accuracy"] == pytest.approx(figures["accuracy"]) and len(metrics) == 4
    (run,) = (vote / "wandb").glob("offline-run-*")
    names = {path.name.split("_")[0] for path in (run / "files/media").rglob("*") if path.is_file()}
    assert {"contexts", "confusion", "mistakes", "members", "headline", "class"} <= names
    synced = wandb_records(run)
    assert synced.summary["test/accuracy"] == pytest.approx(figures["accuracy"])
    assert synced.summary["test/worst_context"] == pytest.approx(figures["worst_context"])
    wrong = round(figures["images"] * (1 - figures["accuracy"]))
    assert sum("media/images" in path for path in synced.tables["mistakes"]) == min(100, wrong)
    own = {f"baseline/{folder.name}" for folder in two_members}
    assert set(synced.config["members"]) == own
    assert {key.removeprefix("members/") for key in synced.summary if "members/b" in key} == own
    links = [one.get("wandb") for _, one in sorted(synced.config["members"].items())]
    assert links == [None, "ab12cd34"] and synced.config["vote"] == "adaptive"
    assert not (results / "report.html").exists()


class Synced(NamedTuple):
    """What an offline W&B run will have once it is synced: summary, configuration, files of each table by its name."""

    summary: dict[str, Any]
    config: dict[str, Any]
    tables: dict[str, set[str]]


def wandb_records(run: Path) -> Synced:
    from wandb.proto import wandb_internal_pb2

    summary: dict[str, Any] = {}
    config: dict[str, Any] = {}
    tables: dict[str, set[str]] = {}
    for data in leveldb_records(next(run.glob("*.wandb")).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        for update in (record.config.update, record.run.config.update):
            config |= {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in update}
        if record.request.log_artifact.artifact.name or record.artifact.name:
            artifact = record.artifact if record.artifact.name else record.request.log_artifact.artifact
            tables[artifact.name.split("-")[-1]] = {entry.path for entry in artifact.manifest.contents}
    return Synced(summary, config, tables)


def leveldb_records(file: bytes) -> Iterator[bytes]:
    """The records of a log of LevelDB's, behind W&B's seven bytes: blocks of 32 kB, (crc, length, kind) of a part."""
    place, record = 7, b""
    while place + 7 <= len(file):
        if 32768 - place % 32768 < 7:  # too little for a part: zeros
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", file, place + 4)
        record += file[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""
