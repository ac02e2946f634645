import base64
import json
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from src.callbacks.sheet import Tile, write_sheet
from src.prediction.selection import Wanted, find_members
from src.report.chain import chain
from tests.conftest import sign

Predict = Callable[..., Path]


class Reader(HTMLParser):
    """Headings, addresses of pictures and links, tags that are open at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.pictures: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attributes}
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "img":
            assert given["alt"]
            self.pictures.append(given["src"])
        if tag == "a":
            self.links.append(given["href"])
        self.ids |= {given["id"]} if "id" in given else set()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2", "h3") and data.strip():
            self.titles.append(data.strip())


@pytest.fixture
def report(two_members: list[Path], predict: Predict, data: Path) -> Path:
    # A name that would be HTML, and a run in the chain that made masks.
    (two_members[0].parent / "a&<b>").mkdir()
    for path in two_members[0].iterdir():
        if path.is_file():
            shutil.copy(path, two_members[0].parent / "a&<b>")
    masks = two_members[0].parents[1] / "wsss/made"
    shutil.copytree(two_members[0], masks)
    write_sheet(masks / "masks.png", [Tile(np.full((128, 384, 3), 200, np.uint8), "car (grass): IoU 0.90")], 3)
    config = yaml.safe_load((two_members[1] / "config.yaml").read_text())
    config["masks"] = f"{config['logs_dir']}/track1/wsss/made/track1_train_with_mask_label.json"
    (two_members[1] / "config.yaml").write_text(yaml.safe_dump(config))
    sign(two_members[1])
    return predict(f"truth={data / 'truth/track1_test_truth.json'}", "report=true") / "report.html"


def test_the_page_is_one_file_with_every_part(report: Path) -> None:
    text = report.read_text()
    page = Reader(text)
    assert not page.open and "script" not in page.tags and "link" not in page.tags
    assert all(address.startswith("data:image/") for address in page.pictures)
    assert {link.removeprefix("#") for link in page.links} <= page.ids
    assert not re.search(r"""(src|href)=["'](https?:|/|file:)""", text) and "@import" not in text and "url(" not in text
    for title in ("Figures of the vote", "The vote and its best member", "Members", "Accuracy by context",
                  "Worst groups of the test images", "Calibration", "Confusion", "Most confident mistakes",
                  "Most disputed images", "Stages", "Features",
                  "Training", "Masks", "Finished runs of this track", "The chain"):  # fmt: skip
        assert title in page.titles
    assert "a&amp;&lt;b&gt;" in text and "<b>" not in text
    assert "car (grass): IoU 0.90" in text and "No run in the chain made masks" not in text
    figures = json.loads((report.parent / "figures.json").read_text())
    assert f"{100 * figures['test']['accuracy']:.2f}" in text
    for rule in ("accuracy on held-out in-domain images", "none selected"):  # beside the best member's accuracy
        assert rule in text
    photos = [address for address in page.pictures if address.startswith("data:image/jpeg")]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(photos[0].split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (176, 356, 3)  # the image, and the map beside it
    assert np.abs(picture[:, :176].astype(int) - picture[:, 180:]).mean() > 5
    assert (report.parent / "runs.md").read_text().count("| baseline |") == 1
    assert (report.parent / "runs.csv").exists()


def test_without_truth_the_page_says_what_is_missing(two_members: list[Path], predict: Predict) -> None:
    text = (predict("report=true") / "report.html").read_text()
    page = Reader(text)
    assert "Calibration" not in page.titles and "Most disputed images" in page.titles
    assert "labels are not known" in text and "No run in the chain made masks" in text
    assert "in-domain (held out)" in text  # what is known is shown


def test_a_member_alone_without_held_out_images(two_members: list[Path], predict: Predict, data: Path) -> None:
    shutil.rmtree(two_members[1])
    split = json.loads((two_members[0] / "split.json").read_text())
    (two_members[0] / "split.json").write_text(json.dumps({**split, "in_domain": []}))
    sign(two_members[0])
    shutil.rmtree(two_members[0] / "pictures")
    text = (predict("report=true", f"truth={data / 'truth/track1_test_truth.json'}") / "report.html").read_text()
    assert "holds out no image" in text and "Most disputed" not in text
    assert "No run in the chain kept pictures" in text


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


@pytest.mark.skipif(not BROWSER, reason="no browser here")
def test_a_browser_draws_it(report: Path, tmp_path: Path) -> None:
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,3000"]
    picture = tmp_path / "page.png"
    shown = subprocess.run(
        [*words, f"--screenshot={picture}", report.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "ERROR:CONSOLE" not in shown.stderr
    pixels = cv2.imread(str(picture))
    for band in np.array_split(pixels, 6):  # something stands everywhere down the page
        assert (band.min(2) < 120).mean() > 0.002
    width = subprocess.run(
        [*words[:4], "--window-size=420,900", "--dump-dom", report.as_uri()], capture_output=True, text=True,
        timeout=120, check=True,
    ).stdout  # fmt: skip
    assert width.count("<img") == report.read_text().count("<img")


def test_the_chain_is_in_order_and_follows_moved_logs(two_members: list[Path], tmp_path: Path) -> None:
    masks = tmp_path / "logs/track1/wsss/made"
    shutil.copytree(two_members[0], masks)

    def started_from(run: Path, **changes: str) -> None:
        config = yaml.safe_load((run / "config.yaml").read_text())
        config |= {key: f"{config['logs_dir']}/{value}" for key, value in changes.items()}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        sign(run)

    first = f"track1/baseline/{two_members[0].name}"
    started_from(masks, init=first)
    started_from(two_members[1], init=first, masks="track1/wsss/made/track1_train_with_mask_label.json")
    members, _ = find_members(tmp_path / "logs", "track1", Wanted(["baseline"]))
    runs = chain(members[::-1], tmp_path / "logs")
    assert list(runs) == [two_members[0], masks, two_members[1]]
    assert runs[two_members[1]] == [two_members[0], masks] and runs[two_members[0]] == []


def test_every_logger_gets_the_page(two_members: list[Path], predict: Predict, data: Path) -> None:
    truth = f"truth={data / 'truth/track1_test_truth.json'}"
    results = predict(truth, "logger=tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(results / "tensorboard"))
    events.Reload()
    assert {"report/contexts", "report/confusion", "report/mistakes/0"} <= set(events.Tags()["images"])
    assert "report/members/text_summary" in events.Tags()["tensors"]
    figures = json.loads((results / "figures.json").read_text())["test"]
    tags = set(events.Tags()["scalars"])
    assert {"test/accuracy", "test/worst_context", "test/ece", "test/macro_accuracy", "in_domain/accuracy"} <= tags
    for key in ("accuracy", "worst_context", "ece"):
        assert events.Scalars(f"test/{key}")[-1].value == pytest.approx(figures[key], abs=1e-6)
    (logged,) = (two_members[1] / "wandb/offline-run-20260101_120000-ab12cd34",)
    logged.mkdir(parents=True)  # as if this member had been trained with logger=wandb
    predict(truth, "logger=[wandb,tensorboard]")
    (run,) = (results / "wandb").glob("offline-run-*")
    names = {path.name.split("_")[0] for path in (run / "files/media").rglob("*") if path.is_file()}
    assert {"contexts", "confusion", "mistakes", "members", "headline"} <= names
    summary, config = wandb_records(run)
    assert summary["test/accuracy"] == pytest.approx(figures["accuracy"])
    assert summary["test/worst_context"] == pytest.approx(figures["worst_context"]) and "test/ece" in summary
    own = {f"baseline/{folder.name}" for folder in two_members}
    assert set(config["members"]) == own == {key.removeprefix("members/") for key in summary if "members/b" in key}
    links = [one.get("wandb") for _, one in sorted(config["members"].items())]
    assert links == [None, "ab12cd34"] and config["vote"] == "adaptive"
    assert not (results / "report.html").exists()


def wandb_records(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an offline W&B run will have as its summary and its configuration once it is synced."""
    from wandb.proto import wandb_internal_pb2

    summary: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for data in leveldb_records(next(run.glob("*.wandb")).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        for update in (record.config.update, record.run.config.update):
            config |= {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in update}
    return summary, config


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


def test_report_needs_its_packages(two_members: list[Path], predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else there(name))
    with pytest.raises(SystemExit, match="error: report=true and logger= need jinja2: pip install jinja2"):
        predict("report=true")
